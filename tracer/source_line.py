"""One line of a target's source text, read as the target itself could read it.

The name of the file comes out of the target's memory, so it may be any name. Parkscope
may be root: it must not read, for whoever sees its output, what the target's own user
could not. So the file is opened beneath the target's root (openat2(2), RESOLVE_IN_ROOT:
``..`` and symbolic links cannot lead out of it), nothing but a regular file is accepted
(no pipe or device is ever opened for reading), the permissions of every directory on the
way and of the file are those for the target's user, and the file must be older than the
process: a newer one may have other lines than those that run. What is in doubt is not shown.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass

MAX_FILE_BYTES = 4 << 20
MAX_LINE_BYTES = 400
_MAX_KEPT = 64
_MAX_DEPTH = 40
_PATIENCE_S = 0.2

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
_READ, _SEARCH = 4, 1
_WITHOUT_READING = os.O_PATH | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose eyes a file is seen with; ``began_ns`` is the wall time of the process's start."""

    pid: int
    uid: int
    groups: frozenset[int]
    began_ns: int


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of include/uapi/linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class SourceLines:
    """Lines of source for people; remembers the files that it has read."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[int, str], list[bytes]] = OrderedDict()
        self._hung = False

    def line(self, pid: int, file: str, number: int) -> str | None:
        """Line ``number`` (from 1 on) without its indentation, not escaped; None if in doubt."""
        lines = self._files.get((pid, file))
        if lines is None:
            lines = self._in_time(pid, file)
            self._files[pid, file] = lines
            if len(self._files) > _MAX_KEPT:
                self._files.popitem(last=False)
        if not 0 < number <= len(lines):
            return None
        return lines[number - 1].strip()[:MAX_LINE_BYTES].decode("utf-8", "replace") or None

    def _in_time(self, pid: int, file: str) -> list[bytes]:
        """A file system may hang (it may be the target's own): then no more is shown at all."""
        if self._hung:
            return []
        answers: list[list[bytes]] = []
        thread = threading.Thread(
            target=lambda: answers.append(self._read(pid, file)), name="source lines", daemon=True
        )
        thread.start()
        thread.join(_PATIENCE_S)
        self._hung = not answers
        return answers[0] if answers else []

    def _read(self, pid: int, file: str) -> list[bytes]:
        try:
            reader = reader_of(pid)
            text = read_as(reader, file)
            if reader_of(pid) != reader:  # another program, or another process, by now
                return []
        except (OSError, ValueError):
            return []
        return text.split(b"\n")


def reader_of(pid: int) -> Reader:
    """The identity of a process (proc(5): status, stat). Raises OSError, ValueError."""
    with open(f"/proc/{pid}/status", "rb") as status:
        fields = dict(line.split(b":", 1) for line in status.read(65536).splitlines())
    with open(f"/proc/{pid}/stat", "rb") as stat_file:
        ticks = int(stat_file.read(4096).rpartition(b")")[2].split()[19])
    with open("/proc/stat", "rb") as machine:
        booted = next(int(line.split()[1]) for line in machine if line.startswith(b"btime "))
    groups = {int(fields[b"Gid"].split()[3]), *map(int, fields[b"Groups"].split())}
    began = booted + ticks / os.sysconf("SC_CLK_TCK")
    return Reader(pid, int(fields[b"Uid"].split()[3]), frozenset(groups), int(began * 1e9))


def read_as(reader: Reader, file: str) -> bytes:
    """The whole text of a file that ``reader`` may read. Raises OSError for any other."""
    if not file.startswith("/") or "\0" in file:
        raise OSError("not an absolute path")
    root = os.open(f"/proc/{reader.pid}/root", _WITHOUT_READING | os.O_DIRECTORY)
    try:
        # Looked at before it is opened: opening a device or a pipe may already do something.
        found = _open_beneath(root, file)
        try:
            _check(found, reader)
            _may_walk(root, _place(root, found), reader)
            opened = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(found)
    finally:
        os.close(root)
    with open(opened, "rb") as text:
        _check(text.fileno(), reader)
        return text.read(MAX_FILE_BYTES)


def _place(root: int, found: int) -> str:
    """Where an opened file lies beneath ``root``, without symbolic links."""
    top, real = (os.readlink(f"/proc/self/fd/{number}") for number in (root, found))
    if top == "/":
        return real
    if not real.startswith(top + "/"):
        raise OSError("outside of the root")
    return real[len(top) :]


def _may_walk(root: int, real: str, reader: Reader) -> None:
    """Every directory on the way must let the reader through."""
    parts = real.strip("/").split("/")
    if len(parts) > _MAX_DEPTH:
        raise OSError("too deep")
    for depth in range(len(parts)):
        above = "/" + "/".join(parts[:depth])
        directory = _open_beneath(root, above, _RESOLVE_NO_SYMLINKS)
        try:
            _allow(directory, reader, _SEARCH)
        finally:
            os.close(directory)


def _check(opened: int, reader: Reader) -> None:
    """Raises OSError unless it is a small, old, regular file that the reader may read."""
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    if not 0 < status.st_size <= MAX_FILE_BYTES:
        raise OSError("empty or too large")
    if max(status.st_mtime_ns, status.st_ctime_ns) > reader.began_ns:
        raise OSError("changed since the process started")
    _allow(opened, reader, _READ)


def _allow(opened: int, reader: Reader, wanted: int) -> None:
    """By the permission bits that count for the reader, without any capability.

    Raises PermissionError, also where an access control list says more than they do.
    Source: path_resolution(7), acl(5).
    """
    status = os.fstat(opened)
    shift = 0
    if status.st_uid == reader.uid:
        shift = 6
    elif status.st_gid in reader.groups:
        shift = 3
    if not status.st_mode >> shift & wanted:
        raise PermissionError("closed to the target")
    try:
        os.getxattr(f"/proc/self/fd/{opened}", "system.posix_acl_access")
    except OSError:
        return  # it has none, or is of a file system without any
    raise PermissionError("it has an access control list")


def _open_beneath(root: int, file: str, resolve: int = 0) -> int:
    """openat2(2) with O_PATH and RESOLVE_IN_ROOT.

    Raises OSError, also where the kernel lacks it.
    """
    how = _OpenHow(_WITHOUT_READING, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | resolve)
    libc = ctypes.CDLL(None, use_errno=True)
    path = ctypes.c_char_p(os.fsencode(file))
    found = libc.syscall(_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)
