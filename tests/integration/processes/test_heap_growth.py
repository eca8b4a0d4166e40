"""``heap diff`` and ``heap leaks`` on processes that leak, and say how much."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import compare_damage, heap_damage
from tests.heap_growth import (
    churning_server,
    dumps,
    parkscope,
    tls_server,
    told_apart,
    web_app,
)
from tests.interpreters import Interpreter, get, matrix

NONSENSE, LONGEST_S = 40, 10.0
pytestmark = [pytest.mark.ptrace, pytest.mark.slow]


@matrix("system-3.11", "chroot-3.15")
def test_diff_names_the_threads_and_sockets_of_a_tls_leak(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    with tls_server(interpreter) as leaking:
        paths, ((least, most),) = dumps(leaking, tmp_path, 8)
    found = parkscope("diff", *paths)
    assert found["same_process"] is True
    threads = found["threads"][0]
    grown = threads["after"] - threads["before"]
    assert least - 2 <= grown <= most + 2  # /proc counts threads of peers that behave, too
    assert threads["at"]["function"].endswith("do_handshake")
    assert threads["at"]["file"].endswith("ssl.py")
    assert threads["from"]["function"] == "handle"
    assert threads["from"]["file"].endswith("tls_leak.py")
    sites = {row["type"]: row for row in reversed(found["sites"])}
    sockets = sites["ssl.SSLSocket"]
    assert abs(sockets["objects"] - grown) <= 2
    assert sockets["name"].startswith("(each thread) SSLSocket.")  # a method of the parked ones
    assert sockets["name"].endswith(" self")
    assert abs(sites["threading.Thread"]["objects"] - grown) <= 2
    named = {row["name"]: row for row in found["grown"]}
    active = named["threading._active"]
    assert abs(active["items_after"] - active["items_before"] - grown) <= 2


def test_diff_names_the_leak_of_a_web_app(tmp_path: Path) -> None:
    with web_app() as leaking:
        paths, ((leaked, _),) = dumps(leaking, tmp_path, 200)
    found = parkscope("diff", *paths)
    first = found["grown"][0]
    assert first["type"] == "list"
    assert first["name"].endswith(".visits")
    assert (first["items_before"], first["items_after"]) == (100, 100 + leaked)
    assert first["retained_after"] - first["retained_before"] > 100 * leaked
    site = found["sites"][0]
    assert site["type"] == "__main__.Visit"
    assert site["objects"] == leaked
    assert site["kept_by"] == first["name"]
    each = parkscope("diff", *paths, "--type", "__main__.Visit", "-n", "1000")["each"]
    assert [row["change"] for row in each] == ["new"] * leaked
    assert {row["name"].partition(".visits")[2] for row in each} == {
        f"[{number}]" for number in range(100, 100 + leaked)
    }


@matrix("pyenv-3.13")  # uses addresses again most readily
def test_the_leak_is_first_and_churn_is_absent(interpreter: Interpreter, tmp_path: Path) -> None:
    with churning_server(interpreter) as leaking:
        paths, ((one, _), (other, _)) = dumps(leaking, tmp_path, 100, 100)
    found = parkscope("leaks", *paths)
    first, *rest = found["leaks"]
    assert first["type"] == "__main__.Session"
    assert (first["born"], first["survived"], first["born_later"]) == (one, one, other)
    assert first["population"] == [100, 100 + one, 100 + one + other]
    assert first["kept_by"] == "__main__.SESSIONS"
    # The leak's own keys, and nothing of what comes and goes.
    assert {row["kept_by"] for row in rest} <= {"__main__.SESSIONS"}, rest
    text = heap("diff", *paths[:2], "--type", "__main__.Session").stdout
    assert "+100  100 → 200" in text
    assert "dict __main__.SESSIONS" in text
    assert "__main__.SESSIONS['session 5" not in text  # values are no names
    assert "__main__.SESSIONS" in heap("leaks", *paths).stdout
    done = heap("leaks", *reversed(paths))
    assert done.returncode == 2
    assert "oldest first" in done.stderr.lower()


def test_two_starts_of_a_program_are_no_process(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        with churning_server(get("system-3.11")) as leaking:
            paths.append(tmp_path / name)
            parkscope("dump", leaking.pid, "-o", paths[-1])
    found = parkscope("diff", *paths)
    assert found["same_process"] is False
    assert "sites" not in found
    assert any("different processes" in note for note in found["notes"])
    done = heap("leaks", paths[0], paths[1], paths[0])
    assert done.returncode == 2
    assert "one process" in done.stderr


def heap(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer.cli", "heap", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@matrix("pyenv-3.13")  # uses addresses again most readily
def test_what_was_replaced_in_its_place_is_told_apart(interpreter: Interpreter) -> None:
    counts = Counter(told_apart(interpreter))
    assert counts["reused", 0] > 500
    assert counts["reused", 1] <= counts["reused", 0] / 100
    assert counts["gone", 1] == 0
    assert counts["stayed", 1] >= 0.98 * (counts["stayed", 0] + counts["stayed", 1])


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_nonsense_is_compared_and_exported_or_refused(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    bare = [sys.executable, "-I", "-S", "-c", heap_damage.STANDS_STILL]
    path = tmp_path / "heap"
    parkscope("dump", start(bare, ready=True).pid, "-o", path)
    found = compare_damage.run(path, NONSENSE, seed=1)
    assert found["tried"] == NONSENSE
    assert NONSENSE / 4 < found["ended"] < NONSENSE
    assert found["longest_s"] < LONGEST_S
