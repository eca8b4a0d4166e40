#define _GNU_SOURCE
#include "map.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local uint32_t cm_tid;

/* A section under a shard's lock takes tens of nanoseconds: parking costs more than this. */
#define SPINS 60

uint32_t cm_ask_tid(void)
{
    cm_tid = (uint32_t)syscall(SYS_gettid);
    return cm_tid;
}

void cm_lock_init(cm_lock *lock, uint32_t shard)
{
    memset(lock, 0, sizeof *lock);
    lock->shard = shard;
}

void cm_lock_wake(cm_lock *lock)
{
    syscall(SYS_futex, &lock->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

__attribute__((noinline, noclone, used)) int cmap_shard_lock_slow(cm_lock *lock)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&lock->word, memory_order_relaxed) == 0)
            return 0;
        cm_pause();
    }
    long got = syscall(SYS_futex, &lock->word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
    return got != 0 && errno == EINTR ? EINTR : 0;
}

/* Whether the caller is in it already: only the owner can find its own id there. */
static int entered_again(cm_lock *lock)
{
    if (atomic_load_explicit(&lock->owner_tid, memory_order_relaxed) != cm_self())
        return 0;
    lock->depth++;
    return 1;
}

int cm_try_enter(cm_shard *shard)
{
    if (cm_lock_try(&shard->lock)) {
        cm_lock_owned(&shard->lock);
        return 1;
    }
    return entered_again(&shard->lock);
}

int cm_enter_contended(cm_map *map, cm_shard *shard)
{
    cm_lock *lock = &shard->lock;
    if (entered_again(lock))
        return 0;
    cm_count(&map->counts.waits, 1);
    CM_PROBE3(shard_wait, map->self, lock->shard, lock);
    atomic_fetch_add(&lock->waiters, 1);
    for (;;) {
        int parked = 0;
        CM_WITHOUT_GIL(map, parked = cmap_shard_lock_slow(lock));
        if (parked == EINTR && CM_SIGNALS(map) < 0) {
            atomic_fetch_sub(&lock->waiters, 1);
            cm_lock_wake(lock); /* a wake-up that came meanwhile belongs to the next one */
            return -1;
        }
        if (cm_lock_try(lock))
            break;
        cm_retried(map, lock->shard, CM_RETRY_LOCK);
    }
    atomic_fetch_sub(&lock->waiters, 1);
    cm_lock_owned(lock);
    CM_PROBE3(shard_acquired, map->self, lock->shard, lock);
    return 0;
}

void cm_leave_contended(cm_map *map, cm_shard *shard)
{
    CM_PROBE3(shard_released, map->self, shard->lock.shard, &shard->lock);
    cm_lock_wake(&shard->lock);
}

/* All shards, without ever waiting for one with another in hand: a thread that holds one
 * by exclusive() may want the others, too. */
int cm_enter_all(cm_map *map)
{
    for (uint32_t i = 0; i < map->shards;) {
        cm_shard *shard = &map->shard[i];
        int got = 0;
        for (int spin = 0; spin < SPINS && !(got = cm_try_enter(shard)); spin++)
            cm_pause();
        if (got) {
            i++;
            continue;
        }
        while (i > 0)
            cm_leave(map, &map->shard[--i]);
        if (cm_enter(map, shard) < 0)
            return -1;
        cm_leave(map, shard);
    }
    return 0;
}

void cm_leave_all(cm_map *map)
{
    for (uint32_t i = map->shards; i > 0;)
        cm_leave(map, &map->shard[--i]);
}

/* In the child of a fork: only the forking thread lives on, under a new id. A shard that
 * another thread held is free; no table is half changed, for changes are made with the
 * GIL in hand, which the forking thread had. */
void cm_after_fork(cm_map *map, uint32_t parent_tid)
{
    for (uint32_t i = 0; i < map->shards; i++) {
        cm_lock *lock = &map->shard[i].lock;
        int mine = atomic_load(&lock->owner_tid) == parent_tid;
        atomic_store(&lock->waiters, 0);
        if (mine) {
            cm_lock_owned(lock);
        } else {
            lock->depth = 0;
            atomic_store(&lock->owner_tid, 0);
            atomic_store(&lock->word, 0);
        }
    }
}
