"""Everything up to loaded programs: the unit's text, the loader child, its answer."""

from __future__ import annotations

import array
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from probes.errors import BackendUnavailable, InternalError, PermissionDenied, WrongBcc
from probes.spec import ProbeSpec
from tracer.backends.bcc.unit import HEADERS, PROBES_DIR, Unit

LOADER = Path(__file__).with_name("loader.py")
DISTRIBUTION_PYTHON = "/usr/bin/python3"
TIMEOUT_S = 60.0
_MAX_FDS = 253  # SCM_MAX_FD
_LENGTH = struct.Struct("<I")
_MAX_ANSWER = 8 << 20


@dataclass(slots=True)
class Kernel:
    """Loaded probes; programs and maps: file descriptors by name, closed by ``close``.

    ``refused`` has the programs that the kernel did not take, with its reason.
    ``bytecode``: instructions by program (base64), with the index into ``maps`` where
    a descriptor has to stand; empty when they were not compiled just now.
    """

    specs: tuple[ProbeSpec, ...]
    programs: dict[str, int]
    maps: dict[str, int]
    refused: dict[str, str] = field(default_factory=dict)
    bytecode: Mapping[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Give all descriptors back; links that were made with them stay. Twice is fine."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs.clear()
        self.maps.clear()


class Loader:
    """The loader child, started at once so that it imports bcc while others work.

    Raises BackendUnavailable when there is no Python to run it with.
    """

    def __init__(self, cache_dir: Path, python: str = DISTRIBUTION_PYTHON) -> None:
        if not os.path.exists(python):
            python = sys.executable
        self.cache_dir = cache_dir
        self._unit: Unit | None = None
        self._failure_log = cache_dir / "last-load-failure.log"
        self._log = tempfile.TemporaryFile(dir=cache_dir)  # noqa: SIM115 closed by close
        self._child: subprocess.Popen[bytes] | None = None
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._socket.settimeout(TIMEOUT_S)
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [python, "-I", str(LOADER), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                self.close()
                raise BackendUnavailable(f"{python} cannot be run: {error.strerror}") from None

    def send(self, unit: Unit, offsets: Mapping[str, int]) -> None:
        """Have ``unit`` compiled with these offsets too, and loaded; ``receive`` follows.

        A child that has died already is reported by ``receive``.
        """
        self._unit = unit
        defines = {**unit.defines, **offsets}
        request = {
            "headers": str(HEADERS),
            "text": unit.text(),
            "cflags": [
                f"-I{PROBES_DIR}",
                "-Wno-everything",
                *(f"-D{name}={value}" for name, value in sorted(defines.items())),
            ],
            "programs": [astuple(program)[:4] for program in unit.programs],
            "maps": unit.maps,
        }
        data = json.dumps(request).encode()
        with suppress(OSError):
            self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Kernel:
        """Wait for the programs. Raises WrongBcc, PermissionDenied, BackendUnavailable."""
        if self._unit is None:
            raise ValueError("nothing was sent")
        try:
            manifest, fds = self._answer()
            if "error" in manifest:
                raise self._error(manifest["error"], manifest["text"])
        except (OSError, EOFError, ValueError) as error:
            raise self._error("died", f"the loader ended early ({error})") from None
        finally:
            self.close()
        return Kernel(
            self._unit.specs,
            programs={name: fds[at] for name, at, _ in manifest["programs"] if at is not None},
            maps={name: fds[at] for name, at in manifest["maps"]},
            refused={name: why for name, at, why in manifest["programs"] if at is None},
            bytecode=manifest["bytecode"],
        )

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        """The child's manifest and its descriptors. Raises OSError, EOFError, ValueError."""
        fds = array.array("i")
        space = socket.CMSG_SPACE(_MAX_FDS * fds.itemsize)
        data, ancillary, _, _ = self._socket.recvmsg(1 << 16, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
            piece = self._socket.recv(1 << 16)
            if not piece or len(data) > _MAX_ANSWER:
                raise EOFError("no answer")
            data += piece
        return json.loads(data[_LENGTH.size :]), list(fds)

    def close(self) -> None:
        """End the child, however far it is. Safe to call twice."""
        self._socket.close()
        self._log.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _error(self, reason: str, text: str) -> Exception:
        """The error that a person sees; what compiler and verifier said goes to a file."""
        self._log.seek(0)
        said = self._log.read(64 << 20).decode("utf-8", "replace")
        if reason == "absent":
            return BackendUnavailable(text, hint="apt install python3-bpfcc")
        if reason == "wrong":
            return WrongBcc(text)
        if "super-user" in text or "Operation not permitted" in text:
            return PermissionDenied("the kernel does not allow eBPF programs to be loaded here")
        where = self._keep(said)
        line = first_useful_line(said)
        message = f"eBPF programs cannot be loaded: {text}" + (f": {line}" if line else "")
        if reason == "internal":
            return InternalError(message)
        return BackendUnavailable(
            message,
            hint=f"'--backend proc' needs none. The kernel's whole answer: {where}",
        )

    def _keep(self, said: str) -> Path:
        self._failure_log.unlink(missing_ok=True)
        fd = os.open(self._failure_log, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "w") as out:
            out.write(said)
        return self._failure_log


def first_useful_line(said: str) -> str:
    """Of a compiler's or the verifier's output, the line that names the fault."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if re.search(r"\berror:", line):
            return line
    for before, line in pairwise(lines):
        if re.match(r"processed \d+ insns", line):
            return before
    return lines[0] if lines else ""
