"""Profiles of native maps: what is right is taken, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.enums import MapCounter, MapMode, MapOutcome
from probes.errors import UsageError
from tests.native_maps import compiled
from tracer.elf import Elf
from tracer.native.profiles import MODES, OUTCOMES, PROFILE_DIR, Profile, load, load_all, parse
from tracer.native.sites import (
    BREAKERS,
    COUNTS,
    RANGES,
    SITE_SIZE,
    WAITS,
    not_library,
    plan_library,
)

OURS = PROFILE_DIR / "concurrent_map.toml"


def test_the_built_in_ones_are_right_and_have_names_of_their_own() -> None:
    found = load_all()
    assert len({profile.name for profile in found}) == len(found)
    assert {path.stem for path in PROFILE_DIR.glob("*.toml")} == {one.name for one in found}


@pytest.mark.parametrize(
    ("instead_of", "written", "message", "hint"),
    [
        ("name_offset = 16", "nam = 16", "nam", "name_offset"),
        ('role = "retry"', 'role = "retr"', "retr", "view_opened"),
        ("range = 3\n\n", "\n", "'range' is missing", "map, range"),
        ('owner = "tid"', 'owner = "x"', "'x'", "ident"),
        ('usdt = "retry"', 'usdt = "retry"\nfoo = 2', "foo", "symbol"),
        ('usdt = "retry"', 'usdt = "retry"\nlock = 99', "lock = 99", "from 1 to 12"),
        ('usdt = "retry"', 'usdt = "retry"\nmode = 2', "'mode' makes no sense", "Allowed: "),
        ('usdt = "retry"', 'usdt = "retry"\nsymbol = "x"', "one of", "USDT"),
        ('usdt = "retry"', 'symbol = "a b"', "'a b'", "Letters"),
        ('3 = "error"', '9 = "error"', "outcomes.9", "0 to 7"),
        ('3 = "error"', '3 = "eror"', "'eror'", "unknown"),
        ('type = "ConcurrentMap"', 'type = ""', "map.type", "40"),
        ("owner_offset = 4", "owner_offset = -4", "lock.owner_offset", "Bytes"),
        ('name = "concurrent_map"', 'name = "a/b"', "a/b", "Letters"),
        ('provider = "concurrent_map"', "", "without library.provider", "provider"),
        ('role = "released"', 'role = "wait"', "entry to where it leaves", "symbol"),
        ('[map]\n', '[map', "", ""),
        ('usdt = "retry"', 'symbol = ["a", "b c"]', "'b c'", "Letters"),
        ('usdt = "retry"', "symbol = []", "''", "Letters"),
        ('provider = "concurrent_map"', 'provider = ""', "library.provider", "Letters"),
        ('3 = "error"', '00 = "error"', "outcomes.00", "0 to 7"),
        ('role = "wait_end"', 'role = "wait_begin"', "none of 'wait_end'", "Add"),
        ('role = "wait_begin"', 'role = "wait_end"', "none of 'wait_begin'", "Add"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_is_allowed(
    instead_of: str, written: str, message: str, hint: str
) -> None:
    text = OURS.read_text()
    assert instead_of in text
    with pytest.raises(UsageError) as caught:
        parse(text.replace(instead_of, written, 1), OURS)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_profile_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OURS.read_text().replace('name = "concurrent_map"', 'name = "own"', 1))
    own.chmod(0o600)
    assert load_all((own,))[0].name == "own"
    own.chmod(0o620)
    with pytest.raises(UsageError, match="written by others"):
        load(own)
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="no regular file"):
        load(Path("/dev/zero"))


def test_one_s_own_takes_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OURS.read_text().replace('type = "ConcurrentMap"', 'type = "Mine"'))
    own.chmod(0o600)
    (mine,) = [one for one in load_all((own,)) if one.name == "concurrent_map"]
    assert mine.map.type == "Mine"
    with pytest.raises(UsageError, match="two profiles are called 'concurrent_map'"):
        load_all((own, own))


def test_a_library_is_known_by_name_and_by_what_is_in_it() -> None:
    (ours,) = [one for one in load_all() if one.name == "concurrent_map"]
    for name in ("concurrent_map.cpython-311-x86_64-linux-gnu.so", "_concurrent_map.so (deleted)"):
        assert ours.library.has_name(f"/usr/lib/python3/{name}")
    assert ours.library.has_name("/site-packages/concurrent_map/_core.cpython-313-x86_64.so")
    assert not ours.library.has_name("/site-packages/other/_core.so")
    assert not ours.library.has_name("/srv/concurrent_map.so/other.so")
    with Elf.open("/proc/self/exe") as elf:
        assert not_library(elf, ours) == "it has no USDT probes of concurrent_map"


def profile(*probes: str) -> Profile:
    head = 'name = "t"\nsummary = "t"\n[library]\nmodule = ["*"]\nprovider = "concurrent_map"\n'
    tables = [f"[[probe]]\n{text}\n" for text in probes]
    return parse(head + '[map]\ntype = "T"\n' + "".join(tables), Path("t.toml"))


def test_the_places_of_the_toy(tmp_path: Path) -> None:
    library = compiled(tmp_path, "-DLONG_NOPS")
    (ours,) = [one for one in load_all() if one.name == "concurrent_map"]
    with Elf.open(str(library)) as elf:
        assert not_library(elf, ours) is None
        plan = plan_library(elf, ours, long_nops=True)
        cautious = plan_library(elf, ours, long_nops=False)
    assert not plan.refusals
    assert {site.group for site in plan.sites} == {WAITS, RANGES, COUNTS, BREAKERS}
    assert all(len(site.packed(3)) == SITE_SIZE for site in plan.sites)
    (end,) = [site for site in plan.sites if site.function == "range_end"]
    assert list(end.details[:5]) == list(MapMode)[:5]
    assert list(end.outcomes[:5]) == list(MapOutcome)
    assert end.known == 0b10011111
    # No begin is attached before its end: it would last for ever.
    begins = [site.function in ("shard_wait", "range_begin") for site in plan.sites]
    assert begins == sorted(begins)
    # Where the kernel would single-step a long nop it is left alone, and that is said.
    assert not cautious.sites
    assert all("single-step" in one.why for one in cautious.refusals)


def test_functions_and_what_cannot_be_probed(tmp_path: Path) -> None:
    library = compiled(tmp_path)
    some = profile(
        'role = "range"\nsymbol = "plain_range"\nmap = 1\nmode = "strict"\nreturns = "object"',
        'role = "split"\nsymbol = ["not_here", "toy_split"]\nmap = 1',
        'role = "retry"\nsymbol = "not_here"\nmap = 1',
        'role = "stale"\nusdt = "not_here"\nmap = 1',
        'role = "spin"\nusdt = "view_open"\nmap = 7',
    )
    with Elf.open(str(library)) as elf:
        plan = plan_library(elf, some)
    names = {site.function for site in plan.sites}
    assert ("plain_range" in names) == ("plain_range (end)" in names)
    whys = {one.function: one.why for one in plan.refusals}
    assert "toy_split" in names | whys.keys()
    assert "no function" in whys["not_here"] or "no USDT probe" in whys["not_here"]
    assert "2 arguments" in whys["view_open"]
    for site in plan.sites:
        if site.function == "plain_range":
            assert site.details[0] == MapMode.STRICT
        if site.function == "toy_split":
            assert site.counter == MapCounter.SPLIT


def test_a_wait_whose_end_cannot_be_probed_is_not_begun(tmp_path: Path) -> None:
    """Else whoever has its shard, and sleeps for something else, would be said to wait for it."""
    library = compiled(tmp_path, "-DLONG_NOPS")
    begin = 'role = "wait_begin"\nsymbol = "plain_wait"\nmap = 1\nlock = 2'
    ends = (
        'role = "wait_end"\nusdt = "not_here"',
        'role = "wait_end"\nusdt = "shard_acquired"',
        'role = "wait_end"\nsymbol = "toy_release"',
    )
    with Elf.open(str(library)) as elf:
        nowhere = plan_library(elf, profile(begin, ends[0]))
        stepped = plan_library(elf, profile(begin, ends[1], ends[2]))
        well = plan_library(elf, profile(begin, ends[0], ends[2]))
    for plan in (nowhere, stepped):
        assert "plain_wait" not in {site.function for site in plan.sites}
        assert "end" in {one.function: one.why for one in plan.refusals}["plain_wait"]
    assert {"plain_wait", "toy_release"} <= {site.function for site in well.sites}


def test_a_map_may_be_inside_of_what_an_argument_points_to(tmp_path: Path) -> None:
    library = compiled(tmp_path)
    some = profile(
        'role = "split"\nsymbol = "toy_lock_slow"\nmap = { argument = 2, offset = 24 }',
        'role = "split"\nusdt = "range_end"\nmap = { argument = 1, offset = 8 }',
    )
    with Elf.open(str(library)) as elf:
        sites = plan_library(elf, some).sites
    assert sites
    for site in sites:
        assert site.arguments[0] is not None
        assert site.arguments[0].source == "memory"
    with pytest.raises(UsageError, match="offset = -1"):
        profile('role = "split"\nsymbol = "f"\nmap = { argument = 1, offset = -1 }')
    with pytest.raises(UsageError, match="map = 9"):
        profile('role = "split"\nsymbol = "f"\nmap = { argument = 9, offset = 1 }')


def test_the_page_names_every_role_key_mode_and_outcome() -> None:
    page = (PROFILE_DIR.parent / "PROFILE.md").read_text()
    from tracer.native import profiles

    for role in profiles._CHOICES["role"]:
        assert f"`{role}`" in page
    for word in (*MODES, *OUTCOMES):
        assert word in page
    for table in (profiles.Library, profiles.MapObject, profiles.Lock, profiles.Place):
        for key in table.__struct_fields__:
            assert key in page
