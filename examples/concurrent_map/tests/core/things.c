#include "host.h"

#include <stdio.h>

static _Atomic long alive;
static _Thread_local long left;

void memory_fails_after(long allocations)
{
    left = allocations;
}

static int fails(void)
{
    return left > 0 && --left == 0;
}

void *frail_malloc(size_t size)
{
    return fails() ? NULL : (malloc)(size);
}

void *frail_calloc(size_t count, size_t size)
{
    return fails() ? NULL : (calloc)(count, size);
}

void *frail_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : (aligned_alloc)(alignment, size);
}

struct cm_thing *thing_new(uint64_t value)
{
    struct cm_thing *thing = (malloc)(sizeof *thing);
    if (thing == NULL)
        abort();
    atomic_init(&thing->refs, 1);
    thing->value = value;
    thing->foreign = 0;
    atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
    return thing;
}

void cm_host_release(void *object)
{
    struct cm_thing *thing = object;
    if (atomic_fetch_sub_explicit(&thing->refs, 1, memory_order_acq_rel) > 1)
        return;
    atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
    free(thing);
}

long things_alive(void)
{
    return atomic_load(&alive);
}
