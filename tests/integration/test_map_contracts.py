"""The concurrent map keeps its contracts under every CPython that it is for.

Its own tests run for the interpreter of ./check; these run the ones that need no pytest under
the others, each with an extension compiled for it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.interpreters import Interpreter, matrix, scratch
from tests.map_build import EXAMPLE, compile_map

TESTS = EXAMPLE.parent / "tests"


@pytest.mark.slow
@matrix()
def test_the_contracts_hold(interpreter: Interpreter) -> None:
    if interpreter.version == sys.version_info[:3]:
        pytest.skip("./check runs them under this one anyway")
    with scratch(interpreter) as directory:
        directory.chmod(0o755)
        package = compile_map(directory / "built", interpreter)
        if package is None:
            pytest.skip(f"no compiler, or no headers of {interpreter.id}")
        for test in [TESTS / "contract.py", *TESTS.glob("test_contract_*.py")]:
            shutil.copy(test, directory)
        here = interpreter.inside(directory)
        words = ["-X", "faulthandler", "-W", "error", "-m", "unittest", "discover", "-s", here]
        program = [*interpreter.argv, *words, "-p", "test_contract_*.py"]
        command = ["env", f"PYTHONPATH={interpreter.inside(package)}", *program]
        if interpreter.chroot is not None:
            chroot, root, *python = program
            command = [chroot, root, "env", f"PYTHONPATH={interpreter.inside(package)}", *python]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=100, cwd=directory
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "OK" in done.stderr
