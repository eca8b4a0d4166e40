"""Prices: the cache, and the scratch child that they are measured on (no probes here)."""

from __future__ import annotations

import stat
from contextlib import nullcontext
from pathlib import Path

import orjson
import pytest

from tracer.sites import price
from tracer.sites.planner import PriceClass


def test_defaults_where_nothing_was_measured(tmp_path: Path) -> None:
    assert price.load(tmp_path) == price.Prices()
    assert not price.load(tmp_path).measured
    assert not price.load(tmp_path).long_nops


def test_prices_are_kept_for_this_boot(tmp_path: Path) -> None:
    measured = price.Prices(400.0, 300.0, 180.0, 15_000.0, measured=True)
    price.store(tmp_path / "new", measured)
    assert price.load(tmp_path / "new") == measured
    assert price.load(tmp_path / "new").long_nops
    (file,) = (tmp_path / "new").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"boot_id": "another"},
        {"version": 99},
        {"emulated_ns": "much"},
        {"emulated_ns": None},
    ],
)
def test_prices_of_another_boot_or_shape_do_not_count(
    tmp_path: Path, change: dict[str, object]
) -> None:
    price.store(tmp_path, price.Prices(measured=True))
    (file,) = tmp_path.iterdir()
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), **change}))
    assert not price.load(tmp_path).measured


def test_a_broken_cache_does_not_count(tmp_path: Path) -> None:
    price.store(tmp_path, price.Prices(measured=True))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"{")
    assert not price.load(tmp_path).measured


def test_each_class_has_its_price() -> None:
    prices = price.Prices(1.0, 2.0, 3.0, 4.0)
    assert [prices.of(one) for one in PriceClass] == [3.0, 1.0, 4.0]


def test_the_scratch_child_runs_its_code_and_ends() -> None:
    with price.Scratch() as child:
        for one in PriceClass:
            assert child.run(one, 1000) > 0
        assert Path(child.path).read_bytes()[: len(price.scratch_code(price.LEAVES)[0])]
    assert not Path(f"/proc/{child.pid}").exists()


def test_a_killed_scratch_child_is_an_error_and_no_hang() -> None:
    with price.Scratch() as child:
        child.kill()
        with pytest.raises(OSError, match=r"scratch child|Broken pipe"):
            price.measure(child, lambda *_: nullcontext())
