"""The tracepoints on every wake-up and every switch, as something that can be given up.

What they cost a target goes with how often its threads go to sleep, and that the scans
know: each of them shows every thread's voluntary switches (proc(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from collector.events import Event
from tracer.backends.bcc.attach import Attachment, probe_failed
from tracer.governor import Group

TRACEPOINT_NS = 80
"""Price of a tracepoint with a program that has nothing to do. Measured in a nested VM on
200,000 wake-ups a second (Linux 6.18): 50 ns for sched_waking, 90 ns for sched_switch;
bare metal is cheaper."""

RUN_DELAY, WAKES = "run_delay", "wakes"
_EVENT = {RUN_DELAY: "sched_switch", WAKES: "sched_waking"}


class Watch:
    """``switches`` tells how often all targets' threads have gone to sleep so far.

    ``on_change`` is called when sleeps that were watched are not any more.
    """

    groups: Sequence[Group] = (Group(RUN_DELAY, 0), Group(WAKES, 5))

    def __init__(
        self,
        attachment: Attachment,
        switches: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        self._attachment = attachment
        self._switches = switches
        self._on_change = on_change
        self._counted = 0
        self._spent_ns = dict.fromkeys(_EVENT, 0)
        self._hits = dict.fromkeys(_EVENT, 0)

    def spent_ns(self) -> Mapping[str, int]:
        """CPU time (ns) that each group has cost all targets so far."""
        count = self._switches()
        new, self._counted = count - self._counted, count
        for group, event in _EVENT.items():
            if self._attachment.is_attached(event):
                self._spent_ns[group] += new * TRACEPOINT_NS
                self._hits[group] += new
        return dict(self._spent_ns)

    def hit_counts(self) -> Mapping[str, int]:
        """Events of each group while it was attached, as of the last ``spent_ns``."""
        return dict(self._hits)

    def take_back(self, group: str, now_ns: int) -> Iterable[Event]:
        """Attach the tracepoint again."""
        event = _EVENT[group]
        why = self._attachment.attach_tracepoint(event)
        return [probe_failed(f"wakes/{event}", why)] if why else []

    def give_up(self, group: str) -> None:
        """Detach the tracepoint; without wake-ups no sleep is under watch."""
        self._attachment.detach_tracepoint(_EVENT[group])
        if group == WAKES:
            self._on_change()
