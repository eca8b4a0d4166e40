"""From a walked image to what is written: columns, names, the proof of consistency."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.heap.image import Image, Segment
from tracer.heap.marking import marks
from tracer.heap.model import BORROWED, TAIL_STEP, Closure, Heap
from tracer.heap.naming import Names, Strings
from tracer.heap.scan import ROOT_KINDS, ROOT_NAMES, Scan
from tracer.heap.walker import NO_NODE
from tracer.pymem.names import NameReader
from tracer.pymem.reader import MAIN_THREAD

STATIC = len(ROOT_KINDS)
"""Kind of the roots that are C's static variables; the others are ``scan.ROOT_KINDS``."""

_SIZED_TEXT = (1 << 27) | (1 << 28)  # bytes, str: Py_TPFLAGS_*_SUBCLASS
_CHUNK = 1 << 20


def build_heap(scan: Scan, meta: dict[str, Any], *, values: bool, mark_key: bytes = b"") -> Heap:
    """Name and complete what was walked. Columns may be views: keep ``scan`` open meanwhile.

    ``mark_key``: of ``marking.key_of``; without it nothing is marked.
    """
    columns = scan.walk.columns()
    names, strings = Names(scan, columns), Strings()
    fixed = fixed_sizes(columns)
    found = {
        "address": columns["address"],
        "type": columns["type"],
        "shape": columns["shape"],
        "degree": columns["degree"],
        "target": columns["target"],
        "size": _varying_sizes(columns, fixed),
        "items": _items(columns),
        "length": _lengths(scan, columns),
        "shape_count": columns["shapes"]["count"],
        "shape_tail": columns["shapes"]["tail"].astype(np.uint8),
        "label_kind": columns["labels"]["kind"].astype(np.uint8),
        "label_name": names.labels(strings),
    }
    found["text_node"], found["text"] = names.texts(strings, values=values)
    types = names.types(fixed)
    found["mark_node"], found["mark"] = marks(scan.image, scan.layout, columns, types, mark_key)
    closure = _consistency(scan, columns, found, strings)
    _references(columns, found, names.references(strings))
    return Heap(
        meta={**meta, "values": values, "root_kinds": [*ROOT_KINDS, "static variable"]},
        types=types,
        strings=strings.texts,
        columns=found,
        closure=closure,
        threads=_threads(scan),
        frames=names.frames(),
        totals=scan.walk.totals(),
    )


def fixed_sizes(columns: dict[str, npt.NDArray[Any]]) -> list[int | None]:
    """Per type the size of all its instances, None where they differ."""
    kinds, sizes = columns["type"], columns["size"]
    one = np.zeros(len(columns["types"]), np.uint64)
    one[kinds] = sizes
    differ = np.zeros(len(one), bool)
    differ[kinds[sizes != one[kinds]]] = True
    return [None if other else int(size) for size, other in zip(one, differ, strict=True)]


def _varying_sizes(
    columns: dict[str, npt.NDArray[Any]], fixed: list[int | None]
) -> npt.NDArray[Any]:
    varies = np.array([size is None for size in fixed], bool)
    sizes: npt.NDArray[Any] = columns["size"][varies[columns["type"]]]
    return sizes


def _items(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint32]:
    """Of those nodes whose shape has a tail: how many items it has."""
    shapes = columns["shapes"]
    steps = np.array(TAIL_STEP, np.uint32)[shapes["tail"] & ~np.uint32(BORROWED)]
    step = steps[columns["shape"]]
    nodes = np.flatnonzero(step)
    head = shapes["count"][columns["shape"][nodes]]
    items: npt.NDArray[np.uint32] = (columns["degree"][nodes] - head) // step[nodes]
    return items.astype(np.uint32)


def _lengths(scan: Scan, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint32]:
    """Lengths of str (characters) and bytes objects, in order."""
    flags = columns["types"]["flags"]
    nodes = np.flatnonzero(((flags & np.uint64(_SIZED_TEXT)) != 0)[columns["type"]])
    lengths = np.zeros(len(nodes), np.uint32)
    with mmap.mmap(scan.image.fd, scan.image.size, prot=mmap.PROT_READ) as memory:
        words = np.frombuffer(memory, np.uint64, count=scan.image.size // 8)
        starts = np.array([one.start for one in scan.image.segments], np.uint64)
        shift = [one.offset - one.start for one in scan.image.segments]
        shifts = np.array(shift, np.int64)
        at = scan.layout["PyVarObject.ob_size"]
        for first in range(0, len(nodes), _CHUNK):
            places = columns["address"][nodes[first : first + _CHUNK]]
            segment = np.searchsorted(starts, places, side="right") - 1
            index = (places.astype(np.int64) + shifts[segment] + at) >> 3
            index = np.minimum(index, len(words) - 1)
            lengths[first : first + _CHUNK] = np.minimum(words[index], 0xFFFFFFFF)
        del words
    return lengths


def _consistency(
    scan: Scan,
    columns: dict[str, npt.NDArray[Any]],
    found: dict[str, npt.NDArray[Any]],
    strings: Strings,
) -> Closure:
    """The excess of each count over what was found, the roots, and the proof."""
    counts = columns["refcount"]
    immortal = counts >= np.uint32(scan.layout.constants["immortal_refcnt"])
    certain = counts.astype(np.int64)
    certain -= columns["in_degree"]
    certain[immortal] = 0
    contradictions = np.count_nonzero(certain < 0)
    excess = certain
    guessed = np.flatnonzero(columns["guesses"])
    guessed = guessed[~immortal[guessed] & (excess[guessed] >= 0)]
    excess[guessed] -= columns["guesses"][guessed]
    refuted = guessed[excess[guessed] < 0]
    excess[refuted] = 0
    roots = _roots(columns, strings)
    roots += _static_roots(scan.image, columns["address"], excess, strings)
    found["root_node"] = np.array([node for node, _, _ in roots], np.uint32)
    found["root_kind"] = np.array([kind for _, kind, _ in roots], np.uint8)
    found["root_name"] = np.array([name for _, _, name in roots], np.uint32)
    found["excess_node"] = np.flatnonzero(excess).astype(np.uint32)
    found["excess"] = np.clip(excess[found["excess_node"]], -(1 << 31), (1 << 31) - 1).astype(
        np.int32
    )
    found["immortal_node"] = np.flatnonzero(immortal).astype(np.uint32)
    counted = len(counts) - len(found["immortal_node"])
    held = int(np.count_nonzero(excess > 0))
    return Closure(
        counted=counted,
        exact=counted - held - int(contradictions) - len(refuted),
        held=held,
        contradictions=int(contradictions),
        refuted=len(refuted),
        immortal=len(found["immortal_node"]),
    )


def _roots(columns: dict[str, npt.NDArray[Any]], strings: Strings) -> list[tuple[int, int, int]]:
    found = []
    for row in columns["roots"]:
        kind, name = int(row["kind"]), ""
        if ROOT_KINDS[kind] in {"interpreter", "thread"}:
            name = ROOT_NAMES[row["name"]] if row["name"] < len(ROOT_NAMES) else "ast"
        if row["node"] != NO_NODE:
            found.append((int(row["node"]), kind, strings.number(name)))
    return found


def _static_roots(
    image: Image, addresses: npt.NDArray[Any], excess: npt.NDArray[np.int64], strings: Strings
) -> list[tuple[int, int, int]]:
    """What C's static variables keep, of the objects whose count has more than was found.

    An object that is one itself counts one from the beginning (PyObject_HEAD_INIT); each
    variable that points to one explains one reference. ``excess`` is lowered by them.
    """
    nodes = np.flatnonzero(excess > 0)
    wanted = addresses[nodes]
    found: list[tuple[int, int, int]] = []
    with mmap.mmap(image.fd, image.size, prot=mmap.PROT_READ) as memory:
        words = np.frombuffer(memory, np.uint64, count=image.size // 8)
        for segment, file in _static_segments(image):
            inside = (wanted >= segment.start) & (wanted < segment.end)
            length = segment.end - segment.start
            part = words[segment.offset // 8 : (segment.offset + length) // 8]
            # In steps: variables that point to something wanted are few among the words.
            near = part[(part >= wanted[0]) & (part <= wanted[-1])] if len(wanted) else part[:0]
            place = np.searchsorted(wanted, near)
            hits = place[wanted[place] == near]
            counts = inside + np.bincount(hits, minlength=len(wanted))
            explained = np.minimum(counts, excess[nodes])
            excess[nodes] -= explained
            name = strings.number(file)
            found += [(node, STATIC, name) for node in np.repeat(nodes, explained).tolist()]
            del part, near
        del words
    return found


def _static_segments(image: Image) -> Iterator[tuple[Segment, str]]:
    """Writable data of ELF files, and their names: what follows without a file is .bss."""
    file, end = "", 0
    for segment in image.segments:
        file = segment.path or (file if segment.start == end else "")
        end = segment.end
        if segment.writable and file.startswith("/"):
            yield segment, file


def _references(
    columns: dict[str, npt.NDArray[Any]],
    found: dict[str, npt.NDArray[Any]],
    names: npt.NDArray[np.uint32],
) -> None:
    rows = columns["references"]
    nodes = np.searchsorted(columns["address"], rows["target"])
    found["reference_frame"] = rows["frame"].astype(np.uint32)
    found["reference_node"] = nodes.astype(np.uint32)
    found["reference_kind"] = rows["kind"].astype(np.uint8)
    found["reference_name"] = names


def _threads(scan: Scan) -> list[dict[str, Any]]:
    reader = NameReader(scan.image, scan.layout, scan.objects, scan.runtime)
    named = reader.all_names(scan.threads)
    number = {one.address: one.number for one in scan.interpreters}
    # Before threading is imported no thread has a name, but the first is the main one.
    if not named and scan.threads:
        first = scan.threads[-1]
        named[first.interpreter, first.ident] = MAIN_THREAD
    return [
        {
            "native_id": state.native_id,
            "ident": state.ident,
            "interpreter": number.get(state.interpreter, 0),
            "name": named.get((state.interpreter, state.ident)),
        }
        for state in scan.threads
    ]
