#include "module.h"

#include <stddef.h>

cmap_state *cmap_state_of(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &cmap_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **place)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *place == NULL ? -1 : PyModule_AddType(module, *place);
}

static int take_errors(cmap_state *state)
{
    PyObject *errors = PyImport_ImportModule("concurrent_map._errors");
    if (errors == NULL)
        return -1;
    state->stale_iteration = PyObject_GetAttrString(errors, "StaleIterationError");
    state->history_lost = PyObject_GetAttrString(errors, "HistoryLostError");
    state->view_closed = PyObject_GetAttrString(errors, "ViewClosedError");
    Py_DECREF(errors);
    return state->stale_iteration && state->history_lost && state->view_closed ? 0 : -1;
}

static int module_exec(PyObject *module)
{
    cmap_state *state = PyModule_GetState(module);
    if (cmap_watch_forks() < 0 || take_errors(state) < 0)
        return -1;
    if (add_type(module, &cmap_map_spec, &state->map) < 0 ||
        add_type(module, &cmap_view_spec, &state->view) < 0 ||
        add_type(module, &cmap_iterator_spec, &state->iterator) < 0 ||
        add_type(module, &cmap_cursors_spec, &state->cursors) < 0 ||
        add_type(module, &cmap_exclusive_spec, &state->exclusive) < 0 ||
        add_type(module, &cmap_raw_spec, &state->raw) < 0 ||
        add_type(module, &cmap_raw_cursors_spec, &state->raw_cursors) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "HAS_PROBES", CM_HAS_PROBES ? Py_True : Py_False);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    cmap_state *state = PyModule_GetState(module);
    Py_VISIT(state->map);
    Py_VISIT(state->view);
    Py_VISIT(state->iterator);
    Py_VISIT(state->cursors);
    Py_VISIT(state->exclusive);
    Py_VISIT(state->raw);
    Py_VISIT(state->raw_cursors);
    Py_VISIT(state->stale_iteration);
    Py_VISIT(state->history_lost);
    Py_VISIT(state->view_closed);
    return 0;
}

static int module_clear(PyObject *module)
{
    cmap_state *state = PyModule_GetState(module);
    Py_CLEAR(state->map);
    Py_CLEAR(state->view);
    Py_CLEAR(state->iterator);
    Py_CLEAR(state->cursors);
    Py_CLEAR(state->exclusive);
    Py_CLEAR(state->raw);
    Py_CLEAR(state->raw_cursors);
    Py_CLEAR(state->stale_iteration);
    Py_CLEAR(state->history_lost);
    Py_CLEAR(state->view_closed);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

/* What a GuardedMap, which is Python, has for tracers to hang on. */
static PyObject *probe_breaker(PyObject *module, PyObject *args)
{
    PyObject *map;
    int old, new;
    Py_ssize_t failures, samples;
    cmap_state *state = PyModule_GetState(module);
    if (!PyArg_ParseTuple(args, "O!iinn:probe_breaker", state->map, &map, &old, &new, &failures,
                          &samples))
        return NULL;
    CM_PROBE5(breaker, map, old, new, failures, samples);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"probe_breaker", probe_breaker, METH_VARARGS, "Fires the USDT probe `breaker`."},
    {NULL, NULL, 0, NULL},
};

/* No Py_mod_gil: written for a free-threaded build, but not tested on one, so it is not
 * declared to be safe there. */
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef cmap_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "concurrent_map._core",
    .m_doc = "The C implementation of concurrent_map; its contracts stand in _core.pyi.",
    .m_size = sizeof(cmap_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&cmap_module);
}
