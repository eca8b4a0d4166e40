"""Errors that have nobody to go to."""

from __future__ import annotations

import sys
import traceback
from types import SimpleNamespace
from typing import Any


def unraisable(error: BaseException, where: object) -> None:
    """What CPython does with an error that has nobody to go to.

    sys.UnraisableHookArgs cannot be made from Python; hooks look at attributes only, but for
    CPython's own, which insists on its type: then the error is written as that one would.
    """
    said: Any = SimpleNamespace(
        exc_type=type(error),
        exc_value=error,
        exc_traceback=error.__traceback__,
        err_msg=None,
        object=where,
    )
    try:
        if sys.unraisablehook is not sys.__unraisablehook__:
            sys.unraisablehook(said)
        elif sys.stderr is not None:
            print(f"Exception ignored in: {where!r}", file=sys.stderr)
            traceback.print_exception(error)
    except Exception:  # noqa: BLE001 - and a hook that fails has nobody to go to either
        pass
