"""What the README shows works, block by block, in the order in which it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import concurrent_map
from concurrent_map import _core

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SOURCES = Path(__file__).parents[1] / "src"


def test_its_code_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 9
    namespace: dict[str, Any] = {"print": lambda *_: None}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_it_names_each_probe_with_its_arguments() -> None:
    said: dict[str, int] = {}
    table = README.partition("## For tracers")[2].partition("Modes:")[0]
    for names, arguments in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE):
        count = len(re.sub(r"\(.*?\)", "", arguments).partition(":")[0].split(","))
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), count)
    fired = {}
    for source in [*SOURCES.rglob("*.c"), SOURCES / "core" / "map.h"]:
        for count, name in re.findall(r"CM_PROBE(\d)\((\w+),", source.read_text()):
            fired[name] = int(count) - 1
    assert said == fired


def test_it_names_what_is_there() -> None:
    public = {name for name in concurrent_map.__all__ if name in README}
    assert {"ConcurrentMap", "GuardedMap", "HistoryLostError", "StaleIterationError"} <= public
    for method in re.findall(r"^\| `(\w+)\(", README, re.MULTILINE):
        assert hasattr(_core.Map, method), method
