"""Every scenario against its own log, by the backend without privileges.

How exact it is, is no matter here (``./check --full`` shows the times): a busy machine
makes samples late, so only waits well above the threshold have to be flagged.
"""

from __future__ import annotations

import pytest

from examples.scenarios import scenarios
from tests import interpreters
from tests.interpreters import Interpreter
from tests.observe import observe
from tests.truth import compare

pytestmark = [pytest.mark.ptrace, pytest.mark.slow]

SLACK_NS = 150_000_000
SECONDS = 4.0


def check(interpreter: Interpreter, scenario: str) -> None:
    observation = observe(interpreter, scenario, "proc", SECONDS)
    report = compare(observation, SLACK_NS)
    assert observation.status == 0
    assert report.faults == [], str(report)
    assert report.expected > 0


@pytest.mark.parametrize("scenario", scenarios())
@interpreters.matrix("system-3.11")
def test_scenario_agrees_with_its_log(interpreter: Interpreter, scenario: str) -> None:
    check(interpreter, scenario)


@interpreters.matrix("pyenv-3.11", "pyenv-3.12", "pyenv-3.13", "chroot-3.14", "chroot-3.15")
def test_the_gil_is_found_in_every_version(interpreter: Interpreter) -> None:
    check(interpreter, "gil_hog")
