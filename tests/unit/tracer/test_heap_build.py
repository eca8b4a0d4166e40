"""C units: compiled once per content, and what is said when they cannot be."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from probes.errors import BackendUnavailable
from tracer.heap import build
from tracer.heap.build import Unit, built

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of a program that is the only unit, and a cache of its own."""
    source = tmp_path / "unit" / "main.c"
    source.parent.mkdir()
    source.write_text("int main(void) { return 0; }\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "UNITS", {"unit": Unit(("unit/*.c",), shared=False)})
    return source


@needs_compiler
def test_it_is_compiled_once_and_again_when_it_changes(unit: Path) -> None:
    first = built("unit")
    stamp = first.stat().st_mtime_ns
    assert built("unit") == first
    assert first.stat().st_mtime_ns == stamp
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    (unit.parent / "new.h").write_text("/* a header counts, too */\n")
    assert built("unit") != first
    assert built("unit", ("-DX=1",)) != built("unit")
    assert not list(first.parent.glob("*.*.*"))


@needs_compiler
def test_what_is_compiled_needs_no_compiler_any_more(
    unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built("unit")
    monkeypatch.setenv("PATH", "")
    assert built("unit") == first


def test_without_a_compiler_it_says_what_to_install(
    unit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendUnavailable, match="C compiler") as raised:
        built("unit")
    assert "apt-get install gcc" in raised.value.hint
    assert build.main() == 1


@needs_compiler
def test_what_the_compiler_says_is_said_and_nothing_is_left(unit: Path) -> None:
    unit.write_text("int main(void) { return undeclared; }\n")
    with pytest.raises(BackendUnavailable, match="undeclared"):
        built("unit")
    assert not list((unit.parents[1] / "cache/parkscope/native").iterdir())


def test_a_cache_that_others_can_write_to_is_not_used(unit: Path) -> None:
    place = unit.parents[1] / "cache/parkscope/native"
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(BackendUnavailable, match="writable by others"):
        built("unit")
