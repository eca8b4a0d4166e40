"""Text from a target made safe to show.

Names, paths and arguments come from another process and may hold anything: escape
sequences, C1 controls, line ends, bidirectional overrides that make a line read
backwards, lone surrogates of undecodable bytes. Every sink passes such text through
here, and nowhere earlier, so that traces and JSON keep what was really there.
"""

from __future__ import annotations

import re

LIMIT = 200
"""Characters that one piece of text may take on a screen."""

_CUT = "…"
_BRACKET = re.compile(r"(\\*)(\[[a-z#/@][^[]*?\]|\[)")


def terminal(text: str, limit: int = LIMIT) -> str:
    r"""``text`` as one printable line of at most ``limit`` characters.

    Whatever Python does not count as printable (``str.isprintable``: controls,
    format characters such as bidi overrides, surrogates, separators but the space)
    stands there as ``\x1b``, ``\u202e``, ...; a cut is shown by ``…``.
    """
    if len(text) <= limit and text.isprintable():
        return text
    shown: list[str] = []
    length = 0
    for character in text[: limit + 1]:
        piece = character if character.isprintable() else _spelled(character)
        if length + len(piece) > limit:
            return _cut(shown, limit)
        shown.append(piece)
        length += len(piece)
    return "".join(shown)


def markup(text: str, limit: int = LIMIT) -> str:
    """``terminal(text)``, with what rich would take for a style tag made literal.

    For use before a tag, as in ``f"[bold]{markup(name)}[/]"``. The rules are those of
    ``rich.markup``: a bracket loses one backslash before it, one that looks like a tag
    half of them.
    """
    shown = _BRACKET.sub(_literal, terminal(text, limit))
    return shown + "\\" * (len(shown) - len(shown.rstrip("\\")))


def _literal(found: re.Match[str]) -> str:
    backslashes, bracket = found.groups()
    return f"{backslashes if bracket == '[' else backslashes * 2}\\{bracket}"


def _spelled(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _cut(shown: list[str], limit: int) -> str:
    while shown and sum(map(len, shown)) > limit - len(_CUT):
        shown.pop()
    return "".join(shown) + _CUT[:limit]
