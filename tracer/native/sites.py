"""From a profile and a library's file to the places that are probed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from probes.enums import BreakerState, MapCounter, MapMode, MapOutcome
from probes.errors import BadElf
from tracer.elf import Elf
from tracer.native.profiles import ARGUMENTS, COUNTERS, MAX_NUMBER, Inside, Place, Profile
from tracer.native.usdt import REGISTERS, Argument, BadArgument, UsdtProbe, argument, probes
from tracer.sites.exits import Exit, exits
from tracer.sites.planner import Function, PriceClass, Refusal, find, plan
from tracer.sites.x86 import NOP5, emulatable

WAITS, RANGES, COUNTS = "native_map.waits", "native_map.ranges", "native_map.counts"
BREAKERS = "native_map.breakers"
"""Groups of places that are given up together. A stale bucket is counted with the ranges,
of which it is a share."""
MAX_PLACES = 64
"""Places of one USDT probe: a compiler that inlines makes several."""

# enum ps_map_role
_ROLES = {
    "wait_begin": 1, "wait_end": 2, "wait": 3, "range_begin": 4, "range_end": 5, "range": 6,
    "breaker": 7,
}  # fmt: skip
_COUNT = 0
_LEFT = {"wait": 8, "range": 9}
"""Where a function leaves that waits or goes over a map."""
_BEGINS = tuple(_ROLES[name] for name in ("wait_begin", "wait", "range_begin", "range"))
_NUMBERED = ("range_begin", "range_end")
_BY_MAP = 1 << 7  # PS_KNOWN_BY_MAP
_RETURNS = {None: 0, "nothing": 0, "object": 1, "status": 2}  # enum ps_map_return
_SOURCES = {"constant": 1, "register": 2, "memory": 3}  # enum ps_map_source
_BY_CALL = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")  # System V ABI, x86-64 psABI 3.2.3
_ARGUMENT = struct.Struct("<QHHBBBB")
_SITE = struct.Struct(f"<BBBBI{MAX_NUMBER}s{MAX_NUMBER}s")
SITE_SIZE = _SITE.size + 5 * _ARGUMENT.size
_WORD_BITS = (1 << 64) - 1


class MapSite(msgspec.Struct, frozen=True):
    """One place: ``function`` for people, ``offset`` in the file, and the kernel's word on it.

    ``role`` … ``arguments``: the ``struct ps_map_site`` but for the profile's number.
    """

    function: str
    group: str
    offset: int
    price: PriceClass
    semaphore: int
    role: int
    counter: int
    result: int
    known: int
    details: bytes
    outcomes: bytes
    arguments: tuple[Argument | None, ...]

    def packed(self, profile: int) -> bytes:
        """``struct ps_map_site`` for the profile with that number."""
        head = _SITE.pack(
            self.role, self.counter, self.result, self.known, profile, self.details, self.outcomes
        )
        return head + b"".join(map(_packed, self.arguments))


def _packed(one: Argument | None) -> bytes:
    if one is None:
        return bytes(_ARGUMENT.size)
    return _ARGUMENT.pack(
        one.value & _WORD_BITS,
        one.base,
        one.index,
        one.scale,
        _SOURCES[one.source],
        64 - 8 * one.width,
        one.signed,
    )


@dataclass(frozen=True, slots=True)
class LibraryPlan:
    """What is probed in one file, and what cannot be."""

    sites: tuple[MapSite, ...]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a site is, before it is known what it means."""

    function: str
    offset: int
    price: PriceClass
    semaphore: int = 0


def not_library(elf: Elf, profile: Profile) -> str | None:
    """Why a file is not the profile's library, though it is called so. Raises BadElf."""
    library = profile.library
    if library.soname is not None and elf.soname != library.soname:
        return f"its soname is {elf.soname}"
    missing = next((name for name in library.symbols if elf.symbol(name) is None), None)
    if missing is not None:
        return f"it has no symbol {missing}"
    if library.provider is not None and not probes(elf, library.provider):
        return f"it has no USDT probes of {library.provider}"
    return None


def plan_library(elf: Elf, profile: Profile, *, long_nops: bool = False) -> LibraryPlan:
    """The places of a profile in its library's file. Raises BadElf.

    ``long_nops``: see ``x86.emulatable``.
    """
    provider = profile.library.provider
    known = probes(elf, provider) if provider is not None else ()
    sites: list[MapSite] = []
    refusals: list[Refusal] = []
    ends: set[bool] = set()
    for place in profile.probe:
        if place.usdt is not None:
            found = _of_usdt(elf, profile, place, known, long_nops)
        else:
            found = _of_function(elf, profile, place, long_nops)
        refused = [one for one in found if isinstance(one, Refusal)]
        sites += [one for one in found if isinstance(one, MapSite)]
        refusals += refused
        if place.role == "wait_end" and _is_there(elf, place, known):
            ends.add(not refused)
    if ends != {True}:
        sites, more = _without_begins(sites)
        refusals += more
    # In this order they are attached: what has begun by then is seen to end.
    return LibraryPlan(tuple(sorted(sites, key=lambda s: s.role in _BEGINS)), tuple(refusals))


def _is_there(elf: Elf, place: Place, known: Sequence[UsdtProbe]) -> bool:
    """Whether the file has it at all, be it probed or not."""
    if place.usdt is not None:
        return any(probe.name == place.usdt for probe in known)
    return any(find(elf, name) is not None for name in place.symbols)


def _without_begins(sites: Sequence[MapSite]) -> tuple[list[MapSite], list[Refusal]]:
    """A wait whose end is not told lasts for ever, whatever its thread does by then."""
    begin = _ROLES["wait_begin"]
    refusals = [
        Refusal(site.function, "the end of the wait that begins there cannot be probed")
        for site in sites
        if site.role == begin
    ]
    return [site for site in sites if site.role != begin], refusals


def _of_usdt(
    elf: Elf, profile: Profile, place: Place, known: Sequence[UsdtProbe], long_nops: bool
) -> list[MapSite | Refusal]:
    name = place.name
    places = [probe for probe in known if probe.name == name]
    if not places:
        return [Refusal(name, f"{profile.library.provider} has no USDT probe of that name here")]
    if len(places) > MAX_PLACES:
        return [Refusal(name, f"it stands in {len(places)} places, more than {MAX_PLACES}")]
    return [_of_nop(elf, profile, place, probe, long_nops) for probe in places]


def _of_nop(
    elf: Elf, profile: Profile, place: Place, probe: UsdtProbe, long_nops: bool
) -> MapSite | Refusal:
    try:
        code = elf.read(probe.address, len(NOP5))
    except BadElf:
        code = elf.read(probe.address, 1)
    is_long = code == NOP5
    if not (emulatable(code[:1]) or (is_long and long_nops)):
        why = "is no nop" if not is_long else "is a long nop, which this kernel single-steps"
        return Refusal(place.name, f"the instruction at {probe.address:#x} {why}")
    try:
        arguments = _arguments(place, lambda number: argument(elf, probe, number))
    except BadArgument as error:
        return Refusal(place.name, str(error))
    price = PriceClass.NOP5 if is_long else PriceClass.EMULATED
    return _site(
        profile, place, _Where(place.name, probe.offset, price, probe.semaphore), arguments
    )


def _of_function(
    elf: Elf, profile: Profile, place: Place, long_nops: bool
) -> list[MapSite | Refusal]:
    """Its entry; before that, where it has to be told when it is left, its exits."""
    function = next((one for name in place.symbols if (one := find(elf, name)) is not None), None)
    if function is None:
        return [Refusal(place.name, "no function of that name is here")]
    used = [getattr(place, key) for key in ARGUMENTS]
    used = [one.argument if isinstance(one, Inside) else one for one in used]
    registers = tuple(_BY_CALL[number - 1] for number in used if isinstance(number, int))
    leaves = place.role in _LEFT
    site = plan(elf, function, registers, stack_untouched=leaves, long_nops=long_nops)
    left = exits(elf, function, long_nops=long_nops) if leaves else ()
    if isinstance(site, Refusal):
        return [site]
    if isinstance(left, Refusal):
        return [left]
    arguments = _arguments(place, lambda n: Argument("register", base=REGISTERS[_BY_CALL[n - 1]]))
    entry = _site(profile, place, _Where(function.name, site.offset, site.price), arguments)
    return [*(_exit(place, function, one) for one in left), entry]


def _exit(place: Place, function: Function, at: Exit) -> MapSite:
    return MapSite(
        function=f"{function.name} (end)",
        group=group_of(place.role),
        offset=at.offset,
        price=at.price,
        semaphore=0,
        role=_LEFT[place.role],
        counter=0,
        result=_RETURNS[place.returns] if at.result else 0,
        known=0,
        details=bytes(MAX_NUMBER),
        outcomes=bytes(MAX_NUMBER),
        arguments=(None,) * 5,
    )


def _arguments(place: Place, read: Callable[[int], Argument]) -> tuple[Argument | None, ...]:
    """The slots of ``enum ps_map_slot``: map, lock or range, shard or mode, outcome, items."""
    slots: tuple[int | str | Inside | None, ...]
    if place.role == "breaker":
        slots = (place.map, place.samples, place.old, place.new, place.failures)
    else:
        thing = place.lock if place.lock is not None else place.range
        detail = place.shard if place.shard is not None else place.mode
        slots = (place.map, thing, detail, place.outcome, place.items)
    return tuple(_read(one, read) for one in slots)


def _read(one: int | str | Inside | None, read: Callable[[int], Argument]) -> Argument | None:
    """One slot. Raises BadArgument for a pointer into what is in no register."""
    if isinstance(one, Inside):
        held = read(one.argument)
        if held.source != "register":
            raise BadArgument(f"argument {one.argument} is in no register")
        return msgspec.structs.replace(held, source="memory", value=one.offset, width=8)
    return read(one) if isinstance(one, int) else None


def _site(
    profile: Profile,
    place: Place,
    where: _Where,
    arguments: tuple[Argument | None, ...],
) -> MapSite:
    is_breaker = place.role == "breaker"
    if is_breaker:
        details, detail = _table(profile.states, BreakerState, BreakerState.UNKNOWN, place.old)
        outcomes, outcome = _table(profile.states, BreakerState, BreakerState.UNKNOWN, place.new)
    else:
        details, detail = _table(profile.modes, MapMode, MapMode.OTHER, place.mode)
        outcomes, outcome = _table(profile.outcomes, MapOutcome, MapOutcome.UNKNOWN, place.outcome)
    slots = list(arguments)
    if is_breaker or place.role.startswith("range"):
        slots[2], slots[3] = slots[2] or detail, slots[3] or outcome
    known = sum(1 << n for n, one in enumerate(slots) if one is not None)
    if place.role == "range_end" and place.mode is None:
        known &= ~(1 << 2)  # what the begin said
    if place.role in _NUMBERED and _by_map(profile):
        known |= _BY_MAP
    return MapSite(
        function=where.function,
        group=group_of(place.role),
        offset=where.offset,
        price=where.price,
        semaphore=where.semaphore,
        role=_ROLES.get(place.role, _COUNT),
        counter=int(COUNTERS.get(place.role, MapCounter.OPERATION)),
        result=_RETURNS[place.returns],
        known=known,
        details=details,
        outcomes=outcomes,
        arguments=tuple(slots),
    )


def _table(
    numbers: dict[str, str],
    names: type[MapMode | MapOutcome | BreakerState],
    otherwise: MapMode | MapOutcome | BreakerState,
    fixed: int | str | None,
) -> tuple[bytes, Argument]:
    """The library's numbers → ours, and the argument where none is given: a constant.

    A fixed name goes to number 0 of the table, and so does what is not known.
    """
    table = bytearray([otherwise] * MAX_NUMBER)
    if isinstance(fixed, int):
        for number, name in numbers.items():
            table[int(number)] = names[name.upper()]
    elif isinstance(fixed, str):
        table[0] = names[fixed.upper()]
    return bytes(table), Argument("constant", 0)


def _by_map(profile: Profile) -> bool:
    """Whether ranges are known by map and number: both ends tell the map."""
    return all(one.map is not None for one in profile.probe if one.role in _NUMBERED)


def group_of(role: str) -> str:
    """Which group a role belongs to."""
    if role == "breaker":
        return BREAKERS
    if role in ("wait_begin", "wait_end", "wait"):
        return WAITS
    return RANGES if role.startswith("range") or role in ("stale", "retired") else COUNTS
