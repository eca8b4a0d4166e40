/* A toy of a native map: it has the USDT probes of a concurrent map, and counts its own truth.
 *
 * Compiled by the tests, with long nops under -DLONG_NOPS and with a semaphore for one probe
 * under -DSEMAPHORE. Built without systemtap's header it has no probes, only functions.
 */
#define _GNU_SOURCE
#ifdef SEMAPHORE
#define _SDT_HAS_SEMAPHORES 1
#endif
#include <sys/sdt.h>
#ifdef LONG_NOPS
#undef _SDT_NOP
#define _SDT_NOP .4byte 0x00441f0f; .byte 0
#endif
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SEMAPHORE
#define DECLARE(name) \
    unsigned short concurrent_map_##name##_semaphore __attribute__((section(".probes")))
DECLARE(shard_wait); DECLARE(shard_acquired); DECLARE(shard_released); DECLARE(range_begin);
DECLARE(range_end); DECLARE(split_begin); DECLARE(split_end); DECLARE(bucket_retired);
DECLARE(stale_bucket); DECLARE(retry); DECLARE(view_open); DECLARE(view_close); DECLARE(breaker);
#endif

struct lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and waited for */
    uint32_t owner_tid;
    uint32_t shard;
    uint32_t waits, released; /* written by who has it */
};

/* What happened, as the map itself counts it; the test reads it through ctypes. */
struct truth {
    uint64_t ranges, complete, stopped, stale, errors, items;
    uint64_t splits, moved, retired, stale_buckets, retries, opened, closed;
};

static long futex(struct lock *lock, int operation, uint32_t value)
{
    return syscall(SYS_futex, &lock->word, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

__attribute__((noinline)) void toy_lock_slow(void *map, struct lock *lock)
{
    STAP_PROBE3(concurrent_map, shard_wait, map, (uint64_t)lock->shard, lock);
    while (atomic_exchange(&lock->word, 2) != 0)
        futex(lock, FUTEX_WAIT, 2);
    STAP_PROBE3(concurrent_map, shard_acquired, map, (uint64_t)lock->shard, lock);
}

/* Iterators that are left half way and never told of again. */
__attribute__((noinline)) void toy_leave_ranges(void *map, uint64_t count)
{
    for (uint64_t n = 0; n < count; n++)
        STAP_PROBE3(concurrent_map, range_begin, map, (uint64_t)0, (n + 1) << 32);
}

/* A wait that a signal ends: nothing tells of its end. */
__attribute__((noinline)) void toy_abandon(void *map, struct lock *lock)
{
    STAP_PROBE3(concurrent_map, shard_wait, map, (uint64_t)lock->shard, lock);
}

/* Whether it had to wait. */
int toy_acquire(void *map, struct lock *lock)
{
    uint32_t free = 0;
    int waited = !atomic_compare_exchange_strong(&lock->word, &free, 1);
    if (waited)
        toy_lock_slow(map, lock);
    lock->owner_tid = syscall(SYS_gettid);
    lock->waits += waited;
    return waited;
}

void toy_release(void *map, struct lock *lock)
{
    uint32_t alone = 1;
    lock->owner_tid = 0;
    if (atomic_compare_exchange_strong(&lock->word, &alone, 0))
        return;
    lock->released++; /* somebody waits, and it is still ours */
    atomic_store(&lock->word, 0);
    STAP_PROBE3(concurrent_map, shard_released, map, (uint64_t)lock->shard, lock);
    futex(lock, FUTEX_WAKE, 1);
}

static volatile int sink;

__attribute__((noinline)) void toy_range(void *map, uint64_t mode, uint64_t outcome, uint64_t items,
                                         struct truth *truth)
{
    static _Atomic uint64_t last_id;
    uint64_t id = atomic_fetch_add(&last_id, 1) + 1;
    STAP_PROBE3(concurrent_map, range_begin, map, mode, id);
    for (uint64_t n = 0; n < items; n++)
        sink = n;
    truth->ranges++;
    (&truth->complete)[outcome]++;
    truth->items += items;
    STAP_PROBE5(concurrent_map, range_end, map, mode, id, outcome, items);
}

__attribute__((noinline)) void toy_split(void *map, uint64_t shard, uint64_t moved,
                                         struct truth *truth)
{
    STAP_PROBE4(concurrent_map, split_begin, map, shard, (uint64_t)8, (uint64_t)16);
    truth->splits++;
    truth->moved += moved;
    STAP_PROBE3(concurrent_map, split_end, map, shard, moved);
}

void toy_retire(void *map, uint64_t shard, struct truth *truth)
{
    truth->retired++;
    STAP_PROBE3(concurrent_map, bucket_retired, map, shard, map);
}

void toy_stale(void *map, uint64_t shard, struct truth *truth)
{
    truth->stale_buckets++;
    STAP_PROBE3(concurrent_map, stale_bucket, map, shard, map);
}

void toy_retry(void *map, uint64_t shard, struct truth *truth)
{
    truth->retries++;
    STAP_PROBE3(concurrent_map, retry, map, shard, (uint64_t)1);
}

void toy_breaker(void *map, uint64_t old, uint64_t new, uint64_t failures, uint64_t samples)
{
    STAP_PROBE5(concurrent_map, breaker, map, old, new, failures, samples);
}

void toy_view(void *map, uint64_t version, struct truth *truth)
{
    truth->opened++;
    STAP_PROBE2(concurrent_map, view_open, map, version);
    truth->closed++;
    STAP_PROBE2(concurrent_map, view_close, map, version);
}

/* A bit of everything, `rounds` times; for counting at speed, from several threads. */
void toy_mix(void *map, struct lock *locks, uint64_t shards, uint64_t rounds, struct truth *truth)
{
    for (uint64_t n = 0; n < rounds; n++) {
        struct lock *lock = &locks[n % shards];
        toy_acquire(map, lock);
        for (int k = 0; k < 200; k++)
            sink = k;
        toy_release(map, lock);
        if (n % 64 == 0)
            toy_range(map, n / 64 % 5, n / 64 % 4, n % 100, truth);
        if (n % 256 == 3)
            toy_split(map, n % shards, n % 9, truth);
        if (n % 256 == 5)
            toy_retire(map, n % shards, truth);
        if (n % 256 == 7)
            toy_stale(map, n % shards, truth);
        if (n % 256 == 9)
            toy_retry(map, n % shards, truth);
        if (n % 256 == 11)
            toy_view(map, n, truth);
    }
}

/* The same without probes, for profiles by symbol: NULL is an error. */
__attribute__((noinline)) void *plain_range(void *map, long items)
{
    for (long n = 0; n < items; n++)
        sink = n;
    return items < 0 ? 0 : map;
}

__attribute__((noinline)) void plain_wait(void *map, struct lock *lock)
{
    while (atomic_exchange(&lock->word, 2) != 0)
        futex(lock, FUTEX_WAIT, 2);
}

/* As a daemon thread may end in a wait: whoever is further out is told (-fexceptions), as
 * destructors of C++ would be. */
static long unwound;
static void tell(long **count) { ++**count; }

__attribute__((noinline)) void plain_end(void *map, struct lock *lock, long now)
{
    if (now)
        pthread_exit(0);
    plain_wait(map, lock);
    sink = (long)map; /* so that it ends by a ret of its own */
}

static void *ends_inside(void *lock)
{
    __attribute__((cleanup(tell))) long *count = &unwound;
    plain_end(0, lock, 1);
    return count;
}

long plain_threads_end(struct lock *lock, long threads)
{
    pthread_t thread;
    for (long n = 0; n < threads; n++)
        if (!pthread_create(&thread, 0, ends_inside, lock))
            pthread_join(thread, 0);
    return unwound;
}
