"""The hazard scripts of the examples, run under an interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.interpreters import Interpreter, launch
from tests.map_build import compile_map

FOLDER = Path(__file__).parents[1] / "examples" / "hazards"
SCRIPTS = tuple(sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "rounds"))
PATIENCE_S = 240


class Hazards:
    """Scripts and the compiled map, where the interpreter reaches them."""

    def __init__(self, directory: Path, python: Interpreter) -> None:
        self._folder, self._python = directory / "hazards", python
        shutil.copytree(FOLDER, self._folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._package = compile_map(directory / "package", python)

    @property
    def usable(self) -> bool:
        """False where the map cannot be compiled for the interpreter."""
        return self._package is not None

    def start(self, script: str, *words: str, **popen: Any) -> subprocess.Popen[bytes]:
        """The script's process; its stdout is a pipe."""
        if self._package is None:
            raise ValueError("there is no map for it")
        return launch(
            self._python,
            self._folder / f"{script}.py",
            words,
            env=os.environ
            | {"PYTHONPATH": self._python.inside(self._package), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            **popen,
        )

    def outcome(self, script: str, rounds: int) -> dict[str, Any]:
        """What it says at its end, with its exit code as ``status``."""
        process = self.start(script, "--rounds", str(rounds))
        said, _ = process.communicate(timeout=PATIENCE_S)
        found: dict[str, Any] = json.loads(said) if said else {"rounds": 0}
        return {**found, "status": process.returncode}
