"""Memory images without a process: reading, saving, and what is no image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from probes.errors import MemoryFault, NotAnImage
from tracer.heap.image import PAGE, CaptureFacts, Image, Segment, Skipped, data_ranges, load

FACTS = CaptureFacts(
    pid=7, engine="clone", pause_ns=1, bytes_copied=2, dirty_bytes=3, rounds=0, threads=1,
    started_ns=4, frozen_ns=5, gc_retries=0, state="S", stops_ns=(1, 2), notes=("said",),
    skipped=(Skipped(0x10000, 0x20000, "/x", "why", free_of_references=True),),
)  # fmt: skip


@pytest.fixture
def image() -> Iterator[Image]:
    """Two adjoining segments that lie apart in the file, a hole, and one more."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, 6 * PAGE)
    os.pwrite(fd, b"a" * PAGE, 4 * PAGE)
    os.pwrite(fd, b"b" * PAGE, 0)
    segments = (
        Segment(0x1000, 0x2000, 4 * PAGE, True, "[heap]"),
        Segment(0x2000, 0x4000, 0, True, ""),
        Segment(0x9000, 0xA000, 5 * PAGE, False, "/lib/é"),
    )
    with Image(fd, 6 * PAGE, segments, FACTS) as made:
        yield made


def test_reads_cross_adjoining_segments(image: Image) -> None:
    assert image.read(0x1FFE, 4) == b"aabb"
    assert image.read(0x3000, 8) == bytes(8)
    assert image.read_many([(0x1000, 1), (0x3FFF, 2), (0x9000, 1)]) == [b"a", None, b"\0"]


@pytest.mark.parametrize(
    ("address", "size"), [(0xFFF, 1), (0x1000, 0), (0x1000, -1), (0x4000, 1), (0x1000, 2 << 20)]
)
def test_what_is_not_there_is_a_fault(image: Image, address: int, size: int) -> None:
    with pytest.raises(MemoryFault):
        image.read(address, size)


def test_only_a_file_that_nobody_will_read_is_emptied_at_the_end(image: Image) -> None:
    other = os.dup(image.fd)
    whole = data_ranges(other, image.size)
    replace(image, fd=os.dup(image.fd)).close()
    assert data_ranges(other, image.size) == whole
    replace(image, in_memory=True).close()
    assert data_ranges(other, image.size) == []
    os.close(other)
    image.fd = -1


def test_a_saved_image_is_the_same(image: Image, tmp_path: Path) -> None:
    image.save(tmp_path / "one")
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        image.save(tmp_path / "one")
    with load(tmp_path / "one") as again:
        assert again.facts == replace(FACTS)
        assert again.segments[2].path == "/lib/é"
        assert again.read(0x1FFE, 4) == b"aabb"
        assert len(data_ranges(again.fd, again.size)) <= 3


def test_closing_twice_does_nothing(image: Image) -> None:
    image.close()
    image.close()
    assert image.fd == -1


def test_what_is_no_image_is_said(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "one"
    image.save(path)
    whole = path.read_bytes()
    for wrong in (
        b"", b"short", b"x" * 4096, whole[:20], whole[:40] + whole[60:],
        whole.replace(b'"segments": [[4096', b'"segments": [[4095'),
        whole[:PAGE],
        whole.replace(b'"pid": 7', b'"pud": 7'),
        whole[:8] + (1 << 60).to_bytes(8, "little") + whole[16:],
    ):  # fmt: skip
        path.write_bytes(wrong)
        with pytest.raises(NotAnImage):
            load(path)


def test_the_facts_are_plain_data(image: Image, tmp_path: Path) -> None:
    image.save(tmp_path / "one")
    text = (tmp_path / "one").read_bytes()
    about = json.loads(text[16 : 16 + int.from_bytes(text[8:16], "little")])
    assert about["facts"]["engine"] == "clone"
