/* Map.stats(): what was counted where the probes stand, and what the shards say. */
#include "module.h"

static const char *const mode_names[CM_MODES] = {"weak", "strict", "snapshot", "view", "cursor"};
static const char *const outcome_names[CM_OUTCOMES] = {"complete", "stopped", "stale", "error"};

/* Takes over the reference to the value, NULL included. */
static int add(PyObject *dict, const char *name, PyObject *value)
{
    if (value == NULL)
        return -1;
    int done = PyDict_SetItemString(dict, name, value);
    Py_DECREF(value);
    return done;
}

static int add_number(PyObject *dict, const char *name, uint64_t number)
{
    return add(dict, name, PyLong_FromUnsignedLongLong(number));
}

static PyObject *ranges_of(const cm_map *map)
{
    PyObject *ranges = PyDict_New();
    for (int mode = 0; ranges != NULL && mode < CM_MODES; mode++) {
        PyObject *counts = PyDict_New();
        for (int outcome = 0; counts != NULL && outcome < CM_OUTCOMES; outcome++)
            if (add_number(counts, outcome_names[outcome],
                           cm_read(&map->counts.ranges[mode][outcome])) < 0)
                Py_CLEAR(counts);
        if (add(ranges, mode_names[mode], counts) < 0)
            Py_CLEAR(ranges);
    }
    return ranges;
}

typedef struct {
    uint64_t buckets, bytes, splits, moved, retired;
} Sums;

/* Each shard's numbers are taken under its lock, one after the other. */
static int sum_shards(cm_map *map, Sums *sums)
{
    for (uint32_t i = 0; i < map->shards; i++) {
        cm_shard *shard = &map->shard[i];
        if (cm_enter(map, shard) < 0)
            return -1;
        sums->buckets += shard->buckets;
        sums->bytes += shard->bytes;
        sums->splits += shard->splits;
        sums->moved += shard->moved;
        sums->retired += shard->retired;
        cm_leave(map, shard);
    }
    return 0;
}

/* The threads of a raw map wait and hold without the GIL: so does this. */
static int sum_up(cm_map *map, Sums *sums)
{
    int done;
    if (!map->raw)
        return sum_shards(map, sums);
    Py_BEGIN_ALLOW_THREADS
    done = sum_shards(map, sums);
    Py_END_ALLOW_THREADS
    return done;
}

PyObject *cmap_stats(MapObject *self, PyObject *ignored)
{
    (void)ignored;
    cm_map *map = self->map;
    cm_counts *counts = &map->counts;
    Sums sums = {0};
    PyObject *stats = sum_up(map, &sums) < 0 ? NULL : PyDict_New();
    if (stats == NULL)
        return NULL;
    uint64_t version = cm_read(&map->version);
    uint64_t history = version < map->history_size ? version : map->history_size;
    const struct {
        const char *name;
        uint64_t number;
    } numbers[] = {
        {"entries", cm_map_entries(map)},
        {"shards", map->shards},
        {"buckets", sums.buckets},
        {"version", version},
        {"table_bytes", sums.bytes},
        {"splits", sums.splits},
        {"moved", sums.moved},
        {"retired", sums.retired},
        {"waits", cm_read(&counts->waits)},
        {"retries", cm_read(&counts->retries)},
        {"stale_hits", cm_read(&counts->stale_hits)},
        {"range_items", cm_read(&counts->range_items)},
        {"ranges_begun", cm_read(&counts->ranges_begun)},
        {"views_open", cm_read(&counts->views_open)},
        {"view_bytes", cm_read(&counts->kept_bytes)},
        {"view_entries", cm_read(&counts->kept_entries)},
        {"history", history},
    };
    for (size_t i = 0; stats != NULL && i < sizeof numbers / sizeof numbers[0]; i++)
        if (add_number(stats, numbers[i].name, numbers[i].number) < 0)
            Py_CLEAR(stats);
    if (stats != NULL && add(stats, "ranges", ranges_of(map)) < 0)
        Py_CLEAR(stats);
    return stats;
}
