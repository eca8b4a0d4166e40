"""Text from a target cannot steer a terminal or rich, whatever it holds."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from tracer.escape import LIMIT, markup, terminal

ANYTHING = st.text(st.characters(), max_size=400)
NASTY = st.text(
    st.sampled_from("\x1b[]\\/ab#@:\x07\n\r\t\x9b\x7f\u202e\u2066\ud800\u200d…"), max_size=60
)


@given(ANYTHING | NASTY, st.integers(1, 300))
def test_nothing_but_printable_text_of_bounded_length_comes_out(text: str, limit: int) -> None:
    shown = terminal(text, limit)
    assert len(shown) <= limit
    for character in shown:
        # independent of str.isprintable: no control, format, surrogate, private or separator
        assert character == " " or unicodedata.category(character)[0] not in "CZ"
    shown.encode("utf-8")


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=LIMIT))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert terminal(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\x0ab"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("naïve – 日本", "naïve – 日本"),
    ],
)
def test_how_it_is_spelled(text: str, shown: str) -> None:
    assert terminal(text) == shown


def test_a_cut_is_shown_and_never_splits_an_escape() -> None:
    assert terminal("abcdef", 4) == "abc…"
    assert terminal("ab\x1bcd", 5) == "ab…"
    assert terminal("x" * 10_000_000, 10) == "x" * 9 + "…"


@given(ANYTHING | NASTY)
def test_markup_shows_the_same_and_styles_nothing(text: str) -> None:
    rendered = Text.from_markup(f"[bold]{markup(text)}[/]", emoji=False)
    assert rendered.plain == terminal(text)
    assert {str(span.style) for span in rendered.spans} <= {"bold"}
