"""Texts as JSON strings, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import orjson

_AT_ONCE = 1 << 16


def json_text(text: str) -> bytes:
    r"""One JSON string. A lone surrogate, which UTF-8 has no form for, is ``\udXXX``."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return json.dumps(text).encode()


def json_texts(texts: Sequence[str]) -> Iterator[bytes]:
    """JSON strings with commas between, many at a time; commas between the pieces are not."""
    for first in range(0, len(texts), _AT_ONCE):
        part = list(texts[first : first + _AT_ONCE])
        try:
            yield orjson.dumps(part)[1:-1]
        except orjson.JSONEncodeError:
            yield b",".join(map(json_text, part))
