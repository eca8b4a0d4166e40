"""A terminal that a test can look at."""

from __future__ import annotations

import os
import re
import subprocess
import uuid

from tests.processes import wait_until


class Tmux:
    """A terminal of a given size with one program in it, on a server of its own."""

    def __init__(self, columns: int, lines: int, command: str) -> None:
        self._base = ["tmux", "-L", f"parkscope-{uuid.uuid4().hex}", "-f", "/dev/null"]
        # Without SHELL tmux takes the account's login shell, for `nobody` one that refuses.
        self._env = {**os.environ, "SHELL": "/bin/sh"}
        size = ["-x", str(columns), "-y", str(lines)]
        self("new-session", "-d", *size, f"trap : INT; {command}; echo ended with $?; exec cat")

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._base, *words], capture_output=True, text=True, env=self._env, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def shows(self, pattern: str) -> str:
        def found() -> str | None:
            screen = self.screen()
            return screen if re.search(pattern, screen) else None

        try:
            return str(wait_until(found, pattern, timeout=20))
        except AssertionError:
            raise AssertionError(f"{pattern!r} is not on\n{self.screen()}") from None

    def close(self) -> None:
        self("kill-server")
