/* For tests: RawMap is the same table with integers instead of objects, so that C loops can
 * use it with the GIL released and threads really overlap. Integers stand as themselves in
 * the places of the pointers; each value carries its key, so that walkers can tell. */
#include "raw.h"

#include <sched.h>
#include <structmember.h>

static int raw_enter(cm_map *map, uint64_t key, cmap_place *place)
{
    place->query = cmap_raw_query(key);
    place->shard = cm_shard_of(map, place->query.hash);
    cm_enter(map, place->shard); /* a raw map's waits do not fail */
    place->bucket = cm_bucket_of(map, place->shard->dir, place->query.hash);
    return cm_find(map, place->bucket, &place->query);
}

static uint64_t raw_value(const cmap_place *place, int at)
{
    return at >= 0 ? cmap_number_of(place->bucket->entry[at].value) : 0;
}

uint64_t cmap_raw_perform(cm_map *map, int operation, uint64_t key, uint64_t value,
                          uint64_t expected, int linger, uint64_t *version)
{
    cm_garbage garbage = {0};
    cmap_place place;
    int at = raw_enter(map, key, &place);
    uint64_t there = raw_value(&place, at), result = there;
    int matches = there != 0 && there == expected;
    if (linger)
        sched_yield();
    *version = 0;
    if (operation == STORE || (operation == LOAD_OR_STORE && there == 0) ||
        (operation == SWAP && matches))
        *version = cm_put(map, place.shard, &place.query, at, cmap_word(value), &garbage);
    if ((operation == LOAD_AND_DELETE && there != 0) ||
        (operation == COMPARE_AND_DELETE && matches))
        *version = cm_remove(map, place.shard, place.query.hash, at, &garbage);
    if (operation == SWAP || operation == COMPARE_AND_DELETE)
        result = (uint64_t)matches;
    if (operation == STORE)
        result = 0;
    cm_leave(map, place.shard);
    cm_drop(map, &garbage);
    return result;
}

static PyObject *raw_churn(MapObject *self, PyObject *args)
{
    unsigned long long seed, operations, keys, store, erase, found = 0;
    if (!PyArg_ParseTuple(args, "KKKKK:churn", &seed, &operations, &keys, &store, &erase))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    uint64_t state = seed * 2 + 1, version;
    for (uint64_t i = 1; i <= operations; i++) {
        uint64_t key = (cmap_dice(&state) >> 16) % keys, roll = (cmap_dice(&state) >> 16) % 100;
        int operation = roll < store ? STORE : roll < store + erase ? LOAD_AND_DELETE : LOAD;
        uint64_t got = cmap_raw_perform(self->map, operation, key, cmap_value_for(key, i), 0,
                                        0, &version);
        found += operation == LOAD && got != 0;
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(found);
}

/* One whole range; its outcome, or -1 when an entry was not one that anybody stored. */
static int walk_once(cm_map *map, int mode, uint64_t *items)
{
    cm_walk walk;
    cm_view *view = mode >= CM_SNAPSHOT ? cm_view_open(map) : NULL;
    if (mode >= CM_SNAPSHOT && view == NULL)
        return CM_ERROR;
    cm_walk_begin(&walk, map, mode, view);
    int got, sound = 1;
    while ((got = cm_walk_next(&walk)) == 1) {
        const cm_entry *entry = &walk.bucket->entry[walk.at++];
        walk.items++;
        sound &= cmap_number_of(entry->key) == (uint32_t)cmap_number_of(entry->value) &&
                 entry->hash == cm_mix(cmap_number_of(entry->key));
    }
    int outcome = got == 0 ? CM_COMPLETE : got == CM_STALE ? CM_WAS_STALE : CM_ERROR;
    *items += walk.items;
    cm_walk_end(&walk, outcome);
    return sound ? outcome : -1;
}

static PyObject *raw_walk(MapObject *self, PyObject *args)
{
    int mode;
    unsigned long long rounds;
    uint64_t items = 0, outcomes[CM_OUTCOMES] = {0}, broken = 0;
    if (!PyArg_ParseTuple(args, "iK:walk", &mode, &rounds))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (uint64_t i = 0; i < rounds; i++) {
        int outcome = walk_once(self->map, mode, &items);
        if (outcome < 0)
            broken++;
        else
            outcomes[outcome]++;
    }
    Py_END_ALLOW_THREADS
    if (broken > 0)
        return PyErr_Format(PyExc_RuntimeError, "%llu walks met an entry that nobody stored",
                            (unsigned long long)broken);
    return Py_BuildValue("KKK", outcomes[CM_COMPLETE], outcomes[CM_WAS_STALE], items);
}

/* What a view holds, as one number. */
static uint64_t digest(cm_map *map, cm_view *view, uint64_t *items)
{
    cm_walk walk;
    uint64_t sum = 0;
    atomic_fetch_add(&view->refs, 1);
    cm_walk_begin(&walk, map, CM_SNAPSHOT, view);
    while (cm_walk_next(&walk) == 1) {
        const cm_entry *entry = &walk.bucket->entry[walk.at++];
        walk.items++;
        sum += cm_mix(cmap_number_of(entry->key) * 31 + cmap_number_of(entry->value));
    }
    *items = walk.items;
    cm_walk_end(&walk, CM_COMPLETE);
    return sum;
}

static PyObject *raw_snapshots(MapObject *self, PyObject *args)
{
    unsigned long long rounds, differing = 0;
    if (!PyArg_ParseTuple(args, "K:snapshots", &rounds))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t first = 0, second = 0;
        cm_view *view = cm_view_open(self->map);
        if (view == NULL)
            continue;
        uint64_t sum = digest(self->map, view, &first);
        differing += sum != digest(self->map, view, &second) || first != second ||
                     first != view->entries;
        cm_view_release(view);
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(differing);
}

static PyObject *raw_hold(MapObject *self, PyObject *args)
{
    unsigned int shard, milliseconds;
    if (!PyArg_ParseTuple(args, "II:hold", &shard, &milliseconds))
        return NULL;
    if (shard >= self->map->shards) {
        PyErr_SetString(PyExc_IndexError, "no such shard");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    cm_enter(self->map, &self->map->shard[shard]);
    nanosleep(&time, NULL);
    cm_leave(self->map, &self->map->shard[shard]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *raw_advance(MapObject *self, PyObject *group)
{
    uint64_t won = 0, lost = 0;
    if (!Py_IS_TYPE(group, self->state->raw_cursors)) {
        PyErr_SetString(PyExc_TypeError, "advance() takes a RawCursors");
        return NULL;
    }
    RawCursors *cursors = (RawCursors *)group;
    Py_BEGIN_ALLOW_THREADS
    uint64_t expected;
    while ((expected = atomic_load(&cursors->next)) < cursors->steps) {
        if (atomic_compare_exchange_strong(&cursors->next, &expected, expected + 1)) {
            won++;
        } else {
            lost++;
            cm_retried(self->map, 0, CM_RETRY_CURSOR);
        }
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("KK", won, lost);
}

/* --- the types -------------------------------------------------------------------------- */

static PyObject *raw_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *words[] = {"name", "shards", NULL};
    PyObject *name = Py_None;
    Py_ssize_t shards = 16;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$On:RawMap", words, &name, &shards))
        return NULL;
    return (PyObject *)cmap_map_new(type, name, shards, 0, 1);
}

static void raw_dealloc(MapObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->map != NULL)
        cm_map_free(self->map);
    Py_CLEAR(self->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t raw_length(MapObject *self)
{
    return (Py_ssize_t)cm_map_entries(self->map);
}

static PyMemberDef raw_members[] = {
    {"name", T_OBJECT_EX, offsetof(MapObject, name), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef raw_methods[] = {
    {"churn", (PyCFunction)raw_churn, METH_VARARGS, NULL},
    {"gate", (PyCFunction)cmap_raw_gate, METH_VARARGS, NULL},
    {"record", (PyCFunction)cmap_raw_record, METH_VARARGS, NULL},
    {"record_clear", (PyCFunction)cmap_raw_record_clear, METH_NOARGS, NULL},
    {"record_walks", (PyCFunction)cmap_raw_record_walks, METH_VARARGS, NULL},
    {"drain", (PyCFunction)cmap_raw_drain, METH_O, NULL},
    {"walk", (PyCFunction)raw_walk, METH_VARARGS, NULL},
    {"snapshots", (PyCFunction)raw_snapshots, METH_VARARGS, NULL},
    {"hold", (PyCFunction)raw_hold, METH_VARARGS, NULL},
    {"advance", (PyCFunction)raw_advance, METH_O, NULL},
    {"race", (PyCFunction)cmap_raw_race, METH_VARARGS, NULL},
    {"stats", (PyCFunction)cmap_stats, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot raw_slots[] = {
    {Py_tp_doc, "For tests: integers, and C loops with the GIL released."},
    {Py_tp_new, raw_new},
    {Py_tp_dealloc, raw_dealloc},
    {Py_tp_methods, raw_methods},
    {Py_tp_members, raw_members},
    {Py_mp_length, raw_length},
    {0, NULL},
};

PyType_Spec cmap_raw_spec = {
    .name = "concurrent_map._core.RawMap",
    .basicsize = sizeof(RawMap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = raw_slots,
};

static int open_view(RawCursors *self, MapObject *map)
{
    Py_BEGIN_ALLOW_THREADS
    self->view = cm_view_open(map->map);
    Py_END_ALLOW_THREADS
    if (self->view == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->map = (MapObject *)Py_NewRef((PyObject *)map);
    self->steps = cm_view_steps(self->view);
    return 0;
}

static PyObject *raw_cursors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *words[] = {"", NULL};
    cmap_state *state = cmap_state_of(type);
    PyObject *what;
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:RawCursors", words, &what))
        return NULL;
    RawCursors *self = (RawCursors *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    int done = 0;
    if (Py_IS_TYPE(what, state->raw))
        done = open_view(self, (MapObject *)what);
    else if ((self->steps = PyLong_AsUnsignedLongLong(what)) == (uint64_t)-1 && PyErr_Occurred())
        done = -1;
    if (done < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyObject *raw_cursors_version(RawCursors *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->view != NULL ? self->view->version : 0);
}

static void raw_cursors_dealloc(RawCursors *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->view != NULL)
        cm_view_release(self->view);
    Py_CLEAR(self->map);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyGetSetDef raw_cursors_getset[] = {
    {"version", (getter)raw_cursors_version, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot raw_cursors_slots[] = {
    {Py_tp_new, raw_cursors_new},
    {Py_tp_dealloc, raw_cursors_dealloc},
    {Py_tp_getset, raw_cursors_getset},
    {0, NULL},
};

PyType_Spec cmap_raw_cursors_spec = {
    .name = "concurrent_map._core.RawCursors",
    .basicsize = sizeof(RawCursors),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = raw_cursors_slots,
};
