"""README.md names what there is: commands, options, kinds, events, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import probes.errors
from collector.events import COMMON, EVENTS, SCHEMA_VERSION
from probes.errors import ParkscopeError
from probes.kinds import KINDS
from tracer import cli

TEXT = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_cells(title: str) -> set[str]:
    """The code words in the first column of the section's tables."""
    rows = re.findall(r"^\| ([^|]*) \|", section(title).replace("\\|", "/"), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_every_command_is_described_and_no_other() -> None:
    described = {cell.split()[0] for cell in first_cells("Commands") if not cell.startswith("-")}
    assert described | {"views"} == set(cli.cli.commands)
    assert "`views`" in section("Commands")


def test_every_option_named_is_one() -> None:
    commands = list(cli.cli.commands.values())
    for group in [each for each in commands if isinstance(each, click.Group)]:
        commands += group.commands.values()
    known = {
        name
        for command in commands
        for param in command.params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert named - known == {"--help", "--full"}, "--full is ./check's"
    common = {option.split()[0] for option in first_cells("Commands") if option.startswith("--")}
    assert {"--long-park", "--backend", "--json"} <= common


def test_the_kinds_are_the_kinds() -> None:
    assert first_cells("Kinds of parks") == set(KINDS)


def test_the_json_schema_is_the_schema() -> None:
    keys = first_cells("JSON")
    assert set(COMMON) <= keys
    assert keys - set(COMMON) == set(EVENTS)
    assert f"`schema` is {SCHEMA_VERSION}" in section("JSON")


def test_the_exit_codes_are_the_exit_codes() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", section("Exit codes"), re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    errors = [each for each in vars(probes.errors).values() if isinstance(each, type)]
    raised = {each.exit_code for each in errors if issubclass(each, ParkscopeError)}
    assert documented == raised | {0, 129, 130, 141, 143}


@pytest.mark.parametrize("path", re.findall(r"\]\(([^):]+)\)", TEXT))
def test_what_it_links_to_is_there(path: str) -> None:
    assert (Path(__file__).resolve().parents[2] / path).exists()
