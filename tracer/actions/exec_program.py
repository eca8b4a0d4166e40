"""A program of the user's: no shell, facts as JSON on stdin, a time limit."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from contextlib import suppress
from typing import IO, Any

from collector.trace.lines import dump
from probes.errors import ActionFailed
from tracer.triggers.job import Running

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG_MODE = 0o600


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
            process.communicate(dump(job.told()) + b"\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise ActionFailed(f"{argv[0]} took longer than {limit_s:g} s") from None
        finally:
            with suppress(ProcessLookupError):  # it, and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took_s = time.monotonic() - started
    if process.returncode:
        raise ActionFailed(f"{argv[0]} {_ended(process.returncode)} after {took_s:.1f} s")
    return {"exit_code": 0, "user": who.pw_name}


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
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.fdopen(os.open(path, flags, _LOG_MODE), "ab")
    except OSError as error:
        raise ActionFailed(f"{path} cannot be written: {error.strerror}") from None


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
