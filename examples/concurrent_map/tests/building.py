"""The C of the map compiled for a purpose: with sanitizers, for a fuzzer, or with a mistake.

    python building.py KIND DIRECTORY      prints where the program stands

The standalone core (no Python in it) under the harnesses of ``core/``, or the extension, as
a package to put on a path. A mistake is made in a copy of the sources.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "src"
HARNESSES = TESTS / "core"

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
THREAD = ("-fsanitize=thread",)
COVERAGE = ("--coverage",)
LENDING = "-DCM_LENDING=1"
"""As in the extension, where the GIL sees to it that one thread is here: for one thread only."""
MODEL = ("fuzz.c", "model.c", "pictures.c", "sound.c", "things.c")
OVERLAP = ("overlap.c", "sound.c", "things.c")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Mistake:
    """One passage of the sources, and what stands there instead."""

    name: str
    file: str
    right: str
    wrong: str

    def make(self, sources: Path) -> None:
        """Put it into a copy of the sources; ValueError where the passage is not there once."""
        path = sources / self.file
        text = path.read_text()
        if text.count(self.right) != 1:
            raise ValueError(f"{self.name}: {self.file} has it {text.count(self.right)} times")
        path.write_text(text.replace(self.right, self.wrong))


def _run(command: Sequence[str | Path], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")


def _copied(directory: Path, mistake: Mistake | None) -> Path:
    if mistake is None:
        return SOURCES
    sources = directory / "src"
    shutil.copytree(SOURCES, sources)
    mistake.make(sources)
    return sources


def standalone(
    directory: Path,
    harness: Sequence[str],
    flags: Sequence[str],
    *,
    compiler: str = "cc",
    mistake: Mistake | None = None,
) -> Path:
    """The core with a harness, as a program in the directory."""
    core = _copied(directory, mistake) / "core"
    program = directory / "program"
    options = ["-O1", "-g", "-std=gnu11", "-pthread", "-DCM_STANDALONE", *flags]
    options += [f"-I{core}", f"-I{HARNESSES}", "-include", str(HARNESSES / "things.h")]
    sources = [HARNESSES / name for name in harness] + sorted(core.glob("*.c"))
    _run([compiler, *options, "-o", program, *sources], directory)
    return program


def extension(
    directory: Path, flags: Sequence[str] = (), *, mistake: Mistake | None = None
) -> Path:
    """A directory to import ``concurrent_map`` from, for this Python."""
    sources = _copied(directory, mistake)
    package = directory / "concurrent_map"
    shutil.copytree(sources / "concurrent_map", package)
    options = ["-O1", "-g", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", *flags]
    options += [f"-I{sources}/core", f"-I{sources}/ext", f"-I{sysconfig.get_path('include')}"]
    files = [*sources.glob("core/*.c"), *sources.glob("ext/*.c")]
    _run(["cc", *options, "-o", package / "_core.so", *sorted(files)], directory)
    return directory


def preloadable(*names: str) -> str:
    """The sanitizers' run-times as LD_PRELOAD wants them."""
    asked = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, check=True).stdout
        for name in names
    ]
    return " ".join(one.decode().strip() for one in asked)


KINDS = {
    "driver": (("driver.c", *MODEL), (*ADDRESS, LENDING), "cc"),
    "coverage": (("driver.c", *MODEL), (*COVERAGE, LENDING), "cc"),
    "fuzzer": (MODEL, ("-fsanitize=fuzzer,address,undefined", *ADDRESS[1:], LENDING), "clang"),
    "overlap-address": (OVERLAP, ADDRESS, "cc"),
    "overlap-thread": (OVERLAP, THREAD, "cc"),
}


def main(words: Sequence[str]) -> int:
    """Entry point."""
    kind, directory = words
    harness, flags, compiler = KINDS[kind]
    Path(directory).mkdir(parents=True, exist_ok=True)
    print(standalone(Path(directory).resolve(), harness, flags, compiler=compiler))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
