"""What of a target's Python a walk has to know, and what can be asked only while it lives."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from probes.errors import BadElf, InternalError, TargetGone
from tracer.elf import Elf
from tracer.heap.walker import FIRST_FIELD, KnownType, Library, fields_of
from tracer.pymem.layout import Layout
from tracer.target import Python, Target, require_python


@dataclass(frozen=True, slots=True)
class Place:
    """One target's Python: ``symbols`` are run-time addresses of what it exports."""

    version: tuple[int, int, int]
    runtime_address: int
    symbols: Mapping[str, int]


def place_of(target: Target) -> Place:
    """Look up the symbols in the very file that the target runs.

    Raises NotCPython, UnsupportedPython; TargetGone when the file cannot be opened.
    """
    python = require_python(target)
    wanted = [entry["symbol"] for entry in _types()["type"] if "symbol" in entry]
    return Place(python.version, python.runtime_address, _symbols(python, wanted))


def _symbols(python: Python, wanted: list[str]) -> dict[str, int]:
    found = {}
    try:
        with Elf.open(python.module.open_path) as elf:
            for name in wanted:
                if symbols := elf.exported(name):
                    found[name] = symbols[0].address + python.module.load_bias
    except (OSError, BadElf) as error:
        raise TargetGone(f"the interpreter's file cannot be read any more: {error}") from None
    if "PyType_Type" not in found:
        raise TargetGone("the interpreter's file does not export its types")
    return found


@lru_cache(maxsize=1)
def _types() -> dict[str, Any]:
    text = (resources.files("tracer.heap") / "types.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@lru_cache(maxsize=1)
def field_numbers() -> Mapping[str, int]:
    """The number that each field named in ``types.toml`` has in labels."""
    names: dict[str, int] = {}
    for entry in _types()["type"]:
        short = [name.partition(".")[2] for name in entry.get("fields", ())]
        for name in (*short, *(name for name, _ in entry.get("raw", ()))):
            names.setdefault(name, FIRST_FIELD + len(names))
    return names


def field_name(code: Library, number: int) -> str:
    """The name that a field's number stands for."""
    if number < len(code.field_names):
        return code.field_names[number]
    names = list(field_numbers())
    index = number - FIRST_FIELD
    return names[index] if 0 <= index < len(names) else ""


def known_types(place: Place, layout: Layout) -> list[KnownType]:
    """The types of ``types.toml`` as they are in this target."""
    numbers = field_numbers()
    found = []
    for entry in _types()["type"]:
        unknown = set(entry) - {"name", "symbol", "kind", "fields", "raw", "scan_from"}
        if unknown:
            raise InternalError(f"types.toml: {entry['name']} has an unknown key {min(unknown)}")
        fields = fields_of(layout, entry.get("fields", ()), numbers)
        fields += [(offset, numbers[name]) for name, offset in entry.get("raw", ())]
        found.append(
            KnownType(
                address=place.symbols.get(entry.get("symbol", ""), 0),
                name=entry["name"],
                kind=entry["kind"],
                scan_from=entry.get("scan_from", 0),
                fields=tuple(fields),
            )
        )
    return found
