"""The example's concurrent map, compiled for an interpreter that it is not installed in.

python -m tests.map_build --headers    C headers for the chroot's Pythons (root, once)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.interpreters import CHROOT_PYTHONS, Interpreter, chroot_directory

EXAMPLE = Path(__file__).parents[1] / "examples" / "concurrent_map" / "src"
"""The sources of the example's extension."""
OPTIONS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden")
"""As in its setup.py."""


def include_options(interpreter: Interpreter) -> list[str] | None:
    """What the compiler needs to find ``Python.h``; None where that is not here."""
    asked = "import sysconfig; print(sysconfig.get_path('include'))"
    said = subprocess.run(
        [*interpreter.argv, "-c", asked], capture_output=True, text=True, check=True
    )
    root = interpreter.chroot or Path("/")
    include = root / said.stdout.strip().lstrip("/")
    if not (include / "Python.h").is_file():
        return None
    # Debian's pyconfig.h lies in a folder of the machine's kind; libc's headers are the host's.
    beside = ["-idirafter", str(root / "usr/include")] if interpreter.chroot else []
    return [f"-I{include}", *beside]


def compile_map(directory: Path, interpreter: Interpreter, *flags: str) -> Path | None:
    """A directory to import ``concurrent_map`` from: ``directory``.

    None where a compiler or the interpreter's headers are not here. Raises
    CalledProcessError when the compiler does not like what it reads.
    """
    include = include_options(interpreter)
    if include is None or shutil.which("cc") is None:
        return None
    package = directory / "concurrent_map"
    shutil.copytree(EXAMPLE / "concurrent_map", package)
    sources = sorted([*EXAMPLE.glob("core/*.c"), *EXAMPLE.glob("ext/*.c")])
    folders = [f"-I{EXAMPLE}/core", f"-I{EXAMPLE}/ext", *include]
    command: list[str | Path] = [
        "cc",
        *OPTIONS,
        *flags,
        *folders,
        "-o",
        package / "_core.so",
        *sources,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def fetch_headers() -> str | None:
    """Put the headers of the chroot's Pythons into it. Returns why that failed, or None."""
    root = chroot_directory()
    missing = [v for v in CHROOT_PYTHONS if not (root / f"usr/include/python{v}/Python.h").exists()]
    if not (root / "usr/bin").is_dir():
        return "there is no chroot"
    if not missing:
        return None
    with tempfile.TemporaryDirectory(dir=root / "tmp", prefix="parkscope-") as folder:
        # As root, for apt's own user may not write there; the lists are the ones of the chroot.
        packages = [f"libpython{version}-dev" for version in missing]
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
        place = f"/tmp/{Path(folder).name}"
        done = subprocess.run(
            ["chroot", str(root), "sh", "-c", 'cd "$0" && exec "$@"', place, *apt],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            return done.stderr.strip().rpartition("\n")[2]
        for package in Path(folder).glob("*.deb"):
            _unpack_headers(package, root)
    return None


def _unpack_headers(package: Path, root: Path) -> None:
    """Nothing else of it: the static library would take 20 MB."""
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
    command = ["tar", "-x", "-C", str(root), "./usr/include"]
    subprocess.run(command, input=tar.stdout, check=True)


def _main(arguments: Sequence[str]) -> int:
    if "--headers" in arguments and (why := fetch_headers()):
        print(f"no C headers for the chroot's Pythons: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
