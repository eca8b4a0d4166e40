"""The little language of conditions: ``park > 200ms and kind == "lock"``.

::

    condition = all ("or" all)*
    all       = single ("and" single)*
    single    = "not" single | "(" condition ")" | fact
              | fact ("==" | "!=" | "<" | "<=" | ">" | ">=" | "~") literal
              | fact "in" "(" literal ("," literal)* ")"

Facts are those of ``facts.FACTS``; ``~`` compares a text with a glob. What is not known
compares as false with everything. A condition is about one topic (``park``, ``deadlock``,
…), and an idle park meets it only if it says the word ``idle``.

Nothing is evaluated but what is parsed here. Every error names the position.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple

from probes.errors import UsageError
from tracer import units
from tracer.triggers.facts import FACTS, PARKS, SAMPLE, TOPICS, Fact, Moment, Type

MAX_LENGTH = 1000
MAX_DEPTH = 20
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<number>\d[\w.µ]*)|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<sign>==|!=|<=|>=|[<>~(),])|(?P<end>\Z))""",
    re.ASCII,
)
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
_EQUAL: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {"==": operator.eq, "!=": operator.ne}
)
_OPERATORS: Mapping[Type, Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        Type.DURATION: {**_EQUAL, **_ORDER},
        Type.SIZE: {**_EQUAL, **_ORDER},
        Type.COUNT: {**_EQUAL, **_ORDER},
        Type.TEXT: {**_EQUAL, "~": fnmatchcase},
        Type.TRUTH: _EQUAL,
    }
)
Test = Callable[[Moment], bool]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    ``topic`` is what it is about; ``lengths_ns`` are the durations that the park has to be
    compared with again when it reaches them; ``asks_idle``: idle parks may meet it, too.
    """

    text: str
    topic: str
    lengths_ns: tuple[int, ...]
    asks_idle: bool
    _test: Test

    def holds(self, moment: Moment) -> bool:
        """Whether it holds at that moment, which is one of its topic."""
        event = moment.event
        if event is not None and event.idle and not self.asks_idle:
            return False
        return self._test(moment)


def parse(text: str) -> Condition:
    """The condition of a text. Raises UsageError that names the position and what is allowed."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._facts: dict[str, int] = {}
        self._lengths: set[int] = set()
        self._depth = 0
        if len(text) > MAX_LENGTH:
            raise self._error(MAX_LENGTH, f"longer than {MAX_LENGTH} characters", "Say it shorter.")
        self._tokens = self._split()
        self._next = 0

    def parse(self) -> Condition:
        test = self._either()
        token = self._peek()
        if token.kind != "end":
            raise self._expected(token, "'and', 'or' or the end")
        return Condition(
            self._text,
            self._topic(),
            tuple(sorted(self._lengths)),
            "idle" in self._facts,
            test,
        )

    # -- words ----------------------------------------------------------------------

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        while True:
            found = _TOKEN.match(self._text, at)
            if found is None or found.lastgroup is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._error(
                    at, f"{self._text[at]!r} is not understood", "Texts stand in quotes."
                )
            kind = found.lastgroup
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
            if kind == "end":
                return tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        self._next += token.kind != "end"
        return token

    def _took(self, text: str) -> bool:
        token = self._peek()
        if token.kind in ("word", "sign") and token.text == text:
            self._next += 1
            return True
        return False

    def _error(self, at: int, what: str, hint: str) -> UsageError:
        return UsageError(f"condition {self._text!r}, character {at + 1}: {what}", hint=hint)

    def _expected(self, token: _Token, what: str) -> UsageError:
        found = f"{token.text!r}" if token.text else "the end"
        return self._error(token.at, f"{found} where {what} is expected", _EXAMPLE)

    # -- grammar --------------------------------------------------------------------

    def _either(self) -> Test:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(self._peek().at, f"deeper than {MAX_DEPTH} levels", "Say it simpler.")
        tests = [self._both()]
        while self._took("or"):
            tests.append(self._both())
        self._depth -= 1
        return tests[0] if len(tests) == 1 else lambda moment: any(one(moment) for one in tests)

    def _both(self) -> Test:
        tests = [self._single()]
        while self._took("and"):
            tests.append(self._single())
        return tests[0] if len(tests) == 1 else lambda moment: all(one(moment) for one in tests)

    def _single(self) -> Test:
        negated = False
        while self._took("not"):
            negated = not negated
        test = self._plain()
        return (lambda moment: not test(moment)) if negated else test

    def _plain(self) -> Test:
        if self._took("("):
            test = self._either()
            if not self._took(")"):
                raise self._expected(self._peek(), "')'")
            return test
        token = self._take()
        if token.kind != "word" or token.text in ("and", "or", "in"):
            raise self._expected(token, "a fact")
        fact = FACTS.get(token.text)
        if fact is None:
            raise self._error(
                token.at, f"{token.text!r} is no fact", f"There are: {', '.join(FACTS)}."
            )
        self._facts.setdefault(fact.name, token.at)
        return self._comparison(fact, token.at)

    def _comparison(self, fact: Fact, at: int) -> Test:
        value = fact.value
        if self._took("in"):
            options = self._list(fact)
            return lambda moment: value(moment) in options
        token = self._peek()
        compare = _OPERATORS[fact.type].get(token.text) if token.kind == "sign" else None
        if compare is not None:
            self._take()
            literal = self._literal(fact)
            compared = compare
            return lambda moment: (
                (found := value(moment)) is not None and bool(compared(found, literal))
            )
        if token.kind == "sign" and token.text not in (")", ",", "("):
            allowed = " ".join(_OPERATORS[fact.type])
            raise self._error(
                token.at, f"{fact.name} cannot be compared by {token.text}",
                f"It is {fact.type.value}; there are: {allowed} in.",
            )  # fmt: skip
        if fact.type is Type.TRUTH:
            return lambda moment: value(moment) is True
        if fact.name in TOPICS:
            return lambda moment: moment.event is not None
        raise self._error(
            at, f"{fact.name} is not true or false", f"Compare it with {fact.type.value}."
        )

    def _list(self, fact: Fact) -> frozenset[Any]:
        if not self._took("("):
            raise self._expected(self._peek(), "'('")
        options = {self._literal(fact)}
        while self._took(","):
            options.add(self._literal(fact))
        if not self._took(")"):
            raise self._expected(self._peek(), "')'")
        return frozenset(options)

    def _literal(self, fact: Fact) -> Any:
        token = self._take()
        try:
            value = _value(fact.type, token)
        except UsageError:
            value = None
        if value is None:
            found = token.text or "the end"
            raise self._error(
                token.at, f"{found} is nothing to compare {fact.name} with",
                f"It is {fact.type.value}.",
            )  # fmt: skip
        if fact.name in PARKS and fact.type is Type.DURATION:
            self._lengths.add(value)
        return value

    # -- what it is about -------------------------------------------------------------

    def _topic(self) -> str:
        """The one topic that all of its facts can be said of."""
        possible = list(TOPICS)
        first = ""
        for name, at in self._facts.items():
            topics = FACTS[name].topics
            if not topics:
                continue
            remaining = [topic for topic in possible if topic in topics]
            if not remaining:
                raise self._error(
                    at, f"{name} and {first} are facts of different events",
                    "Write a trigger for each.",
                )  # fmt: skip
            possible, first = remaining, first or name
        return possible[0] if first else SAMPLE


def _value(kind: Type, token: _Token) -> Any:
    """The value of a literal, None where it is of another kind. Raises UsageError."""
    if kind is Type.TEXT:
        return token.text[1:-1] if token.kind == "text" else None
    if kind is Type.TRUTH:
        return {"true": True, "false": False}.get(token.text)
    if token.kind != "number":
        return None
    if kind is Type.DURATION:
        return units.parse_duration_ns(token.text)
    if kind is Type.SIZE:
        return units.parse_size_bytes(token.text)
    return int(token.text) if token.text.isdigit() else None


_EXAMPLE = 'For example: park > 200ms and kind == "lock".'
