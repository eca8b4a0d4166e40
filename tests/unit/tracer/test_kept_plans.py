"""Plans that are kept: read back as they were, made again for another file or after damage."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tracer.elf import Elf
from tracer.sites.allocation import LargeSites, plan_large
from tracer.sites.kept import MAX_FILES, KeptPlans
from tracer.sites.planner import Refusal, Site
from tracer.sites.slow_path import plan_waits
from tracer.target import Module

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
MODULE = Module("/x/libc.so.6", "/x/libc.so.6", 0, 0, 1, 2, 3)

pytestmark = pytest.mark.skipif(not LIBC.exists(), reason="no glibc at the usual place")


class Making:
    """``make`` that counts its calls."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.calls = plan, 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.plan


@pytest.fixture
def waits() -> dict[str, Site | Refusal]:
    with Elf.open(str(LIBC)) as libc:
        return {**plan_waits(libc), "made_up": Refusal("made_up", "why not")}


def test_a_plan_is_read_back_as_it_was(tmp_path: Path, waits: dict[str, Site | Refusal]) -> None:
    making = Making(waits)
    kind = dict[str, Site | Refusal]
    first = KeptPlans(tmp_path / "sites")
    assert first.get(MODULE, ("waits",), kind, making) == waits
    assert first.get(MODULE, ("waits",), kind, making) == waits
    assert KeptPlans(tmp_path / "sites").get(MODULE, ("waits",), kind, making) == waits
    assert making.calls == 1
    (file,) = (tmp_path / "sites").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_so_is_one_of_nested_sites(tmp_path: Path) -> None:
    with Elf.open(str(LIBC)) as libc:
        making = Making(plan_large(libc))
    kind = LargeSites | Refusal
    for _ in range(2):
        again = KeptPlans(tmp_path).get(MODULE, ("large",), kind, making)
        assert again == making.plan
    assert making.calls == 1


@pytest.mark.parametrize(
    "other",
    [replace(MODULE, inode=9), replace(MODULE, mtime_ns=9), replace(MODULE, device=9)],
)
def test_another_file_is_planned_anew(
    tmp_path: Path, waits: dict[str, Site | Refusal], other: Module
) -> None:
    making = Making(waits)
    plans = KeptPlans(tmp_path)
    plans.get(MODULE, ("waits",), dict[str, Site | Refusal], making)
    plans.get(other, ("waits",), dict[str, Site | Refusal], making)
    assert making.calls == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"sem_wait": 5}', b"\xff" * 100])
def test_a_damaged_plan_is_made_again(
    tmp_path: Path, waits: dict[str, Site | Refusal], damage: bytes
) -> None:
    making = Making(waits)
    kind = dict[str, Site | Refusal]
    KeptPlans(tmp_path).get(MODULE, ("waits",), kind, making)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert KeptPlans(tmp_path).get(MODULE, ("waits",), kind, making) == waits
    assert making.calls == 2


def test_the_directory_does_not_grow_for_ever(tmp_path: Path) -> None:
    plans = KeptPlans(tmp_path)
    for inode in range(MAX_FILES + 10):
        module = replace(MODULE, inode=inode)
        plans.get(module, ("waits",), dict[str, Site | Refusal], Making({}))
    assert len(list(tmp_path.iterdir())) <= MAX_FILES


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plans = KeptPlans(tmp_path / "file" / "sites")
    assert plans.get(MODULE, ("waits",), dict[str, Site | Refusal], Making({})) == {}
