"""What can go wrong with a map beyond what a ``dict`` raises; shared by both implementations."""

from __future__ import annotations


class StaleIterationError(RuntimeError):
    """The structure that a strict iteration walks was changed or retired under it.

    Start again, or iterate over ``snapshot()`` or ``read_view()``, which never fail.
    """


class HistoryLostError(LookupError):
    """``changes(since_version)`` asks for changes that the bounded history no longer has.

    Copy the map anew from a ``read_view()`` and go on from that view's ``version``.
    """


class ViewClosedError(ValueError):
    """A snapshot or view was used after its ``close()``."""
