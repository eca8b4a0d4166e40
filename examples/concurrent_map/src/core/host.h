/* What the table needs to know of the objects that it holds: how to keep one, to let one
 * go, and to compare two without running foreign code. Two hosts:
 *
 *   CPython          objects are PyObject *, and all but raw maps are used with the GIL held
 *   CM_STANDALONE    objects are struct cm_thing, for sanitizers and fuzzers without Python
 *
 * cm_quick_equal says 1 equal, 0 different, -1 «only foreign code can tell» (then the
 * caller drops the shard's lock, asks, and comes back: see cm_query in map.h).
 */
#ifndef CM_HOST_H
#define CM_HOST_H

#include <stdint.h>
#include <string.h>

struct cm_map;

#ifdef CM_STANDALONE

#include <stdatomic.h>

struct cm_thing {
    _Atomic long refs;
    uint64_t value;
    int foreign; /* stands for an object that only foreign code can compare */
};

static inline void cm_host_retain(void *thing)
{
    atomic_fetch_add_explicit(&((struct cm_thing *)thing)->refs, 1, memory_order_relaxed);
}

void cm_host_release(void *thing); /* the harness counts what is let go */

static inline int cm_host_quick_equal(const void *left, const void *right)
{
    const struct cm_thing *a = left, *b = right;
    return a->foreign || b->foreign ? -1 : a->value == b->value;
}

#define CM_WITHOUT_GIL(map, statement) \
    do {                               \
        (void)(map);                   \
        statement;                     \
    } while (0)
#define CM_SIGNALS(map) ((void)(map), 0)

#else

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define cm_host_retain(object) Py_INCREF((PyObject *)(object))
#define cm_host_release(object) Py_DECREF((PyObject *)(object))

/* Types whose comparison is C code that neither calls back nor gives up the GIL. */
static inline int cm_is_plain(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyLong_Type || type == &PyUnicode_Type || type == &PyBytes_Type ||
           type == &PyFloat_Type || type == &PyBool_Type || object == Py_None;
}

/* Both were hashed, so they are «ready» in the sense of CPython 3.11. */
static inline int cm_same_text(PyObject *a, PyObject *b)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    return length == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
           memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * PyUnicode_KIND(a)) == 0;
}

static inline int cm_host_quick_equal(void *left, void *right)
{
    PyObject *a = left, *b = right;
    if (PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b))
        return cm_same_text(a, b);
    if (!cm_is_plain(a) || !cm_is_plain(b))
        return -1;
    /* str against bytes would warn under python -b, and a warning is foreign code. */
    if (Py_TYPE(a) != Py_TYPE(b) && (PyUnicode_Check(a) || PyBytes_Check(a) ||
                                     PyUnicode_Check(b) || PyBytes_Check(b)))
        return 0;
    return PyObject_RichCompareBool(a, b, Py_EQ);
}

/* A raw map's threads have no GIL to give up, and no signal handler to run. */
#define CM_WITHOUT_GIL(map, statement)                \
    do {                                              \
        if ((map)->raw) {                             \
            statement;                                \
        } else {                                      \
            PyThreadState *cm_saved = PyEval_SaveThread(); \
            statement;                                \
            PyEval_RestoreThread(cm_saved);           \
        }                                             \
    } while (0)
#define CM_SIGNALS(map) ((map)->raw ? 0 : PyErr_CheckSignals())

#endif
#endif
