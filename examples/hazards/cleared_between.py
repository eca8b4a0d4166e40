"""Value cleared between key and value: the walk gives a key whose value is gone when asked for.

Key and value are asked for in two steps, and another thread has its turn between them. A
view answers both steps from the same moment: it keeps the old version for as long as it
is open.
"""

from __future__ import annotations

from rounds import main, meanwhile, numbers

KEYS = 50


def in_weak() -> str | None:
    """Keys of a weak walk, values of the live map."""
    sessions = numbers(KEYS, "sessions")
    gone = 0
    for key in sessions.iterate("weak", "keys"):
        meanwhile(lambda key=key: sessions.load_and_delete(key))  # type: ignore[misc]
        try:
            sessions[key]
        except KeyError:
            gone += 1
    return f"{gone} of {KEYS} keys had no value any more" if gone else None


def in_view() -> str | None:
    """Keys and values of one view."""
    sessions = numbers(KEYS, "sessions")
    total = 0
    with sessions.read_view() as view:
        for key in view:
            meanwhile(lambda key=key: sessions.load_and_delete(key))  # type: ignore[misc]
            total += view[key]
    left = sessions.stats()["view_entries"]
    if total != sum(n * n for n in range(KEYS)) or len(sessions) or left:
        return f"the sum was {total}; {len(sessions)} are left, {left} kept"
    return None


if __name__ == "__main__":
    main("value cleared between key and value", weak=in_weak, mode="view", cured=in_view)
