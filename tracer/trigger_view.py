"""What ``parkscope triggers`` says: the words of conditions and the actions, by their tables."""

from __future__ import annotations

from collections.abc import Iterator

from tracer import units
from tracer.actions import ACTIONS
from tracer.triggers.config import RULE_KEYS
from tracer.triggers.facts import FACTS, TOPICS
from tracer.triggers.keys import Key, duration, size


def trigger_lines() -> Iterator[str]:
    """Topics, facts, actions and keys, one a line."""
    yield "A condition is about one of"
    for topic in TOPICS.values():
        yield f"  {topic.name:<16}{topic.about}"
    yield ""
    yield "It compares (== != < <= > >= ~ in; and, or, not, parentheses)"
    for fact in FACTS.values():
        of = f" [{', '.join(fact.topics)}]" if fact.topics else ""
        yield f"  {fact.name:<16}{fact.about}: {fact.type.value}{of}"
    yield ""
    yield "Actions, each with its keys in a file of --triggers"
    for action in ACTIONS.values():
        yield f"  {action.name:<16}{action.about}"
        for name, key in action.keys.items():
            yield f"      {name:<18}{_key(key)}"
    yield ""
    yield "Keys of a [[trigger]] beside 'on' and 'do'"
    for name, key in RULE_KEYS.items():
        if name != "on":
            yield f"  {name:<22}{_key(key)}"


def _key(key: Key) -> str:
    if key.default is None:
        return key.about
    shown = {True: "true", False: "false"}.get(key.default, str(key.default))
    if key.read is duration:
        shown = units.duration(key.default)
    elif key.read is size:
        shown = units.size(key.default)
    return f"{key.about} ({shown})"
