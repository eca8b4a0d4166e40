/* Comparisons that only foreign code can make: outside of the lock, remembered by object.
 *
 * A key's __eq__ may do anything: take long, give up the GIL, use the map, raise. So the
 * object is kept, the shard left, the two compared, and the shard entered again, where the
 * search begins anew. What was compared is kept until the end: the same object is never
 * asked twice, and no other one can come to lie at its address. */
#include "module.h"

/* Who changes the map in each comparison could keep a thread here for ever. */
#define MOST_RETRIES 10000

/* Takes over the reference to `other`. */
static int remember(cm_query *query, PyObject *other, int same)
{
    if (same) {
        Py_XSETREF(*(PyObject **)&query->same, other);
        return 0;
    }
    size_t size = (query->differing + 1) * sizeof *query->different;
    void **more = PyMem_Realloc(query->different, size);
    if (more == NULL) {
        Py_DECREF(other);
        PyErr_NoMemory();
        return -1;
    }
    query->different = more;
    query->different[query->differing++] = other;
    return 0;
}

void cmap_forget_compared(cm_query *query)
{
    Py_XDECREF((PyObject *)query->same);
    for (size_t i = 0; i < query->differing; i++)
        Py_DECREF((PyObject *)query->different[i]);
    PyMem_Free(query->different);
    query->same = NULL;
    query->different = NULL;
    query->differing = 0;
}

/* Compare with query->ask, of which `other` is a new reference: 0, or -1 when that raised. */
static int compare(cm_query *query, PyObject *other)
{
    int same = PyObject_RichCompareBool(other, query->key, Py_EQ);
    if (same < 0) {
        Py_DECREF(other);
        return -1;
    }
    return remember(query, other, same);
}

/* Goes on where cm_find said CM_ASK, with the shard entered. */
int cmap_ask(cm_map *map, cmap_place *place)
{
    cm_query *query = &place->query;
    for (int retries = 0;;) {
        uint64_t mods = place->shard->mods;
        PyObject *other = Py_NewRef(query->ask);
        cm_leave(map, place->shard);
        if (compare(query, other) < 0 || cm_enter(map, place->shard) < 0)
            break;
        if (place->shard->mods != mods) {
            cm_retried(map, place->shard->lock.shard, CM_RETRY_COMPARE);
            if (++retries > MOST_RETRIES) {
                cm_leave(map, place->shard);
                PyErr_SetString(PyExc_RuntimeError,
                                "the map was changed during each comparison of keys");
                break;
            }
        }
        place->bucket = cm_bucket_of(map, place->shard->dir, query->hash);
        int at = cm_find(map, place->bucket, query);
        if (at != CM_ASK)
            return at;
    }
    cmap_forget_compared(query);
    return CM_FAILED;
}

/* The same in a view, where nothing is locked and nothing changes. */
int cmap_ask_view(cm_view *view, cm_query *query)
{
    cm_map *map = view->map;
    uint64_t shard = cm_leading(query->hash, map->shard_bits);
    cm_bucket *bucket = cm_bucket_of(map, view->dir[shard], query->hash);
    for (;;) {
        int at = cm_find(map, bucket, query);
        if (at != CM_ASK)
            return at;
        if (compare(query, Py_NewRef(query->ask)) < 0) {
            cmap_forget_compared(query);
            return CM_FAILED;
        }
    }
}
