/* The change stream: callbacks at once, or the bounded history later. */
#include "module.h"

void cmap_call_back(MapObject *self, uint64_t version, const char *operation, PyObject *key,
                    PyObject *value)
{
    PyObject *callbacks = Py_NewRef(self->callbacks);
    PyObject *arguments = Py_BuildValue("(KsOO)", (unsigned long long)version, operation, key,
                                        value);
    if (arguments == NULL)
        PyErr_WriteUnraisable((PyObject *)self);
    for (Py_ssize_t i = 0; arguments != NULL && i < PyTuple_GET_SIZE(callbacks); i++) {
        PyObject *callback = PyTuple_GET_ITEM(callbacks, i);
        PyObject *answer = PyObject_CallObject(callback, arguments);
        if (answer == NULL)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(answer);
    }
    Py_XDECREF(arguments);
    Py_DECREF(callbacks);
}

PyObject *cmap_on_update(MapObject *self, PyObject *callback)
{
    if (!PyCallable_Check(callback)) {
        PyErr_SetString(PyExc_TypeError, "the callback is not callable");
        return NULL;
    }
    PyObject *callbacks = PyTuple_Pack(1, callback);
    if (callbacks != NULL && self->callbacks != NULL)
        Py_SETREF(callbacks, PySequence_Concat(self->callbacks, callbacks));
    if (callbacks == NULL)
        return NULL;
    Py_XSETREF(self->callbacks, callbacks);
    Py_RETURN_NONE;
}

PyObject *cmap_remove_on_update(MapObject *self, PyObject *callback)
{
    PyObject *left = self->callbacks ? PySequence_List(self->callbacks) : PyList_New(0);
    if (left == NULL)
        return NULL;
    Py_ssize_t at = PySequence_Index(left, callback); /* raises ValueError */
    if (at < 0 || PySequence_DelItem(left, at) < 0) {
        Py_DECREF(left);
        return NULL;
    }
    PyObject *callbacks = NULL;
    if (PyList_GET_SIZE(left) > 0 && (callbacks = PyList_AsTuple(left)) == NULL) {
        Py_DECREF(left);
        return NULL;
    }
    Py_DECREF(left);
    Py_XSETREF(self->callbacks, callbacks);
    Py_RETURN_NONE;
}

/* A list of tuples; takes over what the changes keep. */
static PyObject *listed(const cm_change *changes, int64_t count)
{
    static const char *const names[] = {"store", "delete", "clear"};
    PyObject *list = PyList_New(count);
    for (int64_t i = 0; i < count; i++) {
        PyObject *key = changes[i].key != NULL ? changes[i].key : Py_None;
        PyObject *value = changes[i].value != NULL ? changes[i].value : Py_None;
        PyObject *change = list == NULL ? NULL
                                        : Py_BuildValue("KsOO",
                                                        (unsigned long long)changes[i].version,
                                                        names[changes[i].operation], key, value);
        Py_XDECREF((PyObject *)changes[i].key);
        Py_XDECREF((PyObject *)changes[i].value);
        if (change != NULL)
            PyList_SET_ITEM(list, i, change);
        else
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *lost(MapObject *self, uint64_t since)
{
    return PyErr_Format(self->state->history_lost,
                        "the changes since version %llu are not all kept: the history holds the "
                        "last %llu of %llu",
                        (unsigned long long)since, (unsigned long long)self->map->history_size,
                        (unsigned long long)cm_read(&self->map->version));
}

static PyObject *no_version(void)
{
    PyErr_SetString(PyExc_ValueError, "there is no such version yet");
    return NULL;
}

PyObject *cmap_changes(MapObject *self, PyObject *since)
{
    unsigned long long from = PyLong_AsUnsignedLongLong(since);
    if (from == (unsigned long long)-1 && PyErr_Occurred())
        return PyErr_ExceptionMatches(PyExc_OverflowError) ? no_version() : NULL;
    for (;;) { /* more may come between the look and the copy */
        uint64_t version = cm_read(&self->map->version);
        uint64_t room = version > from ? version - from : 0;
        if (room > self->map->history_size)
            return lost(self, from);
        cm_change *changes = PyMem_Calloc(room + 1, sizeof *changes);
        if (changes == NULL)
            return PyErr_NoMemory();
        int64_t count = cm_changes(self->map, from, changes, room);
        PyObject *list = count >= 0 ? listed(changes, count) : NULL;
        PyMem_Free(changes);
        if (count >= 0)
            return list;
        if (count == CM_STALE)
            return lost(self, from);
        if (count == CM_ABSENT)
            return no_version();
    }
}
