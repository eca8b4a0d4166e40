"""A map in forked processes, under signals, in subinterpreters, and its module."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from contract import Contract, both


class Processes(Contract):
    def test_a_forked_child_goes_on_with_the_map(self) -> None:
        if threading.active_count() > 1:
            self.skipTest("other threads are running")
        m = self.new({n: n for n in range(100)})
        view = m.snapshot()
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with m.exclusive(0):
                held.set()
                go.wait()

        holder = threading.Thread(target=hold)
        if self.is_c:  # the reference's lock is threading's
            holder.start()
            held.wait()
        with warnings_off():
            child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)
                for n in range(100):
                    m.store(n, -n)
                with m.exclusive(0):
                    m.clear()
                status = 0 if (len(m), len(view), view[7]) == (0, 100, 7) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        go.set()
        if self.is_c:
            holder.join()
        assert os.waitstatus_to_exitcode(status) == 0
        assert (len(m), m[5]) == (100, 5)

    def test_a_child_that_is_forked_with_a_shard_in_hand_has_it(self) -> None:
        m = self.new({0: 0})
        with m.exclusive(0), warnings_off():
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(20)
                    m.store(0, 1)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        m.store(0, 2)

    def test_a_wait_for_a_shard_can_be_interrupted(self) -> None:
        if not self.is_c or threading.current_thread() is not threading.main_thread():
            return
        m = self.new()
        held, go = threading.Event(), threading.Event()
        caught: list[int] = []

        def hold() -> None:
            with m.exclusive(0):
                held.set()
                while not m.stats()["waits"]:
                    pass
                while not go.wait(0.01):  # again, if one came just before it slept
                    signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

        class Interrupted(Exception):
            pass

        def handler(*_: Any) -> None:
            if not caught:
                caught.append(1)
                go.set()
                raise Interrupted

        main = threading.current_thread()
        before = signal.signal(signal.SIGUSR1, handler)
        holder = threading.Thread(target=hold)
        try:
            holder.start()
            held.wait()
            with self.assertRaises(Interrupted):
                m.store(0, 1)
        finally:
            go.set()
            holder.join()
            signal.signal(signal.SIGUSR1, before)
        assert (caught, dict(m)) == ([1], {})
        m.store(0, 2)

    def test_subinterpreters_have_maps_of_their_own(self) -> None:
        if not self.is_c:
            return
        run = subinterpreter()
        if run is None:
            self.skipTest("no subinterpreters here")
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "from concurrent_map import ConcurrentMap, StaleIterationError, _core\n"
            "m = ConcurrentMap({n: n for n in range(1000)}, name='sub')\n"
            "view = m.snapshot(); m.clear()\n"
            "assert len(view) == 1000 and len(m) == 0\n"
            "walk = m.iterate('strict'); m.store(1, 1)\n"
            "try: next(walk)\n"
            "except StaleIterationError: pass\n"
            "else: raise SystemError('not stale')\n"
            "m.store('m', m)\n"
        )
        for _ in range(3):
            run(program)
        m = self.new({1: 1})
        assert dict(m.snapshot()) == {1: 1}

    def test_the_module_can_be_let_go_and_imported_again(self) -> None:
        if not self.is_c:
            return
        program = (
            "import sys, gc, concurrent_map\n"
            "m = concurrent_map.ConcurrentMap({1: 1})\n"
            "for name in [n for n in sys.modules if n.startswith('concurrent_map')]:\n"
            "    del sys.modules[name]\n"
            "del concurrent_map; gc.collect()\n"
            "import concurrent_map\n"
            "other = concurrent_map.ConcurrentMap(m); m.store(2, 2)\n"
            "assert (dict(other), dict(m)) == ({1: 1}, {1: 1, 2: 2})\n"
            "try: concurrent_map.Snapshot(m)\n"
            "except TypeError: print('fine')\n"
        )
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)

    def test_a_build_without_a_gil_is_not_declared_safe(self) -> None:
        """CPython then turns the GIL on when it imports the module."""
        enabled = getattr(sys, "_is_gil_enabled", lambda: True)  # from 3.13 on
        assert enabled()


def subinterpreter() -> Callable[[str], object] | None:
    """What runs a program in a new interpreter with a GIL of its own (3.11: a shared one)."""
    try:
        import _xxsubinterpreters as old  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            import _interpreters as old  # type: ignore[import-not-found,unused-ignore,no-redef]
        except ImportError:
            return None

    def run(program: str) -> None:
        number = old.create()
        try:
            failed = old.run_string(number, program)
            assert failed is None, failed
        finally:
            old.destroy(number)

    return run


class warnings_off:  # noqa: N801
    """For a fork beside threads, of which 3.12 and later warn; ``warnings`` is not for threads."""

    def __enter__(self) -> None:
        import warnings

        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc_info: object) -> None:
        self.caught.__exit__(None, None, None)


globals().update(both(__name__, Processes))
del Contract, Processes
