"""The command line on the mock backend: output, errors, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import probes.errors
from collector.events import COMMON, EVENTS
from probes.errors import ParkscopeError
from tracer import cli
from tracer.cli_options import MAX_PID

MOCK = ("--backend", "mock", "--scenario")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run_one(*arguments: str) -> Ran:
        code = cli.run(arguments)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run_one


def test_attach_says_each_long_park_while_it_lasts_and_its_end(run: Run) -> None:
    ran = run("attach", *MOCK, "lock_convoy")
    assert (ran.code, ran.err) == (0, "")
    said = [line.split("  ", 2)[2] for line in ran.out.splitlines() if "worker-0" in line]
    assert said[0].startswith(
        "worker-0 (4000/4010) waits 200 ms for Lock app.cache._lock, held by keeper, which runs"
    )
    assert said[1].startswith("worker-0 (4000/4010) waited 500 ms for Lock app.cache._lock, woken")
    assert re.search(r"detached after 1\.20 s .* no record lost of \d+", ran.out.splitlines()[-1])


def test_json_lines_are_events_of_the_documented_kinds(run: Run) -> None:
    ran = run("attach", "--json", *MOCK, "lock_convoy")
    assert {event["event"] for event in ran.events} <= set(EVENTS)
    assert all(list(event)[: len(COMMON)] == list(COMMON) for event in ran.events)
    assert ran.events[0]["event"] == "attached"
    assert ran.events[-1]["event"] == "detached"
    flagged = [event for event in ran.events if event["event"] == "park_long"]
    assert {event["kind"] for event in flagged} == {"lock"}


def test_the_threshold_and_the_duration_are_obeyed(run: Run) -> None:
    assert "parked 550 ms" not in run("attach", "--long-park", "1s", *MOCK, "lock_convoy").out
    ran = run("attach", "--duration", "500ms", *MOCK, "lock_convoy")
    assert "(duration over)" in ran.out
    assert "was parked" not in ran.out


def test_idle_parks_are_shown_on_request_only(run: Run) -> None:
    flagged = [
        line for line in run("attach", *MOCK, "idle_pool").out.splitlines() if "park" in line
    ]
    assert {line.split()[2] for line in flagged[:-1]} == {"billing"}
    assert re.search(r"\d+ of them idle", flagged[-1])
    assert "[idle: " in run("attach", "--idle", *MOCK, "idle_pool").out


def test_what_is_recorded_is_replayed_and_analysed(run: Run, tmp_path: Path) -> None:
    trace = str(tmp_path / "a.pks")
    recorded = run("record", "-o", trace, *MOCK, "lock_convoy")
    assert recorded.code == 0
    assert "Ctrl-C ends it" in recorded.err
    assert f"parkscope analyze {trace}" in recorded.out
    live = run("attach", *MOCK, "lock_convoy").out.splitlines()[1:-1]
    assert run("replay", trace).out.splitlines()[1:-1] == live
    summary = run("analyze", trace)
    assert re.search(r"^long parks +4", summary.out, re.MULTILINE)
    rows = run("analyze", trace, "--view", "parks", "--json").events
    assert {row["thread_name"] for row in rows} >= {"worker-0", "worker-1", "worker-2"}
    assert run("replay", trace, "--long-park", "520ms").out.count("worker-0 (") == 0


def test_record_json_says_one_object(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "a.pks"
    ran = run("record", "-q", "--json", "-o", str(trace), *MOCK, "sleep")
    assert ran.err == ""
    (said,) = ran.events
    assert (said["trace"], said["why"]) == (str(trace), "source ended")
    assert trace.stat().st_mode & 0o777 == 0o600


def test_a_trace_is_not_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "a.pks"
    trace.write_text("precious")
    ran = run("record", "-o", str(trace), *MOCK, "sleep")
    assert ran.code == 8
    assert "--force" in ran.err
    assert trace.read_text() == "precious"
    assert run("record", "--force", "-o", str(trace), *MOCK, "sleep").code == 0
    assert run("record", "-o", str(tmp_path / "no" / "a.pks"), *MOCK, "sleep").code == 8


def test_a_folder_that_cannot_be_is_no_defect(run: Run) -> None:
    ran = run("record", *MOCK, "sleep", "-o", "x" * 300 + "/a.trace")
    assert ran.code == 8
    assert "is no directory\nhint: Choose another" in ran.err


def test_live_without_a_terminal_prints_plain_tables(run: Run) -> None:
    ran = run("live", "--duration", "300ms", *MOCK, "lock_convoy")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert re.search(r"^MainThread +4000 ", ran.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["attach"], 2, "no target given"),
        (["attach", "0"], 2, "no process ID"),
        (["attach", "-5"], 2, "No such option"),
        (["attach", "abc"], 2, "no process ID"),
        (["attach", str(MAX_PID + 1)], 2, "no process ID"),
        (["attach", str(MAX_PID)], 3, "no process has the PID"),
        (["attach", "1", "--long-park", "5"], 2, "200ms"),
        (["attach", "1", "--long-park", "1us"], 2, "at least 1.0 ms"),
        (["attach", "1", "--duration", "soon"], 2, "no duration"),
        (["attach", "1", "--budget", "200%"], 2, "no share"),
        (["attach", "1", "--backend", "magic"], 2, "magic"),
        (["attach", *MOCK, "nope"], 2, "lock_convoy"),
        (["attach", "--backend", "mock"], 2, "--scenario"),
        (["attach", "1", "--idle-sites", "/does/not/exist"], 2, "does not exist"),
        (["record", "1"], 2, "--output"),
        (["run"], 2, "COMMAND"),
        (["run", "--", "/does/not/exist"], 2, "no program"),
        (["analyze", "/does/not/exist"], 2, "does not exist"),
        (["analyze", __file__], 7, "no trace"),
        (["replay", __file__], 7, "no trace"),
        (["completion", "tcsh"], 2, "tcsh"),
        (["demo", "nope"], 2, "lock_convoy"),
        (["nope"], 2, "nope"),
        (["--nope"], 2, "nope"),
    ],
)
def test_bad_input_is_said_once_with_a_hint_and_its_exit_code(
    run: Run, arguments: list[str], code: int, error: str
) -> None:
    ran = run(*arguments)
    assert ran.code == code
    assert error in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("error: ") == 1
    assert "\nhint: " in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_an_option_s_choices_are_said_on_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(b"")
    ran = run("heap", "export", str(tmp_path / "dump"), "-o", str(tmp_path / "out"))
    assert ran.code == 2
    assert "Choose from: heapsnapshot, csv, json" in ran.err


def test_an_unknown_view_names_the_known_ones(run: Run, tmp_path: Path) -> None:
    trace = str(tmp_path / "a.pks")
    run("record", "-o", trace, *MOCK, "sleep")
    ran = run("analyze", trace, "--view", "nope")
    assert ran.code == 2
    for line in run("views").out.splitlines():
        assert line.split()[0] in ran.err
    assert run("analyze", "--list-views").out == run("views").out


def test_a_defect_is_no_traceback_unless_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_anything: object, **_more: object) -> None:
        raise ZeroDivisionError("\x1b[31mboo")

    monkeypatch.setattr("tracer.watch.run_session", broken)
    ran = run("attach", *MOCK, "sleep")
    assert ran.code == 70
    assert ran.err.splitlines()[0] == (
        r"error: this is a defect of Parkscope: ZeroDivisionError: \x1b[31mboo"
    )
    monkeypatch.setenv("PARKSCOPE_DEBUG", "1")
    assert "in broken" in run("attach", *MOCK, "sleep").err


def test_every_exit_code_is_in_the_help(run: Run) -> None:
    text = run("--help").out
    documented = {int(code) for code in re.findall(r"(?:^ +|   )(\d+)  ?\S", text, re.MULTILINE)}
    kinds = [each for each in vars(probes.errors).values() if isinstance(each, type)]
    codes = {each.exit_code for each in kinds if issubclass(each, ParkscopeError)}
    assert codes | {0, 130, 143, 141, 129} <= documented


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_every_command_and_option_has_a_help(run: Run, name: str) -> None:
    ran = run(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: parkscope {name} ")
    options = [each for each in cli.cli.commands[name].params if isinstance(each, click.Option)]
    assert all(option.help for option in options)


def test_version_and_completion(run: Run) -> None:
    assert re.fullmatch(r"parkscope \d+\.\d+\.\S+\n", run("--version").out)
    for shell in ("bash", "zsh", "fish"):
        assert "_PARKSCOPE_COMPLETE" in run("completion", shell).out


def test_demo_lists_what_it_can_show(run: Run) -> None:
    assert "deadlock" in run("demo", "--list").out
