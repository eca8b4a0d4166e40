"""Issue 6, line 0: from a convoy on a shard to the replay of its trace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import story
from tests.benchmarks.pairs import interpreter
from tests.full import Figure, NotMeasured, exactly, must_show

PYTHONS = ("system-3.11", "pyenv-3.11", "pyenv-3.12", "pyenv-3.13")


@must_show("convoy on a shard, end to end: what is wrong in each chapter", issue=6, line=0)
def chapters() -> Iterator[Figure]:
    for name in PYTHONS:
        try:
            python = interpreter(name)
        except NotMeasured:
            continue
        with tempfile.TemporaryDirectory(prefix="parkscope-story-") as directory:
            told = story.tell(python, Path(directory))
            if told is None:
                raise NotMeasured("the map cannot be built: a compiler or Python.h is missing")
            for chapter, faults in story.CHAPTERS:
                wrong = faults(told)
                note = "; ".join(wrong)[:200] or f"{len(told.waits())} long waits for the shard"
                yield Figure(len(wrong), f"{name}: {chapter}", exactly(0), note)
