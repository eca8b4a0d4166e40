"""What ``heap top --retained``, ``heap retainers`` and ``heap path`` say, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tracer import units
from tracer.escape import terminal
from tracer.heap.names import Names
from tracer.heap.retainers import Keeper, Path, Retainers
from tracer.heap.sizes import Row
from tracer.table_view import table_lines

_NAME = 400
"""Characters of a name that a line shows."""

_SHARED = "(no module alone)"
_NUMBER, _TEXT = "BIGINT", "VARCHAR"


def row_lines(rows: Sequence[Row], what: str) -> Iterator[str]:
    """A table of types or modules (``what``)."""
    cells = [
        (
            one.name or _SHARED,
            units.number(one.objects),
            units.size(one.shallow),
            units.size(one.retained),
        )
        for one in rows
    ]
    columns = (what, "objects", "shallow", "retained")
    yield from table_lines(columns, (_TEXT, _NUMBER, _NUMBER, _NUMBER), cells)


def row_facts(row: Row, what: str) -> dict[str, Any]:
    """One type or module, for JSON; the module is null for what no module alone keeps."""
    return {
        what: row.name or None,
        "objects": row.objects,
        "shallow_bytes": row.shallow,
        "retained_bytes": row.retained,
    }


def retainers_lines(names: Names, found: Retainers) -> Iterator[str]:
    """Who keeps some objects alive: a table of what refers to them, a tree of who alone does."""
    objects = units.plural(len(found.nodes), "object")
    yield (
        f"{objects} of {terminal(_what(names, found))}: {units.size(found.shallow)}, "
        f"with all that only they keep {units.size(found.together)}"
    )
    yield ""
    cells = [
        (
            one.text,
            units.number(one.references),
            units.number(one.objects),
            units.size(one.retained),
        )
        for one in found.holders
    ]
    columns = ("referred to by", "references", "objects", "retained")
    yield from table_lines(columns, (_TEXT, _NUMBER, _NUMBER, _NUMBER), cells)
    yield ""
    yield "kept alive by"
    yield from _tree(names, found.keepers, 1)


def _what(names: Names, found: Retainers) -> str:
    if len(found.nodes) == 1:
        return names.shown(int(found.nodes[0]))
    return names.kind(int(found.nodes[0])).name


def _tree(names: Names, keepers: Sequence[Keeper], level: int) -> Iterator[str]:
    for one in keepers:
        yield (
            f"{'  ' * level}{terminal(_keeper(names, one), _NAME)}: "
            f"{units.plural(one.objects, 'object')}, {units.size(one.retained)}"
        )
        yield from _tree(names, one.above, level + 1)


def _keeper(names: Names, one: Keeper) -> str:
    if one.garbage:
        return "nothing that a root leads to (waits to be collected)"
    if not one.kind:
        return "in several ways, or from outside of the heap"
    if one.node >= 0:
        known = names.own(one.node) is not None
        return names.shown(one.node) if known else f"{names.name(one.node)} ({one.kind})"
    return f"{units.number(one.keepers)} × {one.kind}"


def retainers_facts(names: Names, found: Retainers) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "what": found.what,
        "objects": len(found.nodes),
        "shallow_bytes": found.shallow,
        "retained_bytes": found.together,
        "referrers": [
            {
                "name": one.text,
                "references": one.references,
                "objects": one.objects,
                "retained_bytes": one.retained,
            }
            for one in found.holders
        ],
        "dominators": [_keeper_facts(names, one) for one in found.keepers],
    }


def _keeper_facts(names: Names, one: Keeper) -> dict[str, Any]:
    single = one.node >= 0
    return {
        "type": one.kind or None,
        "keepers": one.keepers if one.kind else 0,
        "name": names.name(one.node) if single else None,
        "address": _address(names, one.node) if single else None,
        "objects": one.objects,
        "retained_bytes": one.retained,
        "garbage": one.garbage,
        "above": [_keeper_facts(names, above) for above in one.above],
    }


def path_lines(names: Names, paths: Sequence[Path]) -> Iterator[str]:
    """Ways to objects: the name, what it is, and each step."""
    for number, one in enumerate(paths):
        if number:
            yield ""
        kept = units.size(int(names.graph.retained[one.node]))
        about = f"{terminal(names.shown(one.node))} at {_address(names, one.node)}, keeps {kept}"
        if one.way.root is None:
            yield f"{about}: no root leads to it, it waits to be collected"
            continue
        yield terminal(one.way.name, _NAME)
        yield f"  {about}"
        yield f"  from {terminal(one.way.root_text)}"
        if one.way.left_out:
            yield f"    … {units.plural(one.way.left_out, 'step')}"
        cells = [(step.text, names.shown(step.node)) for step in one.way.steps]
        width = max((len(terminal(text)) for text, _ in cells), default=0)
        for text, what in cells:
            yield f"    {terminal(text).ljust(width)}  {terminal(what)}".rstrip()


def path_facts(names: Names, one: Path) -> dict[str, Any]:
    """One way for JSON; ``root`` is null where no root leads to the object."""
    root = one.way.root
    return {
        "address": _address(names, one.node),
        "type": names.kind(one.node).name,
        "shallow_bytes": int(names.graph.shallow[one.node]),
        "retained_bytes": int(names.graph.retained[one.node]),
        "name": one.way.name or None,
        "root": None
        if root is None
        else {"kind": root.kind, "name": root.name or None, "text": one.way.root_text},
        "steps": [
            {
                "text": step.text,
                "kind": step.kind,
                "type": names.kind(step.node).name,
                "address": _address(names, step.node),
            }
            for step in one.way.steps
        ],
        "steps_left_out": one.way.left_out,
    }


def _address(names: Names, node: int) -> str:
    return f"{int(names.heap.columns['address'][node]):#x}"
