"""The picture of ``parkscope live``: pure, from a snapshot to what rich can draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from collector.events import Event
from collector.sinks.live import LiveSnapshot, LiveThread
from tracer import totals, units
from tracer.diagnosis import holder_name, where
from tracer.escape import terminal
from tracer.human import Style, line, reason, waits_on
from tracer.native_text import native_map

SORTS = ("time", "name", "tid")
_NEWS_LINES = 2
_MAP_LINES = 3
_NEWS_NS = 15_000_000_000
_BREAKERS = 2
_NARROW = 64
_WIDE = 96
"""Columns from which there is room to say who has it, too."""
"""Columns under which there is no room to say where in the program."""
_NEWS_STYLE = Style(idle=True)


@dataclass(frozen=True, slots=True)
class ViewState:
    """What the person has chosen by keys; ``rss_bytes`` is Parkscope's own memory."""

    show_idle: bool = False
    sort: str = SORTS[0]
    rss_bytes: int = 0
    keys: bool = True


def press(state: ViewState, key: str) -> ViewState | None:
    """The state after a key; None to quit."""
    if key in ("q", "Q", "\x03"):
        return None
    if key in ("i", "I"):
        return replace(state, show_idle=not state.show_idle)
    if key in ("s", "S"):
        return replace(state, sort=SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)])
    return state


def render(snapshot: LiveSnapshot, state: ViewState, width: int, height: int) -> RenderableType:
    """``height`` lines (more only where that is under ten) of at most ``width`` columns."""
    above = [*_header(snapshot), Text()]
    below = [*_maps(snapshot), *_news(snapshot), *_footer(snapshot, state)]
    shown, hidden = _chosen(snapshot, state)
    room = max(1, height - len(above) - len(below) - 1)
    parts: list[RenderableType] = [*above]
    if shown:
        parts.append(_table(shown, snapshot.now_ns, width, room))
        used = 1 + min(len(shown), room)
    else:
        parts.append(Text(_nothing(snapshot, hidden), style="dim"))
        used = 1
    parts += [Text()] * max(0, room + 1 - used)
    parts += below
    for part in parts:
        if isinstance(part, Text):
            part.no_wrap, part.overflow = True, "ellipsis"
    return Group(*parts)


def plain_picture(snapshot: LiveSnapshot, state: ViewState, width: int) -> str:
    """The same as plain text without any escape sequence, as long as it has to be."""
    text = StringIO()
    height = len(snapshot.threads) + len(snapshot.maps) + 10
    console = Console(file=text, width=width, height=height, color_system=None, highlight=False)
    console.print(render(snapshot, replace(state, keys=False), width, height))
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def _header(snapshot: LiveSnapshot) -> list[Text]:
    head = Text("parkscope", style="bold")
    for event in snapshot.attached[:3]:
        head.append(f"  {_target(event)}", style="not bold")
    if len(snapshot.attached) > 3:
        head.append(f"  and {len(snapshot.attached) - 3} more", style="not bold")
    elapsed = snapshot.totals.get("elapsed_ns")
    if isinstance(elapsed, int):
        head.append(f"  for {units.duration(elapsed)}", style="not bold dim")
    if snapshot.ended is not None:
        head.append(f"  ENDED: {terminal(str(snapshot.ended.data.get('why')))}", style="yellow")
    return [head, _state_line(snapshot)]


def _target(event: Event) -> str:
    if event.pid is None:
        return terminal(str(event.data.get("why")), 40)
    words = [str(event.pid)]
    if event.data.get("program"):
        words.append(terminal(str(event.data["program"]), 20))
    if event.data.get("python"):
        words.append(f"CPython {terminal(str(event.data['python']), 12)}")
    return " ".join(words)


def _state_line(snapshot: LiveSnapshot) -> Text:
    stuck = sum(thread.long and not thread.idle for thread in snapshot.threads)
    idle = sum(bool(thread.idle) for thread in snapshot.threads)
    threads = snapshot.totals.get("threads") or len(snapshot.threads)
    text = Text()
    text.append(f"{units.number(stuck)} stuck", style="bold red" if stuck else "green")
    text.append(f" · {units.number(idle)} idle · {units.plural(int(threads), 'thread')}")
    text.append(f" · {totals.found(snapshot.totals)}", style="dim")
    for name, state in snapshot.breakers[:_BREAKERS]:
        text.append(f" · {terminal(name, 40)} {terminal(state, 10)}", style="yellow")
    return text


def _chosen(snapshot: LiveSnapshot, state: ViewState) -> tuple[list[LiveThread], int]:
    """The threads to show, in order, and how many idle ones are hidden."""
    shown = [t for t in snapshot.threads if state.show_idle or not t.idle]
    if state.sort == "name":
        shown.sort(key=lambda t: (t.thread_name or "~", t.pid, t.tid))
    elif state.sort == "tid":
        shown.sort(key=lambda t: (t.pid, t.tid))
    else:
        shown.sort(key=lambda t: (t.kind is None, bool(t.idle), t.since_ns))
    return shown, len(snapshot.threads) - len(shown)


def _nothing(snapshot: LiveSnapshot, hidden: int) -> str:
    if not snapshot.attached:
        return "attaching …"
    if hidden:
        return f"nothing is stuck; {units.plural(hidden, 'idle thread')} hidden"
    return "no thread has been parked for long enough to be seen"


def _table(threads: Sequence[LiveThread], now_ns: int, width: int, room: int) -> Table:
    several = len({thread.pid for thread in threads}) > 1
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="bold dim")
    table.add_column("THREAD", no_wrap=True, overflow="ellipsis", min_width=8, max_width=22)
    table.add_column("PID/TID" if several else "TID", no_wrap=True)
    table.add_column("FOR", no_wrap=True, justify="right", min_width=7)
    table.add_column("WAITS ON", no_wrap=True, overflow="ellipsis", min_width=12, max_width=30)
    held = width >= _WIDE and any(holder_name(thread.data) for thread in threads)
    if held:
        table.add_column("HELD BY", no_wrap=True, overflow="ellipsis", min_width=8, max_width=24)
    if width >= _NARROW:
        table.add_column("WHERE", no_wrap=True, overflow="ellipsis", ratio=1)
    fitting = list(threads) if len(threads) <= room else list(threads[: room - 1])
    for thread in fitting:
        cells = _cells(thread, now_ns, several, held)
        table.add_row(*cells[: len(table.columns)], style=_style(thread))
    if len(fitting) < len(threads):
        table.add_row(Text(f"… {len(threads) - len(fitting)} more", style="dim"))
    return table


def _cells(thread: LiveThread, now_ns: int, several: bool, held: bool) -> list[Text]:
    name = terminal(thread.thread_name, 60) if thread.thread_name else "?"
    task = f"{thread.pid}/{thread.tid}" if several else str(thread.tid)
    waits = "running" if thread.kind is None else waits_on(thread.kind, thread.data)
    lasted = units.duration(max(0, now_ns - thread.since_ns))
    holder = [Text(holder_name(thread.data))] if held else []
    return [Text(name), Text(task), Text(lasted), Text(waits), *holder, Text(_where(thread))]


def _where(thread: LiveThread) -> str:
    if thread.idle:
        return f"idle: {terminal(str(thread.data.get('idle_reason')), 80)}"
    return where(thread.data.get("stack"))


def _style(thread: LiveThread) -> str:
    if thread.idle:
        return "dim"
    if thread.long:
        return "bold red"
    return "green" if thread.kind is None else ""


def _maps(snapshot: LiveSnapshot) -> list[Text]:
    """What native maps have done so far, those that were waited for most first."""
    order = sorted(snapshot.maps, key=_waited_ns, reverse=True)
    return [Text(native_map(event), style="cyan") for event in order[:_MAP_LINES]]


def _waited_ns(event: Event) -> int:
    waits = event.data.get("waits")
    total_ns = waits.get("total_ns") if isinstance(waits, Mapping) else None
    return total_ns if isinstance(total_ns, int) else 0


def _news(snapshot: LiveSnapshot) -> list[Text]:
    oldest_ns = snapshot.now_ns - _NEWS_NS
    recent = [event for event in snapshot.news if event.ts_ns >= oldest_ns]
    # A deadlock does not grow old.
    lasting = [event for event in snapshot.news if event.event == "deadlock"][-1:]
    latest = [*(one for one in lasting if one not in recent), *recent]
    said = [text for event in latest if (text := line(event, _NEWS_STYLE)) is not None]
    return [Text(f"! {text}", style="yellow") for text in said[-_NEWS_LINES:]]


def _footer(snapshot: LiveSnapshot, state: ViewState) -> list[Text]:
    sums: Any = snapshot.totals
    allocated = totals.allocations(sums)
    lost = totals.lost(sums)
    first = Text(lost, style="bold yellow" if "LOST" in lost else "dim")
    if allocated:
        first.append(f" · {allocated}", style="not bold dim")
    own = Text(f"{totals.own_cost(sums)}, {units.size(state.rss_bytes)}", style="dim")
    if snapshot.attached:
        data = snapshot.attached[0].data
        own.append(f" · {terminal(str(data.get('backend')), 20)}")
        if because := reason(data):
            own.append(f": {because}")
    if not state.keys:
        return [first, own]
    keys = Text(style="reverse")
    idle = "hide" if state.show_idle else "show"
    keys.append(f" q quit   i {idle} idle   s sort: {state.sort} ")
    return [first, own, keys]
