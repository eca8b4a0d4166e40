"""Which CPythons this machine has for the tests, and how to start a program under each.

Three places are looked at: pyenv's versions, ``/usr/bin/python3.*``, and a chroot
with a newer Debian that ``python -m tests.interpreters --create`` makes (root only,
by debootstrap). A chroot interpreter is really rooted there: its files, its libc
and its ``/proc/PID/root`` are the chroot's. 3.13 to 3.15 need no ``/proc`` in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

OLDEST = (3, 8)
CHROOT_PYTHONS = ("3.13", "3.14", "3.15")

WANTED = {
    "pyenv-3.11": "pyenv install 3.11",
    "pyenv-3.12": "pyenv install 3.12",
    "pyenv-3.13": "pyenv install 3.13",
    "system-3.11": "Debian 12's own python3",
    "chroot-3.14": "./check as root makes the chroot",
    "chroot-3.15": "./check as root makes the chroot",
}
"""The matrix of the issues and where each member comes from; more may be present."""

_FACTS = (
    "import sys, sysconfig; print(*sys.version_info[:3], sys.implementation.name,"
    " sysconfig.get_config_var('LIBDIR'))"
)


@dataclass(frozen=True)
class Interpreter:
    """One CPython: ``argv`` starts it (``chroot DIR …`` included), seen from the host.

    ``stripped`` says that the file which holds the interpreter has no symbol table
    beyond the dynamic one.
    """

    id: str
    argv: tuple[str, ...]
    version: tuple[int, int, int]
    stripped: bool
    chroot: Path | None = None

    def inside(self, path: Path) -> str:
        """``path`` as a process of this interpreter names it.

        Raises ValueError for a path that it cannot reach; ``scratch`` makes
        directories that it can.
        """
        if self.chroot is None:
            return str(path)
        if not path.is_relative_to(self.chroot):
            raise ValueError(f"{path} is outside of {self.chroot}")
        return "/" + str(path.relative_to(self.chroot))


def chroot_directory() -> Path:
    """``PARKSCOPE_SID_ROOT``, else a place in the machine's or the user's cache."""
    if given := os.environ.get("PARKSCOPE_SID_ROOT"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/cache/parkscope/sid")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parkscope" / "sid"


def create_chroot() -> str | None:
    """Make the chroot unless it is there. Returns why it is not, or None."""
    root = chroot_directory()
    if (root / "usr/bin/python3.14").exists():
        return None
    if os.geteuid() != 0:
        return "a chroot needs root"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed"
    root.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and then moved there: half a chroot is never found.
    building = Path(tempfile.mkdtemp(dir=root.parent, prefix="sid-"))
    try:
        if (why := _debootstrap(building)) is None:
            building.rename(root)
        return why
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _debootstrap(directory: Path) -> str | None:
    """Fill ``directory``. Returns why that failed, or None.

    What debootstrap mounts, it mounts in a mount namespace of its own: however it
    ends, nothing of the host is mounted in a directory that gets removed.
    """
    packages = ",".join(f"python{version}" for version in CHROOT_PYTHONS)
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "sid", str(directory)]
    done = subprocess.run(
        ["unshare", "--mount", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return f"debootstrap failed: {done.stdout.strip().rpartition(chr(10))[2]}"
    directory.chmod(0o755)
    shutil.rmtree(directory / "var/cache/apt/archives", ignore_errors=True)
    return None


def _is_stripped(executable: Path, libraries: Path) -> bool:
    """Whether the file that holds the interpreter, or the libpython it needs, lacks .symtab."""
    with executable.open("rb") as stream:
        elf = ELFFile(stream)
        dynamic = elf.get_section_by_name(".dynamic")
        tags = dynamic.iter_tags("DT_NEEDED") if isinstance(dynamic, DynamicSection) else ()
        needed = [str(vars(tag)["needed"]) for tag in tags]
        library = next((name for name in needed if name.startswith("libpython")), None)
        if library is None:
            return elf.get_section_by_name(".symtab") is None
    with (libraries / library).open("rb") as stream:
        return ELFFile(stream).get_section_by_name(".symtab") is None


def _examine(name: str, executable: Path, chroot: Path | None = None) -> Interpreter | str:
    """The interpreter, or why it is none of use."""
    program = str(executable if chroot is None else "/" / executable.relative_to(chroot))
    argv = (program,) if chroot is None else ("chroot", str(chroot), program)
    try:
        answer = subprocess.run(
            [*argv, "-I", "-S", "-c", _FACTS],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not start: {error}"
    major, minor, micro, implementation, libdir = answer
    if implementation != "cpython":
        return f"is {implementation}"
    version = (int(major), int(minor), int(micro))
    return Interpreter(
        id=f"{name}-{major}.{minor}",
        argv=argv,
        version=version,
        stripped=_is_stripped(executable, (chroot or Path("/")) / libdir.lstrip("/")),
        chroot=chroot,
    )


def _candidates() -> Iterator[tuple[str, Path, Path | None]]:
    roots = {Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"), Path.home() / ".pyenv"}
    for root in sorted(roots):
        if os.access(root, os.R_OK | os.X_OK):
            for versions in sorted((root / "versions").glob("3.*/bin/python")):
                yield "pyenv", versions, None
    for system in sorted(Path("/usr/bin").glob("python3.*")):
        if system.name.removeprefix("python3.").isdigit():
            yield "system", system, None
    chroot = chroot_directory()
    if os.geteuid() == 0:
        for minor in CHROOT_PYTHONS:
            if (python := chroot / f"usr/bin/python{minor}").exists():
                yield "chroot", python, chroot


@cache
def _discover() -> tuple[dict[str, Interpreter], dict[str, str]]:
    found: dict[str, Interpreter] = {}
    absent: dict[str, str] = {}
    for name, executable, chroot in _candidates():
        answer = _examine(name, executable, chroot)
        if isinstance(answer, str):
            absent[str(executable)] = answer
        elif answer.version[:2] >= OLDEST:
            found.setdefault(answer.id, answer)  # of two micro versions one is enough
    for wanted, how in WANTED.items():
        if wanted not in found:
            reason = "a chroot needs root" if "chroot" in wanted and os.geteuid() else how
            absent[wanted] = reason
    return found, absent


def interpreters() -> list[Interpreter]:
    """Every interpreter of this machine that tests may start, oldest first."""
    return sorted(_discover()[0].values(), key=lambda one: (one.version, one.id))


def absent() -> dict[str, str]:
    """Members of the matrix that are not here, each with the reason or the remedy."""
    return dict(_discover()[1])


def get(name: str) -> Interpreter:
    """The interpreter of that id (``pyenv-3.12``); skips the test when it is absent."""
    found, missing = _discover()
    if name not in found:
        pytest.skip(f"no interpreter {name}: {missing.get(name, 'not on this machine')}")
    return found[name]


def matrix(*names: str, oldest: tuple[int, int] = (3, 11)) -> pytest.MarkDecorator:
    """Parametrize a test's ``interpreter`` argument: the named ones, or all from ``oldest`` on.

    Absent members stay visible as skipped tests with their reason.
    """
    found, missing = _discover()
    chosen: list[Any] = [
        pytest.param(one, id=one.id)
        for one in interpreters()
        if (one.id in names if names else one.version[:2] >= oldest)
    ]
    for name in names or WANTED:
        if name not in found:
            why = f"no interpreter {name}: {missing.get(name, 'not on this machine')}"
            chosen.append(pytest.param(None, id=name, marks=pytest.mark.skip(reason=why)))
    return pytest.mark.parametrize("interpreter", chosen)


@contextmanager
def scratch(interpreter: Interpreter) -> Iterator[Path]:
    """A directory that the host and a process of ``interpreter`` both reach, then gone."""
    inside = None if interpreter.chroot is None else interpreter.chroot / "tmp"
    with tempfile.TemporaryDirectory(dir=inside, prefix="parkscope-") as directory:
        yield Path(directory)


def _installed(interpreter: Interpreter, script: Path) -> Path:
    """``script`` where the interpreter can read it, with the modules that lie beside it.

    A chroot gets a copy, once per content; it stays there, as the chroot does.
    """
    if interpreter.chroot is None:
        return script.resolve()
    files = sorted({script, *script.parent.glob("*.py")})
    content = hashlib.sha256(b"\0".join(f.name.encode() + f.read_bytes() for f in files))
    place = interpreter.chroot / "tmp" / f"parkscope-{content.hexdigest()[:16]}"
    if not place.exists():
        partial = Path(tempfile.mkdtemp(dir=place.parent, prefix="parkscope-"))
        partial.chmod(0o755)
        for file in files:
            shutil.copy(file, partial)
        try:
            partial.rename(place)
        except OSError:  # not empty: another run was as quick
            shutil.rmtree(partial)
    return place / script.name


def launch(
    interpreter: Interpreter,
    script: Path,
    args: Sequence[str | Path] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``script`` under ``interpreter``: the Popen's pid is the Python process itself.

    Modules in the script's own directory can be imported, in a chroot too. Paths among
    ``args`` are named as the process sees them (see ``scratch``); other keywords are
    Popen's. stdin is empty and the process leads a session of its own, so that it can be
    killed with all its children; use the ``start`` fixture, which does that, in tests.
    """
    words = [interpreter.inside(a) if isinstance(a, Path) else a for a in args]
    program = interpreter.inside(_installed(interpreter, script))
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, **popen}
    return subprocess.Popen([*interpreter.argv, "-u", program, *words], **options)


def report() -> list[str]:
    """What is here and what is not, one line each."""
    lines = [
        f"{one.id}: {'.'.join(map(str, one.version))}{' stripped' if one.stripped else ''}"
        for one in interpreters()
    ]
    return lines + [f"{name}: absent ({reason})" for name, reason in absent().items()]


def _main(arguments: Sequence[str]) -> int:
    if "--create" in arguments and (why := create_chroot()):
        print(f"no chroot with newer Pythons: {why}")
    print("\n".join(report()))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
