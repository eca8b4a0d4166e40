"""Mistakes that the proofs have to find: a proof that finds none of them proves nothing.

    python mistakes.py                   all
    python mistakes.py NAME…             these

Prints one line of JSON: for each mistake whether its proof found it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from building import ADDRESS, LENDING, MODEL, OVERLAP, TESTS, THREAD, Mistake, extension, standalone

ATTEMPTS = 10
_CALLS = ("calls", "4", "3000")
_WALKS = ("walks", "6", "6000")
_OBJECTS = ("objects", "4", "400")

NO_LOCK = Mistake(
    "no lock",
    "core/map.h",
    """    if (CM_LIKELY(cm_lock_try(&shard->lock))) {""",
    """    (void)map;
    if (1) {""",
)
BY_HISTORY: dict[Mistake, tuple[str, str, str]] = {
    NO_LOCK: _CALLS,
    Mistake(
        "a compare-and-swap that does not look again",
        "ext/map_ops.c",
        "        if (same <= 0) {",
        """        if (same > 0) {
            if ((at = cmap_locate(self->map, place)) == CM_ABSENT)
                cmap_depart(self->map, place);
            return at;
        }
        if (same <= 0) {""",
    ): _OBJECTS,
    Mistake(
        "a view that is not taken at one moment",
        "core/view.c",
        """    for (uint32_t i = 0; i < map->shards; i++) {
        view->dir[i] = map->shard[i].dir;""",
        """    for (uint32_t i = 0; i < map->shards; i++) {
        cm_leave_all(map);
        cm_enter_all(map);
        view->dir[i] = map->shard[i].dir;""",
    ): _WALKS,
    Mistake(
        "a deletion that strict walks do not see",
        "core/table.c",
        """    structure_changed(map, shard);
    uint64_t version = cm_changed(map, CM_DELETE""",
        "    uint64_t version = cm_changed(map, CM_DELETE",
    ): _WALKS,
    Mistake(
        "a version that is read before the change",
        "core/map.c",
        "return atomic_fetch_add_explicit(&map->version, 1, memory_order_acq_rel) + 1;",
        """{
            uint64_t version = cm_read(&map->version) + 1;
            extern int sched_yield(void);
            sched_yield();
            atomic_store(&map->version, version);
            return version;
        }""",
    ): _WALKS,
}
"""Found by ``recording.py``, in the extension."""

BY_MODEL = (
    Mistake(
        "a shared bucket is written to",
        "core/table.c",
        "if (CM_LIKELY(!shared_bucket(old)))",
        "if (old != NULL)",
    ),
    Mistake(
        "a split that does not keep what a view has",
        "core/table.c",
        """        if (shared || cm_borrowed(old, i)) {
            cm_keep(map, entry->key);
            cm_keep(map, entry->value);
        }""",
        "",
    ),
    Mistake(
        "a split that forgets what is borrowed",
        "core/table.c",
        "        if (shared || cm_borrowed(old, i)) {",
        "        if (shared) {",
    ),
    Mistake(
        "a value that is borrowed and let go",
        "core/table.c",
        "        cm_bucket_own(map, bucket, (uint32_t)at);\n",
        "",
    ),
    Mistake(
        "a lender that takes with it what it has lent",
        "core/bucket.c",
        "        own &= ~given;\n",
        "",
    ),
    Mistake(
        "a deletion that forgets the tag",
        "core/bucket.c",
        "    bucket->tag[at] = bucket->tag[last];\n",
        "",
    ),
    Mistake(
        "a deletion that does not count as a change of structure",
        "core/table.c",
        """    structure_changed(map, shard);
    uint64_t version = cm_changed(map, CM_DELETE""",
        "    uint64_t version = cm_changed(map, CM_DELETE",
    ),
    Mistake(
        "old versions that are not counted",
        "core/table.c",
        "    retire(map, shard, old);\n    keep_bucket(map, old);",
        "    retire(map, shard, old);",
    ),
    Mistake(
        "a directory that is leaked by a failed split",
        "core/table.c",
        "        free(low);\n        free(high);\n        return -1;",
        "        free(high);\n        return -1;",
    ),
    Mistake(
        "a history that keeps nothing",
        "core/map.c",
        "    if (change.value != NULL)\n        cm_keep(map, change.value);\n    *slot = change;",
        "    *slot = change;",
    ),
    Mistake(
        "a comparison that trusts the hash",
        "core/bucket.c",
        "return known >= 0 ? known : cm_host_quick_equal(entry->key, query->key);",
        "return known >= 0 ? known : 1;",
    ),
    Mistake(
        "a walk that does not own its bucket",
        "core/walk.c",
        "atomic_fetch_add_explicit(&bucket->owners, 1, memory_order_relaxed);",
        "(void)bucket;",
    ),
    Mistake(
        "a step that begins in each slot of a bucket",
        "core/view.c",
        "return (step & (span - 1)) == 0 ? bucket : NULL;",
        "return span != 0 ? bucket : NULL;",
    ),
)
"""Found by the model under random operations, in the standalone core."""

BY_THREADS = (
    NO_LOCK,
    Mistake(
        "an owner that leaves without telling",
        "core/bucket.c",
        "atomic_fetch_sub_explicit(&bucket->owners, 1, memory_order_acq_rel) == 1",
        "atomic_fetch_sub_explicit(&bucket->owners, 1, memory_order_relaxed) == 1",
    ),
    Mistake(
        "a list of views without its lock",
        "core/view.c",
        """    cm_spin_enter(&map->views_word);
    view->next = map->views;""",
        "    atomic_store(&map->views_word, 1);\n    view->next = map->views;",
    ),
    Mistake(
        "a history that is read without its lock",
        "core/map.c",
        """    cm_spin_enter(&map->history_word);
    uint64_t version = cm_read(&map->version);""",
        "    uint64_t version = cm_read(&map->version);",
    ),
)
"""Found by the thread sanitizer, in the standalone core."""


def found_by_history(mistake: Mistake, kind: Sequence[str], directory: Path) -> bool:
    """Whether the judgement on a history finds it, at the latest at the tenth attempt.

    A crash does not count: it says nothing of the judge.
    """
    path = extension(directory, mistake=mistake)
    environment = {**os.environ, "PYTHONPATH": f"{path}:{TESTS}", "PYTHONDONTWRITEBYTECODE": "1"}
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, TESTS / "recording.py", *kind],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        sys.stderr.write(f"{mistake.name}: {done.returncode} {done.stderr[:200]}\n")
        if done.returncode == 1 and json.loads(done.stdout or "{}").get("wrong", 0) > 0:
            return True
    return False


def found_by_model(mistake: Mistake, directory: Path) -> bool:
    """Whether 400 random runs beside the model, or the sanitizers under them, find it."""
    program = standalone(directory, ("driver.c", *MODEL), (*ADDRESS, LENDING), mistake=mistake)
    return _ends_badly([program, "--random", "1", "400"])


def found_by_threads(mistake: Mistake, directory: Path) -> bool:
    """Whether the thread sanitizer finds it."""
    program = standalone(directory, OVERLAP, THREAD, mistake=mistake)
    return _ends_badly([program, "4", "20000", "1"])


def _ends_badly(command: Sequence[str | Path]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return True
    sys.stderr.write(done.stderr.decode(errors="replace")[:300] + "\n")
    return done.returncode != 0


def found(mistake: Mistake, group: str) -> bool:
    """Whether the proof of that group finds the mistake."""
    with tempfile.TemporaryDirectory(prefix="concurrent-map-") as name:
        directory = Path(name)
        if group == "history":
            return found_by_history(mistake, BY_HISTORY[mistake], directory)
        if group == "model":
            return found_by_model(mistake, directory)
        return found_by_threads(mistake, directory)


GROUPS: dict[str, Sequence[Mistake]] = {
    "history": tuple(BY_HISTORY),
    "model": BY_MODEL,
    "threads": BY_THREADS,
}


def main(words: Sequence[str]) -> int:
    """Entry point; the exit status is 1 when a mistake was not found."""
    answers = {
        f"{group}: {mistake.name}": found(mistake, group)
        for group, mistakes in GROUPS.items()
        for mistake in mistakes
        if not words or mistake.name in words or group in words
    }
    print(json.dumps(answers))
    return 0 if all(answers.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
