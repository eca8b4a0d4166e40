"""A signal ends what has not begun at once, and what has begun properly."""

from __future__ import annotations

import io
import signal

import pytest

from tracer.interrupts import Interrupts
from tracer.watch import coloured


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_the_probes_are_armed_it_ends_at_once(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as ended, Interrupts():
        signal.raise_signal(number)
    assert ended.value.code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_once_armed_the_first_one_asks_and_the_second_does_not_wait(
    number: signal.Signals,
) -> None:
    with Interrupts() as interrupts:
        interrupts.arm()
        assert not interrupts.should_stop()
        signal.raise_signal(number)
        assert interrupts.should_stop()
        assert interrupts.exit_code == 128 + number
        with pytest.raises(SystemExit):
            signal.raise_signal(number)


def test_to_be_asked_by_a_key_is_no_failure() -> None:
    with Interrupts() as interrupts:
        interrupts.arm()
        interrupts.stop()
        assert interrupts.should_stop()
        assert interrupts.exit_code == 0


def test_afterwards_signals_mean_what_they_did() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO,
    variables: dict[str, str],
    expected: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert coloured(stream) is expected
