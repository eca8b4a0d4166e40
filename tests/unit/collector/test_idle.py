"""Which parks are idle: the patterns, the rule for queues, and files that are wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.context import UNKNOWN, Frame, ThreadContext
from collector.idle import IdleRules, parse_sites
from probes.errors import UsageError
from probes.kinds import KINDS


def context(*frames: str, name: str | None = "Thread-1", torn: bool = False) -> ThreadContext:
    """A thread whose frames are written ``module:function``, innermost first."""
    made = []
    for frame in frames:
        module, _, function = frame.rpartition(":")
        made.append(Frame(module, function, f"/usr/lib/{module.replace('.', '/')}.py", 1))
    return ThreadContext(thread_name=name, python=True, frames=tuple(made), torn=torn)


@pytest.fixture(scope="module")
def rules() -> IdleRules:
    return IdleRules.load()


THREAD = (
    "threading:Thread.run",
    "threading:Thread._bootstrap_inner",
    "threading:Thread._bootstrap",
)
GET = ("threading:Condition.wait", "queue:Queue.get")
SELECT = "selectors:EpollSelector.select"


@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        ("lock", ("concurrent.futures.thread:_worker", *THREAD)),
        ("io", (SELECT, "asyncio.base_events:BaseEventLoop._run_once", "asyncio.runners:run")),
        ("io", (SELECT, "socketserver:BaseServer.serve_forever", *THREAD)),
        ("lock", ("threading:Condition.wait", "threading:Event.wait", "threading:Timer.run")),
        ("lock", (*GET, "logging.handlers:QueueListener.dequeue")),
        ("lock", ("logging.handlers:QueueListener.dequeue",)),
        ("io", ("gunicorn.workers.sync:SyncWorker.wait",)),
        ("lock", (*GET, "sentry_sdk.worker:BackgroundWorker._target")),
        ("lock", ("threading:_shutdown",)),
        ("lock", ("threading:Thread._wait_for_tstate_lock", "threading:Thread.join",
                  "concurrent.futures.thread:_python_exit", "threading:_shutdown")),
    ],
)  # fmt: skip
def test_known_sites_are_idle(rules: IdleRules, kind: str, frames: tuple[str, ...]) -> None:
    assert rules.match(kind, context(*frames))


@pytest.mark.parametrize(
    ("kind", "frames", "name"),
    [
        # a task of a pool worker waits, not the worker
        ("lock", ("app:task", "concurrent.futures.thread:_WorkItem.run",
                  "concurrent.futures.thread:_worker"), "pool_0"),
        ("lock", ("threading:Condition.wait", "threading:Event.wait", "app:task",
                  "concurrent.futures.thread:_WorkItem.run",
                  "concurrent.futures.thread:_worker"), "pool_0"),
        # the loop's thread waits inside a callback
        ("lock", ("app:callback", "asyncio.events:Handle._run",
                  "asyncio.base_events:BaseEventLoop._run_once"), "MainThread"),
        ("io", (SELECT, "app:poll_by_hand", "asyncio.events:Handle._run",
                "asyncio.base_events:BaseEventLoop._run_once"), "MainThread"),
        # what a timer runs waits, not the timer
        ("lock", ("threading:Condition.wait", "threading:Event.wait", "app:late",
                  "threading:Timer.run"), "Thread-7"),
        # the right site in the wrong kind of wait
        ("gil", ("concurrent.futures.thread:_worker",), "pool_0"),
        ("sleep", ("concurrent.futures.thread:_worker",), "pool_0"),
        # a user's own function of the same name
        ("lock", ("app.thread:_worker",), "pool_0"),
        ("lock", ("threading:Condition.wait", "threading:Event.wait", "__main__:<module>"),
         "MainThread"),
        ("lock", ("threading:Thread.join", "__main__:main"), "MainThread"),
    ],
)  # fmt: skip
def test_what_only_looks_like_one_is_not(
    rules: IdleRules, kind: str, frames: tuple[str, ...], name: str
) -> None:
    assert rules.match(kind, context(*frames, name=name)) is None


@pytest.mark.parametrize(
    ("name", "frames", "idle"),
    [
        ("worker-3", (*GET, "app:loop", *THREAD), True),
        ("ImportWorker", (*GET, "app:Import.run", *THREAD[1:]), True),
        ("Thread-5 (worker)", (*GET, "app:worker", *THREAD), True),
        ("Thread-5 (work)", (*GET, "app:work", *THREAD), True),
        ("db-pool", (*GET, "app:serve", *THREAD), True),
        # not named for it: a stage that starves
        ("consumer", (*GET, "app:loop", *THREAD), False),
        ("Thread-5 (consume)", (*GET, "app:consume", *THREAD), False),
        (None, (*GET, "app:loop", *THREAD), False),
        # not at the head of its loop: something deeper asks for an answer
        ("worker-3", (*GET, "app:ask", "app:loop", *THREAD), False),
        ("worker-3", (*GET, "__main__:<module>"), False),
        # not in queue.get
        ("worker-3", ("threading:Condition.wait", "app:loop", *THREAD), False),
        ("worker-3", ("app:loop", *THREAD), False),
    ],
)
def test_the_rule_for_queues(
    rules: IdleRules, name: str | None, frames: tuple[str, ...], idle: bool
) -> None:
    assert bool(rules.match("lock", context(*frames, name=name))) is idle


def test_threads_without_python_code(rules: IdleRules) -> None:
    native = ThreadContext(python=False, frames=())
    embedded = ThreadContext(thread_name="MainThread", python=True, frames=())
    for kind in ("lock", "io", "sleep"):
        assert rules.match(kind, native)
        assert rules.match(kind, embedded)
    assert rules.match("gil", native) is None
    unread = ThreadContext(thread_name="MainThread", python=True, frames=None)
    for kind in KINDS:
        assert rules.match(kind, UNKNOWN) is None
        assert rules.match(kind, unread) is None


def test_a_torn_stack_is_never_idle(rules: IdleRules) -> None:
    frames = ("concurrent.futures.thread:_worker", *THREAD)
    assert rules.match("lock", context(*frames, torn=True)) is None


def test_a_users_sites_add_to_the_built_in_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'through = ["app.wait:*"]\n'
        '[[site]]\nreason = "feeds the fish"\nwaits = ["sleep", "io"]\n'
        'frames = ["*/fish/feeder.py:Feeder.*"]\ninside = "app:main"\nthreads = ["fish-*"]\n'
    )
    mine = IdleRules.load([file])

    def fish(name: str, *modules: str) -> ThreadContext:
        frames = [Frame(module, "nap", "/x.py", 1) for module in modules]
        frames.append(Frame("fish.feeder", "Feeder.run", "/srv/fish/feeder.py", 9))
        frames.append(Frame("app", "main", "/srv/app.py", 3))
        return ThreadContext(thread_name=name, python=True, frames=tuple(frames))

    assert mine.match("sleep", fish("fish-1")) == "feeds the fish"
    assert mine.match("io", fish("fish-1", "app.wait", "app.wait")) == "feeds the fish"
    assert mine.match("sleep", fish("fish-1", "app.other")) is None
    assert mine.match("sleep", fish("cat-1")) is None
    assert mine.match("lock", fish("fish-1")) is None
    assert mine.match("lock", context("concurrent.futures.thread:_worker"))


SITE = '[[site]]\nreason = "r"\nwaits = ["lock"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sites = []", "unknown key 'sites'"),
        ("site = 3", r"\[\[site\]\]"),
        ("[site]\nreason = 'x'", r"\[\[site\]\]"),
        (SITE + 'frames = ["a:b"]\nframe = ["c:d"]', "site 1: unknown key 'frame'"),
        (SITE + 'frames = ["a:b"]\n' + SITE, "site 2: give either 'frames' or 'native"),
        (SITE + 'frames = ["a:b"]\nnative = true', "give either"),
        (SITE + 'frames = "a:b"', "'frames' must be a list of texts"),
        (SITE + "frames = [1]", "'frames' must be a list of texts"),
        (SITE + "frames = []", "'frames' must be a list of texts"),
        (SITE + 'frames = ["no colon"]', "not of the form 'module:function'"),
        (SITE + 'frames = ["a:b"]\ninside = 3', "'inside' must be text"),
        (SITE + "native = 1", "'native' must be true or false"),
        ('[[site]]\nwaits = ["lock"]\nframes = ["a:b"]', "'reason' is missing"),
        ('[[site]]\nreason = "r"\nframes = ["a:b"]', "'waits' is missing"),
        ('[[site]]\nreason = ""\nwaits = ["lock"]\nframes = ["a:b"]', "must not be empty"),
        ('[[site]]\nreason = "r"\nwaits = ["futex"]\nframes = ["a:b"]', "called 'futex'"),
        ('through = "x:y"', "'through' must be a list of texts"),
        ("[[site", "mine.toml: "),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        IdleRules.load([file])
    assert "mine.toml" in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        IdleRules.load([tmp_path / "absent.toml"])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError, match="UTF-8"):
        IdleRules.load([binary])
    long = tmp_path / "long"
    long.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(UsageError, match="longer"):
        IdleRules.load([long])


@given(st.text(max_size=200))
def test_any_text_gives_sites_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        parse_sites(text, "x")
