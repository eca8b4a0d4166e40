"""Raw bytes to records: total, whatever the bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.source import Buffer
from probes.wire import (
    KIND_END,
    PAYLOAD,
    RECORD,
    RECORD_SIZE,
    BreakerState,
    Kind,
    MapCounter,
    MapMode,
    MapOutcome,
    RunState,
    WaitClass,
)

_STATES = np.array([state.value for state in RunState], np.uint8)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Well-formed records (dtype ``RECORD``, arrival order) and how many were not."""

    records: npt.NDArray[Any]
    malformed: int


def decode(raw: Buffer) -> Decoded:
    """Split a buffer into records.

    A record is malformed when its kind is unknown or a field that later code
    branches on is outside its set; a trailing piece of fewer than 64 bytes counts
    as one malformed record. Never raises for any bytes.
    """
    data = np.frombuffer(raw, np.uint8)
    whole = len(data) // RECORD_SIZE
    malformed = 1 if len(data) % RECORD_SIZE else 0
    records = data[: whole * RECORD_SIZE].view(RECORD)
    if not whole:
        return Decoded(records, malformed)  # as most batches of an idle target
    good = (records["kind"] > 0) & (records["kind"] < KIND_END)
    good &= ~_bad_payload(records)
    if good.all():
        return Decoded(records, malformed)
    kept = records[good]
    return Decoded(kept, malformed + whole - len(kept))


def _bad_payload(records: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    kind = records["kind"]
    states = records.view(PAYLOAD[Kind.THREAD_STATE])["state"]
    bad: npt.NDArray[np.bool_] = (kind == Kind.THREAD_STATE) & ~np.isin(states, _STATES)
    waits = records.view(PAYLOAD[Kind.WAIT])
    is_wait = (kind == Kind.WAIT) | (kind == Kind.WAIT_OPEN)
    wrong_class = (waits["wait_class"] < WaitClass.LOCK) | (waits["wait_class"] > WaitClass.MAP)
    bad |= is_wait & wrong_class
    is_count = kind == Kind.MAP_COUNT
    if is_count.any():
        counts = records.view(PAYLOAD[Kind.MAP_COUNT])
        bad |= is_count & (counts["counter"] < MapCounter.RANGE_BEGUN)
        bad |= is_count & (counts["counter"] > MapCounter.OPERATION)
        bad |= is_count & (counts["mode"] > MapMode.OTHER)
        bad |= is_count & (counts["outcome"] > MapOutcome.UNKNOWN)
    is_breaker = kind == Kind.BREAKER
    if is_breaker.any():
        breakers = records.view(PAYLOAD[Kind.BREAKER])
        for state in ("from", "to"):
            bad |= is_breaker & (breakers[state] > BreakerState.UNKNOWN)
    return bad
