"""Names of objects that a person recognises: ``app.cache._items['key'][17]``.

What a node is called follows from the shortest way to it from a root: from the last place
on that way that has a name of its own (a module, a class, a function), or from the root,
over attributes, keys and indices. Nothing is invented: the text of a key that the dump
does not hold is ``[<str 12>]``, a reference of C code ``<name of its field>``.

All of it comes from the target: it is escaped by whoever shows it.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.heap.graph import FRAME, HELD, Graph, Label, Root
from tracer.heap.model import HeapType

MOST_STEPS = 40
"""Of a longer way (a linked list) so many steps at its end are named, the rest is counted."""

_MOST_SIDE_BY_SIDE = 32  # references between the same two objects that are looked at
_NAMED_KEY = 80  # characters of a key's text that a name shows
_ATTRIBUTES = frozenset({"attribute", "slot", "member"})
SPACES = frozenset({"__dict__", "md_dict", "func_dict", "od_inst_dict"})
"""Fields that refer to a namespace."""

_IN_SPACE = frozenset({"value", "attribute"})
"""What an instance's dict has, whether it shares its table of keys with others or not."""

_RANK = ("attribute", "slot", "member", "value", "local", "field", "element", "dict", "key",
         "stack", "guess", "type")  # fmt: skip
"""Which of several references between the same two objects is said."""

_AS_WRITTEN = {
    "func_code": "__code__", "func_defaults": "__defaults__", "func_closure": "__closure__",
    "func_kwdefaults": "__kwdefaults__", "func_globals": "__globals__", "func_doc": "__doc__",
    "func_annotations": "__annotations__", "im_func": "__func__", "im_self": "__self__",
    "m_self": "__self__", "gi_code": "gi_code", "co_consts": "co_consts", "func": "func",
    "args": "args", "keywords": "keywords", "default_factory": "default_factory",
    "tb_frame": "tb_frame", "tb_next": "tb_next",
}  # fmt: skip
"""Fields of CPython's structures that Python's code knows by a name, too."""

_TABLES = {"imports.modules": "sys.modules", "modules": "sys.modules"}
"""Roots of an interpreter that have a name."""


class Step(NamedTuple):
    """One reference on a way: how it is written, and what it leads to."""

    text: str
    kind: str
    node: int


class Way(NamedTuple):
    """How a node is reached: ``name`` is what a person calls it.

    ``root`` is None and ``name`` empty where no root leads to it. ``steps`` are the last
    ones, the root's object first where all are there; ``left_out`` counts those before.
    """

    name: str
    root: Root | None
    root_text: str
    steps: tuple[Step, ...]
    left_out: int


class Names:
    """Names for the nodes of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.heap = graph.heap
        self.classes = {
            one.node: one for one in self.heap.types if self.kind(one.node).kind == "type"
        }
        """Types by the node of their type object."""

    def kind(self, node: int) -> HeapType:
        """The type of a node."""
        return self.heap.types[int(self.heap.columns["type"][node])]

    def text(self, node: int) -> str | None:
        """The text of a str, where the dump has it."""
        nodes = self.heap.columns["text_node"]
        at = int(np.searchsorted(nodes, node))
        if at == len(nodes) or nodes[at] != node:
            return None
        return self.heap.strings[int(self.heap.columns["text"][at])]

    def length(self, node: int) -> int | None:
        """Characters of a str, bytes of a bytes object; None for others."""
        found = self._lengths
        at = int(np.searchsorted(found, node))
        if at == len(found) or found[at] != node:
            return None
        return int(self.heap.columns["length"][at])

    @cached_property
    def _lengths(self) -> npt.NDArray[np.int64]:
        """The nodes that have a row in the column ``length``; none if that is not certain."""
        sized = [one.kind == "str" or one.name == "bytes" for one in self.heap.types]
        nodes = np.flatnonzero(np.array(sized or [False])[self.heap.columns["type"]])
        return nodes if len(nodes) == len(self.heap.columns["length"]) else nodes[:0]

    def field(self, node: int, name: str) -> int | None:
        """What a field of CPython's structure refers to (a label of kind ``field``)."""
        head, _ = self.graph.head(node)
        for place, label in enumerate(head):
            if label.kind == "field" and label.name == name:
                return int(self.graph.targets[int(self.graph.indptr[node]) + place])
        return None

    @cached_property
    def modules(self) -> dict[int, str]:
        """The names of module objects and of their namespaces, by node."""
        kinds = np.array([one.kind == "module" for one in self.heap.types] or [False])
        found: dict[int, str] = {}
        for node in np.flatnonzero(kinds[self.heap.columns["type"]]).tolist():
            named, space = self.field(node, "md_name"), self.field(node, "md_dict")
            name = self.text(named) if named is not None else None
            if name:
                found[node] = name
                if space is not None:
                    found.setdefault(space, name)
        return found

    def own(self, node: int) -> str | None:
        """The name that a module, its namespace, a class or a function has wherever it is."""
        if node in self.modules:
            return self.modules[node]
        if node in self.classes:
            return self.classes[node].name
        if self.kind(node).kind == "fields" and self.kind(node).name == "function":
            return self._function(node)
        return None

    def _function(self, node: int) -> str | None:
        parts = [self.field(node, name) for name in ("func_module", "func_qualname")]
        module, name = (self.text(part) if part is not None else None for part in parts)
        return f"{module}.{name}" if module and name else name

    def running(self, node: int) -> str | None:
        """The name of a generator or coroutine: its function's."""
        named = self.field(node, "gi_qualname") if self.kind(node).kind == "generator" else None
        return self.text(named) if named is not None else None

    def shown(self, node: int) -> str:
        """What a node is, in short: its type, and its own name if it has one."""
        kind, own = self.kind(node).name, self.own(node) or self.running(node)
        if own is None:
            return kind
        if node in self.classes:
            return f"class {own}"
        return f"{kind} {own}" if self.kind(node).kind != "dict" else f"namespace of {own}"

    def name(self, node: int) -> str:
        """``way(node).name``, or what it is where no root leads to it."""
        return self.way(node).name or f"<unreachable {self.shown(node)}>"

    def way(self, node: int) -> Way:
        """The shortest way from a root, in steps and as a name."""
        nodes = self.graph.way(node)
        if not nodes:
            return Way("", None, "", (), 0)
        root = next(self.graph.reasons(nodes[0]), Root("?", "", -1, ""))
        left_out = max(0, len(nodes) - MOST_STEPS)
        steps = []
        if not left_out:
            steps.append(Step("", "root", nodes[0]))
        shown = nodes[max(0, left_out - 1) :]
        for source, target in pairwise(shown):
            label = self._edge(source, target)
            steps.append(Step(self.written(label, source), label.kind, target))
        root_text = self.root_text(root)
        name = self._joined(root, root_text, nodes[left_out:], steps, left_out)
        return Way(name, root, root_text, tuple(steps), left_out)

    def _edge(self, source: int, target: int) -> Label:
        """The reference from one to the other that says most."""
        first, end = int(self.graph.indptr[source]), int(self.graph.indptr[source + 1])
        places = np.flatnonzero(self.graph.targets[first:end] == target)[:_MOST_SIDE_BY_SIDE]
        labels = [self.graph.label(first + place, source) for place in places.tolist()]
        return min(labels, key=lambda one: _RANK.index(one.kind) if one.kind in _RANK else 99)

    def written(self, label: Label, source: int) -> str:
        """A reference as a person writes it behind the name of its source."""
        if label.kind in _ATTRIBUTES:
            return f".{label.name}"
        if label.kind == "value":
            return f"[{self.key(label.key)}]"
        if label.kind == "element":
            ordered = self.kind(source).kind in {"list", "tuple", "deque", "array"}
            return f"[{label.place}]" if ordered else "<member>"
        if label.kind == "field":
            name = _AS_WRITTEN.get(label.name, label.name)
            return f".{name}" if name.startswith("__") or label.name in _AS_WRITTEN else f"<{name}>"
        if label.kind == "local":
            running = self.running(source) if source >= 0 else None
            return f"<variable {label.name}{f' of {running}' if running else ''}>"
        return {
            "dict": ".__dict__", "type": ".__class__", "key": "<key>", "stack": "<on its stack>"
        }.get(label.kind, f"<{label.name}>")  # fmt: skip

    def key(self, node: int) -> str:
        """A key of a dict: its text where the dump has it, else what it is."""
        text = self.text(node)
        if text is not None:
            return repr(text[:_NAMED_KEY])
        if self.kind(node).name == "NoneType":
            return "None"
        own, length = self.own(node), self.length(node)
        if own is not None:
            return own
        kind = self.kind(node).name
        return f"<{kind}>" if length is None else f"<{kind} {length}>"

    def root_text(self, root: Root) -> str:
        """A root as a person says it."""
        if root.kind == FRAME:
            where = self.frame_text(root.frame)
            if root.label == "local":
                return f"{where} {root.name}"
            return f"{where} <{root.name or root.label}>"
        if root.kind == "interpreter":
            return _TABLES.get(root.name) or f"<interpreter's {root.name}>"
        if root.kind == "static variable":
            return f"<static variable of {root.name.rpartition('/')[2]}>"
        if root.kind == HELD:
            return "<held by C code>"
        return f"<{root.kind}: {root.name}>" if root.name else f"<{root.kind}>"

    def frame_text(self, number: int) -> str:
        """``(thread NAME) function:line`` of a thread's frame."""
        frame = self.heap.frames[number]
        threads, at = self.heap.threads, frame.get("thread")
        thread: dict[str, Any] = (
            threads[at] if isinstance(at, int) and 0 <= at < len(threads) else {}
        )
        name = thread.get("name") or thread.get("native_id") or "?"
        line = f":{frame['line']}" if isinstance(frame.get("line"), int) else ""
        return f"(thread {name}) {frame.get('function') or '?'}{line}"

    def _joined(
        self, root: Root, root_text: str, nodes: list[int], steps: list[Step], left_out: int
    ) -> str:
        """The name: from the last node on the way that has one of its own.

        ``nodes`` are those of ``steps``. A variable of a frame has the best of names.
        """
        start, text = -1, root_text
        for at, node in enumerate(nodes):
            if at == 0 and not left_out and root.kind == FRAME and root.label == "local":
                continue
            own = self.own(node)
            if own is not None:
                start, text = at, own
        if start < 0:
            if left_out:
                text += f"…({left_out} steps)…"
            elif root.kind != FRAME and root_text not in _TABLES.values():
                text += f" {self.kind(nodes[0]).name} "
            start = -1 if left_out else 0
        return (text + self._steps(nodes, steps, start)).strip()

    def _steps(self, nodes: list[int], steps: list[Step], start: int) -> str:
        parts, at = [], start + 1
        while at < len(steps):
            step, source = steps[at], nodes[at - 1] if at else -1
            following = steps[at + 1] if at + 1 < len(steps) else None
            closure = self._closure(nodes, steps, at) if step.text == ".__closure__" else None
            if closure:
                parts.append(closure)
                at += 3
                continue
            if following and following.kind in _IN_SPACE and self._is_space(step):
                parts.append(_attribute(following.text))
                at += 2
                continue
            if step.kind == "value" and source in self.modules:
                parts.append(_attribute(step.text))
            else:
                parts.append(step.text)
            at += 1
        return "".join(parts)

    def _is_space(self, step: Step) -> bool:
        return step.kind == "dict" or (step.kind == "field" and step.text.strip("<>.") in SPACES)

    def _closure(self, nodes: list[int], steps: list[Step], at: int) -> str | None:
        """``<closure NAME>`` of function, tuple, cell and what is in it."""
        if at + 2 >= len(steps) or at == 0 or steps[at + 2].text != "<ob_ref>":
            return None
        name = self._free_variable(nodes[at - 1], nodes[at], steps[at + 1].text)
        return f"<closure {name or steps[at + 1].text.strip('[]')}>"

    def _free_variable(self, function: int, closure: int, place: str) -> str | None:
        """The name of a closure's variable: the last names of a code object are of free ones."""
        code = self.field(function, "func_code")
        names = self.field(code, "co_localsplusnames") if code is not None else None
        if names is None or not place.strip("[]").isdigit():
            return None
        (a, b), (c, d) = (self.graph.tail(node) for node in (names, closure))
        at = b - (d - c) + int(place.strip("[]"))
        return self.text(int(self.graph.targets[at])) if a <= at < b else None


def _attribute(key: str) -> str:
    """``['name']`` as an attribute's: ``.name``."""
    name = key[2:-2]
    return f".{name}" if key[:2] in {"['", '["'} and name.isidentifier() else key
