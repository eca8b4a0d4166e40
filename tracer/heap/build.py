"""Compiles the C units of ``tracer/heap`` with the system's compiler, once per content.

What may be compiled is one table, ``UNITS``. The results lie in
``$XDG_CACHE_HOME/parkscope/native``, named by a hash of the sources and the flags, so that
an update never meets an old one, two versions share nothing, and a compiler is needed once.
``.ci/setup.sh`` compiles all of them; where that could not be done, the first command
that needs one tries, and says what is missing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from probes.errors import BackendUnavailable

HERE = Path(__file__).resolve().parent
_COMPILE_SECONDS = 120
_COMMON = ("-std=gnu11", "-O2", "-g1", "-Wall", "-Wextra", "-Werror=implicit", "-pthread")


@dataclass(frozen=True, slots=True)
class Unit:
    """One program or library: ``sources`` below this folder (globs), compiled in one go.

    Headers beside the sources count as content, too.
    """

    sources: tuple[str, ...]
    shared: bool
    flags: tuple[str, ...] = ()


UNITS: Mapping[str, Unit] = MappingProxyType(
    {
        "freeze": Unit(("freeze/*.c",), shared=False),
        "walk": Unit(("walk/*.c",), shared=True, flags=("-fvisibility=hidden",)),
        "graph": Unit(("graph/*.c",), shared=True, flags=("-fvisibility=hidden",)),
        "marks": Unit(("marks/*.c",), shared=True, flags=("-fvisibility=hidden",)),
        "match": Unit(("match/*.c",), shared=True, flags=("-fvisibility=hidden",)),
        "text": Unit(("text/*.c",), shared=True, flags=("-fvisibility=hidden",)),
    }
)
"""Every C unit of heap dumps, by name."""


def built(name: str, extra: Sequence[str] = ()) -> Path:
    """The compiled unit, compiled now if it is not there yet.

    ``extra`` are more compiler flags (sanitizers in tests). Raises BackendUnavailable
    when there is no compiler, it fails, or the cache cannot be written to.
    """
    unit = UNITS[name]
    flags = [*_COMMON, *unit.flags, *extra]
    sources = _sources(unit)
    place = _cache() / f"{name}-{_key(flags, sources)}{'.so' if unit.shared else ''}"
    if not place.exists():
        _compile(unit, flags, place)
    return place


def _compiler() -> str:
    found = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if found is None:
        raise BackendUnavailable(
            "heap dumps need a C compiler once, and none is installed",
            hint="Run: sudo apt-get install gcc libc6-dev",
        )
    return found


def _sources(unit: Unit) -> list[Path]:
    """The unit's files, headers included, in a fixed order."""
    globs = [*unit.sources, *(str(Path(one).parent / "*.h") for one in unit.sources)]
    return sorted({path for one in globs for path in HERE.glob(one)})


def _key(flags: Sequence[str], sources: Sequence[Path]) -> str:
    content = hashlib.sha256(f"{os.uname().machine} {flags}".encode())
    for source in sources:
        content.update(f"{source.relative_to(HERE)}\0".encode() + source.read_bytes())
    return content.hexdigest()[:20]


def _cache() -> Path:
    """The directory of compiled units: code is loaded from it, so it must be our own."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    place = Path(base) / "parkscope" / "native"
    hint = "Set XDG_CACHE_HOME to a directory of your own."
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.stat()
    except OSError as error:
        raise BackendUnavailable(
            f"the cache directory {place} cannot be used: {error.strerror}", hint=hint
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise BackendUnavailable(
            f"the cache directory {place} is writable by others, or another user's", hint=hint
        )
    return place


def _compile(unit: Unit, flags: Sequence[str], place: Path) -> None:
    """Compile beside ``place`` and move it there: a half-written one is never found."""
    compiler = _compiler()
    sources = [str(path) for path in _sources(unit) if path.suffix == ".c"]
    kind = ["-shared", "-fPIC"] if unit.shared else []
    handle, partial = tempfile.mkstemp(dir=place.parent, prefix=f"{place.stem}.")
    os.close(handle)
    try:
        done = subprocess.run(
            [compiler, *flags, *kind, "-o", partial, *sources, "-ldl", "-lm"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMPILE_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise BackendUnavailable(
                f"the C compiler failed: {done.stderr.strip()[:1000]}",
                hint="Is the C library's development package there? "
                "Run: sudo apt-get install gcc libc6-dev",
            )
        Path(partial).chmod(0o700)
        Path(partial).replace(place)
    except subprocess.TimeoutExpired:
        raise BackendUnavailable(f"the C compiler took over {_COMPILE_SECONDS} s") from None
    finally:
        Path(partial).unlink(missing_ok=True)


def main() -> int:
    """Compile everything. Exit code 0 when all is there; says on stderr what is not."""
    try:
        for name in UNITS:
            built(name)
    except BackendUnavailable as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
