"""Every error that Parkscope shows to a person, one tree.

ParkscopeError                exit  what it means
├── UsageError                   2  the command line or a config file is wrong
│   └── UnknownObject            2  a heap dump has no such object or type
├── TargetError                  3  something about the target process
│   ├── NoSuchProcess            3  no process has that PID
│   ├── NotCPython               4  a process, but no CPython that we can read
│   │   └── UnsupportedPython    4  CPython, but of a version or build that we refuse
│   ├── TargetGone               3  it exited or replaced its program while we looked
│   ├── BadElf                   3  a file that it maps is no ELF file that can be read
│   └── MemoryReadError          3  its memory could not be read or made sense of
│       ├── MemoryFault          3  an address is not mapped
│       └── ImplausibleMemory    3  what stands there is not what must stand there
├── CaptureError                 9  no consistent memory image could be taken
│   ├── CaptureRefused           9  it would not be safe, or does not fit; nothing was done
│   ├── EngineUnavailable        9  this way of taking it does not work here; others may
│   ├── CaptureTimeout           9  the target was released at the deadline, without an image
│   └── NotAnImage               9  a file is no memory image
├── PermissionDenied             5  a capability, ptrace right or file mode is missing
├── BackendUnavailable           6  bcc, BTF, uprobes … are not to be had here
│   └── WrongBcc                 6  a package named bcc that is not the eBPF one
├── TraceError                   7  a trace cannot be read
│   ├── NotATrace                7  some other file
│   └── UnknownTraceVersion      7  written by a newer Parkscope
├── HeapDumpError                7  a heap dump cannot be read
│   ├── NotAHeapDump             7  some other file
│   ├── DamagedHeapDump          7  a heap dump, but not what was written
│   └── UnknownHeapDumpVersion   7  written by a newer Parkscope
├── RecordingError               8  writing failed (disk full, ...); the file is readable
├── EndpointError               10  metrics cannot be served at that address
├── ActionFailed                 1  what a trigger set off failed: an event, never a session's end
└── InternalError               70  a defect of Parkscope

Each class carries ``exit_code`` and each instance a ``hint``: what the person at
the terminal does next. ``tracer.cli`` catches the root once, prints both, exits.
Exit code 0 is success, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations


class ParkscopeError(Exception):
    """Root of the tree: a message for a person and the next step to take."""

    exit_code = 1
    default_hint = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint


class UsageError(ParkscopeError):
    """The command line or a config file is wrong; the message names the key."""

    exit_code = 2
    default_hint = "See 'parkscope COMMAND --help'."


class UnknownObject(UsageError):
    """A heap dump has no object at that address, or of that type; the hint says what is near."""


class TargetError(ParkscopeError):
    """Something about the target process; the tracer itself is well."""

    exit_code = 3


class NoSuchProcess(TargetError):
    """No process has that PID."""

    default_hint = "List the Python processes of this machine with 'parkscope doctor'."


class NotCPython(TargetError):
    """The process runs, but it is no CPython that can be read."""

    exit_code = 4
    default_hint = "Ask 'parkscope doctor PID' what was found in the process."


class UnsupportedPython(NotCPython):
    """CPython of a version or build (free-threaded, PyPy) that is refused, not guessed."""

    default_hint = "Parks are still found without names: add '--no-python'."


class TargetGone(TargetError):
    """The target exited or replaced its program while it was being looked at."""

    default_hint = "What was recorded until then is kept."


class BadElf(TargetError):
    """A file that the target maps is no ELF file, or a damaged one."""

    default_hint = "Parks are still found without it; 'parkscope doctor PID' names the file."


class MemoryReadError(TargetError):
    """The target's memory could not be read or made sense of."""

    default_hint = "Parks are still found without names: add '--no-python'."


class MemoryFault(MemoryReadError):
    """``size`` bytes at ``address`` cannot be read (not mapped, or gone meanwhile)."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes at {address:#x} cannot be read from the target")
        self.address = address
        self.size = size


class ImplausibleMemory(MemoryReadError):
    """What was read fails a check that valid memory passes: garbage, or it just changed."""


class CaptureError(ParkscopeError):
    """No consistent memory image of the target could be taken; the target runs on."""

    exit_code = 9
    default_hint = "The target was released and runs on; try again."


class CaptureRefused(CaptureError):
    """A dump would not be safe, or would not fit; the target was not touched."""

    default_hint = "Nothing was done to the target."


class EngineUnavailable(CaptureError):
    """One way of taking an image does not work for this target or on this kernel."""

    default_hint = "Leave the choice of the engine to Parkscope."


class CaptureTimeout(CaptureError):
    """The watchdog released the target at its deadline, before an image was complete."""


class NotAnImage(CaptureError):
    """A file is no memory image, or a damaged one."""

    default_hint = "Memory images are written by 'Image.save'."


class PermissionDenied(ParkscopeError):
    """A capability, a ptrace right or a file mode is missing."""

    exit_code = 5
    default_hint = (
        "Run 'parkscope doctor PID': it names the missing right and the command that grants it."
    )


class BackendUnavailable(ParkscopeError):
    """What a backend needs is not to be had here."""

    exit_code = 6
    default_hint = "Run 'parkscope doctor', or choose '--backend proc', which needs no eBPF."


class WrongBcc(BackendUnavailable):
    """The importable package named bcc is not the eBPF one."""

    default_hint = (
        "PyPI's 'bcc' is a crystal-lattice package: 'pip uninstall bcc', then "
        "'apt install python3-bpfcc'."
    )


class TraceError(ParkscopeError):
    """A trace cannot be read."""

    exit_code = 7


class NotATrace(TraceError):
    """The file is something else."""

    default_hint = "Traces are written by 'parkscope record PID -o FILE'."


class UnknownTraceVersion(TraceError):
    """The trace was written in a format that this version does not know."""

    default_hint = "Read it with the version of Parkscope that wrote it, or a newer one."


class HeapDumpError(ParkscopeError):
    """A heap dump cannot be read."""

    exit_code = 7


class NotAHeapDump(HeapDumpError):
    """The file is something else."""

    default_hint = "Heap dumps are written by 'parkscope heap dump PID -o FILE'."


class DamagedHeapDump(HeapDumpError):
    """The file is a heap dump, but its content does not hold together."""

    default_hint = "Copy it again from where it was written, or take another dump."


class UnknownHeapDumpVersion(HeapDumpError):
    """The dump was written in a format that this version does not know."""

    default_hint = "Read it with the version of Parkscope that wrote it, or a newer one."


class RecordingError(ParkscopeError):
    """Writing failed; what was written before is readable."""

    exit_code = 8
    default_hint = "Make room or choose another place with '-o'; the file so far can be analysed."


class EndpointError(ParkscopeError):
    """Metrics cannot be served at the address that was asked for."""

    exit_code = 10
    default_hint = "Choose another address, such as 127.0.0.1:0 for any free port."


class ActionFailed(ParkscopeError):
    """An action of a trigger could not be carried out; the session goes on and says so."""

    default_hint = "The 'action' event says what it was; 'analyze --view triggers' lists them."


class InternalError(ParkscopeError):
    """A defect of Parkscope itself."""

    exit_code = 70
    default_hint = "Please report this with the output of 'parkscope doctor'."
