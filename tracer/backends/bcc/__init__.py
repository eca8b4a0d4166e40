"""The real backend: eBPF programs compiled by bcc in a child process, scans, a mapped ring."""

from __future__ import annotations

import os
from pathlib import Path

from tracer.backends.bcc import syscalls
from tracer.backends.bcc.source import BccSource

__all__ = ["BccSource", "available"]

_BTF = Path("/sys/kernel/btf/vmlinux")
_PYTHONS = (Path("/usr/bin/python3"),)
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def available() -> str | None:
    """Why this backend cannot work here, in a few words; None when nothing speaks against it."""
    if os.environ.get("PARKSCOPE_NO_BCC") == "1":
        return "PARKSCOPE_NO_BCC is set"
    machine = os.uname().machine
    if machine != "x86_64":
        return f"it needs x86-64, this machine is {machine}"
    if not _BTF.exists():
        return f"the kernel has no type information ({_BTF})"
    try:
        if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            return "Parkscope runs in a PID namespace, where the kernel's thread ids are others"
        syscalls.probe_rights()
    except OSError as error:
        return f"the kernel allows no eBPF here ({error.strerror})"
    return None
