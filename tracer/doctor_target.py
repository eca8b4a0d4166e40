"""What of one process matters to Parkscope, and which processes run Python."""

from __future__ import annotations

import os
from collections.abc import Iterator

from probes.errors import BadElf, NoSuchProcess, ParkscopeError, PermissionDenied
from tracer import procfs, units
from tracer.doctor import Finding, PythonProcess, Status
from tracer.elf import Elf
from tracer.sites.planner import Refusal
from tracer.sites.slow_path import plan_waits
from tracer.target import Module, Target, inspect
from tracer.target import python_processes as all_python_processes

_COMMAND = 60


def findings(pid: int) -> list[Finding]:
    """All findings about process ``pid``; the first failure may be the last one."""
    try:
        target = inspect(pid)
    except ParkscopeError as error:
        return [_no_access(error)]
    found = [
        Finding("target process", Status.OK, f"{pid}: {_command(target)}"),
        _architecture(target),
        _namespaces(pid),
        _threads(pid),
        _python(target),
    ]
    if target.python is not None:
        found += [_memory(target), _symbols(target.python.module)]
    if target.libc is not None:
        found.append(_sites(target.libc))
    return found


def python_processes() -> Iterator[PythonProcess]:
    """Processes that run some Python, this one excepted."""
    for target in all_python_processes():
        if target.pid != os.getpid():
            yield PythonProcess(target.pid, _version(target), target.refusal, _command(target))


def _no_access(error: ParkscopeError) -> Finding:
    fix = error.hint
    if isinstance(error, PermissionDenied):
        fix = "run as root: sudo parkscope …"
        if os.geteuid() == 0:
            fix = "nothing: the kernel protects it even from root (a container's rights, an LSM)"
    if isinstance(error, NoSuchProcess) and error.hint == NoSuchProcess.default_hint:
        fix = "parkscope doctor"
    return Finding("target process", Status.FAIL, error.message, fix)


def _architecture(target: Target) -> Finding:
    if target.machine == "x86_64":
        return Finding("target architecture", Status.OK, target.machine)
    return Finding(
        "target architecture", Status.FAIL, target.refusal or "not an x86_64 program",
        "parkscope attach --no-python --backend proc …",
    )  # fmt: skip


def _namespaces(pid: int) -> Finding:
    other = []
    for kind in ("pid", "mnt", "user"):
        try:
            if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"):
                other.append(kind)
        except OSError:
            return Finding("target namespaces", Status.WARN, "cannot be compared with ours")
    if other:
        what = f"in another {' and '.join(other)} namespace; its files are opened through /proc"
        return Finding("target namespaces", Status.OK, what)
    return Finding("target namespaces", Status.OK, "the same as ours")


def _threads(pid: int) -> Finding:
    try:
        count = len(procfs.thread_ids(pid))
    except ParkscopeError as error:
        return Finding("target threads", Status.WARN, error.message)
    return Finding("target threads", Status.OK, units.plural(count, "thread"))


def _python(target: Target) -> Finding:
    if target.python is not None:
        return Finding("target Python", Status.OK, f"CPython {_version(target)}")
    return Finding(
        "target Python", Status.FAIL, target.refusal or "no CPython was found",
        "parkscope attach --no-python …",
    )  # fmt: skip


def _memory(target: Target) -> Finding:
    from tracer.pymem import PythonReader

    try:
        count = len(PythonReader(target).threads())
    except ParkscopeError as error:
        return Finding("target memory", Status.FAIL, error.message, error.hint)
    return Finding(
        "target memory", Status.OK, f"readable: {units.plural(count, 'Python thread')} found"
    )


def _symbols(module: Module) -> Finding:
    """take_gil is a local symbol: it is there unless the file was stripped."""
    try:
        with Elf.open(module.open_path) as elf:
            named = bool(elf.local("take_gil"))
    except (OSError, BadElf) as error:
        return Finding("target symbols", Status.WARN, f"{module.path}: {error}")
    if named:
        return Finding("target symbols", Status.OK, "there (not stripped)")
    return Finding(
        "target symbols",
        Status.OK,
        "stripped; sites are found by disassembling, which does as well",
    )


def _sites(libc: Module) -> Finding:
    try:
        with Elf.open(libc.open_path) as elf:
            plan = plan_waits(elf)
    except (OSError, ParkscopeError) as error:
        return Finding("target lock sites", Status.WARN, f"{libc.path}: {error}")
    refused = [name for name, site in plan.items() if isinstance(site, Refusal)]
    if len(refused) == len(plan):
        return Finding(
            "target lock sites", Status.WARN, "no cheap site in its libc: scans only",
            "nothing to do; lock addresses come from the scan",
        )  # fmt: skip
    what = (
        f"{len(plan) - len(refused)} of {units.plural(len(plan), 'lock slow path')} cheap to probe"
    )
    return Finding("target lock sites", Status.OK, what)


def _version(target: Target) -> str | None:
    return ".".join(map(str, target.python.version)) if target.python else None


def _command(target: Target) -> str:
    """The program and its script; not all arguments, which may hold secrets."""
    text = " ".join(target.cmdline[:3])
    return text if len(text) <= _COMMAND else text[: _COMMAND - 1] + "…"
