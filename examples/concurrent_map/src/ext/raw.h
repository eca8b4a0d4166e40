/* What raw.c and raw_history.c share: operations on a raw map, without the GIL. */
#ifndef CMAP_RAW_H
#define CMAP_RAW_H

#include "module.h"

#include <stddef.h>
#include <time.h>

typedef struct {
    MapObject base;
    _Atomic uint64_t expected, arrived, pace; /* see «the gate» in raw_history.c */
} RawMap;

typedef struct {
    PyObject_HEAD
    uint64_t steps;
    _Atomic uint64_t next;
    MapObject *map; /* NULL: only the counter */
    cm_view *view;  /* what is handed out */
} RawCursors;

enum { LOAD, STORE, LOAD_OR_STORE, LOAD_AND_DELETE, SWAP, COMPARE_AND_DELETE, OPERATIONS };

static inline void *cmap_word(uint64_t number)
{
    return (void *)(uintptr_t)number;
}

static inline uint64_t cmap_number_of(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

/* CLOCK_MONOTONIC, which time.monotonic_ns() reads, too. */
static inline uint64_t cmap_now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
static inline uint64_t cmap_dice(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* Key in the lower half, a number of its own in the upper one. */
static inline uint64_t cmap_value_for(uint64_t key, uint64_t serial)
{
    return serial << 32 | (key + 1);
}

/* Keys are stored raised by one: 0 is «not there». */
static inline cm_query cmap_raw_query(uint64_t key)
{
    return (cm_query){.hash = cm_mix(key + 1), .key = cmap_word(key + 1)};
}

/* One operation; values are not 0. What it found (0: nothing), or whether it was done; in
 * `version` that of its change, 0 when it changed nothing. `linger`: yield the core between
 * the look and the change, where a lock that does not lock shows. */
uint64_t cmap_raw_perform(cm_map *map, int operation, uint64_t key, uint64_t value,
                          uint64_t expected, int linger, uint64_t *version);

/* --- raw_history.c --- */
PyObject *cmap_raw_gate(MapObject *self, PyObject *args);
PyObject *cmap_raw_record(MapObject *self, PyObject *args);
PyObject *cmap_raw_record_clear(MapObject *self, PyObject *ignored);
PyObject *cmap_raw_record_walks(MapObject *self, PyObject *args);
PyObject *cmap_raw_drain(MapObject *self, PyObject *group);

/* --- raw_race.c --- */
PyObject *cmap_raw_race(MapObject *self, PyObject *args);

#endif
