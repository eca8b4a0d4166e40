"""What ``heap diff``, ``heap leaks`` and ``heap export`` show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracer import units
from tracer.escape import terminal
from tracer.table_view import table_lines

_TEXT, _NUMBER = "VARCHAR", "BIGINT"


def export_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``heap export`` says at the end."""
    objects = units.plural(result["objects"], "object")
    took = units.duration(result["duration_ns"])
    lines = [f"{terminal(result['path'])}: {objects}, {units.size(result['bytes'])}, in {took}"]
    return lines + [f"note: {terminal(note)}" for note in result["notes"]]


def diff_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What ``heap diff`` says."""
    yield from _heads((found["first"], found["second"]))
    if "objects" in found:
        counts = found["objects"]
        yield ", ".join(
            f"{units.number(counts[key])} {key}" for key in ("same", "new", "gone", "grown")
        )
    for note in found["notes"]:
        yield f"note: {terminal(note)}"
    yield from _threads(found["threads"])
    yield from _grown(found.get("grown", ()))
    yield from _sites("new objects, the outermost of them", found.get("sites", ()))
    yield from _types(found["types"])
    yield from _each(found.get("each", ()))


def leak_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What ``heap leaks`` says."""
    yield from _heads(found["dumps"])
    if not found["leaks"]:
        yield "Nothing that was born between the first two dumps lives on and becomes more."
    cells = [
        (units.number(row["born"]), units.number(row["survived"]),
         f"+{units.number(row['born_later'])}", " → ".join(map(units.number, row["population"])),
         units.size(row["retained_bytes"]), row["type"], row["name"])
        for row in found["leaks"]
    ]  # fmt: skip
    heads = ("born", "alive", "later", "number", "keep", "type", "kept as")
    yield from _table("leaks", heads, "nnnnntt", cells)
    if found["sites"] > len(found["leaks"]):
        yield f"… and {units.number(found['sites'] - len(found['leaks']))} more: see -n"


def _heads(dumps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in dumps:
        objects, threads = one["objects"], one["threads"]
        garbage = f" of which {units.number(one['unreachable'])} garbage," * (
            one["unreachable"] > 0
        )
        yield (
            f"{terminal(one['path'])}: {units.plural(objects, 'object')},{garbage} "
            f"{units.size(one['shallow_bytes'])}, {units.plural(threads, 'thread')}, "
            f"{terminal(str(one['written_at'] or '?'))}"
        )


def _signed(before: int, after: int) -> str:
    return f"{'-' if after < before else '+'}{units.number(abs(after - before))}"


def _signed_size(before: int, after: int) -> str:
    return f"{'-' if after < before else '+'}{units.size(abs(after - before))}"


def _threads(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (_signed(row["before"], row["after"]), f"{row['before']} → {row['after']}",
         _place(row["at"], row["from"]))
        for row in rows
    ]  # fmt: skip
    yield from _table("threads", ("", "number", "where they stand"), "nnt", cells)


def _place(inner: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> str:
    if inner is None:
        return "in no Python code"
    text = _frame(inner)
    return text if own is None or own == inner else f"{text}, from {_frame(own)}"


def _frame(place: Mapping[str, Any]) -> str:
    file = str(place["file"]).rpartition("/")[2]
    return f"{place['function']} ({file}:{place['line']})"


def _grown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (_signed(row["items_before"], row["items_after"]),
         f"{units.number(row['items_before'])} → {units.number(row['items_after'])}",
         _signed_size(row["retained_before"], row["retained_after"]),
         f"{row['type']} {row['name']}")
        for row in rows
    ]  # fmt: skip
    yield from _table("grown containers", ("", "items", "keeps", "which"), "nnnt", cells)


def _sites(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (f"+{units.number(row['objects'])}", units.size(row["retained_bytes"]), row["type"],
         row["name"])
        for row in rows
    ]  # fmt: skip
    yield from _table(title, ("", "keep", "type", "kept as"), "nntt", cells)


def _types(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (_signed(row["before"], row["after"]),
         f"{units.number(row['before'])} → {units.number(row['after'])}",
         None if "new" not in row else units.number(row["new"]),
         None if "gone" not in row else units.number(row["gone"]),
         _signed_size(row["shallow_before"], row["shallow_after"]),
         _signed_size(row["retained_before"], row["retained_after"]), row["type"])
        for row in rows
    ]  # fmt: skip
    heads = ("", "number", "new", "gone", "shallow", "keep", "type")
    yield from _table("types", heads, "nnnnnnt", cells)


def _each(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [
        (row["change"], _signed_size(row["retained_before"] or 0, row["retained_after"] or 0),
         f"{row['address']:#x}", row["name"])
        for row in rows
    ]  # fmt: skip
    yield from _table("objects", ("", "keeps", "address", "which"), "tnnt", cells)


def _table(
    title: str, heads: Sequence[str], kinds: str, cells: Sequence[Sequence[Any]]
) -> Iterator[str]:
    if cells:
        yield ""
        yield f"{title}:"
        types = [_NUMBER if kind == "n" else _TEXT for kind in kinds]
        yield from table_lines(heads, types, cells)
