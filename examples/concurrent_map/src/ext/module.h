/* The Python side: heap types over the table of ../core, nothing static but the fork list. */
#ifndef CMAP_MODULE_H
#define CMAP_MODULE_H

#include "../core/map.h"

typedef struct {
    PyTypeObject *map, *view, *iterator, *cursors, *exclusive, *raw, *raw_cursors;
    PyObject *stale_iteration, *history_lost, *view_closed;
} cmap_state;

/* The first two fields are a contract with tracers (README, «For tracers»). */
typedef struct {
    PyObject_HEAD
    PyObject *name; /* str or None */
    uint64_t shards;
    cm_map *map;
    PyObject *callbacks; /* a tuple, or NULL; replaced, never changed */
    cmap_state *state;
} MapObject;

extern struct PyModuleDef cmap_module;
extern PyType_Spec cmap_map_spec, cmap_view_spec, cmap_iterator_spec, cmap_cursors_spec,
    cmap_exclusive_spec, cmap_raw_spec, cmap_raw_cursors_spec;
extern PyMethodDef cmap_map_methods[];

/* Of an exact type or any subclass; never fails for objects of this module's types. */
cmap_state *cmap_state_of(PyTypeObject *type);

/* --- fork.c --- */
int cmap_watch_forks(void);
void cmap_list_add(cm_map *map);
void cmap_list_remove(cm_map *map);

/* --- map_object.c --- */
MapObject *cmap_map_new(PyTypeObject *type, PyObject *name, Py_ssize_t shards,
                        Py_ssize_t history, int raw);

/* --- locate.c: a key on its way through the table --- */

/* CPython keeps a str's hash in it; a call less. */
static inline int cmap_hash(PyObject *key, uint64_t *mixed)
{
    Py_hash_t hash = -1;
#ifndef Py_GIL_DISABLED
    if (PyUnicode_CheckExact(key))
        hash = ((PyASCIIObject *)key)->hash;
#endif
    if (hash == -1 && (hash = PyObject_Hash(key)) == -1)
        return -1;
    *mixed = cm_mix((uint64_t)hash);
    return 0;
}

typedef struct {
    cm_query query;
    cm_shard *shard;
    cm_bucket *bucket; /* where the key is or would be, while the shard is entered */
} cmap_place;

int cmap_ask(cm_map *map, cmap_place *place);
int cmap_ask_view(cm_view *view, cm_query *query);
void cmap_forget_compared(cm_query *query);

/* Hash the key and find its shard. */
static inline int cmap_aim(cm_map *map, PyObject *key, cmap_place *place)
{
    cm_query *query = &place->query;
    if (CM_UNLIKELY(cmap_hash(key, &query->hash) < 0))
        return -1;
    query->key = key;
    query->same = NULL;
    query->different = NULL;
    query->differing = 0;
    place->shard = cm_shard_of(map, query->hash);
    return 0;
}

/* Enter the shard and find the key: its place, CM_ABSENT, or CM_FAILED with an exception
 * (then the shard is not entered). */
static inline int cmap_locate(cm_map *map, cmap_place *place)
{
    if (CM_UNLIKELY(cm_enter(map, place->shard) < 0))
        return CM_FAILED;
    place->bucket = cm_bucket_of(map, place->shard->dir, place->query.hash);
    int at = cm_find(map, place->bucket, &place->query);
    return CM_LIKELY(at != CM_ASK) ? at : cmap_ask(map, place);
}

/* Leave the shard; then foreign code may run. */
static inline void cmap_depart(cm_map *map, cmap_place *place)
{
    cm_leave(map, place->shard);
    cm_query *query = &place->query;
    if (CM_UNLIKELY(query->same != NULL || query->differing != 0))
        cmap_forget_compared(query);
}

/* --- map_ops.c --- */
PyObject *cmap_subscript(MapObject *self, PyObject *key);
int cmap_assign(MapObject *self, PyObject *key, PyObject *value);
int cmap_contains(MapObject *self, PyObject *key);
PyObject *cmap_key_error(PyObject *key);

/* --- changes.c --- */
void cmap_call_back(MapObject *self, uint64_t version, const char *operation, PyObject *key,
                    PyObject *value);
PyObject *cmap_on_update(MapObject *self, PyObject *callback);
PyObject *cmap_remove_on_update(MapObject *self, PyObject *callback);
PyObject *cmap_changes(MapObject *self, PyObject *since);

/* --- the others --- */
PyObject *cmap_walk_new(MapObject *self, int mode, cm_view *view, PyObject *what);
PyObject *cmap_range(MapObject *self, int mode, cm_view *view, PyObject *callback);
PyObject *cmap_exclusive_new(MapObject *self, cm_shard *shard);
PyObject *cmap_stats(MapObject *self, PyObject *ignored);

static inline int cmap_arguments(const char *name, Py_ssize_t given, Py_ssize_t least,
                                 Py_ssize_t most)
{
    if (CM_LIKELY(given >= least && given <= most))
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments (%zd given)", name, least,
                 most, given);
    return -1;
}

#endif
