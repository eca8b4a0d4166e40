"""The BTF reader on blobs written here by hand after Documentation/bpf/btf.rst."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from probes.errors import BackendUnavailable
from tracer.backends.bcc import btf
from tracer.backends.bcc.btf import BadBtf, Btf

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST, FUNC, ENUM64 = 1, 2, 3, 4, 5, 6, 8, 10, 12, 19


class Blob:
    """Builds a BTF blob, type by type; ``add`` returns the new type's id."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(
        self,
        name: str,
        kind: int,
        size_or_type: int,
        vlen: int = 0,
        tail: bytes = b"",
        flag: int = 0,
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack("<III", self.name(name), info, size_or_type) + tail
        self.count += 1
        return self.count

    def struct(
        self, name: str, members: list[tuple[str, int, int]], kind: int = STRUCT, flag: int = 0
    ) -> int:
        """Members are (name, type, bit offset)."""
        tail = b"".join(struct.pack("<III", self.name(n), t, at) for n, t, at in members)
        return self.add(name, kind, 64, len(members), tail, flag)

    def bytes(self) -> bytes:
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return header + self.types + self.strings


def u64(blob: Blob) -> int:
    return blob.add("u64", INT, 8, tail=struct.pack("<I", 64))


def test_fields_are_found_through_nesting_typedefs_and_anonymous_members() -> None:
    blob = Blob()
    word = u64(blob)
    blob.add("", ARRAY, 0, tail=struct.pack("<III", word, word, 4))
    blob.add("colour", ENUM, 4, 2, struct.pack("<II", 0, 0) * 2)
    blob.add("big", ENUM64, 8, 1, struct.pack("<III", 0, 0, 0))
    inner = blob.struct("inner", [("a", word, 0), ("b", word, 64)])
    alias = blob.add("inner_t", TYPEDEF, inner)
    fixed = blob.add("", CONST, alias)
    nameless = blob.struct("", [("x", word, 0), ("y", fixed, 64)])
    either = blob.struct("", [("p", word, 0), ("", nameless, 0)], UNION)
    blob.struct("outer", [("first", word, 0), ("", either, 128), ("last", fixed, 512)])
    types = Btf(blob.bytes())
    assert types.offset("outer", "first") == 0
    assert types.offset("outer", "x") == 16
    assert types.offset("outer", "y.b") == 16 + 8 + 8
    assert types.offset("outer", "last.b") == 64 + 8


def test_bit_field_structures_keep_their_plain_members() -> None:
    blob = Blob()
    word = u64(blob)
    members = [("plain", word, 64), ("bits", word, 3 << 24 | 128)]
    blob.struct("mixed", members, flag=1)
    types = Btf(blob.bytes())
    assert types.offset("mixed", "plain") == 8
    with pytest.raises(BadBtf, match="bit field"):
        types.offset("mixed", "bits")


def test_what_is_missing_is_named() -> None:
    blob = Blob()
    blob.struct("here", [("a", u64(blob), 0)])
    types = Btf(blob.bytes())
    with pytest.raises(BadBtf, match="no struct there"):
        types.offset("there", "a")
    with pytest.raises(BadBtf, match=r"struct here has no field a\.b"):
        types.offset("here", "a.b")
    with pytest.raises(BadBtf, match="does not describe work"):
        types.named("work", FUNC)


def test_what_programs_attach_to_is_found_by_name_and_kind() -> None:
    blob = Blob()
    blob.struct("other", [])
    blob.add("helper", FUNC, 0)
    alias = blob.add("alias", TYPEDEF, 1)
    function = blob.add("work", FUNC, 0)
    types = Btf(blob.bytes())
    assert (types.named("work", FUNC), types.named("alias", TYPEDEF)) == (function, alias)
    with pytest.raises(BadBtf):
        types.named("alias", FUNC)


def test_types_that_refer_to_themselves_end() -> None:
    blob = Blob()
    loop = blob.add("loop", TYPEDEF, 1)
    blob.struct("outer", [("", 3, 0), ("a", loop, 0)])
    blob.struct("", [("", 3, 0)], UNION)
    with pytest.raises(BadBtf):
        Btf(blob.bytes()).offset("outer", "a.b")


@pytest.mark.parametrize("size", [0, 10, 24, 60])
def test_cut_off_anywhere_is_said(size: int) -> None:
    blob = Blob()
    blob.struct("here", [("a", u64(blob), 0)])
    with pytest.raises(BadBtf):
        Btf(blob.bytes()[:size])


def test_another_file_is_refused() -> None:
    with pytest.raises(BadBtf, match="unknown format"):
        Btf(b"\x7fELF" + bytes(60))


def test_all_facts_of_a_kernel(tmp_path: Path) -> None:
    """Every field that is needed, each at a place of its own."""
    blob = Blob()
    word = u64(blob)
    owners: dict[str, dict[str, list[str]]] = {}
    for owner, path, *_ in btf.FIELDS.values():
        outer, _, inner = path.partition(".")
        owners.setdefault(owner, {}).setdefault(outer, []).extend([inner] if inner else [])
    truth = {}
    for owner, fields in owners.items():
        members = []
        for place, (field, inners) in enumerate(fields.items()):
            truth[owner, field] = place * 64
            part = word
            if inners:
                part = blob.struct(
                    f"{field}_part", [(n, word, 64 * i) for i, n in enumerate(inners)]
                )
                truth.update(
                    {(owner, f"{field}.{n}"): place * 64 + 8 * i for i, n in enumerate(inners)}
                )
            members.append((field, part, place * 512))
        blob.struct(owner, members)
    places = {name: blob.add(name, kind, 0) for name, kind in btf.PLACES.items()}
    file = tmp_path / "vmlinux"
    file.write_bytes(blob.bytes())
    facts = btf.read_facts(file)
    assert facts.places == places
    assert facts.offsets == {name: truth[field[0], field[1]] for name, field in btf.FIELDS.items()}


def test_the_running_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not btf.VMLINUX.exists():
        pytest.skip("this kernel offers no BTF")
    facts = btf.kernel_facts(tmp_path)
    task = {n: at for n, at in facts.offsets.items() if n.startswith("PS_OFF_TASK")}
    assert len(set(task.values())) == len(task)
    assert facts.offsets["PS_OFF_TASK_TGID"] == facts.offsets["PS_OFF_TASK_PID"] + 4
    (cached,) = tmp_path.iterdir()
    assert cached.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(btf, "read_facts", lambda _path: pytest.fail("it was cached"))
    assert btf.kernel_facts(tmp_path) == facts


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"PS_OFF_TASK_PID": "x"}'])
def test_a_damaged_cache_is_read_anew(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = btf.KernelFacts(dict.fromkeys(btf.FIELDS, 8), dict.fromkeys(btf.PLACES, 7))
    monkeypatch.setattr(btf, "read_facts", lambda _path: fresh)
    monkeypatch.setattr(btf, "kernel_identity", lambda: "k")
    (tmp_path / "offsets-k.json").write_text(content)
    assert btf.kernel_facts(tmp_path) == fresh
    assert json.loads((tmp_path / "offsets-k.json").read_text())[btf.ITERATOR] == 7


def test_a_kernel_without_type_information(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        btf.kernel_identity(tmp_path / "absent", tmp_path / "absent")
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint
