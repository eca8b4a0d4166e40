"""The stateful test of ``model.py``, as short as a test may be."""

from __future__ import annotations

import os

import pytest

from contract import IMPLEMENTATIONS
from model import run_model

EXAMPLES = int(os.environ.get("CONCURRENT_MAP_EXAMPLES", "100"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_does_what_a_dict_does(implementation: str) -> None:
    run_model(implementation, examples=EXAMPLES)
