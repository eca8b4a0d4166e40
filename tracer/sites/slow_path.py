"""Where threads wait for locks and for the GIL: contended paths of libc and CPython.

CPython takes a free lock without leaving its own code or with ``sem_trywait``; only
a contended one reaches ``sem_wait``, ``sem_clockwait`` (from 3.9 on, glibc 2.30) or
``sem_timedwait`` (Python/thread_pthread.h). From 3.13 on ``_PyParkingLot_Park``
(Python/parking_lot.c, exported) stands in front of it for the newer locks and knows
the lock's address, which the semaphore on the waiter's stack does not tell. The GIL
is waited for in slices by ``pthread_cond_timedwait`` on its condition
(Python/ceval_gil.c, ``take_gil``).

Return probes never go on CPython's own functions: ``take_gil`` may end a thread by
``pthread_exit``, which unwinds the stack, and a return probe hides the caller there.
"""

from __future__ import annotations

from probes.errors import BadElf
from tracer.elf import Elf
from tracer.sites.planner import Function, Refusal, Site, find, plan, tail_callee

SEMAPHORES = ("sem_wait", "sem_clockwait", "sem_timedwait")
CONDITIONS = ("pthread_cond_timedwait", "pthread_cond_clockwait")
PARK = "_PyParkingLot_Park"
TAKE_GIL = "take_gil"
_GLIBC_MARK = "gnu_get_libc_version"


def plan_waits(libc: Elf, *, long_nops: bool = False) -> dict[str, Site | Refusal]:
    """The contended waits of a glibc, by function; entry and return may be probed there."""
    if find(libc, _GLIBC_MARK) is None:
        why = "not glibc (musl?): its waits are seen by the task iterator only"
        return {name: Refusal(name, why) for name in SEMAPHORES + CONDITIONS}
    found: dict[str, Site | Refusal] = {}
    for name in SEMAPHORES + CONDITIONS:
        function = find(libc, name)
        if function is None:
            found[name] = Refusal(name, "not in this C library")
            continue
        if name in SEMAPHORES:
            function = tail_callee(libc, function) or function
        found[name] = plan(libc, function, ("rdi",), stack_untouched=True, long_nops=long_nops)
    return found


def plan_park(python: Elf, *, long_nops: bool = False) -> Site | Refusal | None:
    """The entry of ``_PyParkingLot_Park``; None where this CPython has no parking lot."""
    function = find(python, PARK)
    if function is None:
        return None
    return plan(python, function, ("rdi",), long_nops=long_nops)


def gil_code(python: Elf) -> tuple[Function, ...]:
    """The bodies of ``take_gil`` by symbol (clones too), none in a stripped build.

    A condition wait that returns into one of them is a wait for the GIL: this tells
    where the GIL's address could not be read.
    """
    try:
        symbols = [
            symbol
            for name in (TAKE_GIL, f"{TAKE_GIL}.constprop.0")
            for symbol in python.local(name)
        ]
    except BadElf:
        return ()
    return tuple(
        Function(symbol.name, symbol.address, symbol.size) for symbol in symbols if symbol.size
    )
