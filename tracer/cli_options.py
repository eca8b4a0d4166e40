"""Options that several commands share: their types, their help and the frozen result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from probes.errors import UsageError
from tracer import units
from tracer.metrics_address import DEFAULT_ADDRESS, split

if TYPE_CHECKING:
    from tracer.session import SessionOptions
    from tracer.triggers.setup import TriggerOptions
    from tracer.watch import Output

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_PID = 1 << 22
"""Linux: PID_MAX_LIMIT of a 64-bit kernel (include/linux/threads.h)."""


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """Text such as 200ms, as nanoseconds."""

    name = "duration"

    def __init__(self, least_ns: int = 0) -> None:
        self._least_ns = least_ns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Nanoseconds; fails as a usage error that says what is allowed."""
        if isinstance(value, int):
            return value
        try:
            value_ns = units.parse_duration_ns(value)
        except UsageError as error:
            self.fail(f"{error.message}. {error.hint}", param, ctx)
        if value_ns < self._least_ns:
            self.fail(f"{value!r} is too short, at least {units.duration(self._least_ns)}.")
        return value_ns


class Share(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """Text such as 1%, as a share of one core."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The share; fails as a usage error that says what is allowed."""
        if isinstance(value, float):
            return value
        try:
            return units.parse_share(value)
        except UsageError as error:
            self.fail(f"{error.message}. {error.hint}", param, ctx)


class Pid(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """A process ID."""

    name = "pid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; fails as a usage error for what can be no PID."""
        text = str(value)
        if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) <= MAX_PID):
            self.fail(f"{text!r} is no process ID: a number from 1 to {MAX_PID}.", param, ctx)
        return int(text)


class ListenAddress(click.ParamType):  # type: ignore[type-arg]  # generic in newer click only
    """Text such as 127.0.0.1:9464; whether it can be had is seen later."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text; fails as a usage error that says what is allowed."""
        try:
            split(value)
        except UsageError as error:
            self.fail(f"{error.message}. {error.hint}", param, ctx)
        return str(value)


ADDRESS = ListenAddress()
PATH = click.Path(path_type=Path)
TRACE = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
PID = Pid()
_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Watch:
    """The shared options as given; ``session`` and ``output`` turn them into what is run."""

    long_park: int
    min_park: int
    duration: int | None
    backend: str
    scenario: str | None
    follow: bool
    json: bool
    idle: bool
    alloc: bool
    slow_path: bool
    python: bool
    budget: float
    idle_sites: tuple[Path, ...]
    native_map: bool
    native_profiles: tuple[Path, ...]
    quiet: bool
    metrics: str | None = None
    listen_anywhere: bool = False
    metrics_textfile: Path | None = None
    dump: bool = False
    dump_dir: Path | None = None
    on: tuple[str, ...] = ()
    do: tuple[str, ...] = ()
    triggers: tuple[Path, ...] = ()

    def wanted(self, trace: Path | None = None) -> TriggerOptions:
        """What is to be done when; files lie beside ``trace``. Raises UsageError."""
        from tracer.triggers.setup import TriggerOptions

        self._check_dump()
        if len(self.on) != len(self.do):
            raise UsageError(
                f"{units.plural(len(self.on), 'condition')} ('--on') and"
                f" {units.plural(len(self.do), 'action')} ('--do')",
                hint="Give one '--do' for each '--on', such as --on 'park > 1s' --do heap-dump.",
            )
        return TriggerOptions(
            on=tuple(zip(self.on, self.do, strict=True)),
            files=self.triggers,
            dump=self.dump and self.python and self.backend != "mock",
            dump_dir=self.dump_dir,
            stem=None if trace is None else trace.with_suffix(""),
        )

    def _check_dump(self) -> None:
        """Raise UsageError for dumps that are asked for and cannot be taken."""
        if self.dump_dir is not None and not self.dump:
            raise UsageError("'--dump-dir' without '--dump'", hint="Add '--dump'.")
        context = click.get_current_context(silent=True)
        asked = context and context.get_parameter_source("dump") is ParameterSource.COMMANDLINE
        if self.dump and asked and (not self.python or self.backend == "mock"):
            why = "'--no-python'" if not self.python else "the mock backend"
            raise UsageError(f"'--dump' does not go with {why}", hint="Leave one of them out.")

    def session(self, pids: tuple[int, ...] = (), **more: Any) -> SessionOptions:
        """Options of a session on ``pids``. Raises UsageError when there is no target."""
        from tracer.session import SessionOptions

        elsewhere = "replay" in more or "launched" in more or self.backend == "mock"
        if not pids and not elsewhere:
            raise UsageError(
                "no target given",
                hint="Give the PID of a Python process; 'parkscope doctor' lists them.",
            )
        return SessionOptions(
            pids=pids,
            backend=self.backend,
            long_park_ns=self.long_park,
            min_park_ns=self.min_park,
            duration_ns=self.duration,
            follow=self.follow,
            alloc=self.alloc,
            alloc_events=self.json and self.alloc,
            slow_path=self.slow_path,
            python=self.python,
            budget=self.budget,
            idle_sites=self.idle_sites,
            native_map=self.native_map,
            native_profiles=self.native_profiles,
            scenario=self.scenario,
            **{"triggers": self.wanted(), **more},
        )

    def output(self, trace: Path | None = None, force: bool = False) -> Output:
        """What is shown, and where the trace goes."""
        from tracer.metrics_address import exports
        from tracer.watch import Output

        return Output(
            json=self.json,
            idle=self.idle,
            quiet=self.quiet,
            trace=trace,
            force=force,
            exports=exports(self.metrics, self.metrics_textfile, anywhere=self.listen_anywhere),
        )


_OPTIONS = (
    click.option(
        "--long-park", type=Duration(_MILLISECOND), default="200ms", show_default=True,
        metavar="TIME", help="Flag a thread that is parked for longer than this.",
    ),
    click.option(
        "--min-park", type=Duration(), default="1ms", show_default=True, metavar="TIME",
        help="Only count parks shorter than this, do not keep them.",
    ),
    click.option(
        "--duration", type=Duration(_MILLISECOND), metavar="TIME",
        help="End by itself after this time.",
    ),
    click.option(
        "--backend", type=click.Choice(["auto", "bcc", "proc", "mock"]), default="auto",
        show_default=True, help="bcc: eBPF, exact. proc: no privileges, samples. mock: a script.",
    ),
    click.option(
        "--scenario", metavar="NAME", help="What the mock backend plays: a name or a file."
    ),
    click.option("--follow", is_flag=True, help="Watch the children that targets fork, too."),
    click.option("--idle", is_flag=True, help="Show idle parks too: workers that wait for work."),
    click.option(
        "--no-alloc", "alloc", is_flag=True, flag_value=False, default=True,
        help="No allocation probes.",
    ),
    click.option(
        "--no-slow-path", "slow_path", is_flag=True, flag_value=False, default=True,
        help="No probes on lock slow paths, scans only.",
    ),
    click.option(
        "--no-python", "python", is_flag=True, flag_value=False, default=True,
        help="Do not read the target's memory: no thread names, no lines. Any program will do.",
    ),
    click.option(
        "--budget", type=Share(), default="1%", show_default=True, metavar="SHARE",
        help="Of one core, what probes may cost the target before they are given up.",
    ),
    click.option(
        "--idle-sites", type=TRACE, multiple=True, metavar="FILE",
        help="More sites where parks are idle, by TOML file; may be repeated.",
    ),
    click.option(
        "--native-profile", "native_profiles", type=TRACE, multiple=True, metavar="FILE",
        help="Probe one more native map, as this TOML profile declares; may be repeated.",
    ),
    click.option(
        "--no-native-map", "native_map", is_flag=True, flag_value=False, default=True,
        help="No probes on native maps.",
    ),
    click.option(
        "--dump/--no-dump", "dump", default=False,
        help="A long park that is not idle takes a heap dump.",
    ),
    click.option(
        "--dump-dir", type=FOLDER, metavar="DIR", help="Where such dumps go."
    ),
    click.option(
        "--on", multiple=True, metavar="CONDITION",
        help="When to do what the next --do says: 'park > 1s and kind == \"lock\"'. "
        "'parkscope triggers' lists all that may stand there.",
    ),
    click.option(
        "--do", multiple=True, metavar="ACTION",
        help="heap-dump, stack-dump, keep, 'exec /PROGRAM ARGUMENT', 'signal USR1' or "
        "'webhook URL'.",
    ),
    click.option(
        "--triggers", type=TRACE, multiple=True, metavar="FILE",
        help="Conditions and actions by TOML file; may be repeated.",
    ),
    click.option("--json", is_flag=True, help="JSON, one object per line."),
    click.option("-q", "--quiet", is_flag=True, help="No notes on stderr."),
    click.option(
        "--metrics", type=ADDRESS, is_flag=False, flag_value=DEFAULT_ADDRESS, metavar="[ADDRESS]",
        help=f"Serve metrics for Prometheus meanwhile, at {DEFAULT_ADDRESS} by default.",
    ),
    click.option(
        "--listen-anywhere", is_flag=True,
        help="Allow an address for metrics that other machines can reach.",
    ),
    click.option(
        "--metrics-textfile", type=PATH, metavar="FILE",
        help="Write metrics every 5 s, for node_exporter's textfile collector (a .prom).",
    ),
)  # fmt: skip


TRIGGERS = ("dump", "dump_dir", "on", "do", "triggers")
"""The options that set something off."""


def watching(*leave_out: str, dump: bool = False) -> Callable[[Command], Callable[..., Any]]:
    """Add the shared options but ``leave_out``; the command gets them as one ``Watch``.

    ``dump``: what ``--dump`` is by default.
    """
    names = [field.name for field in fields(Watch)]

    def decorate(command: Command) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_watch(**given: Any) -> Any:
            chosen = {name: given.pop(name) for name in names if name in given}
            return command(watch=Watch(**{**_ABSENT, **chosen}), **given)

        decorated: Callable[..., Any] = with_watch
        for option in reversed(_OPTIONS):
            decorated = option(decorated)
        params: list[click.Option] = decorated.__click_params__  # type: ignore[attr-defined]
        params[:] = [param for param in params if param.name not in leave_out]
        for param in params:
            if param.name == "dump":
                param.default, param.show_default = dump, True
        return decorated

    return decorate


_ABSENT: dict[str, Any] = {
    "duration": None,
    "backend": "auto",
    "scenario": None,
    "follow": False,
    "idle": False,
    "alloc": True,
    "slow_path": True,
    "python": True,
    "native_map": True,
    "native_profiles": (),
    "budget": 0.01,
    "json": False,
}
"""Values of the shared options that a command has left out."""
