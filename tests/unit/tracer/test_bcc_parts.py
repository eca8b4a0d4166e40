"""Parts of the bcc backend that need no kernel: clock, samples, unit, loader's errors, cache."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from probes import PROBES
from probes.errors import BackendUnavailable
from probes.spec import Hook
from probes.wire import PAYLOAD, Flag, Kind, RunState
from tracer.backends import Options, TargetPlan, bcc
from tracer.backends.bcc import objects
from tracer.backends.bcc.btf import PLACES
from tracer.backends.bcc.cache import cache_directory
from tracer.backends.bcc.clock import SchedulerClock
from tracer.backends.bcc.load import LOADER, first_useful_line
from tracer.backends.bcc.native_map import NativeMaps
from tracer.backends.bcc.samples import SAMPLE, GilRanges, OpenWaits
from tracer.backends.bcc.unit import PROBES_DIR, make_unit
from tracer.native.profiles import load_all
from tracer.target import Module, inspect

# -- clock --------------------------------------------------------------------------


def times(*values: int) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


def test_one_offset_holds_for_all_times() -> None:
    clock = SchedulerClock()
    clock.correct(1000, now_ns=50)
    assert clock.to_monotonic(times(1500, 900_000)).tolist() == [500, 899_000]


def test_a_clock_that_is_behind_has_a_negative_offset() -> None:
    clock = SchedulerClock()
    clock.correct(-1000, now_ns=50)
    assert clock.to_monotonic(times(500)).tolist() == [1500]


def test_a_correction_never_moves_a_sleep_that_has_begun() -> None:
    clock = SchedulerClock()
    clock.correct(1_000_000, now_ns=0)
    begun, later = 5_000_000, 90_000_000
    before = clock.to_monotonic(times(begun)).tolist()
    assert clock.correct(1_100_000, now_ns=50_000_000)
    assert clock.to_monotonic(times(begun)).tolist() == before
    assert clock.to_monotonic(times(later)).tolist() == [later - 1_100_000]


def test_noise_of_the_measurement_corrects_nothing() -> None:
    clock = SchedulerClock()
    assert clock.correct(1_000_000, now_ns=0)
    assert not clock.correct(1_010_000, now_ns=10**9)
    assert clock.offset_ns == 1_000_000


# -- samples ------------------------------------------------------------------------


def sample(tid: int, **fields: Any) -> npt.NDArray[Any]:
    one = np.zeros(1, SAMPLE)
    one["state"]["tid"], one["state"]["pid"] = tid, fields.pop("pid", 1)
    one["state"]["state"], one["state"]["syscall"] = RunState.SLEEPING, 202
    for name, value in fields.items():
        (one if name.startswith("wait") else one["state"])[name] = value
    return one


def test_gil_waits_are_futex_waits_inside_a_range_of_the_same_process() -> None:
    ranges = GilRanges()
    ranges.set(1, ((0x1000, 0x1100), (0x9000, 0x9100)))
    ranges.inherit(1, 2)
    rows = np.concatenate(
        [
            sample(10, arg0=0x1000),
            sample(11, arg0=0x90FF),
            sample(12, arg0=0x1100),
            sample(13, arg0=0x1000, syscall=0),
            sample(14, arg0=0x1000, state=RunState.RUNNING),
            sample(15, arg0=0x1010, pid=2),
            sample(16, arg0=0x1010, pid=3),
        ]
    )
    states = np.ascontiguousarray(rows["state"])
    assert states["tid"][ranges.flag(states)].tolist() == [10, 11, 15]
    assert (states["flags"] & Flag.GIL != 0).tolist() == [1, 1, 0, 0, 0, 1, 0]
    ranges.forget(1)
    assert states["tid"][ranges.flag(states)].tolist() == [15]


def test_an_open_wait_is_told_once_and_again_when_it_is_another() -> None:
    waits = OpenWaits()
    first = sample(7, ts_ns=500, wait_start_ns=100, wait_address=0xA, wait_class=1, wait_slices=1)
    (told,) = waits.news(first, complete=True).view(PAYLOAD[Kind.WAIT_OPEN])
    assert [int(told[n]) for n in ("tid", "start_ns", "duration_ns", "address", "wait_class")] == [
        7, 100, 400, 0xA, 1,
    ]  # fmt: skip
    assert not len(waits.news(first, complete=True))
    other = sample(7, ts_ns=900, wait_start_ns=800, wait_class=2)
    assert len(waits.news(other, complete=True)) == 1


def test_an_open_wait_that_a_scan_leaves_out_is_not_told_again() -> None:
    waits = OpenWaits()
    old = sample(7, ts_ns=500, wait_start_ns=100, wait_class=1)
    new = sample(5, ts_ns=600, wait_start_ns=550, wait_class=1)
    assert len(waits.news(old, complete=True)) == 1
    assert len(waits.news(new, complete=False)) == 1
    assert not len(waits.news(np.concatenate([old, new]), complete=True))
    assert not len(waits.news(np.empty(0, SAMPLE), complete=True))
    assert len(waits.news(old, complete=True)) == 1, "it had ended in between"


def test_samples_have_the_layout_of_the_header() -> None:
    assert SAMPLE.itemsize == 96
    assert SAMPLE.fields is not None
    assert SAMPLE.fields["wait_start_ns"][1] == 64


# -- the unit -----------------------------------------------------------------------


def test_every_probe_of_the_list_has_its_source_and_says_what_it_emits() -> None:
    for spec in PROBES:
        text = (PROBES_DIR / spec.name / spec.source).read_text()
        assert spec.records
        for program in spec.programs:
            assert f"int {program.function}(" in text
            tracepoints = (Hook.RAW_TRACEPOINT, Hook.BTF_TRACEPOINT)
            assert (program.hook in tracepoints) == bool(program.event)


def test_every_place_that_a_program_attaches_to_is_looked_up() -> None:
    wanted = {program.attach_to for program in make_unit(PROBES, {}, []).programs}
    assert wanted - {""} == set(PLACES)


def test_what_fills_samples_stands_before_the_iterator() -> None:
    names = [spec.name for spec in PROBES]
    assert names.index("slow_path") < names.index("threads")


def test_the_core_is_always_in_and_extra_probes_in_their_order() -> None:
    (slow_path,) = (spec for spec in PROBES if spec.name == "slow_path")
    unit = make_unit([slow_path], {"PS_X": 1}, ["ps_open_waits"])
    assert [spec.name for spec in unit.specs] == ["slow_path", "threads", "wakes", "lifecycle"]
    assert unit.text().index("slow_path.bpf.c") < unit.text().index("threads.bpf.c")
    assert unit.maps[-1] == "ps_open_waits"


def test_the_digest_changes_with_anything_that_is_compiled() -> None:
    one = make_unit([], {"PS_RING_PAGES": 8}, [])
    assert one.digest() == make_unit([], {"PS_RING_PAGES": 8}, []).digest()
    assert one.digest() != make_unit([], {"PS_RING_PAGES": 16}, []).digest()
    assert one.digest() != make_unit([], {"PS_RING_PAGES": 8}, ["ps_more"]).digest()


def test_uprobe_programs_are_loaded_for_the_way_in_which_they_are_attached() -> None:
    (slow_path,) = (spec for spec in PROBES if spec.name == "slow_path")
    kinds = {}
    for multi in (0, 1):
        unit = make_unit([slow_path], {"PS_UPROBE_MULTI": multi}, [])
        kinds[multi] = {program.name: program.attach_type for program in unit.programs}
    assert kinds[0]["ps_wait_entry"] == -1
    assert kinds[1]["ps_wait_entry"] == 48
    assert kinds[0]["bpf_iter__task"] == kinds[1]["bpf_iter__task"] == -1


# -- the loader's errors ------------------------------------------------------------


def loader_with_bcc(directory: Path, source: str | None) -> str:
    """What ``find_bcc`` says when only ``directory`` is on the path."""
    if source is not None:
        (directory / "bcc.py").write_text(source)
    script = (
        f"import sys; sys.path[:] = [p for p in sys.path if 'packages' not in p]\n"
        f"sys.path.insert(0, {str(directory)!r}); sys.path.insert(0, {str(LOADER.parent)!r})\n"
        "import loader\n"
        "try: print('found', loader.find_bcc(()).__name__)\n"
        "except loader.LoadError as error: print(error.reason, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_no_bcc(tmp_path: Path) -> None:
    assert loader_with_bcc(tmp_path, None).startswith("absent Python's bcc is not to be had")


def test_the_other_bcc(tmp_path: Path) -> None:
    said = loader_with_bcc(tmp_path, "class Lattice: pass")
    assert said.startswith("wrong")
    assert str(tmp_path) in said


def test_a_bcc_on_the_path(tmp_path: Path) -> None:
    assert loader_with_bcc(tmp_path, "class BPF: pass") == "found bcc"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("warning: x\na.c:3:1: error: unknown type\nmore\n", "a.c:3:1: error: unknown type"),
        ("0: R1=ctx\n1: (79) r2\ninvalid access\nprocessed 9 insns (limit 1)\n", "invalid access"),
        ("\n  something else\nand more", "something else"),
        ("", ""),
    ],
)
def test_the_line_that_names_the_fault(said: str, line: str) -> None:
    assert first_useful_line(said) == line


def test_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKSCOPE_NO_BCC", "1")
    assert bcc.available() == "PARKSCOPE_NO_BCC is set"


def test_another_machine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARKSCOPE_NO_BCC", raising=False)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "", "", "", "aarch64")))
    assert "aarch64" in (bcc.available() or "")


# -- the cache ----------------------------------------------------------------------


def test_the_cache_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = cache_directory(None)
    assert made == tmp_path / "parkscope"
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o770)
    with pytest.raises(BackendUnavailable, match="writable by others"):
        cache_directory(None)


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="cannot be used"):
        cache_directory(tmp_path / "file" / "below")


LOAD_MAP_1 = struct.pack("<BBhi", 0x18, 0x11, 0, 1) + bytes(8)
PLACED = dict.fromkeys(PLACES, 1)
CODE = base64.b64encode(LOAD_MAP_1).decode()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no JSON",
        "{}",
        json.dumps({"places": PLACED, "maps": 5, "programs": {}}),
        json.dumps({"places": PLACED, "maps": [["m", "x", 4, 8, 1, 0]], "programs": {}}),
        json.dumps({"places": PLACED, "maps": [], "programs": {"bpf_iter__task": CODE}}),
        json.dumps({"places": PLACED, "maps": [], "programs": {"bpf_iter__task": "AAA"}}),
    ],
)
def test_a_damaged_unit_is_not_used_and_leaks_nothing(content: str, tmp_path: Path) -> None:
    path = tmp_path / "unit-x.json"
    path.write_text(content)
    before = set(os.listdir("/proc/self/fd"))
    assert objects.revive(path, make_unit([], {}, [])) is None
    assert set(os.listdir("/proc/self/fd")) == before


def test_many_files_that_are_called_like_a_library_do_not_hold_up_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hostile program may map thousands; they are read a few at a time."""
    seen: list[str] = []

    def read(_self: NativeMaps, _process: Any, module: Module, *_: Any) -> list[Any]:
        seen.append(module.path)
        return []

    monkeypatch.setattr(NativeMaps, "_library", read)
    modules = tuple(
        Module(f"/x/_cereggii{n}.so", "", 0, 0, device=1, inode=n, mtime_ns=0) for n in range(9)
    )
    target = dataclasses.replace(inspect(os.getpid()), modules=modules)
    maps = NativeMaps(Options(native_profiles=load_all()), load_all(), multi=False)
    maps.plan([TargetPlan(target)])
    counts = []
    for _ in range(4):
        maps._introduce(os.getpid(), 0)
        counts.append(len(seen))
    assert counts == [4, 8, 9, 9]
    assert len(set(seen)) == 9
