"""A program of the user's: no shell, facts as JSON on stdin, a time limit."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import time
from contextlib import suppress
from typing import IO, Any

from collector.trace.lines import dump
from probes.errors import ActionFailed
from tracer import units
from tracer.triggers.job import Running

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG_MODE = 0o600
_LOOK_S = 0.1
MAX_OUTPUT = 16 << 20
"""What a program may write into its log in one run, as far as a look ten times a second tells."""


def run(running: Running) -> dict[str, Any]:
    """Run it to its end. Raises ActionFailed when it cannot be, takes too long or fails.

    It runs as the user of Parkscope, which is root under sudo, or as ``user``: with that
    user's groups, in ``/``, with nothing but PATH, HOME, USER and LANG in its environment,
    and with no descriptor of ours.
    """
    job = running.job
    argv, limit_s = job.options["argv"], job.options["timeout"] / 1e9
    who = _who(job.options["user"])
    started = time.monotonic()
    with _log(job.options["log"]) as log:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": _PATH, "HOME": who.pw_dir, "USER": who.pw_name, "LANG": "C.UTF-8"},
                start_new_session=True,
                **_rights(job.options["user"], who),
            )
        except OSError as error:
            raise ActionFailed(f"{argv[0]} cannot be run: {error.strerror}") from None
        try:
            why = _wait(process, dump(job.told()) + b"\n", limit_s, log)
        finally:
            with suppress(OSError):  # it, and what it has started; one with other rights remains
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
    if why:
        raise ActionFailed(f"{argv[0]} {why}")
    took_s = time.monotonic() - started
    if process.returncode:
        raise ActionFailed(f"{argv[0]} {_ended(process.returncode)} after {took_s:.1f} s")
    return {"exit_code": 0, "user": who.pw_name}


def _wait(process: subprocess.Popen[bytes], told: bytes, limit_s: float, log: IO[bytes]) -> str:
    """Wait for its end; why it is not waited for any longer, empty if it came."""
    until = time.monotonic() + limit_s
    before = os.fstat(log.fileno()).st_size
    more: bytes | None = told  # what is left of it is remembered after a time-out
    while True:
        left_s = until - time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(more, timeout=max(0.0, min(_LOOK_S, left_s)))
            return ""
        more = None
        if os.fstat(log.fileno()).st_size - before > MAX_OUTPUT:
            return f"wrote more than {units.size(MAX_OUTPUT)}"
        if left_s <= 0:
            return f"took longer than {limit_s:g} s"


def _who(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError:
        if user is None:
            name = str(os.geteuid())
            return pwd.struct_passwd((name, "", os.geteuid(), os.getegid(), "", "/", ""))
        raise ActionFailed(f"there is no user {user!r}") from None


def _rights(user: str | None, who: pwd.struct_passwd) -> dict[str, Any]:
    if user is None:
        return {}
    groups = os.getgrouplist(who.pw_name, who.pw_gid)
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": groups}


def _log(path: str | None) -> IO[bytes]:
    try:
        if path is None:
            return open(os.devnull, "wb")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        log = os.fdopen(os.open(path, flags, _LOG_MODE), "ab")
        if not stat.S_ISREG(os.fstat(log.fileno()).st_mode):
            log.close()
            raise ActionFailed(f"{path} is no regular file")
        return log
    except OSError as error:
        raise ActionFailed(f"{path} cannot be written: {error.strerror}") from None


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
