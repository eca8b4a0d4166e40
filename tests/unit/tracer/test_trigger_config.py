"""Files and options of triggers: what they become, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.errors import ParkscopeError, PermissionDenied, UsageError
from tracer.actions import ACTIONS
from tracer.heap.engines import ENGINES
from tracer.triggers import keys
from tracer.triggers.config import command_line_rules, load
from tracer.triggers.setup import TriggerOptions

S = 1_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "triggers.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


FULL = """
[[trigger]]
name = "stuck"
on = 'park > 500ms and kind == "lock"'
do = [
    "heap-dump",
    { heap-dump = "/var/tmp", engine = "clone", max_total = "2GB" },
    { exec = ["/bin/true", "a b"], timeout = "5s" },
    "signal USR1",
    { keep = true, last = "10s" },
]
cooldown = "1m"
per_hour = 2
breaker_failures = 5
breaker_rest = "10s"

[[trigger]]
on = "rss > 1GB"
do = "webhook http://127.0.0.1:9/x"
"""


def test_a_file_becomes_rules(folder: Path) -> None:
    stuck, large = load(written(folder, FULL))
    assert (stuck.name, large.name) == ("stuck", "2")
    assert (stuck.cooldown_ns, stuck.per_hour) == (60 * S, 2)
    assert (stuck.policy.least, stuck.policy.rest_ns) == (5, 10 * S)
    assert [ask.action for ask in stuck.asks] == [
        "heap-dump",
        "heap-dump",
        "exec",
        "signal",
        "keep",
    ]
    plain, chosen, program, _, kept = [ask.options for ask in stuck.asks]
    assert plain["dir"] is None
    assert (chosen["dir"], chosen["engine"], chosen["max_total"]) == (
        "/var/tmp", "clone", 2 * 10**9,
    )  # fmt: skip
    assert (program["argv"], program["timeout"]) == (["/bin/true", "a b"], 5 * S)
    assert kept["last"] == 10 * S
    assert large.asks[0].options["allow_remote"] is False


@pytest.mark.parametrize(
    ("text", "named", "allowed"),
    [
        ("x = 1", "'x'", "[[trigger]]"),
        ("[[trigger]]\nwhen = 'park'\ndo = 'keep'", "'when'", "cooldown"),
        ("[[trigger]]\ndo = 'keep'", "'on' is missing", "condition"),
        ("[[trigger]]\non = 'prk'\ndo = 'keep'", "'prk'", "park"),
        ("[[trigger]]\non = 'park'", "'do' names no action", "heap-dump"),
        ("[[trigger]]\non = 'park'\ndo = 'reboot'", "'reboot'", "heap-dump"),
        ("[[trigger]]\non = 'park'\ndo = 'exec'", "needs argv", "no shell"),
        ("[[trigger]]\non = 'park'\ndo = 'exec true'", "argv", "full path"),
        ("[[trigger]]\non = 'park'\ndo = {exec = 'x'}", "argv", "list"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, lest = '1s'}", "'lest'", "last"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, last = 5}", "last = 5", "200ms"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, memory = 5}", "memory = 5", "500MB"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, last = '0s'}", "last", "more than 0"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, max_size = 0}", "max_size", "more than 0"),
        ("[[trigger]]\non = 'park'\ndo = {keep = true, timeout = '99999999m'}", "timeout", "1440m"),
        ("[[trigger]]\non = 'park'\ndo = 'keep'\nbreaker_window = '0s'", "window", "more than 0"),
        ("[[trigger]]\non = 'park'\ndo = []", "0 actions", "one"),
        ("[[trigger]]\non = 'park'\ndo = ''", "'' is no action", "heap-dump"),
        ("[[trigger]]\non = 'park'\ndo = {heap-dump = true, engine = 'fork'}", "'fork'", "clone"),
        ("[[trigger]]\non = 'park'\ndo = 'heap-dump /nowhere'", "'/nowhere'", "folder that exists"),
        ("[[trigger]]\non = 'park'\ndo = 'exec /nowhere'", "argv", "not there"),
        ("[[trigger]]\non = 'park'\ndo = {exec = ['/bin/true'], user = 'nÖ'}", "user", "a user"),
        ("[[trigger]]\non = 'park'\ndo = 'signal KILL'", "'KILL'", "USR1"),
        ("[[trigger]]\non = 'park'\ndo = 'signal RTMIN+31'", "RTMIN+31", "RTMIN+30"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook ftp://127.0.0.1/x'", "ftp", "http://"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http:///x'", "http:///x", "a host"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http://[::1'", "[::1", "a host"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http://a..b/'", "a..b", "a host"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http://127.0.0.1:99999/'", "99999", "a host"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http://127.0.0.1/ä'", "ä", "ASCII"),
        ("[[trigger]]\non = 'park'\ndo = 'webhook http://me:pw@127.0.0.1/'", "me:pw", "password"),
        ("x = " + "[" * 5000, "nested too deep", "README"),
        ("[[trigger]]\non = 'park'\ndo = 'keep 5'", "last = '5'", "200ms"),
        ("[[trigger]]\non = 'park'\ndo = 'keep'\ncooldown = '5'", "cooldown = '5'", "200ms"),
        ("[[trigger]]\non = 'park'\ndo = 'keep'\nper_hour = 0", "per_hour = 0", "from 1 on"),
        ("[[trigger]]\non = 'park'\ndo = {heap-dump = true, values = 1}", "values = 1", "true"),
        ("[trigger]\non = 'park'", "list of tables", "[[trigger]]"),
        ("trigger = []", "0 triggers", "one"),
        ("[[trigger", "no TOML", "README"),
        (
            "[[trigger]]\nname='a'\non='park'\ndo='keep'\n" * 2, "two triggers are named 'a'", "",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_is_allowed(
    folder: Path, text: str, named: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load(written(folder, text))
    assert named in refused.value.message
    assert allowed in refused.value.hint


def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to(folder / "circle")
    for place in (folder / "pipe", Path("/dev/zero"), folder, folder / "circle"):
        with pytest.raises(UsageError):
            load(place)
    (folder / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no TOML"):
        load(folder / "bytes.toml")


def test_the_engines_that_may_be_named_are_those_that_there_are() -> None:
    assert set(keys.ENGINES) == set(ENGINES)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    with pytest.raises(PermissionDenied) as refused:
        load(written(folder, FULL, mode))
    assert "written by others" in refused.value.message
    assert "chmod" in refused.value.hint


def test_a_file_in_a_folder_that_others_can_write_is_refused_unless_sticky(folder: Path) -> None:
    inner = folder / "open"
    inner.mkdir()
    file = written(inner, FULL)
    inner.chmod(0o777)
    with pytest.raises(PermissionDenied, match="folder"):
        load(file)
    linked = folder / "link.toml"
    linked.symlink_to(file)
    with pytest.raises(PermissionDenied, match="folder"):
        load(linked)
    inner.chmod(0o1777)
    assert len(load(file)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_users_file_is_refused(folder: Path) -> None:
    file = written(folder, FULL)
    os.chown(file, 12345, 12345)
    with pytest.raises(PermissionDenied, match="another user"):
        load(file)


def test_pairs_of_the_command_line_become_rules() -> None:
    first, second = command_line_rules(
        [("park > 1s", "exec /bin/echo 'a b' c"), ("deadlock", "stack-dump")]
    )
    assert (first.name, second.name) == ("on-1", "on-2")
    assert first.asks[0].options["argv"] == ["/bin/echo", "a b", "c"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (TriggerOptions(on=(("park > 100ms", "keep"),)), "not looked at"),
        (TriggerOptions(on=(("park", "keep 1s 2s"),)), "one word"),
        (TriggerOptions(on=(("park", "'"),)), "cannot be read"),
        (TriggerOptions(files=(Path("nowhere.toml"),)), "nowhere.toml"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(options: TriggerOptions, why: str) -> None:
    with pytest.raises(ParkscopeError) as refused:
        options.rules(200_000_000)
    assert why in refused.value.message


def test_dump_is_short_for_a_long_park_that_is_not_idle() -> None:
    (rule,) = TriggerOptions(dump=True).rules(200_000_000)
    assert rule.condition.text == "park and idle == false"
    assert [ask.action for ask in rule.asks] == ["heap-dump"]


def test_every_action_can_be_asked_for() -> None:
    mains = {"exec": " /bin/true", "signal": " USR1", "webhook": " http://127.0.0.1:1/"}
    for name in ACTIONS:
        (rule,) = command_line_rules([("park", name + mains.get(name, ""))])
        assert rule.asks[0].action == name
