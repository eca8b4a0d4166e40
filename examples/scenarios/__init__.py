"""Small real programs that park on purpose and log their own truth.

Each is one file for CPython 3.8 and later, and is run, never imported:
``python lock_convoy.py --log FILE --seconds N``. ``truth_log.py`` lies beside them and
goes with any copy. ``scenarios.toml`` names them. All but those that say what they
``needs`` make do with the standard library.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parent
TRUTH_LOG = DIRECTORY / "truth_log.py"


@dataclass(frozen=True)
class Scenario:
    """One program: its usual run time and the kinds of long parks that it makes.

    ``needs``: the package that it imports, None if the standard library will do.
    """

    name: str
    summary: str
    seconds: float
    kinds: frozenset[str]
    needs: str | None = None

    @property
    def path(self) -> Path:
        """The program."""
        return DIRECTORY / f"{self.name}.py"


@cache
def every_scenario() -> dict[str, Scenario]:
    """All scenarios by name."""
    table = tomllib.loads((DIRECTORY / "scenarios.toml").read_text())
    return {
        name: Scenario(
            name,
            entry["summary"],
            float(entry["seconds"]),
            frozenset(entry["kinds"]),
            entry.get("needs"),
        )
        for name, entry in table.items()
    }


@cache
def scenarios() -> dict[str, Scenario]:
    """Those that run under any interpreter, by name."""
    return {name: one for name, one in every_scenario().items() if one.needs is None}
