"""What ``stats()`` answers."""

from __future__ import annotations

from typing import TypedDict


class Stats(TypedDict):
    """What the map counted since it was made. Equal to what its USDT probes say."""

    entries: int
    shards: int
    buckets: int
    version: int
    table_bytes: int
    """Directories and buckets of the live table; keys and values are not counted."""
    splits: int
    """Buckets that were split in two, or replaced by a larger one (split_begin, split_end)."""
    moved: int
    """Entries that splits moved (the sum of split_end's ``moved``)."""
    retired: int
    """Buckets that left the table by a split or by clear() (bucket_retired)."""
    waits: int
    """Waits for a shard's lock (shard_wait)."""
    retries: int
    """retry: comparisons begun again, and lost try_advance()."""
    stale_hits: int
    """Times that a range met a bucket or structure that had changed under it (stale_bucket)."""
    ranges: dict[str, dict[str, int]]
    """Ended ranges: mode (weak strict snapshot view cursor) → outcome (complete stopped
    stale error) → count (range_end). A range begun and not ended is in none."""
    range_items: int
    """Items that ended ranges handed out (the sum of range_end's ``items``)."""
    ranges_begun: int
    views_open: int
    """Snapshots and views that are open now, those of running ranges and cursors included."""
    view_bytes: int
    """Tables that are kept only because a snapshot or view still needs them, in bytes."""
    view_entries: int
    """Entries in those tables."""
    history: int
    """Changes that ``changes()`` can still give."""
