"""The doctor's findings, on machines made of files: each defect is named with its fix."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.errors import NoSuchProcess, PermissionDenied
from tracer import cli, doctor, doctor_machine, doctor_target
from tracer.doctor import Finding, PythonProcess, Report, Status, lines
from tracer.doctor_machine import Machine

BTF = b"\0bpf_iter__task\0bpf_uprobe_multi_link\0"
ALL_RIGHTS = 1 << 1 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39
Make = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Make:
    """A healthy machine, but for the files that a test gives (None: absent)."""

    def make(*, rights: int = ALL_RIGHTS, bpf: str | None = None, **changes: str | None) -> Machine:
        files: dict[str, str | None] = {
            "sys/kernel/btf/vmlinux": BTF.decode(),
            "sys/kernel/security/lockdown": "[none] integrity confidentiality",
            "sys/bus/event_source/devices/uprobe/type": "9",
            "usr/lib/python3/dist-packages/bcc/__init__.py": "",
            "proc/self/status": f"Name:\tx\nCapEff:\t{rights:016x}\n",
            "proc/sys/kernel/perf_event_paranoid": "2",
            "proc/sys/kernel/yama/ptrace_scope": "0",
            "proc/sys/kernel/unprivileged_bpf_disabled": "2",
        }
        files |= {
            next(path for path in files if path.rpartition("/")[2].startswith(name)): text
            for name, text in changes.items()
        }
        for path, text in files.items():
            if text is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(text)
        return Machine(tmp_path, "x86_64", "6.1.0", tmp_path, lambda: bpf)

    return make


def found(machine: Machine) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor_machine.findings(machine)}


@pytest.fixture(autouse=True)
def libbcc_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: "libbcc.so.0")
    monkeypatch.setattr(doctor_machine, "_other_bcc", lambda: None)


def test_a_healthy_machine_has_nothing_to_fix(machine: Make) -> None:
    findings = found(machine())
    assert {finding.status for finding in findings.values()} == {Status.OK}
    assert not any(finding.fix for finding in findings.values())
    assert len(findings) == 12


@pytest.mark.parametrize(
    ("changes", "check", "status", "word", "fix"),
    [
        ({"vmlinux": None}, "BTF", "fail", "no /sys/kernel/btf", "CONFIG_DEBUG_INFO_BTF"),
        ({"vmlinux": "x"}, "BTF", "fail", "task iterator", "BTF"),
        ({"vmlinux": "\0bpf_iter__task\0"}, "uprobe_multi", "warn", "0.1 s", "6.6"),
        ({"bpf": "Operation not permitted"}, "bpf(2)", "fail", "not permitted", "sudo"),
        ({"lockdown": "none [confidentiality]"}, "lockdown", "fail", "kernel memory", "lockdown"),
        ({"lockdown": "none [integrity] confidentiality"}, "lockdown", "ok", "integrity", None),
        ({"rights": 0}, "capabilities", "fail", "CAP_BPF, CAP_PERFMON", "sudo"),
        ({"rights": 1 << 39 | 1 << 38}, "capabilities", "warn", "uprobes", "CAP_DAC_OVERRIDE"),
        ({"rights": 1 << 39 | 1 << 38 | 1 << 1}, "capabilities", "warn", "memory", "CAP_SYS_"),
        ({"rights": ALL_RIGHTS & ~(1 << 21)}, "capabilities", "ok", "all", None),
        ({"type": None}, "uprobes", "warn", "scans", "CONFIG_UPROBE_EVENTS"),
        ({"__init__": None}, "bcc", "fail", "not installed", "apt install python3-bpfcc"),
        ({"perf_event": "2", "rights": 0}, "perf_event_paranoid", "warn", "is 2", "sysctl"),
        ({"perf_event": "1", "rights": 0}, "perf_event_paranoid", "ok", "is 1", None),
        ({"ptrace": "1", "rights": 0}, "ptrace_scope", "warn", "children", "sysctl"),
        ({"ptrace": "1"}, "ptrace_scope", "ok", "can be read", None),
        ({"ptrace": "3"}, "ptrace_scope", "fail", "nobody", "--no-python"),
        ({"ptrace": None}, "ptrace_scope", "ok", "can be read", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_fix(
    machine: Make, changes: dict[str, str], check: str, status: str, word: str, fix: str | None
) -> None:
    finding = found(machine(**changes))[check]
    assert finding.status == status
    assert word in finding.what
    assert (finding.fix is None) == (fix is None)
    assert fix is None or fix in str(finding.fix)


def test_another_machine_and_a_read_only_cache(machine: Make, tmp_path: Path) -> None:
    base = machine()
    arm = Machine(base.root, "aarch64", "6.1.0", tmp_path, base.try_bpf)
    assert found(arm)["kernel"].status is Status.FAIL
    (tmp_path / "file").touch()
    no_folder = Machine(base.root, "x86_64", "6.1.0", tmp_path / "file", base.try_bpf)
    assert found(no_folder)["cache"].status is Status.WARN


def test_pypis_bcc_is_told_apart(
    machine: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.undo()
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: "libbcc.so.0")
    monkeypatch.syspath_prepend(str(package.parent))
    stranger = found(machine(__init__=None))["bcc"]
    assert stranger.status is Status.FAIL
    assert str(package) in stranger.what
    assert "pip uninstall bcc" in str(stranger.fix)


def test_without_its_library_bcc_is_no_use(machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    assert found(machine())["bcc"].status is Status.FAIL


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (NoSuchProcess("no process has the PID 1"), "parkscope doctor"),
        (PermissionDenied("may not"), "root" if os.geteuid() else "even from root"),
    ],
)
def test_a_process_that_cannot_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, error: Exception, fix: str
) -> None:
    def refuse(_pid: int) -> None:
        raise error

    monkeypatch.setattr(doctor_target, "inspect", refuse)
    (finding,) = doctor_target.findings(1)
    assert finding.status is Status.FAIL
    assert fix in str(finding.fix)


def test_this_very_process_passes() -> None:
    findings = {finding.check: finding for finding in doctor_target.findings(os.getpid())}
    assert findings["target process"].status is Status.OK
    assert findings["target Python"].status is Status.OK
    assert findings["target namespaces"].what == "the same as ours"


OK = Finding("kernel", Status.OK, "Linux")
BAD = Finding("bcc", Status.FAIL, "not there", "apt install it")
BAD_TARGET = Finding("target process", Status.FAIL, "gone", "look elsewhere")


@pytest.mark.parametrize(
    ("findings", "backend", "attachable"),
    [
        ((OK,), "bcc", True),
        ((OK, BAD), "proc", True),
        ((OK,), None, False),
        ((BAD_TARGET,), "bcc", False),
    ],
)
def test_the_verdict_and_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    findings: tuple[Finding, ...],
    backend: str | None,
    attachable: bool,
) -> None:
    report = Report(findings, backend, "for a reason")
    monkeypatch.setattr(doctor, "examine", lambda _pid: report)
    assert cli.run(["doctor"]) == (0 if attachable else 1)
    text = capsys.readouterr().out
    assert ("works with backend" in text) == attachable
    assert all(finding.fix in text for finding in findings if finding.fix)
    cli.run(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["attachable"], said["backend"]) == (attachable, backend)
    assert [item["status"] for item in said["findings"]] == [str(f.status) for f in findings]


def test_what_processes_are_called_is_escaped() -> None:
    process = PythonProcess(7, "3.11.7", None, "python \x1b[2J\n")
    report = Report((OK,), "bcc", "", processes=(process,))
    assert all(line.isprintable() for line in lines(report, colour=False))
    assert any("CPython 3.11.7" in line for line in lines(report, colour=False))


def test_a_broken_backend_check_does_not_end_the_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(name: str) -> str | None:
        if name == "bcc":
            raise ZeroDivisionError
        return None

    monkeypatch.setattr("tracer.backends.obstacle_to", explode)
    assert doctor.best_backend() == ("proc", "not bcc: ZeroDivisionError")
