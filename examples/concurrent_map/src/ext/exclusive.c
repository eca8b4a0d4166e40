/* Map.exclusive(key): a shard's lock as a context manager. */
#include "module.h"

typedef struct {
    PyObject_HEAD
    MapObject *map;
    cm_shard *shard;
    Py_ssize_t entered;
} Exclusive;

PyObject *cmap_exclusive_new(MapObject *map, cm_shard *shard)
{
    PyTypeObject *type = map->state->exclusive;
    Exclusive *self = (Exclusive *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->map = (MapObject *)Py_NewRef((PyObject *)map);
    self->shard = shard;
    return (PyObject *)self;
}

static int is_mine(const Exclusive *self)
{
    return self->entered > 0 && atomic_load(&self->shard->lock.owner_tid) == cm_self();
}

static PyObject *exclusive_enter(Exclusive *self, PyObject *ignored)
{
    (void)ignored;
    if (cm_enter(self->map->map, self->shard) < 0)
        return NULL;
    self->entered++;
    return Py_NewRef((PyObject *)self);
}

static PyObject *exclusive_exit(Exclusive *self, PyObject *const *args, Py_ssize_t count)
{
    (void)args;
    (void)count;
    if (!is_mine(self)) {
        PyErr_SetString(PyExc_RuntimeError, "the shard is not held by this thread");
        return NULL;
    }
    self->entered--;
    cm_leave(self->map->map, self->shard);
    Py_RETURN_NONE;
}

static int exclusive_traverse(Exclusive *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)self->map);
    return 0;
}

/* The map stays, as in a view: it breaks the cycles that it is in. */
static int exclusive_clear(Exclusive *self)
{
    while (self->map != NULL && is_mine(self)) { /* entered, and forgotten */
        self->entered--;
        cm_leave(self->map->map, self->shard);
    }
    return 0;
}

static void exclusive_dealloc(Exclusive *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    exclusive_clear(self);
    Py_CLEAR(self->map);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef exclusive_methods[] = {
    {"__enter__", (PyCFunction)exclusive_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))exclusive_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot exclusive_slots[] = {
    {Py_tp_doc, "Holds the lock of one shard of a map."},
    {Py_tp_dealloc, exclusive_dealloc},
    {Py_tp_traverse, exclusive_traverse},
    {Py_tp_clear, exclusive_clear},
    {Py_tp_methods, exclusive_methods},
    {0, NULL},
};

PyType_Spec cmap_exclusive_spec = {
    .name = "concurrent_map._core.Exclusive",
    .basicsize = sizeof(Exclusive),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = exclusive_slots,
};
