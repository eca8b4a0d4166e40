"""What refers to some objects, in groups that have the same name: ``app.Store._sessions[…]``.

A reference is named by its source: its type, or its own name if it is a module or class, and
the attribute. Where the source is a container, the name of what refers to that goes before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.heap.graph import ATTRIBUTE, DICT, EDGE_KINDS, ELEMENT, FRAME, KEY, VALUE, Label
from tracer.heap.names import SPACES, Names

_CONTAINERS = 3
"""So many containers in each other are gone through for a name."""

_MOST_ROOTS = 1000
"""Of so many objects that are roots the reasons are looked up one by one."""

_Numbers = npt.NDArray[np.int64]


class Holder(NamedTuple):
    """References of one name, from objects or from one kind of root.

    ``objects``: how many different ones they lead to; ``retained``: bytes that these keep,
    those left out that another one dominates.
    """

    text: str
    references: int
    objects: int
    retained: int


class _Described(NamedTuple):
    """Groups of references: the group of each; of each group the text, and if it names anything."""

    group: _Numbers
    texts: list[str]
    named: npt.NDArray[np.bool_]


class Holders:
    """Groups the references to the nodes that are ``inside``; ``top``: those that weigh."""

    def __init__(
        self, names: Names, inside: npt.NDArray[np.bool_], top: npt.NDArray[np.bool_]
    ) -> None:
        self._names = names
        self._graph = names.graph
        self._inside = inside
        self._weight = np.where(top, names.graph.retained, np.uint64(0))

    def rows(self) -> list[Holder]:
        """All groups, those with the most objects first."""
        found = [*self._from_objects(), *self._from_roots()]
        return sorted(found, key=lambda one: (-one.objects, -one.references, one.text))

    def _from_objects(self) -> Iterator[Holder]:
        edges = np.flatnonzero(self._inside[self._graph.targets])
        found = self._described(edges, _CONTAINERS)
        targets = self._graph.targets[edges]
        for rows in split(found.group):
            yield self._holder(found.texts[int(found.group[rows[0]])], targets[rows])

    def _holder(self, text: str, targets: npt.NDArray[np.int32]) -> Holder:
        different = np.unique(targets)
        return Holder(text, len(targets), len(different), int(self._weight[different].sum()))

    def _described(self, edges: _Numbers, levels: int) -> _Described:
        """Names for references (numbers of them)."""
        graph = self._graph
        sources = graph.sources(edges)
        kinds, numbers = graph.labels.kinds[edges], graph.labels.numbers[edges].astype(np.int64)
        values, items = kinds == VALUE, (kinds == ELEMENT) | (kinds == KEY)
        owner = self._owners[sources]
        owned = (owner >= 0) & (values | (kinds == ATTRIBUTE))
        holder = self._kinds[np.where(owned, owner, sources)]
        numbers[values] = self._texts[numbers[values]]
        numbers[items] = 0
        kinds = np.where(owned & (numbers > 0), ATTRIBUTE, kinds)
        label = (kinds.astype(np.int64) << 40) | numbers
        anonymous = items | (values & ~owned)
        above = np.full(len(edges), -1, np.int64)
        outer: list[str] = []
        if levels and np.any(anonymous):
            above[anonymous], outer = self._containers(sources[anonymous], levels)
        group, first = _joined(label, holder, above)
        texts = [
            (outer[int(above[at])] if above[at] >= 0 else self._kind_names(int(holder[at])))
            + self._written(int(label[at]))
            for at in first.tolist()
        ]
        return _Described(group, texts, ~anonymous[first] | (above[first] >= 0))

    def _containers(self, sources: _Numbers, levels: int) -> tuple[_Numbers, list[str]]:
        """What each container is called (number in the texts), -1 where it has no name."""
        graph = self._graph
        containers, at = np.unique(sources, return_inverse=True)
        wanted = np.zeros(graph.nodes, np.bool_)
        wanted[containers] = True
        edges = np.flatnonzero(wanted[graph.targets])
        found = self._described(edges, levels - 1)
        named = found.named[found.group] if len(edges) else np.zeros(0, np.bool_)
        targets, first = np.unique(graph.targets[edges[named]], return_index=True)
        names = np.full(len(containers), -1, np.int64)
        names[np.searchsorted(containers, targets)] = found.group[named][first]
        return names[at], found.texts

    def _written(self, label: int) -> str:
        """``.name``, ``['key']``, ``[…]`` …, see ``_described``."""
        kind, number = label >> 40, label & 0xFFFFFFFF
        text = self._graph.heap.strings[number] if number else ""
        if kind == VALUE:
            return f"[{text!r}]" if text else "[…]"
        if kind == ELEMENT:
            return "[…]"
        return self._names.written(Label(EDGE_KINDS[kind], text, -1, -1), -1)

    @cached_property
    def _own(self) -> list[int]:
        """Nodes that stand for themselves, not for their type: modules and classes."""
        return sorted({*self._names.modules, *self._names.classes})

    @cached_property
    def _kinds(self) -> _Numbers:
        """Of each node the number of its type; higher ones for what stands for itself.

        Then, too, for generators and coroutines, which are told apart by their functions.
        """
        graph, types = self._graph, self._graph.heap.types
        found = graph.heap.columns["type"].astype(np.int64)
        edges = graph.field_edges("gi_qualname")
        named, texts = graph.sources(edges), self._texts[graph.targets[edges]]
        first = len(types) + len(self._own)
        found[named] = first + found[named] * len(graph.heap.strings) + texts
        found[self._own] = len(types) + np.arange(len(self._own))
        return found

    def _kind_names(self, kind: int) -> str:
        types, strings = self._graph.heap.types, self._graph.heap.strings
        if kind < len(types):
            return types[kind].name
        if kind < len(types) + len(self._own):
            return self._names.own(self._own[kind - len(types)]) or "?"
        of, text = divmod(kind - len(types) - len(self._own), len(strings))
        return f"{types[of].name} {strings[text]}".strip()

    @cached_property
    def _owners(self) -> _Numbers:
        """Of each dict that is the namespace of an object: that object; else -1."""
        graph = self._graph
        found = np.full(graph.nodes, -1, np.int64)
        instances = np.flatnonzero(graph.labels.kinds == DICT)
        for spaces in (instances, *(graph.field_edges(name) for name in SPACES)):
            found[graph.targets[spaces]] = graph.sources(spaces)
        return found

    @cached_property
    def _texts(self) -> _Numbers:
        """Of each node the number of its text; 0 where the dump has none."""
        found = np.zeros(self._graph.nodes, np.int64)
        columns = self._graph.heap.columns
        found[columns["text_node"]] = columns["text"]
        return found

    def _from_roots(self) -> Iterator[Holder]:
        graph, columns = self._graph, self._graph.heap.columns
        rooted = graph.roots[self._inside[graph.roots]]
        by_text: dict[str, list[int]] = {}
        named = np.isin(rooted, columns["root_node"]) | np.isin(rooted, columns["reference_node"])
        for node in rooted[named][:_MOST_ROOTS].tolist():
            for reason in graph.reasons(node):
                if reason.kind == FRAME or reason.name:
                    by_text.setdefault(self._names.root_text(reason), []).append(node)
        for text, nodes in by_text.items():
            yield self._holder(text, np.array(nodes, np.int32))
        held = columns["excess_node"][columns["excess"] > 0]
        for text, known in (("<held by C code>", held), ("<immortal>", columns["immortal_node"])):
            found = known[self._inside[known]].astype(np.int32)
            if len(found):
                yield self._holder(text, found)


def _joined(*columns: npt.NDArray[Any]) -> tuple[_Numbers, _Numbers]:
    """Of each row the number of its combination, and of each combination a row that has it."""
    group = np.zeros(len(columns[0]), np.int64)
    first = np.zeros(0, np.int64)
    for column in columns:
        values, at = np.unique(column, return_inverse=True)
        _, first, group = np.unique(
            group * max(1, len(values)) + at, return_index=True, return_inverse=True
        )
    return group, first


def split(group: _Numbers) -> Iterator[_Numbers]:
    """Rows of the same number, group after group."""
    if len(group):
        order = np.argsort(group, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
