"""A circuit breaker over the iterations of a map.

Strict iterations fail when others write meanwhile. Now and then that is what they are for;
when most of them fail, those who iterate only burn time, and what they would have to
protect by it is not known to be consistent. ``GuardedMap`` then changes over to the last
good snapshot until an iteration gets through again::

    guarded = GuardedMap(m, on_change=print)
    for key, value in guarded.items():      # strict while closed; a snapshot while open
        ...

    closed      everything goes to the map; iterations are strict, their outcomes are counted
    open        reads and iterations are served from the last good snapshot, writes refused
    half_open   as open, but one iteration, the probe, goes to the map: it closes the
                breaker, or opens it again
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

from concurrent_map import _core
from concurrent_map._breaker import Breaker, Outcome, Permit, State, Transition
from concurrent_map._mapping import MapMethods

K = TypeVar("K")
V = TypeVar("V")

What: TypeAlias = Literal["items", "keys", "values"]

STATES: tuple[State, ...] = ("closed", "open", "half_open")
"""In the order of the numbers that the USDT probe ``breaker`` gives them."""

_guards: weakref.WeakValueDictionary[int, GuardedMap[Any, Any]] = weakref.WeakValueDictionary()


class MapUnavailableError(RuntimeError):
    """A write was refused because the map's breaker is not closed.

    Iterate again after ``retry_in_s`` seconds: that is the probe which can close it.
    """

    def __init__(self, name: str | None, state: State, retry_in_s: float) -> None:
        self.name, self.state, self.retry_in_s = name, state, retry_in_s
        what = f"the map {name!r}" if name else "the map"
        super().__init__(
            f"{what} takes no writes: too many of its iterations failed ({state});"
            f" a probe may be made in {retry_in_s:.1f} s"
        )


def _teller(
    map: Any,  # noqa: A002 - it is one
    on_change: Callable[[Transition], object] | None,
) -> Callable[[Transition], None]:
    """What tells tracers (by the USDT probe) and then ``on_change``. It knows no guard."""
    probe = _core.probe_breaker if isinstance(map, _core.Map) else None

    def tell(transition: Transition) -> None:
        if probe is not None:
            old, new = STATES.index(transition.old), STATES.index(transition.new)
            probe(map, old, new, transition.failures, transition.samples)
        if on_change is not None:
            on_change(transition)

    return tell


def guards() -> list[GuardedMap[Any, Any]]:
    """All guarded maps of this process, for exporters: see their ``state``."""
    return list(_guards.values())


class GuardedIterator:
    """A strict iteration whose outcome the breaker learns: at its end, or when it goes away."""

    def __init__(self, guard: GuardedMap[Any, Any], walk: Any, permit: Permit) -> None:
        self._guard, self._walk, self._permit = guard, walk, permit

    @property
    def is_probe(self) -> bool:
        """Whether the breaker's state depends on it."""
        return self._permit.is_probe

    @property
    def valid(self) -> bool:
        """False once the next step would fail."""
        return bool(self._walk.valid)

    def __iter__(self) -> GuardedIterator:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._walk)
        except StopIteration:
            self._guard._ended(self._permit, "complete")
            raise
        except Exception:
            self._guard._ended(self._permit, "failed")
            raise

    def close(self) -> None:
        """End it early."""
        self._walk.close()
        self._guard._ended(self._permit, "stopped")

    def __del__(self) -> None:
        self._guard._breaker.abandon(self._permit)


class GuardedMap(MapMethods[K, V]):
    """``map`` (a ConcurrentMap) behind a breaker; nothing else should write to it.

    It opens when more than ``percent`` of the last ``window`` iterations failed, and rests
    ``rest_s`` seconds before a probe. What a callback raises is no failure of the map, and
    an iteration that its caller ended early is none either. ``clock`` gives seconds.

    The good snapshot is taken when an iteration came to its end, at most once in
    ``snapshot_every_s`` (a snapshot makes the next write to each bucket copy it), and first
    of all when the guard is made. ``on_change(transition)`` is called for each change of
    state, in order, outside of all locks. Raises ValueError for numbers out of range.
    """

    def __init__(
        self,
        map: Any,  # noqa: A002 - it is one
        /,
        *,
        percent: float = 60,
        window: int = 100,
        rest_s: float = 30.0,
        snapshot_every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Transition], object] | None = None,
    ) -> None:
        self._map, self._clock, self._every_s = map, clock, snapshot_every_s
        self._refreshing = threading.Lock()
        self._good = map.snapshot()
        self._good_s = clock()
        self._breaker = Breaker(
            percent=percent,
            window=window,
            rest_s=rest_s,
            clock=clock,
            on_change=_teller(map, on_change),
        )
        _guards[id(self)] = self

    # --- what can be seen ---------------------------------------------------------

    @property
    def map(self) -> Any:
        """The map behind the guard."""
        return self._map

    @property
    def name(self) -> str | None:
        """The map's."""
        return self._map.name  # type: ignore[no-any-return]

    @property
    def state(self) -> State:
        """Of the breaker: "closed", "open" or "half_open"."""
        return self._breaker.state

    @property
    def failures(self) -> int:
        """Failures among the last ``samples`` iterations."""
        return self._breaker.failures

    @property
    def samples(self) -> int:
        """Outcomes that the breaker looks at; at most its window."""
        return self._breaker.samples

    @property
    def transitions(self) -> int:
        """How often the state has changed."""
        return self._breaker.number

    @property
    def good_version(self) -> int:
        """The map's version in the last good snapshot."""
        return self._good.version  # type: ignore[no-any-return]

    # --- reading ------------------------------------------------------------------

    def _readable(self) -> Any:
        return self._map if self._breaker.state == "closed" else self._good

    def load(self, key: K, default: Any = None, /) -> Any:
        """The key's value, or ``default``."""
        return self._readable().load(key, default)

    def __getitem__(self, key: K) -> V:
        return self._readable()[key]  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        return key in self._readable()

    def __len__(self) -> int:
        return len(self._readable())

    # --- iterating ----------------------------------------------------------------

    def iterate(self, what: What = "items", /) -> Any:
        """A strict iteration of the map, or one of the last good snapshot.

        The strict one raises StaleIterationError as ConcurrentMap.iterate says.
        """
        permit = self._breaker.ask()
        if permit is None:
            return self._good.iterate(what)
        try:
            walk = self._map.iterate("strict", what)
        except BaseException:
            self._breaker.settle(permit, "stopped")
            raise
        return GuardedIterator(self, walk, permit)

    def _walk(self, what: str) -> Any:
        return self.iterate(what)  # type: ignore[arg-type]

    def range(self, callback: Callable[[K, V], object], /) -> int:
        """As ConcurrentMap.range, over ``iterate()``."""
        walk = self.iterate()
        count = 0
        try:
            for key, value in walk:
                count += 1
                if callback(key, value) is False:
                    break
        finally:
            walk.close()
        return count

    def probe(self) -> State:
        """Iterate once for nothing but the breaker's sake; the state after it."""
        try:
            for _ in self.iterate("keys"):
                pass
        except Exception:  # noqa: BLE001 - the breaker knows it already
            return self.state
        return self.state

    def _ended(self, permit: Permit, outcome: Outcome) -> None:
        # The snapshot first: whoever reads after the change of state finds it there.
        if outcome == "complete" and self._breaker.counts(permit):
            self._refresh()
        self._breaker.settle(permit, outcome)

    def _refresh(self) -> None:
        if not self._refreshing.acquire(blocking=False):
            return  # another thread is at it
        try:
            now_s = self._clock()
            old = self._map.version == self._good.version or now_s < self._good_s + self._every_s
            if not old:
                # Readers may still be in the one before: it goes with its last reference.
                self._good = self._map.snapshot()
                self._good_s = now_s
        finally:
            self._refreshing.release()

    # --- writing ------------------------------------------------------------------

    def _writable(self) -> Any:
        state = self._breaker.state
        if state != "closed":
            raise MapUnavailableError(self.name, state, self._breaker.retry_in_s())
        return self._map

    def __setitem__(self, key: K, value: V) -> None:
        self._writable()[key] = value

    def __delitem__(self, key: K) -> None:
        del self._writable()[key]

    def store(self, key: K, value: V, /) -> None:
        """Give ``key`` the value. All writes raise MapUnavailableError while not closed."""
        self._writable().store(key, value)

    def load_or_store(self, key: K, value: V, /) -> tuple[V, bool]:
        """As ConcurrentMap's. A write, also when the key is there."""
        return self._writable().load_or_store(key, value)  # type: ignore[no-any-return]

    def load_and_delete(self, key: K, default: Any = None, /) -> tuple[Any, bool]:
        """As ConcurrentMap's."""
        return self._writable().load_and_delete(key, default)  # type: ignore[no-any-return]

    def compare_and_swap(self, key: K, expected: V, value: V, /) -> bool:
        """As ConcurrentMap's."""
        return self._writable().compare_and_swap(key, expected, value)  # type: ignore[no-any-return]

    def compare_and_delete(self, key: K, expected: V, /) -> bool:
        """As ConcurrentMap's."""
        return self._writable().compare_and_delete(key, expected)  # type: ignore[no-any-return]

    def popitem(self) -> tuple[K, V]:
        """As ConcurrentMap's."""
        return self._writable().popitem()  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Delete everything."""
        self._writable().clear()
