"""Label values: bounded in number and length, and printable, whatever the target says."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

OTHER: Final = "other"
UNKNOWN: Final = "unknown"
MAX_CHARACTERS: Final = 64
MAX_PIDS: Final = 32
LIMITS: Final = {"thread": 32, "map": 32}
"""How many values a label may take before all others are ``other``: the first that come."""
DEFAULT_LIMIT: Final = 24

_DIGITS = re.compile(r"\d+")


class Labels:
    """Remembers which values each label has taken; ``overflow`` counts those turned away."""

    def __init__(self) -> None:
        self.overflow: Counter[str] = Counter()
        self._taken: dict[str, dict[str, str]] = {}
        self._pids: dict[int, str] = {}
        self._ended: dict[int, None] = {}

    def value(self, label: str, raw: object) -> str:
        """The value for ``raw`` as text, ``other`` when there are too many already."""
        if raw is None:
            return UNKNOWN
        if isinstance(raw, bool):
            return "true" if raw else "false"
        taken = self._taken.setdefault(label, {})
        text = str(raw)
        known = taken.get(text)
        if known is not None:
            return known
        if len(taken) >= LIMITS.get(label, DEFAULT_LIMIT):
            self.overflow[label] += 1
            return OTHER
        return taken.setdefault(text, printable(text))

    def thread(self, name: str | None) -> str:
        """Threads of one sort share a value: ``worker-3`` is ``worker-N``."""
        return self.value("thread", None if name is None else _DIGITS.sub("N", name))

    def pid(self, pid: int | None) -> tuple[str, str | None]:
        """The value for a process, and the value of the ended one that had to make room."""
        if pid is None:
            return UNKNOWN, None
        known = self._pids.get(pid)
        if known is not None:
            return known, None
        freed = None
        if len(self._pids) >= MAX_PIDS:
            if not self._ended:
                self.overflow["pid"] += 1
                return OTHER, None
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            freed = self._pids.pop(oldest)
        return self._pids.setdefault(pid, str(pid)), freed

    def ended(self, pid: int) -> None:
        """A process is over: its value may make room for another."""
        if pid in self._pids:
            self._ended[pid] = None

    def alive(self, pid: int) -> None:
        """A process that was over has its number again."""
        self._ended.pop(pid, None)


def printable(text: str) -> str:
    r"""``text`` with unprintable characters spelled out, of at most ``MAX_CHARACTERS``.

    What Prometheus' format itself needs escaped (backslash, quote, line end) is the
    encoder's business; here go escape sequences, bidi overrides and lone surrogates.
    """
    shown = "".join(
        character if character.isprintable() else _spelled(character)
        for character in text[: MAX_CHARACTERS + 1]
    )
    return shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…"


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "replace").decode("ascii")
