"""The one directory that the bcc backend writes to."""

from __future__ import annotations

import os
from pathlib import Path

from probes.errors import BackendUnavailable


def cache_directory(chosen: Path | None) -> Path:
    """``chosen``, or ``$XDG_CACHE_HOME/parkscope``; made with mode 0700 if it is missing.

    Raises BackendUnavailable when it cannot be made, or is somebody else's: what
    stands in it is believed.
    """
    if chosen is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        chosen = Path(base) / "parkscope"
    hint = "Set XDG_CACHE_HOME to a directory of your own."
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = chosen.stat()
    except OSError as error:
        raise BackendUnavailable(
            f"the cache directory {chosen} cannot be used: {error.strerror}", hint=hint
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise BackendUnavailable(
            f"the cache directory {chosen} is writable by others, or another user's", hint=hint
        )
    return chosen
