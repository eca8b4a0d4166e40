"""The choice of an engine by predicted pause, and the memory that is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probes.errors import CaptureRefused, EngineUnavailable, UsageError
from tracer.heap import engines, machine
from tracer.heap.engines import Survey, choose, dirty_limit, forced, require_any, usable

MS = 1_000_000
SMALL = Survey(3, 10 << 20, 0, 10 << 20, 4 << 20, precopy=True, gadget=True)
GIGABYTE = replace(SMALL, present_bytes=1 << 30, image_bytes=1 << 30)


def names(survey: Survey, max_pause_ns: int = 5 * MS, *, inject: bool = True) -> list[str]:
    reasons = usable(survey, inject=inject, why_no_injection=None)
    return [one.engine.name for one in choose(survey, reasons, max_pause_ns)]


def test_the_least_invasive_that_keeps_the_pause_comes_first() -> None:
    assert names(SMALL)[0] == "stop-and-copy"
    assert names(GIGABYTE) == ["precopy", "clone", "stop-and-copy"]
    assert names(GIGABYTE, 500 * MS)[0] == "stop-and-copy"
    assert names(replace(GIGABYTE, precopy=False)) == ["clone", "stop-and-copy"]
    assert names(GIGABYTE, inject=False) == ["stop-and-copy"]
    assert names(replace(GIGABYTE, gadget=False)) == ["stop-and-copy"]


def test_predictions_are_those_that_were_measured() -> None:
    reasons = usable(GIGABYTE, inject=True, why_no_injection=None)
    found = {one.engine.name: one.predicted_ns / MS for one in choose(GIGABYTE, reasons, MS)}
    assert 1 < found["precopy"] < 3
    assert 11 < found["clone"] < 20
    assert 180 < found["stop-and-copy"] < 240
    dear = replace(GIGABYTE, clone_ns_per_page=62)
    assert 30 < engines.ENGINES["clone"].predict(dear, 0) / MS < 36
    huge = replace(GIGABYTE, huge_bytes=1 << 30)
    assert engines.ENGINES["clone"].predict(huge, 0) < MS


def test_huge_pages_and_dirty_pages_count() -> None:
    reasons = usable(GIGABYTE, inject=True, why_no_injection=None)
    assert choose(GIGABYTE, reasons, 5 * MS, dirty_bytes=200 << 20)[0].engine.name == "clone"
    others = [one for one in choose(GIGABYTE, reasons, 5 * MS) if one.engine.name != "precopy"]
    limit = dirty_limit(GIGABYTE, others, 5 * MS)
    assert 40 << 20 < limit < 80 << 20
    assert dirty_limit(GIGABYTE, [], 5 * MS) > 1 << 40
    dear = replace(GIGABYTE, clone_ns_per_page=50)
    others = [one for one in choose(dear, reasons, 5 * MS) if one.engine.name != "precopy"]
    assert 100 << 20 < dirty_limit(dear, others, 5 * MS) < 150 << 20


def test_what_cannot_be_is_said() -> None:
    reasons = usable(SMALL, inject=False, why_no_injection=None)
    with pytest.raises(EngineUnavailable, match="forbidden"):
        forced(SMALL, reasons, "clone")
    with pytest.raises(UsageError, match="no engine is called 'magic'"):
        forced(SMALL, reasons, "magic")
    with pytest.raises(CaptureRefused, match="no engine can be used"):
        require_any(dict.fromkeys(reasons, "why"))


def test_the_tightest_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for directory, limit, used in ((outer, "300", 100), (inner, "max", 50)):
        (directory / "memory.max").write_text(f"{limit}\n")
        (directory / "memory.current").write_text(f"{used}\n")
        (directory / "memory.stat").write_text("anon 1\ninactive_file 40\n")
    monkeypatch.setattr(
        machine, "_groups", lambda _pid: [(inner, "cgroup2"), (outer, "cgroup2"),
                                          (tmp_path / "none", "cgroup")],
    )  # fmt: skip
    found = machine.headroom(1)
    assert found.size_bytes == 240
    assert str(outer) in found.limited_by


def test_both_kinds_of_groups_are_found() -> None:
    mounts = (
        "30 20 0:26 /up /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        "32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    assert list(machine._mounted(mounts, "cgroup")) == [(Path("/sys/fs/cgroup/memory"), "/up")]
    assert list(machine._mounted(mounts, "cgroup2")) == [(Path("/sys/fs/cgroup/unified"), "/")]
    assert machine.headroom("self").size_bytes > 0
