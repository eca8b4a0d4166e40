/* CursorGroup: a view cut into steps that are handed out by compare-and-swap on one counter. */
#include "module.h"

typedef struct {
    PyObject_HEAD
    MapObject *map;
    cm_view *view; /* NULL when closed */
    uint64_t steps, id;
    _Atomic uint64_t next, conflicts, items;
    int ended;
} Cursors;

static PyObject *cursors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *words[] = {"", NULL};
    cmap_state *state = cmap_state_of(type);
    PyObject *map;
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!:CursorGroup", words,
                                                      state->map, &map))
        return NULL;
    Cursors *self = (Cursors *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->map = (MapObject *)Py_NewRef(map);
    self->ended = 1;
    cm_map *core = self->map->map;
    self->view = cm_view_open(core);
    if (self->view == NULL) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_DECREF(self);
        return NULL;
    }
    self->steps = cm_view_steps(self->view);
    self->id = atomic_fetch_add(&core->range_ids, 1) + 1;
    self->ended = 0;
    cm_range_begun(core, CM_CURSOR, self->id);
    return (PyObject *)self;
}

static void finish(Cursors *self, int outcome)
{
    if (self->ended)
        return;
    self->ended = 1;
    cm_range_ended(self->map->map, CM_CURSOR, self->id, outcome, cm_read(&self->items));
}

static PyObject *items_of(const cm_bucket *bucket)
{
    uint32_t count = bucket == NULL ? 0 : bucket->count;
    PyObject *list = PyList_New(count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *pair = PyTuple_Pack(2, (PyObject *)bucket->entry[i].key,
                                      (PyObject *)bucket->entry[i].value);
        if (pair == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    return list;
}

static PyObject *cursors_try_advance(Cursors *self, PyObject *step)
{
    unsigned long long expected = PyLong_AsUnsignedLongLong(step);
    if (expected == (unsigned long long)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return NULL;
        PyErr_Clear(); /* a negative number is no step either */
    }
    if (self->view == NULL) {
        PyErr_SetString(self->map->state->view_closed, "the cursors are closed");
        return NULL;
    }
    if (expected >= self->steps) {
        PyErr_SetString(PyExc_IndexError, "no such step");
        return NULL;
    }
    uint64_t found = expected;
    if (!atomic_compare_exchange_strong(&self->next, &found, expected + 1)) {
        cm_count(&self->conflicts, 1);
        cm_retried(self->map->map, 0, CM_RETRY_CURSOR);
        Py_RETURN_NONE;
    }
    /* Making the list may start the collector, and it foreign code: keep the view. */
    cm_view *view = self->view;
    atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
    PyObject *list = items_of(cm_view_step(view, expected));
    cm_view_release(view);
    if (list != NULL)
        cm_count(&self->items, (uint64_t)PyList_GET_SIZE(list));
    if (expected + 1 == self->steps)
        finish(self, CM_COMPLETE);
    return list;
}

static void release(Cursors *self)
{
    cm_view *view = self->view;
    self->view = NULL;
    finish(self, CM_STOPPED);
    if (view != NULL)
        cm_view_release(view);
}

static PyObject *cursors_close(Cursors *self, PyObject *ignored)
{
    (void)ignored;
    release(self);
    Py_RETURN_NONE;
}

static PyObject *cursors_number(Cursors *self, void *which)
{
    uint64_t number = which == NULL ? self->steps : cm_read((_Atomic uint64_t *)(void *)(
                                                        (char *)self + (size_t)which));
    return PyLong_FromUnsignedLongLong(number);
}

static int cursors_traverse(Cursors *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)self->map);
    return 0;
}

static int cursors_clear(Cursors *self)
{
    release(self);
    return 0;
}

static void cursors_dealloc(Cursors *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    release(self);
    Py_CLEAR(self->map);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef cursors_methods[] = {
    {"try_advance", (PyCFunction)cursors_try_advance, METH_O,
     "try_advance(expected): the step's items, or None if it was taken."},
    {"close", (PyCFunction)cursors_close, METH_NOARGS, "Release what it keeps."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cursors_getset[] = {
    {"steps", (getter)cursors_number, NULL, "How many there are.", NULL},
    {"position", (getter)cursors_number, NULL, "The next step.",
     (void *)offsetof(Cursors, next)},
    {"conflicts", (getter)cursors_number, NULL, "Lost try_advance().",
     (void *)offsetof(Cursors, conflicts)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot cursors_slots[] = {
    {Py_tp_doc, "A snapshot of a map in steps; the contracts stand in _core.pyi."},
    {Py_tp_new, cursors_new},
    {Py_tp_dealloc, cursors_dealloc},
    {Py_tp_traverse, cursors_traverse},
    {Py_tp_clear, cursors_clear},
    {Py_tp_methods, cursors_methods},
    {Py_tp_getset, cursors_getset},
    {0, NULL},
};

PyType_Spec cmap_cursors_spec = {
    .name = "concurrent_map._core.CursorGroup",
    .basicsize = sizeof(Cursors),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cursors_slots,
};
