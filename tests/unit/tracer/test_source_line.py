"""A file is shown only if the target could have read it itself and it is what it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tracer import source_line
from tracer.source_line import MAX_FILE_BYTES, Reader, SourceLines, read_as, reader_of

TEXT = b"first\n    with self._lock:\n\x1b[31mred\n"
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def me() -> Reader:
    """This process as a target, as if it started a moment from now: files made here are old."""
    return replace(reader_of(os.getpid()), began_ns=time.time_ns() + 60 * 10**9)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_bytes(TEXT)
    return path


def test_a_file_of_the_target_is_read(me: Reader, text: Path) -> None:
    assert read_as(me, str(text)) == TEXT


def test_who_a_process_is() -> None:
    reader = reader_of(os.getpid())
    assert (reader.uid, reader.pid) == (os.geteuid(), os.getpid())
    assert os.getegid() in reader.groups
    assert 0 < reader.began_ns <= time.time_ns()


def test_a_link_inside_of_the_root_is_followed(me: Reader, text: Path) -> None:
    link = text.with_name("link.py")
    link.symlink_to(text)
    assert read_as(me, str(link)) == TEXT


def test_a_file_that_is_newer_than_the_process(me: Reader, text: Path) -> None:
    with pytest.raises(OSError, match="changed"):
        read_as(reader_of(os.getpid()), str(text))
    os.utime(text, (1, 1))
    with pytest.raises(OSError, match="changed"):  # its inode tells that it was touched
        read_as(reader_of(os.getpid()), str(text))


@pytest.mark.parametrize("path", ["app.py", "", "../app.py", "/no/such/file", "/etc\0/x"])
def test_names_that_are_no_file(me: Reader, path: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        read_as(me, path)


def test_what_is_no_regular_file_is_never_opened(me: Reader, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (str(fifo), str(tmp_path), "/dev/null", "/dev/zero", "/proc/self/environ"):
        with pytest.raises(OSError):  # noqa: PT011
            read_as(me, path)


def test_sizes_are_bounded(me: Reader, tmp_path: Path) -> None:
    huge = tmp_path / "huge.py"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(OSError, match="large"):
        read_as(me, str(huge))


@pytest.mark.skipif(not ROOT, reason="needs root to look as somebody else")
@pytest.mark.parametrize("how", ["plain", "link", "dots", "closed directory"])
def test_root_does_not_read_for_somebody_who_may_not(me: Reader, tmp_path: Path, how: str) -> None:
    """The target (nobody) names a file that only root may read."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    secret = tmp_path / "inner" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(TEXT)
    secret.chmod(0o600)
    nobody = replace(me, uid=NOBODY, groups=frozenset({NOBODY}))
    path = str(secret)
    if how == "link":
        link = tmp_path / "app.py"
        link.symlink_to(secret)
        path = str(link)
    elif how == "dots":
        path = f"{tmp_path}/inner/../../{tmp_path.name}/inner/secret"
    elif how == "closed directory":
        secret.chmod(0o644)
        secret.parent.chmod(0o700)
    with pytest.raises(PermissionError):
        read_as(nobody, path)
    secret.chmod(0o644)
    secret.parent.chmod(0o755)
    assert read_as(nobody, path) == TEXT


@pytest.mark.skipif(not ROOT, reason="/etc/shadow is closed anyway")
def test_a_link_to_the_shadow_file(me: Reader, tmp_path: Path) -> None:
    link = tmp_path / "app.py"
    link.symlink_to("/etc/shadow")
    nobody = replace(me, uid=NOBODY, groups=frozenset({NOBODY}))
    with pytest.raises(OSError):  # noqa: PT011
        read_as(nobody, str(link))


@pytest.mark.skipif(not ROOT, reason="chroot needs root")
def test_a_path_stays_inside_of_a_chroot(tmp_path: Path) -> None:
    """The name means the target's file of that name, and no link or .. leads out of there."""
    outside = tmp_path / "outside.py"
    outside.write_bytes(b"outside\n")
    jail = tmp_path / "jail"
    (jail / "srv").mkdir(parents=True)
    (jail / "srv/app.py").write_bytes(TEXT)
    (jail / "srv/out.py").symlink_to(outside)
    (jail / "srv/up.py").symlink_to("../../outside.py")
    code = f"import os, sys; os.chroot({str(jail)!r}); print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        target = replace(reader_of(process.pid), began_ns=time.time_ns() + 60 * 10**9)
        assert read_as(target, "/srv/app.py") == TEXT
        for path in (str(outside), "/srv/out.py", "/srv/up.py", "/../outside.py"):
            with pytest.raises(OSError):  # noqa: PT011
                read_as(target, path)


def test_lines_for_people(me: Reader, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_line, "reader_of", lambda _pid: me)
    lines = SourceLines()
    assert lines.line(me.pid, str(text), 2) == "with self._lock:"
    text.unlink()
    assert lines.line(me.pid, str(text), 1) == "first", "read once"
    for number in (0, -1, 4, 99):
        assert lines.line(me.pid, str(text), number) is None
    assert lines.line(me.pid, "/no/such", 1) is None


def test_a_file_system_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def hang(_pid: int) -> Reader:
        gate.wait(30)
        raise OSError("gone")

    monkeypatch.setattr(source_line, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(source_line, "reader_of", hang)
    lines = SourceLines()
    assert lines.line(1, "/a", 1) is None
    monkeypatch.setattr(source_line, "reader_of", lambda _pid: pytest.fail("tried again"))
    assert lines.line(1, "/b", 1) is None
    gate.set()
