/* A shard's lock: one compare-and-swap when nobody else wants it, a futex otherwise.
 *
 * The three first fields are a contract with tracers (README, «For tracers»).
 * `waiters` counts those who wait; it lets the holder leave without a system call when
 * there are none. It is raised before a waiter looks at `word`, and looked at after `word`
 * was freed, both sequentially consistent: one of the two sees the other.
 *
 * A waiter parks until the lock may be free, without the GIL; then it takes the GIL again
 * and tries. Nobody ever waits for the GIL with a shard's lock in hand, nor for a shard's
 * lock with the GIL: so neither can be part of a deadlock of the two, and a thread that
 * CPython ends at its shutdown, which happens where it asks for the GIL, takes no lock
 * with it. The price is that a lock is not handed over: who comes at the right moment wins.
 */
#ifndef CM_LOCK_H
#define CM_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

struct cm_map;
struct cm_shard;

typedef struct cm_lock {
    _Atomic uint32_t word;      /* the futex: 0 free, 1 held */
    _Atomic uint32_t owner_tid; /* written after the acquire, cleared before the release */
    uint32_t shard;
    _Atomic uint32_t waiters;
    uint32_t depth; /* how often its owner has entered it again; only the owner looks */
} cm_lock;

#define CM_LIKELY(x) __builtin_expect(!!(x), 1)
#define CM_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* The thread's id, asked of the kernel once. initial-exec: a plain load through %fs. */
extern _Thread_local uint32_t cm_tid __attribute__((tls_model("initial-exec")));
uint32_t cm_ask_tid(void);

static inline uint32_t cm_self(void)
{
    return CM_LIKELY(cm_tid != 0) ? cm_tid : cm_ask_tid();
}

static inline int cm_lock_try(cm_lock *lock)
{
    uint32_t free = 0;
    return atomic_compare_exchange_strong_explicit(&lock->word, &free, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

static inline void cm_lock_owned(cm_lock *lock)
{
    atomic_store_explicit(&lock->owner_tid, cm_self(), memory_order_relaxed);
}

/* Frees it; whether somebody waits (who then has to be woken). */
static inline int cm_lock_free(cm_lock *lock)
{
    atomic_store_explicit(&lock->owner_tid, 0, memory_order_relaxed);
    atomic_exchange(&lock->word, 0);
    return atomic_load(&lock->waiters) != 0;
}

void cm_lock_init(cm_lock *lock, uint32_t shard);
void cm_lock_wake(cm_lock *lock);

/* Parks until the lock may be free; takes nothing. 0, or EINTR when a signal came first.
 * Exported and never inlined: tracers may probe it. */
__attribute__((visibility("default"))) int cmap_shard_lock_slow(cm_lock *lock);

static inline void cm_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Short sections that nobody parks in: the list of views, the history. */
static inline void cm_spin_enter(_Atomic uint32_t *word)
{
    while (atomic_exchange_explicit(word, 1, memory_order_acquire))
        while (atomic_load_explicit(word, memory_order_relaxed))
            cm_pause();
}

static inline void cm_spin_leave(_Atomic uint32_t *word)
{
    atomic_store_explicit(word, 0, memory_order_release);
}

#endif
