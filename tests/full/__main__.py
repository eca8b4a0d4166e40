"""``python -m tests.full``: make every registered measurement, show one table.

    --json FILE     also write the rows as JSON (default: must-show.json in the
                    directory given by PARKSCOPE_REPORT_DIR, else in .parkscope-setup)
    --only N.L …    only these issues or lines: 2, 2.4
    --list          name the measurements, make none

Exits 1 when a bound is missed or a line was not measured, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from tests.full import REGISTRY, Figure, MustShow, NotMeasured, number

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of the table. ``holds`` is None for information without a bound."""

    issue: int
    line: int
    what: str
    bound: str
    figure: float | None
    holds: bool | None
    note: str = ""


def _asked_for() -> dict[tuple[int, int], str]:
    issues = tomllib.loads((_HERE / "lines.toml").read_text())
    return {
        (int(issue.removeprefix("issue")), int(line)): words
        for issue, lines in issues.items()
        for line, words in lines.items()
    }


def _row(measurement: MustShow, figure: Figure) -> Row:
    bound = figure.bound or measurement.bound
    what = figure.what or measurement.what
    holds = None if bound is None else bound.holds(figure.value)
    text = "" if bound is None else bound.text
    return Row(measurement.issue, measurement.line, what, text, figure.value, holds, figure.note)


def measure(measurement: MustShow) -> list[Row]:
    """Make one measurement; a failure of it is a row too, and the others go on."""
    try:
        answer = measurement.measure()
        if isinstance(answer, Figure):
            answer = [answer]
        elif not isinstance(answer, Iterable):
            answer = [Figure(float(answer))]
        return [_row(measurement, figure) for figure in answer]
    except NotMeasured as reason:
        why = f"not measured: {reason}"
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        why = f"failed: {type(error).__name__}: {error}"
    bound = "" if measurement.bound is None else measurement.bound.text
    return [Row(measurement.issue, measurement.line, measurement.what, bound, None, False, why)]


def _wanted(only: Sequence[str], issue: int, line: int) -> bool:
    return not only or str(issue) in only or f"{issue}.{line}" in only


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, for a terminal or a closing note."""
    holds = {True: "yes", False: "NO", None: "-"}
    heads = ("issue", "line", "what", "bound", "figure", "holds", "note")
    cells = [heads] + [
        (
            str(row.issue),
            str(row.line),
            row.what,
            row.bound,
            "" if row.figure is None else number(row.figure),
            holds[row.holds],
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(cell[column]) for cell in cells) for column in range(len(heads))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(cell, widths, strict=True)) for cell in cells]
    return "\n".join(line.rstrip() for line in lines)


def run(
    measurements: Sequence[MustShow],
    asked_for: Mapping[tuple[int, int], str],
    only: Sequence[str] = (),
) -> list[Row]:
    """All rows, in the order of issues and lines; progress goes to stderr.

    Lines of ``asked_for`` that no measurement stands for become rows that do not hold.
    """
    rows = []
    for measurement in sorted(measurements, key=lambda one: (one.issue, one.line)):
        if _wanted(only, measurement.issue, measurement.line):
            began = time.monotonic()
            sys.stderr.write(f"{measurement.issue}.{measurement.line} {measurement.what} …")
            sys.stderr.flush()
            rows += measure(measurement)
            sys.stderr.write(f" {time.monotonic() - began:.1f} s\n")
    shown = {(row.issue, row.line) for row in rows}
    for (issue, line), words in asked_for.items():
        if (issue, line) not in shown and _wanted(only, issue, line):
            rows.append(Row(issue, line, words, "", None, False, "no measurement"))
    return sorted(rows, key=lambda row: (row.issue, row.line))


def write_json(rows: Sequence[Row], file: Path) -> None:
    """The table for machines, with when and where it was measured."""
    machine = os.uname()
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": machine.release,
        "machine": machine.machine,
        "cores": os.cpu_count(),
        "rows": [asdict(row) for row in rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.full", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", default=[], metavar="ISSUE[.LINE]")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    for module in sorted(_HERE.glob("issue*.py")):
        importlib.import_module(f"tests.full.{module.stem}")
    if options.list:
        for one in REGISTRY:
            print(f"{one.issue}.{one.line}  {one.what}  {one.bound.text if one.bound else ''}")
        return 0
    rows = run(REGISTRY, _asked_for(), options.only)
    directory = os.environ.get("PARKSCOPE_REPORT_DIR") or _HERE.parents[1] / ".parkscope-setup"
    file = options.json or Path(directory) / "must-show.json"
    write_json(rows, file)
    print(table(rows))
    missed = sum(row.holds is False for row in rows)
    print(f"\n{len(rows)} figures, {missed} bounds missed or not measured; as JSON: {file}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
