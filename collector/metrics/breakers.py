"""Where circuit breakers stand: several of one name, as in the workers of one program, are one."""

from __future__ import annotations

from collections.abc import Mapping

from collector.events import Event

_BY_TROUBLE = ("closed", "waiting", "half-open", "open")

_Who = tuple[int | None, str | None]
"""Of a map's breaker its process and the map's address; Parkscope's own have neither."""


class BreakerStates:
    """By the label of their name."""

    def __init__(self) -> None:
        self._states: dict[str, dict[_Who, str]] = {}

    def fold(self, label: str, state: str, event: Event) -> None:
        """A breaker changed its state."""
        address = event.data.get("address")
        who = event.pid, address if isinstance(address, str) else None
        self._states.setdefault(label, {})[who] = state

    def forget(self, pid: int) -> None:
        """A process is over, and its breakers are."""
        for label, states in list(self._states.items()):
            for who in [each for each in states if each[0] == pid]:
                del states[who]
            if not states:
                del self._states[label]

    def worst(self) -> Mapping[str, str]:
        """The state of each; of several with one name, that which keeps most back."""
        return {label: max(states.values(), key=_trouble) for label, states in self._states.items()}


def _trouble(state: str) -> int:
    return _BY_TROUBLE.index(state) if state in _BY_TROUBLE else -1
