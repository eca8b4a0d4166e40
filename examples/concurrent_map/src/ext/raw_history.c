/* For tests: what threads did to a raw map, and when, as histories to be checked. The loops
 * run with the GIL released; nothing is allocated for Python before they have ended. They
 * begin at one moment (the gate) and yield their core now and then in the middle of things,
 * so that they overlap there, too, where there are few cores and much else to do. */
#include "raw.h"

#include <sched.h>

enum { PATIENCE_NS = 1000000000 };

/* --- the gate ---------------------------------------------------------------------------- */

/* The next so many recorders wait for each other; from then on they yield after each `pace`
 * operations or items. */
PyObject *cmap_raw_gate(MapObject *self, PyObject *args)
{
    unsigned long long threads, pace;
    RawMap *raw = (RawMap *)self;
    if (!PyArg_ParseTuple(args, "KK:gate", &threads, &pace))
        return NULL;
    atomic_store(&raw->arrived, 0);
    atomic_store(&raw->pace, pace);
    atomic_store(&raw->expected, threads);
    Py_RETURN_NONE;
}

static int is_time(uint64_t pace, uint64_t count)
{
    return pace != 0 && count % pace == 0;
}

/* Without the GIL; the pace. Who is late is not waited for: the history is as good without it. */
static uint64_t pass_gate(MapObject *self)
{
    RawMap *raw = (RawMap *)self;
    uint64_t deadline = cmap_now_ns() + PATIENCE_NS;
    atomic_fetch_add(&raw->arrived, 1);
    while (atomic_load(&raw->arrived) < atomic_load(&raw->expected) && cmap_now_ns() < deadline)
        sched_yield();
    return atomic_load(&raw->pace);
}

/* --- single keys ----------------------------------------------------------------------- */

typedef struct {
    uint64_t operation, key, value, expected, result, began, ended, version;
} Step;

static void record(cm_map *map, uint64_t seed, Step *steps, uint64_t count, uint64_t keys,
                   uint64_t *seen, uint64_t pace)
{
    uint64_t state = seed * 2 + 1;
    for (uint64_t i = 0; i < count; i++) {
        Step *step = &steps[i];
        step->operation = (cmap_dice(&state) >> 16) % OPERATIONS;
        step->key = (cmap_dice(&state) >> 16) % keys;
        step->value = cmap_value_for(step->key, seed << 24 | (i + 1));
        step->expected = seen[step->key] != 0 ? seen[step->key] : step->value;
        step->began = cmap_now_ns();
        step->result = cmap_raw_perform(map, (int)step->operation, step->key, step->value,
                                        step->expected, is_time(pace, i), &step->version);
        step->ended = cmap_now_ns();
        if (step->operation <= LOAD_OR_STORE && step->operation != STORE && step->result != 0)
            seen[step->key] = step->result;
    }
}

static PyObject *listed(const Step *steps, uint64_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t i = 0; list != NULL && i < count; i++) {
        const Step *s = &steps[i];
        PyObject *tuple = Py_BuildValue("(KKKKKKKK)", s->operation, s->key, s->value, s->expected,
                                        s->result, s->began, s->ended, s->version);
        if (tuple == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
    }
    return list;
}

PyObject *cmap_raw_record(MapObject *self, PyObject *args)
{
    unsigned long long seed, operations, keys;
    if (!PyArg_ParseTuple(args, "KKK:record", &seed, &operations, &keys))
        return NULL;
    Step *steps = PyMem_RawCalloc(operations + 1, sizeof *steps);
    uint64_t *seen = PyMem_RawCalloc(keys + 1, sizeof *seen);
    PyObject *list = NULL;
    if (steps == NULL || seen == NULL) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS
        record(self->map, seed, steps, operations, keys, seen, pass_gate(self));
        Py_END_ALLOW_THREADS
        list = listed(steps, operations);
    }
    PyMem_RawFree(seen);
    PyMem_RawFree(steps);
    return list;
}

PyObject *cmap_raw_record_clear(MapObject *self, PyObject *ignored)
{
    (void)ignored;
    uint64_t began, ended, version;
    Py_BEGIN_ALLOW_THREADS
    pass_gate(self);
    began = cmap_now_ns();
    version = cm_map_clear(self->map);
    ended = cmap_now_ns();
    Py_END_ALLOW_THREADS
    return version == 0 ? PyErr_NoMemory()
                        : Py_BuildValue("(KKK)", (unsigned long long)version,
                                        (unsigned long long)began, (unsigned long long)ended);
}

/* --- walks ------------------------------------------------------------------------------ */

/* Pairs of numbers, in one growing piece of memory. */
typedef struct {
    uint64_t *number;
    size_t count, room;
    int failed;
} Pairs;

static void add(Pairs *pairs, uint64_t first, uint64_t second)
{
    if (pairs->count + 2 > pairs->room) {
        size_t room = pairs->room * 2 + 256;
        uint64_t *larger = PyMem_RawRealloc(pairs->number, room * sizeof *larger);
        if (larger == NULL) {
            pairs->failed = 1;
            return;
        }
        pairs->number = larger;
        pairs->room = room;
    }
    pairs->number[pairs->count++] = first;
    pairs->number[pairs->count++] = second;
}

static void add_entry(Pairs *pairs, const cm_entry *entry)
{
    add(pairs, cmap_number_of(entry->key) - 1, cmap_number_of(entry->value));
}

static PyObject *bytes_of(const Pairs *pairs)
{
    return PyBytes_FromStringAndSize((const char *)pairs->number,
                                     (Py_ssize_t)(pairs->count * sizeof *pairs->number));
}

typedef struct {
    uint64_t began, begun, ended; /* ns; begun: the view is open, or the walk has begun */
    uint64_t before, after;       /* the map's version before and after it all */
    uint64_t version;             /* the view's; 0 without one */
    int outcome;
    Pairs items, loads;
} Walked;

static void load_from(const cm_map *map, const cm_view *view, uint64_t key, Pairs *loads)
{
    cm_query query = cmap_raw_query(key);
    const cm_shard *shard = cm_shard_of((cm_map *)map, query.hash);
    cm_bucket *bucket = cm_bucket_of(map, view->dir[shard - map->shard], query.hash);
    int at = cm_find(map, bucket, &query);
    add(loads, key, at >= 0 ? cmap_number_of(bucket->entry[at].value) : 0);
}

static int walk_all(cm_walk *walk, uint64_t pace, Pairs *items)
{
    int got;
    while ((got = cm_walk_next(walk)) == 1) {
        add_entry(items, &walk->bucket->entry[walk->at++]);
        walk->items++;
        if (is_time(pace, walk->items))
            sched_yield();
    }
    return got == 0 ? CM_COMPLETE : got == CM_STALE ? CM_WAS_STALE : CM_ERROR;
}

/* One walk; over a view, with every one of `keys` loaded from it before. */
static void walk(cm_map *map, int mode, uint64_t keys, uint64_t pace, Walked *walked)
{
    cm_walk walk;
    walked->before = cm_read(&map->version);
    walked->began = cmap_now_ns();
    cm_view *view = mode >= CM_SNAPSHOT ? cm_view_open(map) : NULL;
    walked->begun = cmap_now_ns();
    if (mode >= CM_SNAPSHOT && view == NULL) {
        walked->outcome = CM_ERROR;
        return;
    }
    walked->version = view != NULL ? view->version : 0;
    sched_yield();
    for (uint64_t key = 0; view != NULL && key < keys; key++)
        load_from(map, view, key, &walked->loads);
    cm_walk_begin(&walk, map, mode, view);
    walked->outcome = walk_all(&walk, pace, &walked->items);
    cm_walk_end(&walk, walked->outcome);
    walked->ended = cmap_now_ns();
    walked->after = cm_read(&map->version);
}

static PyObject *walks_listed(Walked *walks, uint64_t count, int mode)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t i = 0; i < count; i++) {
        Walked *w = &walks[i];
        PyObject *tuple = NULL;
        if (list != NULL && (w->items.failed || w->loads.failed))
            PyErr_NoMemory();
        else if (list != NULL)
            tuple = Py_BuildValue("(iiKKKKKKNN)", mode, w->outcome, w->began, w->begun, w->ended,
                                  w->before, w->after, w->version, bytes_of(&w->items),
                                  bytes_of(&w->loads));
        PyMem_RawFree(w->items.number);
        PyMem_RawFree(w->loads.number);
        if (tuple == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
    }
    return list;
}

PyObject *cmap_raw_record_walks(MapObject *self, PyObject *args)
{
    int mode;
    unsigned long long rounds, keys;
    if (!PyArg_ParseTuple(args, "iKK:record_walks", &mode, &rounds, &keys))
        return NULL;
    if (mode < CM_WEAK || mode > CM_VIEW) {
        PyErr_SetString(PyExc_ValueError, "no such mode");
        return NULL;
    }
    Walked *walks = PyMem_RawCalloc(rounds + 1, sizeof *walks);
    if (walks == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    uint64_t pace = pass_gate(self);
    for (uint64_t i = 0; i < rounds; i++)
        walk(self->map, mode, keys, pace, &walks[i]);
    Py_END_ALLOW_THREADS
    PyObject *list = walks_listed(walks, rounds, mode);
    PyMem_RawFree(walks);
    return list;
}

/* --- cursors ----------------------------------------------------------------------------- */

PyObject *cmap_raw_drain(MapObject *self, PyObject *group)
{
    RawCursors *cursors = (RawCursors *)group;
    if (!Py_IS_TYPE(group, self->state->raw_cursors) || cursors->map != self) {
        PyErr_SetString(PyExc_TypeError, "drain() takes a RawCursors of this map");
        return NULL;
    }
    Pairs items = {0};
    uint64_t won = 0, lost = 0, pace = atomic_load(&((RawMap *)self)->pace);
    Py_BEGIN_ALLOW_THREADS
    uint64_t step;
    while ((step = atomic_load(&cursors->next)) < cursors->steps) {
        if (!atomic_compare_exchange_strong(&cursors->next, &step, step + 1)) {
            lost++;
            cm_retried(self->map, 0, CM_RETRY_CURSOR);
            continue;
        }
        won++;
        const cm_bucket *bucket = cm_view_step(cursors->view, step);
        for (uint32_t i = 0; bucket != NULL && i < bucket->count; i++)
            add_entry(&items, &bucket->entry[i]);
        if (is_time(pace, won))
            sched_yield();
    }
    Py_END_ALLOW_THREADS
    PyObject *answer = NULL;
    if (items.failed)
        PyErr_NoMemory();
    else
        answer = Py_BuildValue("(KKN)", (unsigned long long)won, (unsigned long long)lost,
                               bytes_of(&items));
    PyMem_RawFree(items.number);
    return answer;
}
