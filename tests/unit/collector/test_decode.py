"""The decoder takes any bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.decode import decode
from probes.wire import RECORD, RECORD_SIZE, Kind, RunState, make


@given(st.binary(max_size=700))
def test_every_byte_is_a_record_or_counted(raw: bytes) -> None:
    decoded = decode(raw)
    pieces = -(-len(raw) // RECORD_SIZE)
    assert len(decoded.records) + decoded.malformed == pieces
    assert decoded.records.dtype == RECORD


def test_good_records_come_through_byte_for_byte() -> None:
    raw = b"".join(
        [
            make(Kind.WAKE, ts_ns=1, pid=2, tid=3).tobytes(),
            make(Kind.THREAD_STATE, ts_ns=4, state=RunState.SLEEPING).tobytes(),
        ]
    )
    decoded = decode(raw)
    assert decoded.malformed == 0
    assert decoded.records.tobytes() == raw


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(1, RECORD),
        make(Kind.THREAD_STATE, state=0),
        make(Kind.WAIT, wait_class=0),
        make(Kind.WAIT_OPEN, wait_class=9),
    ],
)
def test_a_field_outside_its_set_is_malformed(bad: np.ndarray) -> None:
    good = make(Kind.SCAN, ts_ns=9)
    decoded = decode(bad.tobytes() + good.tobytes() + b"tail")
    assert decoded.malformed == 2
    assert decoded.records.tobytes() == good.tobytes()
