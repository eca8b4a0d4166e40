"""What of this machine matters to Parkscope: kernel, rights, bcc, cache."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import platform
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from probes.errors import ParkscopeError
from tracer import units
from tracer.doctor import Finding, Status

_CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}  # include/uapi/linux/capability.h
_AS_ROOT = "run as root: sudo parkscope …"
_DISTRIBUTION_BCC = "usr/lib/python3/dist-packages/bcc"
_GET_BCC = "sudo apt install python3-bpfcc"
_LITTLE_MEMLOCK = 64 << 20


def _try_bpf() -> str | None:
    """Why bpf(2) refuses to make a map; None when it does."""
    from tracer.backends.bcc.syscalls import probe_rights

    try:
        probe_rights()
    except ParkscopeError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    return None


def _cache_home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) if home else Path.home() / ".cache"


@dataclass(frozen=True)
class Machine:
    """Where facts are read; tests put files of their own below ``root``."""

    root: Path = Path("/")
    machine: str = field(default_factory=platform.machine)
    release: str = field(default_factory=platform.release)
    cache: Path = field(default_factory=_cache_home)
    try_bpf: Callable[[], str | None] = _try_bpf

    def text(self, path: str) -> str | None:
        """The contents of a small file, stripped; None when it cannot be read."""
        try:
            return (self.root / path).read_text("utf-8", "replace").strip()
        except OSError:
            return None

    def capabilities(self) -> set[str]:
        """Names of the effective capabilities that matter here."""
        found = re.search(
            r"^CapEff:\s*([0-9a-f]+)", self.text("proc/self/status") or "", re.MULTILINE
        )
        mask = int(found[1], 16) if found else 0
        return {name for name, bit in _CAPABILITIES.items() if mask >> bit & 1}


def findings(machine: Machine) -> list[Finding]:
    """All findings about the machine, in the order of what depends on what."""
    return [
        check(machine)
        for check in (
            kernel, btf, bpf, lockdown, capabilities, uprobes, uprobe_multi, bcc,
            perf_event_paranoid, ptrace_scope, memlock, cache,
        )
    ]  # fmt: skip


def kernel(machine: Machine) -> Finding:
    """Architecture and release; what the kernel can do is asked below, not guessed."""
    what = f"Linux {machine.release} on {machine.machine}"
    if machine.machine != "x86_64":
        return Finding("kernel", Status.FAIL, f"{what}: probes and memory reading need x86_64")
    return Finding("kernel", Status.OK, what)


def btf(machine: Machine) -> Finding:
    """BTF gives the offsets of kernel structures; the task iterator is looked up in it."""
    path = machine.root / "sys/kernel/btf/vmlinux"
    fix = "use a kernel with CONFIG_DEBUG_INFO_BTF=y (all current distributions' kernels)"
    if not path.exists():
        return Finding("BTF", Status.FAIL, "the kernel has no /sys/kernel/btf/vmlinux", fix)
    if not _kernel_knows(path, b"bpf_iter__task"):
        return Finding("BTF", Status.FAIL, "the kernel has no task iterator (Linux 5.8)", fix)
    return Finding("BTF", Status.OK, "kernel types are there, the task iterator too")


def bpf(machine: Machine) -> Finding:
    """The system call itself: it can be filtered away in containers."""
    refusal = machine.try_bpf()
    if refusal is None:
        return Finding("bpf(2)", Status.OK, "usable")
    what = f"refused: {refusal}"
    if machine.text("proc/sys/kernel/unprivileged_bpf_disabled") not in (None, "0"):
        what += " (kernel.unprivileged_bpf_disabled is set)"
    return Finding(
        "bpf(2)", Status.FAIL, what, f"{_AS_ROOT}; in a container: --privileged, or allow bpf(2)"
    )


def lockdown(machine: Machine) -> Finding:
    """Kernel lockdown: in confidentiality mode programs may not read kernel memory."""
    text = machine.text("sys/kernel/security/lockdown") or ""
    mode = re.search(r"\[(\w+)\]", text)
    if mode is None or mode[1] == "none":
        return Finding("lockdown", Status.OK, "none that the kernel tells of")
    if mode[1] == "confidentiality":
        return Finding(
            "lockdown", Status.FAIL, "confidentiality mode: eBPF may not read kernel memory",
            "boot with lockdown=integrity",
        )  # fmt: skip
    return Finding("lockdown", Status.OK, f"{mode[1]} mode, which lets eBPF read what it needs")


def capabilities(machine: Machine) -> Finding:
    """The measured matrix: BPF and PERFMON load; uprobes want one more (CVE-2025-38466)."""
    has = machine.capabilities()
    root = "CAP_SYS_ADMIN" in has
    missing = [] if root else sorted({"CAP_BPF", "CAP_PERFMON"} - has)
    if missing:
        what = f"missing for eBPF: {', '.join(missing)}"
        return Finding("capabilities", Status.FAIL, what, _AS_ROOT)
    if not has & {"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}:
        return Finding(
            "capabilities", Status.WARN,
            "eBPF loads, uprobes need CAP_DAC_OVERRIDE or CAP_SYS_ADMIN: scans only",
            "add CAP_DAC_OVERRIDE",
        )  # fmt: skip
    if not has & {"CAP_SYS_PTRACE"}:
        return Finding(
            "capabilities", Status.WARN,
            "without CAP_SYS_PTRACE only your own processes' memory can be read",
            "add CAP_SYS_PTRACE",
        )  # fmt: skip
    return Finding("capabilities", Status.OK, "all that is needed")


def uprobes(machine: Machine) -> Finding:
    """Needed by the probes on lock slow paths and allocation, not by the scan."""
    if (machine.root / "sys/bus/event_source/devices/uprobe/type").exists():
        return Finding("uprobes", Status.OK, "the kernel has them")
    return Finding(
        "uprobes", Status.WARN,
        "the kernel has none: no lock slow paths and no allocations; scans still find long parks",
        "use a kernel with CONFIG_UPROBE_EVENTS=y",
    )  # fmt: skip


def uprobe_multi(machine: Machine) -> Finding:
    """Links that attach and detach many uprobes at once."""
    path = machine.root / "sys/kernel/btf/vmlinux"
    if path.exists() and _kernel_knows(path, b"bpf_uprobe_multi_link"):
        return Finding("uprobe_multi", Status.OK, "probes detach in an instant")
    return Finding(
        "uprobe_multi", Status.WARN, "not in this kernel: detaching takes 0.1 s per probe",
        "Linux 6.6 or newer has it",
    )  # fmt: skip


def bcc(machine: Machine) -> Finding:
    """The distribution's bcc; PyPI's package of that name is something else."""
    distribution = machine.root / _DISTRIBUTION_BCC / "__init__.py"
    stranger = _other_bcc()
    if not distribution.exists():
        if stranger:
            return Finding(
                "bcc", Status.FAIL, f"{stranger} is a package of the same name, not eBPF's bcc",
                f"pip uninstall bcc; {_GET_BCC}",
            )  # fmt: skip
        return Finding("bcc", Status.FAIL, "the distribution's package is not installed", _GET_BCC)
    if ctypes.util.find_library("bcc") is None:
        return Finding("bcc", Status.FAIL, "its library libbcc.so is missing", _GET_BCC)
    if stranger:
        return Finding(
            "bcc", Status.WARN, f"installed; {stranger} of the same name is passed over",
            "pip uninstall bcc",
        )  # fmt: skip
    return Finding("bcc", Status.OK, f"installed in /{_DISTRIBUTION_BCC}")


def perf_event_paranoid(machine: Machine) -> Finding:
    """Matters to uprobes through perf, for those without CAP_PERFMON."""
    level = machine.text("proc/sys/kernel/perf_event_paranoid")
    what = f"kernel.perf_event_paranoid is {level}"
    if level is None or machine.capabilities() & {"CAP_PERFMON", "CAP_SYS_ADMIN"}:
        return Finding("perf_event_paranoid", Status.OK, f"{what}, which CAP_PERFMON overrides")
    if int(level) > 1:
        return Finding(
            "perf_event_paranoid", Status.WARN, what, "sudo sysctl kernel.perf_event_paranoid=1"
        )
    return Finding("perf_event_paranoid", Status.OK, what)


def ptrace_scope(machine: Machine) -> Finding:
    """Yama (Documentation/admin-guide/LSM/Yama.rst): who may read another's memory."""
    scope = machine.text("proc/sys/kernel/yama/ptrace_scope") or "0"
    what = f"kernel.yama.ptrace_scope is {scope}"
    privileged = bool(machine.capabilities() & {"CAP_SYS_PTRACE"})
    if scope == "0" or (privileged and scope in "12"):
        return Finding("ptrace_scope", Status.OK, f"{what}: memory can be read")
    if scope == "3":
        return Finding(
            "ptrace_scope", Status.FAIL, f"{what}: nobody may read another's memory until a reboot",
            "parkscope attach --no-python …",
        )  # fmt: skip
    return Finding(
        "ptrace_scope", Status.WARN, f"{what}: only children's memory can be read",
        "sudo sysctl kernel.yama.ptrace_scope=0",
    )  # fmt: skip


def memlock(machine: Machine) -> Finding:
    """RLIMIT_MEMLOCK bounds maps on kernels that do not charge them to the cgroup."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or limit >= _LITTLE_MEMLOCK:
        return Finding("memlock", Status.OK, "enough locked memory is allowed")
    return Finding(
        "memlock", Status.OK if machine.try_bpf() is None else Status.WARN,
        f"{units.size(limit)} of locked memory; matters before Linux 5.11 only",
        None if machine.try_bpf() is None else "ulimit -l unlimited",
    )  # fmt: skip


def cache(machine: Machine) -> Finding:
    """Where kernel offsets are kept between two starts."""
    path = machine.cache / "parkscope"
    nearest = next(p for p in (path, *path.parents) if p.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding("cache", Status.OK, f"{path} can be written")
    return Finding(
        "cache", Status.WARN, f"{path} cannot be written: each start takes a little longer",
        "export XDG_CACHE_HOME=/tmp",
    )  # fmt: skip


def _kernel_knows(btf: Path, name: bytes) -> bool:
    """Whether a type of that name stands in the kernel's BTF (a few MB, read in 2 ms)."""
    try:
        return b"\0" + name + b"\0" in btf.read_bytes()
    except OSError:
        return False


def _other_bcc() -> str | None:
    """Where a package named bcc lies that is not the eBPF one; not imported."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return None if (folder / "libbcc.py").exists() else str(folder)
