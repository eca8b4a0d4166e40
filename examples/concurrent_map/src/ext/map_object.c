/* The type Map: making, filling and ending one, its slots, the garbage collector. */
#include "module.h"

#include <structmember.h>

MapObject *cmap_map_new(PyTypeObject *type, PyObject *name, Py_ssize_t shards,
                        Py_ssize_t history, int raw)
{
    if (shards < 1 || shards > CM_MAX_SHARDS) {
        PyErr_Format(PyExc_ValueError, "shards must be 1 to %d", CM_MAX_SHARDS);
        return NULL;
    }
    if (history < 0 || history > (Py_ssize_t)1 << 28) {
        PyErr_SetString(PyExc_ValueError, "history must be 0 to 268435456");
        return NULL;
    }
    if (name != Py_None && !PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "name must be a str or None");
        return NULL;
    }
    cmap_state *state = cmap_state_of(type);
    MapObject *self = state == NULL ? NULL : (MapObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    while (shards & (shards - 1))
        shards += shards & -shards; /* up to the next power of two */
    /* Of a subclass of str, which could refer to anything, the text. */
    self->name = name == Py_None ? Py_NewRef(name) : PyUnicode_FromObject(name);
    self->shards = (uint64_t)shards;
    self->state = state;
    self->map = cm_map_new(self, raw, (uint32_t)shards, (uint64_t)history);
    if (self->map != NULL && !raw)
        cmap_list_add(self->map);
    if (self->map == NULL || self->name == NULL) {
        Py_DECREF(self);
        return PyErr_Occurred() ? NULL : (MapObject *)PyErr_NoMemory();
    }
    return self;
}

/* Items are stored by __init__. */
static int parse(PyObject *args, PyObject *kwargs, PyObject **items, PyObject **name,
                 Py_ssize_t *shards, Py_ssize_t *history)
{
    static char *words[] = {"", "name", "shards", "history", NULL};
    *items = NULL;
    *name = Py_None;
    *shards = 16;
    *history = 0;
    return PyArg_ParseTupleAndKeywords(args, kwargs, "|O$Onn:ConcurrentMap", words, items, name,
                                       shards, history);
}

static PyObject *map_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *items, *name;
    Py_ssize_t shards, history;
    if (!parse(args, kwargs, &items, &name, &shards, &history))
        return NULL;
    return (PyObject *)cmap_map_new(type, name, shards, history, 0);
}

static int store_pair(MapObject *self, PyObject *item)
{
    PyObject *pair = PySequence_Fast(item, "the items of a map are pairs");
    if (pair == NULL)
        return -1;
    int done = -1;
    if (PySequence_Fast_GET_SIZE(pair) == 2)
        done = cmap_assign(self, PySequence_Fast_GET_ITEM(pair, 0),
                           PySequence_Fast_GET_ITEM(pair, 1));
    else
        PyErr_SetString(PyExc_ValueError, "the items of a map are pairs");
    Py_DECREF(pair);
    return done;
}

static int store_value_of(MapObject *self, PyObject *mapping, PyObject *key)
{
    PyObject *value = PyObject_GetItem(mapping, key);
    int done = value == NULL ? -1 : cmap_assign(self, key, value);
    Py_XDECREF(value);
    return done;
}

static int map_init(MapObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *items, *name;
    Py_ssize_t shards, history;
    if (!parse(args, kwargs, &items, &name, &shards, &history))
        return -1;
    if (items == NULL)
        return 0;
    int is_mapping = PyObject_HasAttrString(items, "keys");
    PyObject *source = is_mapping ? PyMapping_Keys(items) : Py_NewRef(items);
    PyObject *iterator = source == NULL ? NULL : PyObject_GetIter(source);
    Py_XDECREF(source);
    if (iterator == NULL)
        return -1;
    int done = 0;
    for (PyObject *item; done == 0 && (item = PyIter_Next(iterator)) != NULL; Py_DECREF(item))
        done = is_mapping ? store_value_of(self, items, item) : store_pair(self, item);
    Py_DECREF(iterator);
    return done < 0 || PyErr_Occurred() ? -1 : 0;
}

/* --- the garbage collector ----------------------------------------------------------
 *
 * The map answers for every bucket, its own and those that only views have kept; views and
 * walks refer to their map. So each reference that a bucket has to an object is told once,
 * whoever shares the bucket. What a bucket has borrowed of one that only walks have is told
 * by the map as well: it has to stay if the walks are garbage and the map is not. A walk tells
 * only what nobody else has (iterate.c). Nothing takes a lock: who changes the table has the
 * GIL, and the collector has it now.
 *
 * mark: known in this traversal; mark + 1: and told. Without views every bucket is told
 * once anyway, and none that lends is the map's. */

static int is_known(const cm_map *map, const cm_bucket *bucket)
{
    return bucket->mark == map->mark || bucket->mark == map->mark + 1;
}

/* The next bucket of a directory; `slot` is raised to the one after it. */
static cm_bucket *each_bucket(const cm_dir *dir, uint64_t *slot)
{
    if (*slot >= UINT64_C(1) << dir->depth)
        return NULL;
    cm_bucket *bucket = dir->slot[*slot];
    *slot += UINT64_C(1) << (dir->depth - bucket->depth);
    return bucket;
}

static void mark_known(cm_map *map, cm_dir *const *dirs, size_t step)
{
    for (uint32_t i = 0; i < map->shards; i++) {
        const cm_dir *dir = *(cm_dir *const *)((const char *)dirs + i * step);
        cm_bucket *bucket;
        for (uint64_t slot = 0; (bucket = each_bucket(dir, &slot)) != NULL;)
            bucket->mark = map->mark;
    }
}

/* Whether an entry is borrowed, and one of the map's buckets between here and the owner of
 * the reference tells it. */
static int told_elsewhere(const cm_map *map, const cm_bucket *bucket, uint32_t at)
{
    for (; cm_borrowed(bucket, at); bucket = bucket->lender)
        if (is_known(map, bucket->lender))
            return 1;
    return 0;
}

static int visit_bucket(const cm_map *map, const cm_bucket *bucket, visitproc visit, void *arg)
{
    for (uint32_t at = 0; at < bucket->count; at++) {
        if (told_elsewhere(map, bucket, at))
            continue;
        Py_VISIT((PyObject *)bucket->entry[at].key);
        Py_VISIT((PyObject *)bucket->entry[at].value);
    }
    return 0;
}

static int visit_dir(cm_map *map, const cm_dir *dir, int shared, visitproc visit, void *arg)
{
    cm_bucket *bucket;
    int stop = 0;
    for (uint64_t slot = 0; stop == 0 && (bucket = each_bucket(dir, &slot)) != NULL;) {
        if (shared && bucket->mark != map->mark)
            continue;
        if (shared)
            bucket->mark = map->mark + 1;
        stop = visit_bucket(map, bucket, visit, arg);
    }
    return stop;
}

static int visit_history(const cm_map *map, visitproc visit, void *arg)
{
    for (uint64_t i = 0; map->history != NULL && i < map->history_size; i++) {
        Py_VISIT((PyObject *)map->history[i].key);
        Py_VISIT((PyObject *)map->history[i].value);
    }
    return 0;
}

static int map_traverse(MapObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->callbacks);
    cm_map *map = self->map;
    if (map == NULL)
        return 0;
    map->mark += 2;
    int shared = map->views != NULL, stop = 0;
    if (shared)
        mark_known(map, &map->shard[0].dir, sizeof map->shard[0]);
    for (cm_view *view = map->views; view != NULL; view = view->next)
        mark_known(map, view->dir, sizeof view->dir[0]);
    for (uint32_t i = 0; stop == 0 && i < map->shards; i++)
        stop = visit_dir(map, map->shard[i].dir, shared, visit, arg);
    for (cm_view *view = map->views; view != NULL; view = view->next)
        for (uint32_t i = 0; stop == 0 && i < map->shards; i++)
            stop = visit_dir(map, view->dir[i], shared, visit, arg);
    return stop != 0 ? stop : visit_history(map, visit, arg);
}

static int map_gc_clear(MapObject *self)
{
    Py_CLEAR(self->callbacks);
    if (self->map != NULL)
        cm_map_abandon(self->map);
    return 0;
}

static void map_dealloc(MapObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, map_dealloc) /* maps in maps, as deep as one likes */
    cm_map *map = self->map;
    self->map = NULL;
    Py_CLEAR(self->callbacks);
    if (map != NULL) {
        cmap_list_remove(map);
        cm_map_free(map);
    }
    Py_CLEAR(self->name);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* --- slots ---------------------------------------------------------------------------- */

static Py_ssize_t map_length(MapObject *self)
{
    return (Py_ssize_t)cm_map_entries(self->map);
}

static PyObject *map_version(MapObject *self, void *ignored)
{
    (void)ignored;
    return PyLong_FromUnsignedLongLong(cm_read(&self->map->version));
}

static PyMemberDef map_members[] = {
    {"name", T_OBJECT_EX, offsetof(MapObject, name), READONLY, "What tools call the map."},
    {"shards", T_ULONGLONG, offsetof(MapObject, shards), READONLY, "How many it has."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef map_getset[] = {
    {"version", (getter)map_version, NULL, "How many changes were made so far.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot map_slots[] = {
    {Py_tp_doc, "A sharded hash table for many threads; the contracts stand in _core.pyi."},
    {Py_tp_new, map_new},
    {Py_tp_init, map_init},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_traverse, map_traverse},
    {Py_tp_clear, map_gc_clear},
    {Py_tp_methods, cmap_map_methods},
    {Py_tp_members, map_members},
    {Py_tp_getset, map_getset},
    {Py_mp_length, map_length},
    {Py_mp_subscript, cmap_subscript},
    {Py_mp_ass_subscript, cmap_assign},
    {Py_sq_contains, cmap_contains},
    {0, NULL},
};

PyType_Spec cmap_map_spec = {
    .name = "concurrent_map._core.Map",
    .basicsize = sizeof(MapObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = map_slots,
};
