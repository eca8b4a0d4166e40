/* MapIterator, and range(): a walk of ../core/walk.c for Python. */
#include "module.h"

enum { ITEMS, KEYS, VALUES };

static const char *const mode_names[] = {"weak", "strict", "snapshot", "view"};

typedef struct {
    PyObject_HEAD
    MapObject *map;
    cm_walk walk;
    int what;
    PyObject *reused; /* the pair given last, if nobody has kept it */
} Iterator;

static int what_of(PyObject *name)
{
    static const char *const names[] = {"items", "keys", "values"};
    if (name == NULL)
        return ITEMS;
    for (int what = ITEMS; PyUnicode_Check(name) && what <= VALUES; what++)
        if (PyUnicode_CompareWithASCIIString(name, names[what]) == 0)
            return what;
    PyErr_SetString(PyExc_ValueError, "what must be 'items', 'keys' or 'values'");
    return -1;
}

/* Takes over the reference to the view, if there is one. */
PyObject *cmap_walk_new(MapObject *map, int mode, cm_view *view, PyObject *name)
{
    PyTypeObject *type = map->state->iterator;
    int what = what_of(name);
    Iterator *self = what < 0 ? NULL : (Iterator *)type->tp_alloc(type, 0);
    if (self == NULL) {
        if (view != NULL)
            cm_view_release(view);
        return NULL;
    }
    self->map = (MapObject *)Py_NewRef((PyObject *)map);
    self->what = what;
    cm_walk_begin(&self->walk, map->map, mode, view);
    return (PyObject *)self;
}

/* Letting go runs foreign code, which must not meet the exception that is set. */
static void fail(cm_walk *walk)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *exception = PyErr_GetRaisedException();
    cm_walk_end(walk, CM_ERROR);
    PyErr_SetRaisedException(exception);
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    cm_walk_end(walk, CM_ERROR);
    PyErr_Restore(type, value, traceback);
#endif
}

/* The end of a walk that cm_walk_next has told, as an exception or (0) none. */
static void end(MapObject *map, cm_walk *walk, int got)
{
    if (got == 0) {
        cm_walk_end(walk, CM_COMPLETE);
    } else if (got == CM_STALE) {
        cm_walk_end(walk, CM_WAS_STALE);
        PyErr_SetString(map->state->stale_iteration,
                        "the map was changed during a strict iteration");
    } else {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        fail(walk);
    }
}

/* Whether an entry is there without a look at the table. */
static inline int at_hand(const cm_walk *walk)
{
    return walk->bucket != NULL && walk->at < walk->bucket->count &&
           (walk->mode != CM_STRICT || cm_walk_valid(walk));
}

/* The next key and value: two new references. */
static inline int advance(MapObject *map, cm_walk *walk, PyObject **key, PyObject **value)
{
    if (CM_UNLIKELY(!at_hand(walk))) {
        int got = walk->ended ? 0 : cm_walk_next(walk);
        if (got != 1) {
            end(map, walk, got);
            return 0;
        }
    }
    if (walk->at < walk->ahead_count) {
        __builtin_prefetch(walk->ahead[2 * walk->at], 1);
        __builtin_prefetch(walk->ahead[2 * walk->at + 1], 1);
    }
    cm_entry *entry = &walk->bucket->entry[walk->at++];
    walk->items++;
    *key = Py_NewRef((PyObject *)entry->key);
    *value = Py_NewRef((PyObject *)entry->value);
    return 1;
}

static int is_container(PyObject *object)
{
    return PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HAVE_GC);
}

/* What the pair remembers is of the items that it had (CPython 3.14, cpython/tupleobject.h). */
static inline void forget_hash(PyObject *tuple)
{
#if PY_VERSION_HEX >= 0x030e0000
    ((PyTupleObject *)tuple)->ob_hash = -1;
#else
    (void)tuple;
#endif
}

/* As dict's iterator does: the pair is used again while nobody else has it. The garbage
 * collector may have ceased to track it, for what it held then (bpo-42536). */
static PyObject *pair(Iterator *self, PyObject *key, PyObject *value)
{
#ifndef Py_GIL_DISABLED
    PyObject *tuple = self->reused;
    if (tuple != NULL && Py_REFCNT(tuple) == 1) {
        PyObject *old_key = PyTuple_GET_ITEM(tuple, 0), *old_value = PyTuple_GET_ITEM(tuple, 1);
        PyTuple_SET_ITEM(tuple, 0, key);
        PyTuple_SET_ITEM(tuple, 1, value);
        forget_hash(tuple);
        Py_INCREF(tuple);
        if ((is_container(key) || is_container(value)) && !PyObject_GC_IsTracked(tuple))
            PyObject_GC_Track(tuple);
        Py_DECREF(old_key);
        Py_DECREF(old_value);
        return tuple;
    }
#endif
    PyObject *fresh = PyTuple_New(2);
    if (fresh == NULL) {
        Py_DECREF(key);
        Py_DECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(fresh, 0, key);
    PyTuple_SET_ITEM(fresh, 1, value);
#ifndef Py_GIL_DISABLED
    Py_XSETREF(self->reused, Py_NewRef(fresh));
#endif
    return fresh;
}

static PyObject *iterator_next(Iterator *self)
{
    PyObject *key, *value;
    if (self->map == NULL || !advance(self->map, &self->walk, &key, &value))
        return NULL;
    if (self->what == ITEMS)
        return pair(self, key, value);
    Py_DECREF(self->what == KEYS ? value : key);
    return self->what == KEYS ? key : value;
}

static PyObject *iterator_close(Iterator *self, PyObject *ignored)
{
    (void)ignored;
    if (self->map != NULL)
        cm_walk_end(&self->walk, CM_STOPPED);
    Py_RETURN_NONE;
}

static PyObject *iterator_mode(Iterator *self, void *ignored)
{
    (void)ignored;
    return PyUnicode_FromString(mode_names[self->walk.mode]);
}

static PyObject *iterator_valid(Iterator *self, void *ignored)
{
    (void)ignored;
    int mode = self->walk.mode;
    int valid = mode == CM_SNAPSHOT || mode == CM_VIEW ||
                (self->map != NULL && cm_walk_valid(&self->walk));
    return PyBool_FromLong(valid);
}

static int iterator_traverse(Iterator *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)self->map);
    Py_VISIT(self->reused);
    /* A bucket that only this walk owns is nobody else's to tell, but for what it has lent:
     * that is the map's, which outlives the walk. */
    const cm_bucket *bucket = self->walk.view == NULL ? self->walk.bucket : NULL;
    if (bucket == NULL || !bucket->retired || bucket->owners != 1)
        return 0;
    for (uint32_t i = 0; i < bucket->count; i++) {
        if (cm_borrowed(bucket, i) || (bucket->borrower && cm_borrowed(bucket->borrower, i)))
            continue;
        Py_VISIT((PyObject *)bucket->entry[i].key);
        Py_VISIT((PyObject *)bucket->entry[i].value);
    }
    return 0;
}

static int iterator_clear(Iterator *self)
{
    if (self->map != NULL)
        cm_walk_end(&self->walk, CM_STOPPED);
    Py_CLEAR(self->reused);
    Py_CLEAR(self->map);
    return 0;
}

static void iterator_dealloc(Iterator *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    iterator_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- range() ------------------------------------------------------------------------- */

/* -1 the callback raised, 0 it said False, 1 go on. */
static int tell(PyObject *callback, PyObject *key, PyObject *value)
{
    PyObject *arguments[] = {key, value};
    PyObject *answer = PyObject_Vectorcall(callback, arguments, 2, NULL);
    Py_DECREF(key);
    Py_DECREF(value);
    if (answer == NULL)
        return -1;
    int go_on = answer != Py_False;
    Py_DECREF(answer);
    return go_on;
}

/* Takes over the reference to the view. The iterator is what the collector knows of. */
PyObject *cmap_range(MapObject *map, int mode, cm_view *view, PyObject *callback)
{
    Iterator *self = (Iterator *)cmap_walk_new(map, mode, view, NULL);
    if (self == NULL)
        return NULL;
    PyObject *key, *value;
    int go_on = 1;
    while (go_on == 1 && advance(map, &self->walk, &key, &value))
        go_on = tell(callback, key, value);
    if (go_on == -1)
        end(map, &self->walk, CM_FAILED);
    else if (go_on == 0)
        cm_walk_end(&self->walk, CM_STOPPED);
    PyObject *count =
        PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(self->walk.items);
    Py_DECREF(self);
    return count;
}

static PyMethodDef iterator_methods[] = {
    {"close", (PyCFunction)iterator_close, METH_NOARGS, "End it early."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef iterator_getset[] = {
    {"mode", (getter)iterator_mode, NULL, "How it walks.", NULL},
    {"valid", (getter)iterator_valid, NULL, "Whether the structure is still the same.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, "What Map.iterate() returns."},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_clear, iterator_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {Py_tp_methods, iterator_methods},
    {Py_tp_getset, iterator_getset},
    {0, NULL},
};

PyType_Spec cmap_iterator_spec = {
    .name = "concurrent_map._core.MapIterator",
    .basicsize = sizeof(Iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = iterator_slots,
};
