/* The type View, which snapshot() and read_view() make subclasses of. */
#include "module.h"

typedef struct {
    PyObject_HEAD
    MapObject *map;
    cm_view *view; /* NULL when closed */
    uint64_t version;
    int mode; /* as which of the two its ranges are counted */
} View;

static PyObject *view_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *words[] = {"", "view", NULL};
    cmap_state *state = cmap_state_of(type);
    PyObject *map;
    int is_view = 0;
    if (state == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$p:View", words,
                                                      state->map, &map, &is_view))
        return NULL;
    View *self = (View *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->map = (MapObject *)Py_NewRef(map);
    self->mode = is_view ? CM_VIEW : CM_SNAPSHOT;
    self->view = cm_view_open(self->map->map);
    if (self->view == NULL) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_DECREF(self);
        return NULL;
    }
    self->version = self->view->version;
    return (PyObject *)self;
}

/* A reference for the time of one use: foreign code may close the view meanwhile. */
static cm_view *borrow(View *self)
{
    if (self->view == NULL) {
        PyErr_SetString(self->map->state->view_closed, "the view is closed");
        return NULL;
    }
    atomic_fetch_add_explicit(&self->view->refs, 1, memory_order_relaxed);
    return self->view;
}

/* A new reference; NULL, perhaps without an exception: the key is not there. */
static PyObject *fetch(View *self, PyObject *key)
{
    cm_view *view = borrow(self);
    if (view == NULL)
        return NULL;
    cmap_place place;
    PyObject *value = NULL;
    if (cmap_aim(view->map, key, &place) == 0) {
        cm_query *query = &place.query;
        int at = cmap_ask_view(view, query);
        if (at >= 0) {
            cm_dir *dir = view->dir[place.shard->lock.shard];
            value = Py_NewRef(cm_bucket_of(view->map, dir, query->hash)->entry[at].value);
        }
        cmap_forget_compared(query);
    }
    cm_view_release(view);
    return value;
}

static PyObject *view_subscript(View *self, PyObject *key)
{
    PyObject *value = fetch(self, key);
    return value != NULL || PyErr_Occurred() ? value : cmap_key_error(key);
}

static int view_contains(View *self, PyObject *key)
{
    PyObject *value = fetch(self, key);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_DECREF(value);
    return 1;
}

static PyObject *view_load(View *self, PyObject *const *args, Py_ssize_t count)
{
    if (cmap_arguments("load", count, 1, 2) < 0)
        return NULL;
    PyObject *value = fetch(self, args[0]);
    if (value != NULL || PyErr_Occurred())
        return value;
    return Py_NewRef(count > 1 ? args[1] : Py_None);
}

static PyObject *view_iterate(View *self, PyObject *const *args, Py_ssize_t count)
{
    if (cmap_arguments("iterate", count, 0, 1) < 0)
        return NULL;
    cm_view *view = borrow(self);
    return view == NULL ? NULL
                        : cmap_walk_new(self->map, self->mode, view, count > 0 ? args[0] : NULL);
}

static PyObject *view_range(View *self, PyObject *callback)
{
    cm_view *view = borrow(self);
    return view == NULL ? NULL : cmap_range(self->map, self->mode, view, callback);
}

static Py_ssize_t view_length(View *self)
{
    if (self->view != NULL)
        return (Py_ssize_t)self->view->entries;
    PyErr_SetString(self->map->state->view_closed, "the view is closed");
    return -1;
}

static void release(View *self)
{
    cm_view *view = self->view;
    self->view = NULL;
    if (view != NULL)
        cm_view_release(view);
}

static PyObject *view_close(View *self, PyObject *ignored)
{
    (void)ignored;
    release(self);
    Py_RETURN_NONE;
}

static PyObject *view_enter(View *self, PyObject *ignored)
{
    (void)ignored;
    return view_length(self) < 0 ? NULL : Py_NewRef((PyObject *)self);
}

static PyObject *view_exit(View *self, PyObject *const *args, Py_ssize_t count)
{
    (void)args;
    (void)count;
    return view_close(self, NULL);
}

static PyObject *view_version(View *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(self->version);
}

static PyObject *view_closed(View *self, void *ignored)
{
    (void)ignored;
    return PyBool_FromLong(self->view == NULL);
}

/* What it keeps is told by its map: see map_object.c. */
static int view_traverse(View *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)self->map);
    return 0;
}

/* The map stays: a finalizer may still ask for something, and is told that it is closed. */
static int view_clear(View *self)
{
    release(self);
    return 0;
}

static void view_dealloc(View *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    release(self);
    Py_CLEAR(self->map);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(name, function, text) \
    {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL, text}

static PyMethodDef view_methods[] = {
    FAST("load", view_load, "load(key, default=None)"),
    FAST("iterate", view_iterate, "iterate(what='items'): an iterator."),
    FAST("__exit__", view_exit, NULL),
    {"range", (PyCFunction)view_range, METH_O, "range(callback): call it for each; how many."},
    {"close", (PyCFunction)view_close, METH_NOARGS, "Release what it keeps."},
    {"__enter__", (PyCFunction)view_enter, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef view_getset[] = {
    {"version", (getter)view_version, NULL, "Of the last change that it shows.", NULL},
    {"closed", (getter)view_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "A consistent picture of a map; the contracts stand in _core.pyi."},
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_traverse, view_traverse},
    {Py_tp_clear, view_clear},
    {Py_tp_methods, view_methods},
    {Py_tp_getset, view_getset},
    {Py_mp_length, view_length},
    {Py_mp_subscript, view_subscript},
    {Py_sq_contains, view_contains},
    {0, NULL},
};

PyType_Spec cmap_view_spec = {
    .name = "concurrent_map._core.View",
    .basicsize = sizeof(View),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};
