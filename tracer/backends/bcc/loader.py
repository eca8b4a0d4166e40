"""The only module that imports bcc: a child process that compiles, loads and leaves.

bcc's compiler maps 130 MB, which a tracer should not carry for hours. So the parent
(``load.py``) runs this file as a program under the distribution's Python, for which
``python3-bpfcc`` is installed, sends one request over a socket and takes the file
descriptors of programs and maps back. When the child has gone, they are all that is
left of bcc.

It imports nothing of Parkscope and little of Python: it starts quickly, and runs on
whatever Python 3 the distribution has. A message is a length (4 bytes, little endian)
and as many bytes of JSON; the descriptors come with the answer's first byte.
"""

from __future__ import annotations

import array
import base64
import importlib.util
import json
import os
import socket
import struct
import sys
from typing import Any

PLACES = ("/usr/lib/python3/dist-packages/bcc/__init__.py",)
"""Where distributions put it for their own Python; other places are on ``sys.path``."""

_LENGTH = struct.Struct("<I")
_PROGRAM_TYPES = ("KPROBE", "RAW_TRACEPOINT", "TRACING")
_COMPILED_ONLY = "BTF_TRACEPOINT"
_INSTRUCTION = struct.Struct("<BBhi")  # opcode, registers, offset, immediate value
_LOAD_DOUBLE_WORD, _PSEUDO_MAP_FD = 0x18, 1


class LoadError(Exception):
    """Why it failed: ``reason`` is a word for the parent, the text for a person."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def find_bcc(places: tuple[str, ...] = PLACES) -> Any:
    """The eBPF library. Raises LoadError: ``absent``, or ``wrong`` for another bcc.

    PyPI's package of that name is another one, and may stand first on the path.
    """
    for place in places:
        if os.path.exists(place):
            spec = importlib.util.spec_from_file_location(
                "bcc", place, submodule_search_locations=[os.path.dirname(place)]
            )
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                sys.modules["bcc"] = module
                spec.loader.exec_module(module)
                return module
    try:
        import bcc
    except ImportError as error:
        raise LoadError("absent", f"Python's bcc is not to be had: {error}") from None
    if not hasattr(bcc, "BPF"):
        raise LoadError("wrong", f"the package bcc at {bcc.__file__} is not the eBPF one")
    return bcc


def load(bcc: Any, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Compile and load what ``request`` says: manifest, and the descriptors in its order.

    Programs are [name, type, attach type, optional]; a program that is optional
    and refused stands in the manifest with the reason, one of a type that bcc cannot
    load only in ``bytecode``. ``bytecode`` is what was
    loaded, for the cache. Raises LoadError.
    """
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    try:
        unit = bcc.BPF(text=request["text"], cflags=request["cflags"])
    except Exception as error:  # noqa: BLE001 bcc raises plain Exception
        raise LoadError("compile", str(error)) from None
    programs: list[Any] = []
    maps: list[Any] = []
    fds: list[int] = []
    compiled: list[str] = []
    for name, kind, attach_type, optional in request["programs"]:
        if kind == _COMPILED_ONLY:
            compiled.append(name)
            continue
        if kind not in _PROGRAM_TYPES:
            raise LoadError("internal", f"program type {kind}")
        try:
            loaded = unit.load_func(name, getattr(bcc.BPF, kind), attach_type=attach_type)
        except Exception as error:  # noqa: BLE001 as above
            if optional:
                programs.append([name, None, str(error)])
                continue
            raise LoadError("load", str(error)) from None
        programs.append([name, len(fds), ""])
        fds.append(loaded.fd)
    for name in request["maps"]:
        fd = bcc.libbcc.lib.bpf_table_fd(unit.module, name.encode())
        if fd < 0:
            raise LoadError("internal", f"no map {name}")
        maps.append([name, len(fds)])
        fds.append(fd)
    names = compiled + [name for name, at, _ in programs if at is not None]
    indexes = {fds[at]: index for index, (_, at) in enumerate(maps)}
    code = {name: _portable(unit.dump_func(name.encode()), indexes) for name in names}
    if not all(code.values()):
        code = {}
    return {"programs": programs, "maps": maps, "bytecode": code}, fds


def _portable(code: bytes, indexes: dict[int, int]) -> str | None:
    """Instructions (base64) with map descriptors turned into indexes; None if one is unknown."""
    out = bytearray(code)
    for at in range(0, len(out), _INSTRUCTION.size):
        opcode, registers, offset, value = _INSTRUCTION.unpack_from(out, at)
        if opcode == _LOAD_DOUBLE_WORD and registers >> 4 == _PSEUDO_MAP_FD:
            if value not in indexes:
                return None
            _INSTRUCTION.pack_into(out, at, opcode, registers, offset, indexes[value])
    return base64.b64encode(out).decode()


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def main(descriptor: int) -> None:
    """Serve one request on the socket ``descriptor``."""
    connection = socket.socket(fileno=descriptor)
    fds: list[int] = []
    try:
        bcc = find_bcc()  # before the request is there: the parent works meanwhile
        (size,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
        manifest, fds = load(bcc, json.loads(_receive(connection, size)))
    except EOFError:
        return  # the parent has given up
    except LoadError as error:
        manifest = {"error": error.reason, "text": str(error)}
    answer = json.dumps(manifest).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    data = _LENGTH.pack(len(answer)) + answer
    sent = connection.sendmsg([data], rights)
    connection.sendall(data[sent:])
    connection.close()
    sys.stderr.flush()
    os._exit(0)  # bcc's own exit handlers have nothing to detach


if __name__ == "__main__":
    main(int(sys.argv[1]))
