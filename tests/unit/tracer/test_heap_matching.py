"""Which objects of two dumps are the same, where addresses are used again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.errors import UnknownObject, UsageError
from tests.made_heaps import KINDS, Made, MadeHeap
from tracer.heap.diff import diff
from tracer.heap.leaks import leaks
from tracer.heap.matching import NONE, Matching, Side
from tracer.heap_compare_view import diff_lines

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

Same = Callable[[list[Made], list[Made]], set[int]]
LATER = "2026-01-01T00:01:00.000+00:00"
LATEST = "2026-01-01T00:02:00.000+00:00"


@pytest.fixture
def same(tmp_path: Path) -> Same:
    """The addresses (above the types') at which two heaps have the same object."""

    def find(first: list[Made], second: list[Made]) -> set[int]:
        sides = [
            Side.of(MadeHeap(objects).graph(tmp_path / name))
            for name, objects in (("one", first), ("two", second))
        ]
        matching = Matching(*sides)
        addresses = sides[0].graph.heap.columns["address"]
        found = set(addresses[matching.pair != NONE].tolist())
        back = sides[1].graph.heap.columns["address"][matching.back != NONE]
        assert found == set(back.tolist())
        return {address for address in found if address >= 1000}

    return find


def test_what_did_not_change_is_the_same(same: Same) -> None:
    objects = [
        Made(1000, "list", (1008, 2000), root=True), Made(1008 + 8, "int"),
        Made(2000, "str", length=3), Made(1008, "tuple", (1016, 1016)),
    ]  # fmt: skip
    assert same(objects, objects) == {1000, 1008, 1016, 2000}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Made(2000, "list"), Made(2000, "Other")),
        (Made(2000, "str", length=3), Made(2000, "str", length=4)),
        (Made(2000, "str", length=3, text="abc"), Made(2000, "str", length=3, text="abd")),
        (Made(2000, "int", size=28), Made(2000, "int", size=32)),
        (Made(2000, "tuple", (1000,)), Made(2000, "tuple", (3000,))),
        (Made(2000, "tuple", (1000,)), Made(2000, "tuple", (1000, 1000))),
    ],
    ids=["type", "length", "text", "size", "items", "number"],
)
def test_what_never_changes_tells_another_object(same: Same, before: Made, after: Made) -> None:
    rest = [Made(1000, "list", (2000, 3000), root=True), Made(3000, "list")]
    assert same([*rest, before], [*rest, after]) == {1000, 3000}


def test_a_list_may_grow_and_stay_the_same(same: Same) -> None:
    one = [Made(1000, "list", (2000,), size=64, root=True), Made(2000, "int")]
    other = [Made(1000, "list", (2000, 3000), size=88, root=True), Made(2000, "int"),
             Made(3000, "int")]  # fmt: skip
    assert same(one, other) == {1000, 2000}


def test_what_another_object_refers_to_now_is_not_the_same(same: Same) -> None:
    roots = [Made(1000, "list", (2000,), root=True), Made(1500, "list", root=True)]
    moved = [Made(1000, "list", root=True), Made(1500, "list", (2000,), root=True)]
    thing = [Made(2000, "Thing")]
    assert same([*roots, *thing], [*moved, *thing]) == {1000, 1500}


def test_items_that_changed_places_are_not_the_same(same: Same) -> None:
    things = [Made(address, "Thing") for address in (2000, 2100, 2200, 2300)]
    one = [Made(1000, "list", (2000, 2100, 2200, 2300), root=True), *things]
    other = [Made(1000, "list", (2300, 2200, 2100, 2000), root=True), *things]
    assert len(same(one, other)) == 2  # the list, and one: they are in order
    gone = [Made(1000, "list", (2100, 2300), root=True), things[1], things[3]]
    assert same(one, gone) == {1000, 2100, 2300}


def test_unreachable_objects_are_never_the_same(same: Same) -> None:
    objects = [Made(1000, "list", root=True), Made(2000, "list", (2000,))]
    assert same(objects, objects) == {1000}


def kept(*addresses: int) -> list[Made]:
    """A list that keeps things."""
    return [Made(1000, "list", addresses, root=True), *(Made(one, "Thing") for one in addresses)]


def test_diff_says_what_is_new_gone_and_grown(tmp_path: Path) -> None:
    one = MadeHeap(kept(2000, 2100)).write(tmp_path / "one")
    other = MadeHeap(kept(2000, 3000, 3100), LATER).write(tmp_path / "two")
    found = diff(one, other, only="Thing")
    assert found["same_process"] is True
    assert {key: found["objects"][key] for key in ("new", "gone")} == {"new": 2, "gone": 1}
    (grown,) = found["grown"]
    assert (grown["items_before"], grown["items_after"]) == (2, 3)
    assert grown["retained_after"] - grown["retained_before"] == 48
    (site,) = found["sites"]
    assert (site["type"], site["objects"], site["retained_bytes"]) == ("Thing", 2, 96)
    row = next(row for row in found["types"] if row["type"] == "Thing")
    assert (row["before"], row["after"], row["new"], row["gone"]) == (2, 3, 2, 1)
    changes = [(row["change"], row["address"]) for row in found["each"]]
    assert sorted(changes) == [("gone", 2100), ("new", 3000), ("new", 3100)]
    assert found["notes"] == []
    assert diff(other, one)["notes"] == ["the second dump was written before the first one"]


def test_a_dump_differs_from_itself_in_nothing(tmp_path: Path) -> None:
    """Garbage is no news: there is no telling whether it is the same."""
    one = MadeHeap([*kept(2000), Made(3000, "Thing", (3000,))]).write(tmp_path / "one")
    found = diff(one, one, only="Thing")
    objects = len(KINDS) + 3
    assert found["objects"] == {"same": objects - 1, "new": 0, "gone": 0, "grown": 0}
    assert (found["types"], found["sites"], found["each"]) == ([], [], [])
    assert found["second"]["unreachable"] == 1
    assert f"{objects} objects, of which 1 garbage" in next(iter(diff_lines(found)))


def test_a_type_that_neither_has_is_refused(tmp_path: Path) -> None:
    one = MadeHeap(kept(2000)).write(tmp_path / "one")
    with pytest.raises(UnknownObject, match="Thingy"):
        diff(one, one, only="Thingy")


def test_other_processes_are_compared_by_type(tmp_path: Path) -> None:
    one = MadeHeap(kept(2000)).write(tmp_path / "one")
    other = MadeHeap(kept(2000, 3000), LATER, pid=2).write(tmp_path / "two")
    found = diff(one, other)
    assert found["same_process"] is False
    assert "objects" not in found
    row = next(row for row in found["types"] if row["type"] == "Thing")
    assert (row["before"], row["after"]) == (1, 2)
    assert "new" not in row
    with pytest.raises(UsageError, match="one process"):
        leaks([one, one, other])


def of_three(directory: Path, *lists: tuple[int, ...]) -> list[Path]:
    times = ("2026-01-01T00:00:00.000+00:00", LATER, LATEST)
    return [
        MadeHeap(kept(*addresses), at).write(directory / str(number))
        for number, (addresses, at) in enumerate(zip(lists, times, strict=True))
    ]


def test_a_leak_is_what_lives_on_and_becomes_more(tmp_path: Path) -> None:
    found = leaks(of_three(tmp_path, (2000,), (2000, 2100), (2000, 2100, 2200, 2300)))
    (row,) = found["leaks"]
    assert (row["type"], row["born"], row["survived"], row["born_later"]) == ("Thing", 1, 1, 2)
    assert row["population"] == [1, 2, 4]
    assert row["retained_bytes"] == 3 * 48


@pytest.mark.parametrize(
    "lists",
    [
        ((2000,), (2100,), (2200,)),
        ((2000, 2100), (2100, 2200), (2200, 2300)),
        ((), (2100, 2200, 2300), (2300, 2400, 2500, 2600)),
        ((2000, 2100), (2100, 2200), (2100, 2200, 2300)),
        ((), (2000, 2100), (2000, 2100)),
    ],
    ids=["replaced", "a full cache", "most are gone", "did not grow at first", "stopped"],
)
def test_what_comes_and_goes_is_no_leak(tmp_path: Path, lists: tuple[tuple[int, ...], ...]) -> None:
    assert leaks(of_three(tmp_path, *lists))["leaks"] == []


def test_dumps_in_another_order_are_refused(tmp_path: Path) -> None:
    one, two, three = of_three(tmp_path, (2000,), (2000,), (2000,))
    with pytest.raises(UsageError, match="order"):
        leaks([two, one, three])
