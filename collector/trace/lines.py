"""Events and facts as JSON lines: writing that cannot fail, reading that trusts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collector.events import Event
from collector.trace.format import BadFrame

_INTEGERS = {"ts_ns": 64, "pid": 32, "tid": 32, "start_ns": 64, "duration_ns": 64}
_TEXTS = ("thread_name", "kind")
_BOOLEANS = ("idle", "before_attach")
_LIMIT = 1 << 64
_DEPTH = 32


def dump(value: Mapping[str, Any]) -> bytes:
    """One JSON object without a line end.

    What JSON cannot say (bytes, lone surrogates of a file name, integers over 64
    bits) is written as text with backslash escapes, never refused: the event that
    carries it has been accepted.
    """
    import orjson

    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return orjson.dumps(_speakable(value, _DEPTH))


def load_object(line: bytes) -> dict[str, Any]:
    """One JSON object; raises BadFrame for anything else."""
    import orjson

    try:
        value = orjson.loads(line)
    except ValueError as error:
        raise BadFrame("not JSON") from error
    if not isinstance(value, dict):
        raise BadFrame("not a JSON object")
    return value


def load_events(raw: bytes) -> tuple[list[Event], int]:
    """The events of a payload, oldest first, and how many lines were none."""
    events: list[Event] = []
    bad = 0
    for line in raw.split(b"\n"):
        if not line:
            continue
        try:
            events.append(_event(load_object(line)))
        except (BadFrame, ValueError):
            bad += 1
    return events, bad


def _event(flat: dict[str, Any]) -> Event:
    """The event of a flat object whose common keys have the types that they must have."""
    for key, bits in _INTEGERS.items():
        value = flat.get(key)
        if value is not None and not (type(value) is int and 0 <= value < 1 << bits):
            raise BadFrame(f"{key} is no unsigned integer")
    for key in _TEXTS:
        if not isinstance(flat.get(key), str | None):
            raise BadFrame(f"{key} is no text")
    for key in _BOOLEANS:
        if not isinstance(flat.get(key), bool | None):
            raise BadFrame(f"{key} is no truth value")
    return Event.from_dict(flat)


def _speakable(value: Any, depth: int) -> Any:
    """A copy that JSON can say."""
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {_text(key): _speakable(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_speakable(item, depth - 1) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if hasattr(value, "__index__"):
        number = int(value)
        return number if -(_LIMIT >> 1) <= number < _LIMIT else str(number)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
