"""The live view as text at several sizes: it fits, it tells, it hides what is idle."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from collector.counters import Counters
from collector.events import Event
from collector.sinks.live import LiveSnapshot, LiveThread
from tracer.live_view import SORTS, ViewState, plain_picture, press, render

S = 1_000_000_000
STACK = [{"function": "get", "file": "/srv/cache.py", "line": 41, "module": "cache"}]
LOCK = {"resource": {"address": "0x7f2000001000"}, "stack": STACK}


def snapshot(threads: int = 3, **more: Any) -> LiveSnapshot:
    counters = Counters(threads=threads, elapsed_ns=12 * S, own_cpu_ns=S // 100, scans=2)
    counters.received[1] = 40
    counters.parks["lock"] = 4
    stuck = [
        LiveThread(71, 100 + i, 8 * S - i * S // 10, "lock", f"worker-{i}", False, True, LOCK)
        for i in range(threads - 2)
    ]
    idle = LiveThread(
        71, 90, 2 * S, "lock", "pool-0", True, True, {**LOCK, "idle_reason": "pool worker"}
    )
    running = LiveThread(71, 91, 9 * S, None, "busy")
    attached = Event(
        "attached", 0, pid=71,
        data={"backend": "bcc", "why": "the best there is", "program": "app", "python": "3.11.7"},
    )  # fmt: skip
    fields: dict[str, Any] = {
        "now_ns": 10 * S, "threads": (*stuck, idle, running), "attached": (attached,),
        "totals": counters.to_dict(),
    }  # fmt: skip
    return LiveSnapshot(**{**fields, **more})


def screen(picture: LiveSnapshot, state: ViewState, width: int, height: int) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, height=height, color_system=None, highlight=False)
    console.print(render(picture, state, width, height))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 63, 80, 200])
@pytest.mark.parametrize("height", [10, 24, 60])
@pytest.mark.parametrize("threads", [2, 3, 30, 500])
@pytest.mark.parametrize("news", [0, 5])
def test_it_fits_every_screen(width: int, height: int, threads: int, news: int) -> None:
    events = tuple(Event("process_exec", 1, pid=i) for i in range(news))
    lines = screen(snapshot(threads, news=events), ViewState(show_idle=True), width, height)
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width


def test_what_it_says_at_80_by_24() -> None:
    lines = [line.rstrip() for line in screen(snapshot(), ViewState(rss_bytes=50 << 20), 80, 24)]
    assert lines[:5] == [
        "parkscope  71 app CPython 3.11.7  for 12.0 s",
        "1 stuck · 1 idle · 3 threads · 4 parks, 0 long",
        "",
        "THREAD   TID     FOR WAITS ON            WHERE",
        "worker-0 100  2.00 s lock 0x7f2000001000 cache.py:41 get",
    ]
    assert lines[5].split() == ["busy", "91", "1.00", "s", "running"]
    assert lines[-3:] == [
        "no record lost of 40",
        "own cost 0.08 % of a core, 2 scans of 0 ns, 50 MiB · bcc: the best there is",
        " q quit   i show idle   s sort: time",
    ]


def test_idle_threads_are_hidden_until_asked_for() -> None:
    assert not any("pool-0" in line for line in screen(snapshot(), ViewState(), 80, 24))
    lines = screen(snapshot(), ViewState(show_idle=True), 80, 24)
    shown = [line for line in lines if "pool-0" in line]
    assert len(shown) == 1
    assert "idle: pool worker" in shown[0]


def test_a_narrow_screen_drops_where_but_not_what() -> None:
    lines = screen(snapshot(), ViewState(), 50, 24)
    assert not any("cache.py" in line for line in lines)
    assert any("0x7f20" in line for line in lines)


def test_what_does_not_fit_is_counted() -> None:
    lines = screen(snapshot(30), ViewState(), 80, 15)
    more = [line for line in lines if "more" in line]
    shown = sum("worker-" in line for line in lines)
    assert more[0].split()[:3] == ["…", str(29 - shown), "more"]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("time", ["worker-2", "worker-1", "worker-0", "pool-0", "busy"]),
        ("name", ["busy", "pool-0", "worker-0", "worker-1", "worker-2"]),
        ("tid", ["pool-0", "busy", "worker-0", "worker-1", "worker-2"]),
    ],
)
def test_orders(sort: str, order: list[str]) -> None:
    lines = screen(snapshot(5), ViewState(show_idle=True, sort=sort), 80, 24)
    assert [line.split()[0] for line in lines[4:9]] == order


def test_threads_of_several_processes_are_told_apart() -> None:
    threads = (LiveThread(1, 5, S, "io", "a"), LiveThread(2, 5, S, "io", "a"))
    text = "\n".join(screen(LiveSnapshot(10 * S, threads), ViewState(), 80, 24))
    assert "1/5" in text
    assert "2/5" in text


def test_nothing_to_see_is_said() -> None:
    assert "attaching" in "\n".join(screen(LiveSnapshot(), ViewState(), 80, 24))
    idle_only = snapshot(threads=2)
    only = LiveSnapshot(10 * S, idle_only.threads[:1], idle_only.attached)
    assert "1 idle thread hidden" in "\n".join(screen(only, ViewState(), 80, 24))


def test_loss_and_the_governor_are_shown() -> None:
    counters = Counters(elapsed_ns=S)
    counters.dropped[3] = 5
    news = (Event("governor", 1, data={"probe": "slow_path", "action": "shed", "why": "dear"}),)
    text = "\n".join(screen(snapshot(totals=counters.to_dict(), news=news), ViewState(), 80, 24))
    assert "5 records LOST of 5" in text
    assert "! governor: slow_path shed: dear" in text


def test_news_that_is_not_for_people_takes_no_line() -> None:
    probe = {"name": "probe:slow_path", "from": "waiting", "to": "closed", "why": "allowed"}
    news = (Event("breaker", 1, data=probe),)
    assert "!" not in "".join(screen(snapshot(news=news), ViewState(), 80, 24))


def test_an_open_breaker_is_shown() -> None:
    shown = snapshot(breakers=(("action:stuck/exec", "open"),))
    assert "action:stuck/exec open" in "\n".join(screen(shown, ViewState(), 120, 24))


def test_text_of_the_target_can_neither_steer_nor_style() -> None:
    name = "\x1b[2J[bold red]x[/]\u202e"
    thread = LiveThread(1, 2, S, "io", name, data={"syscall": "\x9b5m", "stack": [{"file": name}]})
    text = "\n".join(screen(LiveSnapshot(2 * S, (thread,)), ViewState(), 200, 24))
    assert all(line.isprintable() for line in text.splitlines())
    assert "[bold red]x[/]" in text


def test_keys() -> None:
    state = ViewState()
    assert press(state, "q") is None
    idle = press(state, "i")
    assert idle is not None
    assert idle.show_idle
    for expected in (*SORTS[1:], SORTS[0]):
        turned = press(state, "s")
        assert turned is not None
        state = turned
        assert state.sort == expected
    assert press(state, "?") == state


def test_the_plain_picture_has_every_thread_and_no_escape() -> None:
    text = plain_picture(snapshot(100), ViewState(show_idle=True), 120)
    assert "\x1b" not in text
    assert sum("worker-" in line for line in text.splitlines()) == 98
    assert "q quit" not in text


def test_who_has_it_is_a_column_where_there_is_room() -> None:
    data = {
        **LOCK, "resource": {"type": "Lock", "name": "app._lock", "address": "0x7f"},
        "holder": {"tid": 5, "thread_name": "refresher"},
    }  # fmt: skip
    held = LiveThread(71, 100, 8 * S, "lock", "worker-0", False, True, data)
    likely = LiveThread(
        71, 101, 8 * S, "lock", "worker-1", False, True,
        {**data, "holder": None, "candidates": [{"tid": 6, "thread_name": None}]},
    )  # fmt: skip
    both = replace(snapshot(), threads=(held, likely))
    wide = "\n".join(screen(both, ViewState(), 120, 20))
    assert "HELD BY" in wide
    assert "Lock app._lock" in wide
    assert "refresher" in wide
    assert "thread 6?" in wide
    assert "HELD BY" not in "\n".join(screen(snapshot(), ViewState(), 120, 20))
    assert "HELD BY" not in "\n".join(screen(snapshot(), ViewState(), 80, 20))


def test_a_deadlock_stays_in_sight() -> None:
    cycle = [{"tid": 1, "thread_name": "left", "stack": None, "waits_on": None, "held_by": 2}]
    old = Event("deadlock", 1, pid=71, data={"cycle": cycle, "knot": False})
    picture = snapshot(news=(old,), now_ns=3_600 * S)
    assert "DEADLOCK of 1 thread in 71" in "\n".join(screen(picture, ViewState(), 120, 20))
