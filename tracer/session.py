"""The composition root: targets, backend, context and sinks become one session.

The command line and ``parkscope.py`` both come through ``run_session``. Between
two batches the session looks after targets that have changed their program or
forked: a new interpreter is inspected as soon as it is up, and handed to the
backend, which until then follows the process by system calls alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from collector.attribution import Attributor
from collector.context import ContextProvider
from collector.counters import Counters
from collector.events import Event
from collector.idle import IdleRules
from collector.parks import ParkDetector
from collector.pipeline import Pipeline, RunOptions
from collector.sinks import Sink
from collector.source import RecordSource, SourceInfo
from probes.errors import UsageError
from probes.native_map import spec as native_map
from tracer.followed import Followed
from tracer.native.profiles import load_all
from tracer.triggers.setup import NO_TRIGGERS, Setup, TriggerOptions
from tracer.version import VERSION

DEFAULT_LONG_PARK_NS = 200_000_000
DEFAULT_MIN_PARK_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a person asked for. Times in ns; ``budget`` is a share of one core.

    ``scenario`` and ``replay`` choose what the mock backend plays. ``launched``
    says that the only target is a child that has not executed its program yet
    (``parkscope run``). ``alloc_events`` makes a ``large_alloc`` event per request.
    ``native_map``: probe native maps, by the built-in profiles and ``native_profiles``.
    ``realtime`` plays the mock at its true pace, to be watched. ``triggers``: what is to be
    done when something happens; only in a live process.
    """

    pids: tuple[int, ...] = ()
    backend: str = "auto"
    long_park_ns: int = DEFAULT_LONG_PARK_NS
    min_park_ns: int = DEFAULT_MIN_PARK_NS
    duration_ns: int | None = None
    follow: bool = False
    alloc: bool = True
    alloc_events: bool = False
    slow_path: bool = True
    python: bool = True
    budget: float = 0.01
    idle_sites: tuple[Path, ...] = ()
    native_map: bool = True
    native_profiles: tuple[Path, ...] = ()
    scenario: str | None = None
    replay: Path | None = None
    launched: bool = False
    realtime: bool = False
    triggers: TriggerOptions = NO_TRIGGERS


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session went. ``why``: ``source ended``, ``duration over``, ``stopped``."""

    why: str
    counters: Counters
    info: SourceInfo


@dataclass(frozen=True, slots=True)
class _Parts:
    source: RecordSource
    info: SourceInfo
    context: ContextProvider
    followed: Followed | None


def run_session(
    options: SessionOptions,
    sinks: Sequence[Sink],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_attached: Callable[[SourceInfo], None] = lambda _info: None,
    note: Callable[[str], None] = lambda _text: None,
) -> SessionResult:
    """Attach (or play), run until done, detach.

    ``should_stop`` is asked several times a second. ``on_attached`` is called once
    everything is armed, before the first batch; ``note`` is told, for a person, why the
    end takes a while. Raises any ``ParkscopeError``;
    sinks are closed in every case.
    """
    pipeline, info = open_session(options, sinks, should_stop, note)
    try:
        on_attached(info)
    except BaseException:
        pipeline.close()
        raise
    return SessionResult(pipeline.run(), pipeline.counters, info)


def open_session(
    options: SessionOptions,
    sinks: Sequence[Sink],
    should_stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda _text: None,
) -> tuple[Pipeline, SourceInfo]:
    """Everything armed and not yet running; the sinks are closed if that fails."""
    with ExitStack() as undo:
        for sink in sinks:
            undo.callback(sink.close)
        rules = IdleRules.load(options.idle_sites)
        setup = _setup(options)
        undo.callback(setup.close)
        parts = _parts(options)
        undo.callback(parts.source.close)
        pipeline = _pipeline(options, parts, rules, [*sinks, *setup.sinks], should_stop)
        triggers = setup.triggers(
            parts.info, options.pids, speakable(options), pipeline, parts.source, note
        )
        if triggers is not None:
            pipeline.react_with(triggers)
            if parts.followed is not None:
                parts.followed.on_python = triggers.look_at
        undo.pop_all()
    return pipeline, parts.info


def speakable(options: SessionOptions) -> dict[str, Any]:
    """Options for a trace: paths as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    said = {key: plain(value) for key, value in asdict(options).items()}
    # Traces are handed on: no arguments of programs, no tokens of web hooks.
    said["triggers"]["on"] = [[on, *do.split()[:1]] for on, do in options.triggers.on]
    return said


def _setup(options: SessionOptions) -> Setup:
    played = options.replay is not None or options.backend == "mock"
    setup = Setup(
        options.triggers,
        options.long_park_ns,
        options.pids,
        ready=options.python and not options.launched,
    )
    if played and setup.has_rules:
        setup.close()
        raise UsageError(
            "triggers act on live processes, and none is watched", hint="Leave out '--on' and so."
        )
    return setup


def _pipeline(
    options: SessionOptions,
    parts: _Parts,
    rules: IdleRules,
    sinks: Sequence[Sink],
    should_stop: Callable[[], bool],
) -> Pipeline:
    followed = parts.followed
    armed_cpu_ns = time.process_time_ns()  # what starting up took is not what watching costs

    def stop_or_tend() -> bool:
        if followed is not None:
            followed.tend()
        return should_stop()

    return Pipeline(
        parts.source,
        ParkDetector(options.long_park_ns, options.min_park_ns),
        Attributor(parts.context, rules, parts.info.nodes),
        [*sinks, followed] if followed is not None else sinks,
        RunOptions(options.duration_ns, options.alloc_events, options.follow),
        own_cpu_ns=lambda: time.process_time_ns() - armed_cpu_ns,
        should_stop=stop_or_tend,
        opening=lambda now_ns: _opening(parts, now_ns),
    )


def _opening(parts: _Parts, now_ns: int) -> list[Event]:
    """The ``attached`` event of each target (one without a PID for a mock)."""
    info = parts.info
    data = {
        "backend": info.backend,
        "why": info.why,
        "version": VERSION,
        "start_error_ns": info.start_error_ns,
        "end_error_ns": info.end_error_ns,
        "missed_below_ns": info.missed_below_ns,
        "probes": list(info.probes),
        "nodes": list(info.nodes),
    }
    if parts.followed is None:
        return [Event("attached", now_ns, data={**data, "python": None, "refusal": None})]
    return [
        Event("attached", now_ns, pid=pid, data={**data, **about})
        for pid, about in parts.followed.about()
    ]


def _parts(options: SessionOptions) -> _Parts:
    if options.replay is not None or options.backend == "mock":
        return _played(options)
    return _live(options)


def _played(options: SessionOptions) -> _Parts:
    from tracer.backends import mock

    if options.replay is not None:
        played = mock.replay(options.replay, realtime=options.realtime)
    elif options.scenario is not None:
        played = mock.scenario(options.scenario, realtime=options.realtime)
    else:
        raise UsageError("the mock backend needs a scenario", hint="Add '--scenario NAME'.")
    return _Parts(played.source, played.source.info, played.context, None)


def _live(options: SessionOptions) -> _Parts:
    from tracer import backends

    if not options.pids:
        raise UsageError("no target given", hint="Give the PID of a Python process.")
    if options.native_profiles and not options.native_map:
        raise UsageError("'--native-profile' with '--no-native-map'", hint="Leave one out.")
    profiles = load_all(options.native_profiles) if options.native_map else ()
    followed = Followed(
        options.pids,
        python=options.python,
        launched=options.launched,
        follow=options.follow,
        profiles=profiles,
    )
    source, reason = backends.attach(
        options.backend,
        followed.plans(),
        backends.Options(
            long_park_ns=options.long_park_ns,
            min_park_ns=options.min_park_ns,
            follow=options.follow,
            alloc=options.alloc,
            slow_path=options.slow_path,
            budget=options.budget,
            native_profiles=profiles,
        ),
    )
    followed.bind(source)
    if options.native_profiles and native_map.SPEC.name not in source.info.probes:
        reason += "; native maps are not probed, '--native-profile' or not"
    return _Parts(source, replace(source.info, why=reason), followed.context, followed)
