"""What memory is left: of the machine, and of the control groups of target and tracer.

Sources: proc(5) for MemAvailable; Documentation/admin-guide/cgroup-v1/memory.rst and
cgroup-v2.rst for limits. Page cache that the kernel gives back first (inactive_file)
counts as free, as it does for the kernel when a limit is reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60
_KINDS = {"cgroup2": ("memory.max", "memory.current", "inactive_file"),
          "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes",
                     "total_inactive_file")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many bytes may still be used, and what says so (for a message)."""

    size_bytes: int
    limited_by: str


def available_bytes() -> int:
    """MemAvailable of /proc/meminfo; unlimited when it does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return _UNLIMITED
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else _UNLIMITED


def headroom(pid: int | str) -> Headroom:
    """The tightest limit that process ``pid`` (or ``"self"``) is under, the machine's included."""
    best = Headroom(available_bytes(), "the machine's MemAvailable")
    for directory, kind in _groups(pid):
        left = _left(directory, kind)
        if left is not None and left < best.size_bytes:
            best = Headroom(left, f"the limit of the control group {directory}")
    return best


def _groups(pid: int | str) -> Iterator[tuple[Path, str]]:
    """The memory control groups of a process, the innermost first, each with its kind."""
    try:
        memberships = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape")
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return
    for line in memberships.splitlines():
        number, controllers, path = line.split(":", 2)
        version2 = number == "0" and not controllers
        if not version2 and "memory" not in controllers.split(","):
            continue
        kind = "cgroup2" if version2 else "cgroup"
        for mount, root in _mounted(mounts, kind):
            relative = path.removeprefix(root.rstrip("/"))
            group = mount / relative.lstrip("/")
            # A path with ".." lies outside of what this namespace shows: the mount itself then.
            for directory in (group, *group.parents) if ".." not in group.parts else (mount,):
                if not directory.is_relative_to(mount):
                    break
                yield directory, kind


def _mounted(mounts: str, kind: str) -> Iterator[tuple[Path, str]]:
    """(mount point, root in the hierarchy) of the memory hierarchy of that kind."""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        words, options = fields.split(), rest.split()
        if len(words) < 5 or len(options) < 3 or options[0] != kind:
            continue
        if kind == "cgroup" and "memory" not in options[2].split(","):
            continue
        yield Path(words[4]), words[3]


def _left(directory: Path, kind: str) -> int | None:
    limit_name, usage_name, cache_name = _KINDS[kind]
    try:
        limit = (directory / limit_name).read_text().strip()
        usage = int((directory / usage_name).read_text())
        statistics = (directory / "memory.stat").read_text()
    except (OSError, ValueError):
        return None  # the root has no limit, and not every group has the controller
    if limit == "max" or int(limit) >= _UNLIMITED:
        return None
    cache = re.search(rf"^{cache_name} (\d+)$", statistics, re.MULTILINE)
    return max(int(limit) - usage + (int(cache[1]) if cache else 0), 0)
