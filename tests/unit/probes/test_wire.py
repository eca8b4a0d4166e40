"""``record.h`` and ``wire.py`` say the same: a C compiler is the judge.

The C side is asked, never parsed: a program made of ``sizeof`` and ``offsetof``
prints what the compiler laid out, and the names of the enumerators come from the
preprocessed header.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import numpy as np
import pytest

from probes import wire
from probes.wire import PAYLOAD, RECORD, Kind

HEADER = Path(wire.__file__).parent / "record.h"

MEMBER = {
    Kind.THREAD_STATE: "thread_state",
    Kind.WAIT_OPEN: "wait",
    Kind.WAIT: "wait",
    Kind.WAKE: "wake",
    Kind.THREAD_START: "lifecycle",
    Kind.THREAD_EXIT: "lifecycle",
    Kind.PROC_FORK: "lifecycle",
    Kind.PROC_EXEC: "lifecycle",
    Kind.PROC_EXIT: "lifecycle",
    Kind.LARGE_ALLOC: "large_alloc",
    Kind.WAIT_HIST: "wait_hist",
    Kind.POOL_REFILL: "pool_refill",
    Kind.SCAN: "scan",
    Kind.RUN: "run",
    Kind.MAP_COUNT: "map_count",
    Kind.BREAKER: "breaker",
}
"""The union member of ``struct ps_record`` that each kind fills."""

ENUMS: dict[str, tuple[str, type[IntEnum | IntFlag]]] = {
    "ps_kind": ("PS_", wire.Kind),
    "ps_flag": ("PS_F_", wire.Flag),
    "ps_wait_class": ("PS_WAIT_", wire.WaitClass),
    "ps_map_counter": ("PS_MAP_", wire.MapCounter),
    "ps_map_mode": ("PS_MODE_", wire.MapMode),
    "ps_map_outcome": ("PS_OUTCOME_", wire.MapOutcome),
    "ps_breaker_state": ("PS_STATE_", wire.BreakerState),
    "ps_alloc_api": ("PS_ALLOC_", wire.AllocApi),
    "ps_run_state": ("PS_", wire.RunState),
}

HEADER_FIELDS = ("ts_ns", "pid", "tid", "kind", "flags", "aux")


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        if os.environ.get("PARKSCOPE_REQUIRE_EBPF") == "1":
            pytest.fail("./check as root installs a C compiler, and there is none", pytrace=False)
        pytest.skip("no C compiler (apt install gcc libc6-dev)")
    return found


def _ask(compiler: str, directory: Path, expressions: dict[str, str]) -> dict[str, int]:
    """The value that the compiled header gives to each integer expression."""
    source, program = directory / "ask.c", directory / "ask"
    prints = "\n".join(
        f'printf("%s %lld\\n", "{name}", (long long)({text}));'
        for name, text in expressions.items()
    )
    source.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\n'
        f"int main(void) {{ struct ps_record r; (void)r;\n{prints}\nreturn 0; }}\n"
    )
    subprocess.run([compiler, "-std=gnu11", "-Wall", "-Werror", "-o", program, source], check=True)
    answer = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {
        name: int(value)
        for name, value in (line.rsplit(" ", 1) for line in answer.split("\n") if line)
    }


def _enumerators(compiler: str) -> dict[str, list[str]]:
    """Names in each enum of the header, comments and conditions gone."""
    text = subprocess.run(
        [compiler, "-E", "-P", HEADER], check=True, capture_output=True, text=True
    ).stdout
    return {
        name: re.findall(r"\bPS_\w+(?=\s*[=,}])", body + "}")
        for name, body in re.findall(r"enum\s+(\w+)\s*\{([^}]*)\}", text)
    }


def test_sizes_and_version(compiler: str, tmp_path: Path) -> None:
    asked = _ask(
        compiler,
        tmp_path,
        {
            "record": "sizeof(struct ps_record)",
            "declared": "PS_RECORD_SIZE",
            "version": "PS_WIRE_VERSION",
            "end": "PS_KIND_END",
        },
    )
    assert asked == {
        "record": wire.RECORD_SIZE,
        "declared": RECORD.itemsize,
        "version": wire.WIRE_VERSION,
        "end": wire.KIND_END,
    }


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_every_field_has_the_same_place_size_and_sign(
    compiler: str, tmp_path: Path, kind: Kind
) -> None:
    dtype = PAYLOAD[kind]
    assert dtype.names is not None
    expressions, expected = {}, {}
    for field in dtype.names:
        member = field if field in HEADER_FIELDS else f"{MEMBER[kind]}.{field}"
        base, offset = dtype.fields[field][:2] if dtype.fields else (None, None)
        assert isinstance(base, np.dtype)
        expressions[f"{field} offset"] = f"offsetof(struct ps_record, {member})"
        expressions[f"{field} size"] = f"sizeof(r.{member})"
        expected[f"{field} offset"] = offset
        expected[f"{field} size"] = base.itemsize
        if base.kind != "S":
            expressions[f"{field} signed"] = f"(__typeof__(r.{member}))-1 < 1"
            expected[f"{field} signed"] = int(base.kind == "i")
    expressions["member size"] = f"sizeof(r.{MEMBER[kind]})"
    expected["member size"] = wire.RECORD_SIZE - 24
    assert _ask(compiler, tmp_path, expressions) == expected
    # No hole that the C side could have a field in which Python lacks.
    sizes = [dtype.fields[name][0].itemsize for name in dtype.names] if dtype.fields else []
    assert sum(sizes) == wire.RECORD_SIZE


def test_every_enumerator_has_the_same_value(compiler: str, tmp_path: Path) -> None:
    names = _enumerators(compiler)
    assert names.keys() == ENUMS.keys()
    values = _ask(compiler, tmp_path, {name: name for group in names.values() for name in group})
    for enum, (prefix, python) in ENUMS.items():
        in_c = {name.removeprefix(prefix): values[name] for name in names[enum]}
        if enum == "ps_kind":
            assert in_c.pop("KIND_END") == wire.KIND_END
        assert in_c == {member.name: member.value for member in python}


def test_every_union_member_belongs_to_a_kind(compiler: str) -> None:
    text = subprocess.run(
        [compiler, "-E", "-P", HEADER], check=True, capture_output=True, text=True
    ).stdout
    record = text[text.index("struct ps_record") :]
    assert set(re.findall(r"struct ps_\w+ (\w+);", record)) == set(MEMBER.values())
    assert set(PAYLOAD) == set(MEMBER) == set(Kind)
