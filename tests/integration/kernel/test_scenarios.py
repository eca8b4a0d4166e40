"""Every scenario against its own log, by eBPF.

Which parks, which kinds, none invented, idle is idle; how exact the times are is shown
by ``./check --full``.
"""

from __future__ import annotations

import pytest

from examples.scenarios import scenarios
from tests import interpreters
from tests.interpreters import Interpreter
from tests.observe import observe
from tests.truth import compare

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SLACK_NS = 10_000_000
SECONDS = 4.0
VERSION_DEPENDENT = ("gil_hog", "lock_convoy", "idle_pool")


def check(interpreter: Interpreter, scenario: str) -> None:
    observation = observe(interpreter, scenario, "bcc", SECONDS)
    report = compare(observation, SLACK_NS)
    assert observation.status == 0
    assert report.faults == [], str(report)
    assert report.expected > 0


@pytest.mark.parametrize("scenario", scenarios())
@interpreters.matrix("system-3.11")
def test_scenario_agrees_with_its_log(interpreter: Interpreter, scenario: str) -> None:
    check(interpreter, scenario)


@pytest.mark.parametrize("scenario", VERSION_DEPENDENT)
@interpreters.matrix("pyenv-3.11", "pyenv-3.12", "pyenv-3.13", "chroot-3.14", "chroot-3.15")
def test_scenario_agrees_with_its_log_in_every_version(
    interpreter: Interpreter, scenario: str
) -> None:
    check(interpreter, scenario)
