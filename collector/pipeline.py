"""The only loop: source, decoder, detector, attribution, sinks.

One thread, no clock: time is what the source says it is. A sink that fails ends
the session; the other sinks are still closed properly, and the source too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from collector.accounting import Accountant
from collector.ahead import MANY, ReadAhead
from collector.attribution import Attributor, Sight
from collector.chains import Blames, Chains
from collector.context import Resource
from collector.counters import Counters
from collector.deadlocks import DeadlockWatch
from collector.decode import Decoded, decode
from collector.events import Event
from collector.map_breakers import MapBreakers
from collector.native_map import MapTallies
from collector.park import Findings, Park
from collector.parks import ParkDetector
from collector.reaction import Reaction
from collector.sinks import Sink
from collector.source import Batch, RecordSource, counted_last
from probes.wire import Kind

HEALTH_PERIOD_NS = 1_000_000_000
_IDLE_POLL_NS = 250_000_000
"""With nothing due the loop still comes round four times a second: a person who
presses Ctrl-C waits no longer than that, and its cost is not measurable."""
_FIRST = 8
"""When more than MANY cross at once, these are looked at and said before the others are: what
acts on a park (a heap dump) should not wait until a thousand stacks have been read."""
_NAMING_PERIOD_NS = 40_000_000
_NAMING_MARGIN_NS = 10_000_000
"""Looking on for a name takes some milliseconds at a time: a tenth of a core, and only
while no park is about to cross the threshold."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a session runs. ``duration_ns`` of None: until the source is done.

    ``alloc_events``: make a ``large_alloc`` event of every such record (for JSON);
    the records themselves reach the sinks in any case. ``follow``: the source goes
    on to the children of its targets.
    """

    duration_ns: int | None = None
    alloc_events: bool = False
    follow: bool = False


DEFAULT_OPTIONS = RunOptions()


class Pipeline:
    """Owns one session's flow from ``source`` to ``sinks``, in order.

    ``own_cpu_ns`` tells the CPU time that this process has used so far;
    ``should_stop`` is asked between batches; ``opening`` makes the events that
    come before all others, from the source's time of the first batch.
    """

    def __init__(
        self,
        source: RecordSource,
        detector: ParkDetector,
        attributor: Attributor,
        sinks: Sequence[Sink],
        options: RunOptions = DEFAULT_OPTIONS,
        *,
        own_cpu_ns: Callable[[], int] = lambda: 0,
        should_stop: Callable[[], bool] = lambda: False,
        opening: Callable[[int], Sequence[Event]] = lambda _now_ns: (),
    ) -> None:
        self._source = source
        self._detector = detector
        self._attributor = attributor
        self._sinks = sinks
        self._options = options
        self._own_cpu_ns = own_cpu_ns
        self._should_stop = should_stop
        self._opening = opening
        self._reaction: Reaction | None = None
        self._blames = Blames(attributor.context, detector)
        self._ahead = ReadAhead(attributor, self._blames, detector)
        self._chains = Chains(self._blames, detector)
        self._deadlocks = DeadlockWatch(attributor.context, detector, self._blames)
        self._maps = MapTallies(attributor.context)
        self._breakers = MapBreakers(attributor.context)
        self._named_later: list[tuple[Park, Resource]] = []
        self._naming_due_ns = 0
        self._unlooked: list[Park] = []
        self._ended_unsaid: list[Park] = []
        self._accountant = Accountant(options.alloc_events, options.follow)
        self._started_ns: int | None = None
        self._now_ns = 0
        self._health_due_ns = 0
        self._why = ""

    def react_with(self, reaction: Reaction) -> None:
        """From now on ``reaction`` hears of every event, and may set something off."""
        self._reaction = reaction

    def park_of(self, pid: int, tid: int) -> Park | None:
        """The park that a thread is in, None when none is known of (do not change it)."""
        return self._detector.park_of(pid, tid)

    def known_ns(self, park: Park) -> int:
        """Until when an open park is known to have lasted."""
        return self._detector.known_ns(park)

    @property
    def counters(self) -> Counters:
        """Totals so far."""
        return self._accountant.counters

    @property
    def why(self) -> str:
        """Why it ended: ``source ended``, ``duration over``, ``stopped``; empty until then."""
        return self._why

    def thread_name(self, pid: int, tid: int) -> str | None:
        """Python's name of a thread, None when unknown. For the loop's own thread."""
        return self._attributor.thread_name(pid, tid)

    def run(self) -> str:
        """Run to the end; return ``why``. Raises what ``steps`` raises."""
        for _ in self.steps():
            pass
        return self._why

    def steps(self) -> Generator[None, None, None]:
        """Run step by step; sinks have been told everything of a step when it yields.

        Closing the iterator early detaches as well. Raises the ``ParkscopeError``
        of a sink or of the source, after everything has been closed.
        """
        with ExitStack() as stack:
            stack.callback(self.close)
            while not self._why:
                self._step()
                yield
            self._finish()
            yield

    def close(self) -> None:
        """Close the source, then every sink, whatever one of them raises."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
            if self._reaction is not None:
                stack.callback(self._reaction.close)
            stack.callback(self._source.close)

    def _step(self) -> None:
        found = self._take_batch(self._poll_timeout_ns())
        sights = self._look_on(found.crossed)
        self._say_named()
        self._emit(self._deadlocks.advance(self._now_ns))
        self._deadlocks.suspect(s.park for s in sights if not s.idle)
        while sights or self._deadlocks.busy:
            # The stacks have been read; only a park that outlasted that, as is known
            # after whatever happened meanwhile, held still for it. It is said before
            # the next are looked at, which may take a while.
            later = self._take_batch(0)
            self._say_long(sights)
            more = self._look_on(later.crossed)
            self._say_ended(found.ended)
            self._emit(self._deadlocks.advance(self._now_ns))
            self._deadlocks.suspect(s.park for s in more if not s.idle)
            found, sights = later, more
        self._say_ended(found.ended)
        self._emit(self._accountant.losses(self._now_ns))
        if self._now_ns >= self._health_due_ns:
            self._health()
            self._deadlocks.look_again()
        self._ahead.look(self._now_ns)
        self._name_more()
        if self._reaction is not None:
            self._tell(self._reaction.tend(self._now_ns))
        if not self._why and self._should_stop():
            self._why = "stopped"

    def _poll_timeout_ns(self) -> int:
        if self._started_ns is None:
            return 0
        if self._deadlocks.busy or self._named_later:
            return 0
        due = [self._now_ns + _IDLE_POLL_NS, self._health_due_ns]
        if self._attributor.names_missing:
            due.append(self._naming_due_ns)
        sometimes = (self._ahead.due_ns(self._now_ns), self._deadlocks.due_ns)
        due += [at_ns for at_ns in sometimes if at_ns is not None]
        if self._options.duration_ns is not None:
            due.append(self._started_ns + self._options.duration_ns)
        if self._reaction is not None and (react_ns := self._reaction.due_ns()) is not None:
            due.append(react_ns)
        return max(0, min(due) - self._now_ns)

    def _take_batch(self, timeout_ns: int) -> Findings:
        """One batch through decoder and detector."""
        batch = self._source.poll(timeout_ns)
        if batch.probes:
            self.counters.probes = dict(batch.probes)
        self._now_ns = batch.now_ns
        if self._started_ns is None:
            self._started_ns = batch.now_ns
            self._health_due_ns = batch.now_ns + HEALTH_PERIOD_NS
            self._emit(self._opening(batch.now_ns))
        decoded = self._pass_on(batch)
        self._detector.feed(decoded.records)
        self._detector.advance(batch.now_ns)
        if batch.done:
            self._why = "source ended"
        elif self._duration_over():
            self._why = "duration over"
        found = self._detector.take()
        self._store(found)
        return found

    def _look_on(self, crossed: Sequence[Park]) -> list[Sight]:
        """Look at parks that crossed: at a few of many first, at the others next time."""
        waited = self._unlooked
        first = crossed if waited or len(crossed) <= MANY else crossed[:_FIRST]
        self._unlooked = list(crossed[len(first) :])
        now = [*waited, *first]
        return self._look(now, many=len(now) + len(self._unlooked) > MANY)

    def _pass_on(self, batch: Batch) -> Decoded:
        """Count a batch and hand it to the sinks."""
        decoded = decode(batch.raw)
        events = self._accountant.batch(decoded.records, batch.dropped, decoded.malformed)
        for sink in self._sinks:
            sink.on_records(decoded.records, dict(batch.dropped), batch.now_ns)
        self._emit([*batch.events, *map(self._named, events)])
        self._emit([*map(self._named, self._breakers.events(decoded.records))])
        self._maps.heard([*batch.events, *events])
        self._maps.feed(decoded.records, lost=bool(batch.dropped.get(Kind.MAP_COUNT)))
        return decoded

    def _duration_over(self) -> bool:
        limit = self._options.duration_ns
        return limit is not None and self._elapsed_ns() >= limit

    def _elapsed_ns(self) -> int:
        return 0 if self._started_ns is None else self._now_ns - self._started_ns

    def _store(self, found: Findings) -> None:
        rows = found.parks()
        if len(rows):
            self._accountant.parks(rows)
            for sink in self._sinks:
                sink.on_parks(rows)

    def _look(self, crossed: Sequence[Park], *, many: bool) -> list[Sight]:
        """Read the threads of parks that crossed, and then those that they wait for.

        When many cross at once, those that are idle by design are not looked into any
        further: an attach to a pool of a thousand workers has better to do.
        """
        sights = [self._ahead.sight(park) for park in crossed]
        self._blames.forget()
        self._blames.read(
            sight.park
            for sight in sights
            if not (many and sight.idle) and (sight.asks or self._detector.is_open(sight.park))
        )
        blamed = [replace(s, blame=self._blames.known(s.park) or s.blame) for s in sights]
        return [replace(s, links=self._chains.look(s.park, s.blame)) for s in blamed]

    def _say_long(self, sights: Sequence[Sight]) -> None:
        events = []
        for sight in sights:
            is_open = self._detector.is_open(sight.park)
            chain = self._chains.confirmed(sight.links, sight.park.pid)
            events.append(self._attributor.long_event(sight, self._now_ns, is_open, chain))
            self.counters.long_parks[sight.park.kind] += 1
            self.counters.idle_parks += int(bool(sight.park.idle))
        self._emit(events)

    def _name_more(self) -> None:
        """Look on for a name, unless a park is about to cross."""
        if not self._attributor.names_missing or self._now_ns < self._naming_due_ns:
            return
        self._naming_due_ns = self._now_ns + _NAMING_PERIOD_NS
        crossing_ns = self._detector.next_deadline_ns
        if crossing_ns is None or crossing_ns > self._now_ns + _NAMING_MARGIN_NS:
            self._named_later = self._attributor.name_more()

    def _say_named(self) -> None:
        """What was found for parks that outlasted the finding."""
        events = [
            self._attributor.named_event(park, resource, self._now_ns)
            for park, resource in self._named_later
            if self._detector.is_open(park)
        ]
        self._named_later = []
        self._emit([event for event in events if event is not None])

    def _say_ended(self, parks: Sequence[Park]) -> None:
        """Say ends, of those parks that have been said; the others' when they have."""
        every = [*self._ended_unsaid, *parks]
        self._ended_unsaid = [park for park in every if not self._attributor.has_said(park)]
        said = [park for park in every if self._attributor.has_said(park)]
        events = [self._attributor.end_event(park, self._now_ns) for park in said]
        self.counters.cross_node_wakes += sum(event.data["cross_node"] is True for event in events)
        self._emit(events)

    def _named(self, event: Event) -> Event:
        if event.pid is None or event.tid is None:
            return event
        return replace(event, thread_name=self._attributor.thread_name(event.pid, event.tid))

    def _emit(self, events: Sequence[Event]) -> None:
        """Say events, and what follows from them. First things first: a dump is urgent."""
        if events and self._reaction is not None:
            more = self._reaction.on_events(events)
            self._tell([*events, *more])
        else:
            self._tell(events)

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            for sink in self._sinks:
                sink.on_events(events)

    def _health(self) -> None:
        counters = self.counters
        counters.own_cpu_ns = self._own_cpu_ns()
        counters.elapsed_ns = self._elapsed_ns()
        self._health_due_ns = self._now_ns + HEALTH_PERIOD_NS
        self._emit(self._maps.events(self._now_ns))
        for sink in self._sinks:
            sink.on_health(counters, self._now_ns)
        if self._reaction is not None:
            self._tell(self._reaction.on_health(counters, self._now_ns))

    def _finish(self) -> None:
        last = counted_last(self._source)
        if last is not None:
            self._now_ns = max(self._now_ns, last.now_ns)
            self._pass_on(last)
        if self._reaction is not None:
            self._tell(self._reaction.finish(self._now_ns, patient=self._why != "stopped"))
        self._detector.finish(self._now_ns)
        self._store(self._detector.take())
        self._emit(self._accountant.losses(self._now_ns, at_once=True))
        self._health()
        totals = self.counters.to_dict()
        self._emit([Event("detached", self._now_ns, data={"why": self._why, "totals": totals})])
