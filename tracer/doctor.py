"""``parkscope doctor``: what works here, what does not, and the command that helps.

A finding says what was looked at, how it stands and what to do. ``fail`` is for what
keeps the eBPF backend (or reading the target) from working, ``warn`` for what costs
accuracy; whether an attach would work all in all is asked of the backends themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tracer.escape import terminal


class Status(StrEnum):
    """How a finding stands."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``fix``: a command or a step, None when all is well."""

    check: str
    status: Status
    what: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class PythonProcess:
    """A process that could be attached to, or why not (``refusal``)."""

    pid: int
    python: str | None
    refusal: str | None
    command: str


@dataclass(frozen=True, slots=True)
class Report:
    """What ``examine`` found. ``backend`` is the one that 'auto' takes, None for none."""

    findings: tuple[Finding, ...]
    backend: str | None
    why: str
    pid: int | None = None
    processes: tuple[PythonProcess, ...] = ()

    @property
    def attachable(self) -> bool:
        """Whether an attach would work with some backend."""
        target_fails = any(
            finding.status is Status.FAIL and finding.check.startswith("target ")
            for finding in self.findings
        )
        return self.backend is not None and not target_fails

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "attachable": self.attachable,
            "backend": self.backend,
            "why": self.why,
            "pid": self.pid,
            "findings": [asdict(finding) for finding in self.findings],
            "processes": [asdict(process) for process in self.processes],
        }


def examine(pid: int | None) -> Report:
    """Look at this machine, and at process ``pid`` or for Python processes."""
    from tracer import doctor_machine, doctor_target

    findings = doctor_machine.findings(doctor_machine.Machine())
    if pid is not None:
        findings += doctor_target.findings(pid)
    backend, why = best_backend()
    processes = () if pid is not None else tuple(doctor_target.python_processes())
    return Report(tuple(findings), backend, why, pid, processes)


def best_backend() -> tuple[str | None, str]:
    """The backend that 'auto' would take and why; None with the reason when none works."""
    from tracer.backends import BACKENDS, obstacle_to

    passed_over: list[str] = []
    for name in BACKENDS:
        try:
            obstacle = obstacle_to(name)
        except Exception as error:  # noqa: BLE001 one broken check must not hide the others
            obstacle = str(error) or type(error).__name__
        if obstacle is None:
            return name, "; ".join(passed_over) or "the best there is"
        passed_over.append(f"not {name}: {obstacle}")
    return None, "; ".join(passed_over)


def lines(report: Report, colour: bool) -> Iterator[str]:
    """The report for people."""
    widest = max((len(finding.check) for finding in report.findings), default=0)
    for finding in report.findings:
        mark = _mark(finding.status, colour)
        yield f"{mark}  {finding.check:<{widest}}  {terminal(finding.what, 400)}"
        if finding.fix:
            yield f"{'':8}{'':<{widest}}fix: {terminal(finding.fix, 400)}"
    yield ""
    yield from _processes(report.processes)
    yield _verdict(report)


def _mark(status: Status, colour: bool) -> str:
    code = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31"}[status]
    return f"\x1b[{code}m{status:>4}\x1b[0m" if colour else f"{status:>4}"


def _processes(processes: Sequence[PythonProcess]) -> Iterator[str]:
    if not processes:
        return
    yield "Python processes:"
    for process in processes:
        what = f"CPython {process.python}" if process.python else str(process.refusal)
        yield f"  {process.pid:>8}  {terminal(what, 60):<15}  {terminal(process.command, 60)}"
    yield ""


def _verdict(report: Report) -> str:
    if not report.attachable:
        reason = report.why if report.backend is None else "see above"
        return f"Attaching would NOT work: {terminal(reason, 600)}"
    target = "PID" if report.pid is None else str(report.pid)
    why = f" ({terminal(report.why, 600)})"
    return f"Attaching works with backend {report.backend}{why}: parkscope attach {target}"
