"""Where threads wait for locks and for the GIL: contended paths of libc and CPython.

CPython takes a free lock without leaving its own code or with ``sem_trywait``; only
a contended one reaches ``sem_wait``, ``sem_clockwait`` (from 3.9 on, glibc 2.30) or
``sem_timedwait`` (Python/thread_pthread.h). The parking lot of 3.13 and newer ends in
the same semaphores; which lock it parks for is read from the waiter's stack by the
program, for ``_PyParkingLot_Park`` itself is inlined in LTO builds (Debian's 3.14 and
3.15: no hit). The GIL is waited for in slices by ``pthread_cond_timedwait`` on its
condition (Python/ceval_gil.c, ``take_gil``).

Return probes never go on CPython's own functions: ``take_gil`` may end a thread by
``pthread_exit``, which unwinds the stack, and a return probe hides the caller there.
"""

from __future__ import annotations

from probes.errors import BadElf
from tracer.elf import Elf
from tracer.sites.planner import Function, Refusal, Site, find, plan, tail_callee

SEMAPHORES = ("sem_wait", "sem_clockwait", "sem_timedwait")
CONDITIONS = ("pthread_cond_timedwait", "pthread_cond_clockwait")
TAKE_GIL = "take_gil"
_GLIBC = ("libc.so.6", "libpthread.so.0")


def plan_waits(libc: Elf, *, long_nops: bool = False) -> dict[str, Site | Refusal]:
    """The contended waits of a glibc, by function; entry and return may be probed there."""
    if not (libc.soname or "").startswith(_GLIBC):
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
