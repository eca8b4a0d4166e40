"""Three ways to a consistent image, and which of them to take.

All stop every thread of the target for a moment; they differ in what happens then.

| engine | while the target stands still | the target executes |
|---|---|---|
| ``stop-and-copy`` | everything is copied | nothing |
| ``precopy`` | what it wrote during the last round of copying | ``userfaultfd``, ``close`` |
| ``clone`` | its page tables are copied; the copy is read | ``clone``, later ``wait4`` |

Each predicts its pause from what a survey found; the least invasive one that keeps the
wanted pause is taken, else the one with the shortest. The figures were measured on a
virtual machine with two cores; on one with more they are on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from probes.errors import CaptureRefused, EngineUnavailable, UsageError

COPY_BYTES_PER_NS = 5.0
"""process_vm_readv into memory that is there already: 5 GB/s."""
_STOP_NS_PER_THREAD = 8_000
_BASE_NS = 200_000
_SCAN_NS_PER_BYTE = 0.8e-3
_CLONE_BASE_NS = 300_000
_CLONE_NS_PER_PAGE = 48
"""Where it is not measured, and so hardly counts. Up to 125 were seen, on another host."""
_COLD = 2
"""A program that works has other things in the caches than the kernel's words on its pages:
120 ns a page were seen where 62 had been measured with warm ones."""
_PAGE = 4096
_HUGE_PAGE = 2 << 20
_EXPECTED_DIRTY = 4 << 20
"""What is left for the stop of a precopy on an ordinary workload: known after its rounds."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to copy, in bytes.

    ``present_bytes`` is all private memory in pages, ``huge_bytes`` the part of it in huge
    pages, ``image_bytes`` what goes into the image (without large memory that holds no
    reference), ``elf_bytes`` data of ELF files. ``clone_ns_per_page``: what a small page
    costs in a clone on this machine now, with warm caches; 0 where little is to be cloned.
    """

    threads: int
    present_bytes: int
    huge_bytes: int
    image_bytes: int
    elf_bytes: int
    precopy: bool
    gadget: bool
    clone_ns_per_page: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to an image.

    ``predict(survey, dirty_bytes)`` is its pause in ns, ``injects`` whether the target has
    to execute system calls for it, ``reserve(survey)`` the bytes of memory that it may cost
    the target's own control group.
    """

    name: str
    injects: bool
    predict: Callable[[Survey, int], int]
    reserve: Callable[[Survey], int]


def _stopping(survey: Survey) -> int:
    return _BASE_NS + survey.threads * _STOP_NS_PER_THREAD


def _copy_pause(survey: Survey, _dirty: int) -> int:
    scanned = int(survey.present_bytes * _SCAN_NS_PER_BYTE)
    return _stopping(survey) + scanned + int(survey.image_bytes / COPY_BYTES_PER_NS)


def _precopy_pause(survey: Survey, dirty: int) -> int:
    # Page tables of huge pages are short; a part of them stays huge under protection.
    scanned = int((survey.present_bytes - 0.8 * survey.huge_bytes) * _SCAN_NS_PER_BYTE)
    return _stopping(survey) + scanned + int(dirty / COPY_BYTES_PER_NS)


def _clone_pause(survey: Survey, _dirty: int) -> int:
    small = (survey.present_bytes - survey.huge_bytes) // _PAGE
    pages = small + survey.huge_bytes // _HUGE_PAGE
    price = survey.clone_ns_per_page * _COLD or _CLONE_NS_PER_PAGE
    return _stopping(survey) + _CLONE_BASE_NS + pages * price


def _nothing(_survey: Survey) -> int:
    return 0


def _copied_on_write(survey: Survey) -> int:
    """A quarter of what the target has: it writes on while the clone is read, about 0.5 s a GB."""
    return survey.present_bytes // 4 + survey.present_bytes // 256 + (32 << 20)


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine("stop-and-copy", False, _copy_pause, _nothing),
            Engine("precopy", True, _precopy_pause, _nothing),
            Engine("clone", True, _clone_pause, _copied_on_write),
        )
    }
)
"""The least invasive first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and the pause that is expected of it, in ns."""

    engine: Engine
    predicted_ns: int


def usable(survey: Survey, *, inject: bool, why_no_injection: str | None) -> dict[str, str | None]:
    """Every engine and why it cannot be used, or None."""
    reasons: dict[str, str | None] = {}
    for engine in ENGINES.values():
        reason = None
        if engine.injects and not inject:
            reason = "it makes the target execute a system call, which was forbidden"
        elif engine.injects:
            reason = why_no_injection or (
                None if survey.gadget else "the target's code has no system call to borrow"
            )
        if engine.name == "precopy" and reason is None and not survey.precopy:
            reason = "the kernel has no userfaultfd with asynchronous write protection (6.7)"
        reasons[engine.name] = reason
    return reasons


def choose(
    survey: Survey,
    reasons: Mapping[str, str | None],
    max_pause_ns: int,
    dirty_bytes: int | None = None,
) -> list[Choice]:
    """Engines in the order in which to try them.

    First the least invasive one that is expected to keep ``max_pause_ns``, then the others
    by expected pause. ``dirty_bytes``: what a precopy is known to leave for its stop.
    """
    dirty = _EXPECTED_DIRTY if dirty_bytes is None else dirty_bytes
    choices = [
        Choice(engine, engine.predict(survey, dirty))
        for name, engine in ENGINES.items()
        if reasons[name] is None
    ]
    fitting = [choice for choice in choices if choice.predicted_ns <= max_pause_ns]
    rest = sorted(choices, key=lambda choice: choice.predicted_ns)
    return fitting[:1] + [choice for choice in rest if choice not in fitting[:1]]


def forced(survey: Survey, reasons: Mapping[str, str | None], name: str) -> list[Choice]:
    """The named engine alone. Raises UsageError, EngineUnavailable."""
    if name not in ENGINES:
        raise UsageError(f"no engine is called {name!r}: {', '.join(ENGINES)}")
    if (reason := reasons[name]) is not None:
        raise EngineUnavailable(f"the engine {name} cannot be used: {reason}")
    engine = ENGINES[name]
    return [Choice(engine, engine.predict(survey, _EXPECTED_DIRTY))]


def dirty_limit(survey: Survey, others: Sequence[Choice], max_pause_ns: int) -> int:
    """Up to how many dirty bytes a precopy is better than the best of ``others``.

    While it keeps ``max_pause_ns`` it need not be better.
    """
    base = _precopy_pause(survey, 0)
    bound = max(max_pause_ns, min((one.predicted_ns for one in others), default=1 << 62))
    return max(int((bound - base) * COPY_BYTES_PER_NS), _EXPECTED_DIRTY)


def require_any(reasons: Mapping[str, str | None]) -> None:
    """Raise CaptureRefused unless some engine can be used."""
    if all(reason is not None for reason in reasons.values()):
        raise CaptureRefused(
            "no engine can be used: " + "; ".join(f"{k}: {v}" for k, v in reasons.items())
        )
