"""The process in which actions are carried out, one at a time, so that the session goes on.

Started by ``tracer.triggers.runner`` as ``python -m tracer.triggers.worker``; told by lines
of JSON on stdin what to do, says on stdout what came of it. It looks at targets when it is
told of them, so that little is left to be done when a dump is wanted: what has to be
loaded, compiled and looked up is there. When its stdin ends (the session is over, or was
killed), it ends, too. Privileges are those of the session; programs that read what the
target's memory says give them up (``tracer.heap.worker``).
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import msgspec

from probes.errors import ParkscopeError, TargetGone
from tracer.actions import ACTIONS
from tracer.target import Target, alive, inspect
from tracer.triggers.job import Job, Running

ANSWER_S = 3.0
"""How long a dump waits to be told whether its park still lasted at the freeze."""


_READ_BYTES = 1 << 16


class Order(msgspec.Struct):
    """One line: ``warm`` (actions), ``target`` or ``forget`` (pid), ``run`` (job), ``answer``."""

    do: str
    actions: list[str] = []
    pid: int = 0
    job: dict[str, Any] = {}
    still_on: bool | None = None


def _tell(**what: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


class Worker:
    """Carries out orders; ``listen`` brings them from another thread."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._modules: dict[str, Any] = {}
        self._targets: dict[int, Target] = {}
        self._prepared: dict[int, Any] = {}

    def listen(self) -> None:
        """Read orders until there are no more, which ends this process."""
        partial = b""
        while piece := os.read(sys.stdin.fileno(), _READ_BYTES):
            *lines, partial = (partial + piece).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line, type=Order)
                if order.do == "answer":
                    self._answers.put(order.still_on)
                else:
                    self._orders.put(order)
        os.kill(os.getpid(), signal.SIGTERM)  # what is being done is undone by its own rules

    def work(self) -> None:
        """Do as told."""
        while True:
            order = self._orders.get()
            if order.do == "warm":
                for name in order.actions:
                    self._module(name)
                _tell(say="warm")
            elif order.do == "forget":
                self._targets.pop(order.pid, None)
                self._prepared.pop(order.pid, None)
            elif order.do == "target":
                self._look(order.pid)
            else:
                self._run(Job(**order.job))

    def _module(self, action: str) -> Any:
        if action not in self._modules:
            name = f"tracer.actions.{ACTIONS[action].module}"
            self._modules[action] = importlib.import_module(name)
        return self._modules[action]

    def _look(self, pid: int) -> None:
        """Look at a process beforehand, for a dump up to where it would be stopped."""
        why = None
        self._targets.pop(pid, None)
        self._prepared.pop(pid, None)
        try:
            target = self._target(pid)
            if "heap-dump" in self._modules:
                from tracer.heap.capture import rehearse

                self._prepare(pid)
                rehearse(target)
        except ParkscopeError as error:
            why = error.message
        except Exception as error:  # noqa: BLE001 a look beforehand must not end the worker
            why = f"{type(error).__name__}: {error}"
        _tell(say="ready", pid=pid, why=why)

    def _target(self, pid: int) -> Target:
        found = self._targets.get(pid)
        if found is None:
            found = self._targets[pid] = inspect(pid)
        elif not alive(found):
            raise TargetGone(f"process {pid} has exited")
        return found

    def _prepare(self, pid: int) -> Any:
        from tracer.heap.dump import prepare

        target = self._target(pid)
        if pid not in self._prepared:
            self._prepared[pid] = prepare(target)
        return self._prepared[pid]

    def _run(self, job: Job) -> None:
        def frozen(frozen_ns: int, engine: str) -> bool | None:
            while not self._answers.empty():  # to an earlier question, too late
                self._answers.get_nowait()
            _tell(say="frozen", number=job.number, frozen_ns=frozen_ns, engine=engine)
            with suppress(queue.Empty):
                return self._answers.get(timeout=ANSWER_S)
            return None

        try:
            running = Running(job, self._target, self._prepare, frozen)
            result = self._module(job.action).run(running)
        except ParkscopeError as error:
            _tell(say="failed", number=job.number, why=error.message)
        except BrokenPipeError:
            raise  # nobody is there to be told
        except Exception as error:  # noqa: BLE001 one action must not end the worker
            _tell(say="failed", number=job.number, why=f"{type(error).__name__}: {error}")
        else:
            _tell(say="done", number=job.number, result=result)


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: there is clearing up to do
    raise SystemExit(0)


def main() -> int:
    """Work until stdin ends or SIGTERM comes."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker()
    threading.Thread(target=worker.listen, name="orders", daemon=True).start()
    try:
        worker.work()
    except BrokenPipeError:  # the session has gone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 until the end
    return 0


if __name__ == "__main__":
    sys.exit(main())
