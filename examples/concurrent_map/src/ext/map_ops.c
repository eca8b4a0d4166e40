/* The operations on one key. Each enters the key's shard once, but for comparisons. */
#include "module.h"

PyObject *cmap_key_error(PyObject *key)
{
    /* In a tuple, or a key that is a tuple would become the exception's arguments. */
    PyObject *arguments = PyTuple_Pack(1, key);
    if (arguments != NULL) {
        PyErr_SetObject(PyExc_KeyError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

/* After a change: let go of what it replaced, tell the callbacks. */
static inline void after(MapObject *self, cm_garbage *garbage, uint64_t version,
                         const char *operation, PyObject *key, PyObject *value)
{
    cm_drop(self->map, garbage);
    if (CM_UNLIKELY(self->callbacks != NULL))
        cmap_call_back(self, version, operation, key, value);
}

/* The shard is entered and left: store at `at`. -1 when there is no memory. */
static int put(MapObject *self, cmap_place *place, int at, PyObject *value)
{
    cm_garbage garbage;
    garbage.objects = garbage.buckets = 0;
    garbage.dir = NULL;
    PyObject *key = place->query.key;
    uint64_t version = cm_put(self->map, place->shard, &place->query, at, value, &garbage);
    cmap_depart(self->map, place);
    if (version == 0) {
        cm_drop(self->map, &garbage);
        PyErr_NoMemory();
        return -1;
    }
    after(self, &garbage, version, "store", key, value);
    return 0;
}

/* The shard is entered and left: delete what is at `at`. A new reference to its value. */
static PyObject *take(MapObject *self, cmap_place *place, int at)
{
    cm_garbage garbage;
    garbage.objects = garbage.buckets = 0;
    garbage.dir = NULL;
    PyObject *key = place->query.key;
    PyObject *value = Py_NewRef(place->bucket->entry[at].value);
    uint64_t version = cm_remove(self->map, place->shard, place->query.hash, at, &garbage);
    cmap_depart(self->map, place);
    if (version == 0) {
        cm_drop(self->map, &garbage);
        Py_DECREF(value);
        return PyErr_NoMemory();
    }
    after(self, &garbage, version, "delete", key, Py_None);
    return value;
}

/* A new reference; NULL without an exception when the key is not there. */
static inline PyObject *fetch(MapObject *self, PyObject *key)
{
    cmap_place place;
    if (cmap_aim(self->map, key, &place) < 0)
        return NULL;
    int at = cmap_locate(self->map, &place);
    if (CM_UNLIKELY(at == CM_FAILED))
        return NULL;
    PyObject *value = at >= 0 ? Py_NewRef(place.bucket->entry[at].value) : NULL;
    cmap_depart(self->map, &place);
    return value;
}

PyObject *cmap_subscript(MapObject *self, PyObject *key)
{
    PyObject *value = fetch(self, key);
    if (CM_UNLIKELY(value == NULL) && !PyErr_Occurred())
        return cmap_key_error(key);
    return value;
}

int cmap_contains(MapObject *self, PyObject *key)
{
    cmap_place place;
    if (cmap_aim(self->map, key, &place) < 0)
        return -1;
    int at = cmap_locate(self->map, &place);
    if (at == CM_FAILED)
        return -1;
    cmap_depart(self->map, &place);
    return at >= 0;
}

static int store(MapObject *self, PyObject *key, PyObject *value)
{
    cmap_place place;
    if (cmap_aim(self->map, key, &place) < 0)
        return -1;
    int at = cmap_locate(self->map, &place);
    return CM_UNLIKELY(at == CM_FAILED) ? -1 : put(self, &place, at, value);
}

/* Its value; NULL without an exception when it was not there. */
static PyObject *pop(MapObject *self, PyObject *key)
{
    cmap_place place;
    if (cmap_aim(self->map, key, &place) < 0)
        return NULL;
    int at = cmap_locate(self->map, &place);
    if (at >= 0)
        return take(self, &place, at);
    if (at == CM_ABSENT)
        cmap_depart(self->map, &place);
    return NULL;
}

int cmap_assign(MapObject *self, PyObject *key, PyObject *value)
{
    if (value != NULL)
        return store(self, key, value);
    PyObject *gone = pop(self, key);
    if (gone == NULL) {
        if (!PyErr_Occurred())
            cmap_key_error(key);
        return -1;
    }
    Py_DECREF(gone);
    return 0;
}

static PyObject *map_load(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (cmap_arguments("load", count, 1, 2) < 0)
        return NULL;
    PyObject *value = fetch(self, args[0]);
    if (value != NULL || PyErr_Occurred())
        return value;
    return Py_NewRef(count > 1 ? args[1] : Py_None);
}

static PyObject *map_store(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (cmap_arguments("store", count, 2, 2) < 0 || store(self, args[0], args[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* (value, flag); takes over the reference to the value, passes NULL on. */
static PyObject *pair(PyObject *value, int flag)
{
    if (value == NULL)
        return NULL;
    PyObject *tuple = PyTuple_Pack(2, value, flag ? Py_True : Py_False);
    Py_DECREF(value);
    return tuple;
}

static PyObject *map_load_or_store(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    cmap_place place;
    if (cmap_arguments("load_or_store", count, 2, 2) < 0 ||
        cmap_aim(self->map, args[0], &place) < 0)
        return NULL;
    int at = cmap_locate(self->map, &place);
    if (at == CM_FAILED)
        return NULL;
    if (at >= 0) {
        PyObject *value = Py_NewRef(place.bucket->entry[at].value);
        cmap_depart(self->map, &place);
        return pair(value, 1);
    }
    return put(self, &place, at, args[1]) < 0 ? NULL : pair(Py_NewRef(args[1]), 0);
}

static PyObject *map_load_and_delete(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (cmap_arguments("load_and_delete", count, 1, 2) < 0)
        return NULL;
    PyObject *value = pop(self, args[0]);
    if (value != NULL)
        return pair(value, 1);
    return PyErr_Occurred() ? NULL : pair(Py_NewRef(count > 1 ? args[1] : Py_None), 0);
}

/* Find the key with the value `expected`, with the shard entered: its place, CM_ABSENT (and
 * the shard is left), or CM_FAILED. A value that is equal without being the same object is
 * compared outside of the lock, and has to be there still. `*approved` is the caller's to
 * let go, after the lock. */
static int locate_value(MapObject *self, cmap_place *place, PyObject *expected,
                        PyObject **approved)
{
    for (;;) {
        int at = cmap_locate(self->map, place);
        if (at == CM_FAILED)
            return CM_FAILED;
        if (at == CM_ABSENT) {
            cmap_depart(self->map, place);
            return CM_ABSENT;
        }
        PyObject *there = place->bucket->entry[at].value;
        if (there == expected || there == *approved)
            return at;
        Py_INCREF(there);
        cm_leave(self->map, place->shard);
        if (*approved != NULL) /* another value has come since the last comparison */
            cm_retried(self->map, place->shard->lock.shard, CM_RETRY_COMPARE);
        Py_XSETREF(*approved, there);
        int same = PyObject_RichCompareBool(there, expected, Py_EQ);
        if (same <= 0) {
            cmap_forget_compared(&place->query);
            return same < 0 ? CM_FAILED : CM_ABSENT;
        }
    }
}

static PyObject *map_compare_and_swap(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    cmap_place place;
    PyObject *approved = NULL, *answer = NULL;
    if (cmap_arguments("compare_and_swap", count, 3, 3) < 0 ||
        cmap_aim(self->map, args[0], &place) < 0)
        return NULL;
    int at = locate_value(self, &place, args[1], &approved);
    if (at == CM_ABSENT)
        answer = Py_NewRef(Py_False);
    else if (at >= 0 && put(self, &place, at, args[2]) == 0)
        answer = Py_NewRef(Py_True);
    Py_XDECREF(approved);
    return answer;
}

static PyObject *map_compare_and_delete(MapObject *self, PyObject *const *args,
                                        Py_ssize_t count)
{
    cmap_place place;
    PyObject *approved = NULL, *gone = NULL, *answer = NULL;
    if (cmap_arguments("compare_and_delete", count, 2, 2) < 0 ||
        cmap_aim(self->map, args[0], &place) < 0)
        return NULL;
    int at = locate_value(self, &place, args[1], &approved);
    if (at == CM_ABSENT)
        answer = Py_NewRef(Py_False);
    else if (at >= 0 && (gone = take(self, &place, at)) != NULL)
        answer = Py_NewRef(Py_True);
    Py_XDECREF(gone);
    Py_XDECREF(approved);
    return answer;
}

static PyObject *map_clear(MapObject *self, PyObject *ignored)
{
    (void)ignored;
    uint64_t version = cm_map_clear(self->map);
    if (version == 0)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    if (self->callbacks != NULL)
        cmap_call_back(self, version, "clear", Py_None, Py_None);
    Py_RETURN_NONE;
}

static PyObject *map_shard_of(MapObject *self, PyObject *key)
{
    cmap_place place;
    if (cmap_aim(self->map, key, &place) < 0)
        return NULL;
    return PyLong_FromUnsignedLong(place.shard->lock.shard);
}

static PyObject *map_exclusive(MapObject *self, PyObject *key)
{
    cmap_place place;
    return cmap_aim(self->map, key, &place) < 0 ? NULL : cmap_exclusive_new(self, place.shard);
}

static int mode_of(PyObject *name)
{
    static const char *const names[] = {"weak", "strict", "snapshot", "view"};
    for (int mode = 0; PyUnicode_Check(name) && mode < CM_CURSOR; mode++)
        if (PyUnicode_CompareWithASCIIString(name, names[mode]) == 0)
            return mode;
    PyErr_SetString(PyExc_ValueError, "mode must be 'weak', 'strict', 'snapshot' or 'view'");
    return -1;
}

/* A view for the modes that need one. */
static int view_for(MapObject *self, int mode, cm_view **view)
{
    *view = NULL;
    if (mode != CM_SNAPSHOT && mode != CM_VIEW)
        return 0;
    *view = cm_view_open(self->map);
    if (*view == NULL && !PyErr_Occurred())
        PyErr_NoMemory();
    return *view == NULL ? -1 : 0;
}

static PyObject *map_iterate(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    cm_view *view;
    if (cmap_arguments("iterate", count, 0, 2) < 0)
        return NULL;
    int mode = count > 0 ? mode_of(args[0]) : CM_SNAPSHOT;
    if (mode < 0 || view_for(self, mode, &view) < 0)
        return NULL;
    return cmap_walk_new(self, mode, view, count > 1 ? args[1] : NULL);
}

static PyObject *map_range(MapObject *self, PyObject *const *args, Py_ssize_t count)
{
    cm_view *view;
    if (cmap_arguments("range", count, 1, 2) < 0)
        return NULL;
    int mode = count > 1 ? mode_of(args[1]) : CM_WEAK;
    if (mode < 0 || view_for(self, mode, &view) < 0)
        return NULL;
    return cmap_range(self, mode, view, args[0]);
}

#define FAST(name, function, text) \
    {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, text}

PyMethodDef cmap_map_methods[] = {
    FAST("load", map_load, "load(key, default=None): the key's value, or default."),
    FAST("store", map_store, "store(key, value): give the key that value."),
    FAST("load_or_store", map_load_or_store,
         "load_or_store(key, value): (the value there, True), or store: (value, False)."),
    FAST("load_and_delete", map_load_and_delete,
         "load_and_delete(key, default=None): (the value, True), or (default, False)."),
    FAST("compare_and_swap", map_compare_and_swap,
         "compare_and_swap(key, expected, value): store if the value is expected; whether."),
    FAST("compare_and_delete", map_compare_and_delete,
         "compare_and_delete(key, expected): delete if the value is expected; whether."),
    FAST("range", map_range, "range(callback, mode='weak'): call it for each; how many."),
    FAST("iterate", map_iterate, "iterate(mode='snapshot', what='items'): an iterator."),
    {"clear", (PyCFunction)map_clear, METH_NOARGS, "Delete everything, as one change."},
    {"shard_of", (PyCFunction)map_shard_of, METH_O, "The number of the key's shard."},
    {"exclusive", (PyCFunction)map_exclusive, METH_O,
     "A context manager that holds the lock of the key's shard."},
    {"on_update", (PyCFunction)cmap_on_update, METH_O,
     "Call callback(version, operation, key, value) after each change."},
    {"remove_on_update", (PyCFunction)cmap_remove_on_update, METH_O, "Undo one on_update."},
    {"changes", (PyCFunction)cmap_changes, METH_O, "changes(since_version): a list."},
    {"stats", (PyCFunction)cmap_stats, METH_NOARGS, "What the map has counted: a dict."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};
