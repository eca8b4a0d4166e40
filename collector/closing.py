"""What is open and has to be closed, however the block that uses it ends."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class Closing:
    """Used as a context manager, it is closed at the end of the block."""

    def close(self) -> None:
        """Give back what is held; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class OpenFile(Closing):
    """Owns a descriptor, ``_fd``, which is -1 once it is closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_to_read(path: str | os.PathLike[str]) -> int:
    """A descriptor of a file that may be anybody's. Raises OSError.

    Non-blocking, so that a FIFO put in the file's place cannot hang the reader.
    """
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
