/* The map as a whole: its life, its versions and history, clear(). */
#include "map.h"

cm_map *cm_map_new(void *self, int raw, uint32_t shards, uint64_t history)
{
    cm_map *map = calloc(1, sizeof *map);
    if (map == NULL)
        return NULL;
    map->self = self;
    map->raw = raw;
    map->shards = shards;
    map->shard_bits = (uint32_t)__builtin_ctz(shards);
    map->history_size = history;
    map->shard = aligned_alloc(_Alignof(cm_shard), shards * sizeof *map->shard);
    if (map->shard != NULL)
        memset(map->shard, 0, shards * sizeof *map->shard);
    if (history > 0)
        map->history = calloc(history, sizeof *map->history);
    if (map->shard == NULL || (history > 0 && map->history == NULL)) {
        cm_map_free(map);
        return NULL;
    }
    for (uint32_t i = 0; i < shards; i++)
        if (cm_shard_init(map, &map->shard[i]) < 0) {
            cm_map_free(map);
            return NULL;
        }
    return map;
}

static void forget_history(cm_map *map)
{
    if (map->history == NULL)
        return;
    for (uint64_t i = 0; i < map->history_size; i++) {
        cm_change gone = map->history[i];
        map->history[i] = (cm_change){0};
        if (gone.key != NULL)
            cm_let_go(map, gone.key);
        if (gone.value != NULL)
            cm_let_go(map, gone.value);
    }
}

/* Nobody uses it any more, no view is open. Runs foreign code. Also for a half-made one. */
void cm_map_free(cm_map *map)
{
    for (uint32_t i = 0; map->shard != NULL && i < map->shards; i++)
        if (map->shard[i].dir != NULL)
            cm_dir_release(map, map->shard[i].dir);
    forget_history(map);
    cm_bucket_spares_free(map);
    free(map->history);
    free(map->shard);
    free(map);
}

uint64_t cm_map_entries(const cm_map *map)
{
    uint64_t entries = 0;
    for (uint32_t i = 0; i < map->shards; i++)
        entries += cm_read(&map->shard[i].entries);
    return entries;
}

/* --- changes ---------------------------------------------------------------------- */

static void remember(cm_map *map, cm_change change, cm_garbage *garbage)
{
    cm_change *slot = &map->history[change.version % map->history_size];
    if (slot->key != NULL)
        cm_discard(garbage, slot->key);
    if (slot->value != NULL)
        cm_discard(garbage, slot->value);
    if (change.key != NULL)
        cm_keep(map, change.key);
    if (change.value != NULL)
        cm_keep(map, change.value);
    *slot = change;
}

/* Give a change its version, under its shard's lock (clear(): all of them). */
uint64_t cm_changed(cm_map *map, int operation, void *key, void *value,
                    cm_garbage *garbage)
{
    if (CM_LIKELY(map->history == NULL))
        return atomic_fetch_add_explicit(&map->version, 1, memory_order_acq_rel) + 1;
    /* In one step with the history, so that its versions have no gaps. */
    cm_spin_enter(&map->history_word);
    uint64_t version = atomic_fetch_add(&map->version, 1) + 1;
    remember(map, (cm_change){version, operation, key, value}, garbage);
    cm_spin_leave(&map->history_word);
    return version;
}

/* The changes after `since`, kept for the caller: how many; CM_STALE when they are not all
 * there, CM_ABSENT when `since` lies in the future, CM_ASK when `room` does not suffice. */
int64_t cm_changes(cm_map *map, uint64_t since, cm_change *into, uint64_t room)
{
    cm_spin_enter(&map->history_word);
    uint64_t version = cm_read(&map->version);
    int64_t found = 0;
    if (since > version)
        found = CM_ABSENT;
    else if (version - since > map->history_size)
        found = CM_STALE;
    else if (version - since > room)
        found = CM_ASK;
    for (uint64_t v = since + 1; found >= 0 && v <= version; v++) {
        cm_change *change = &into[found++];
        *change = map->history[v % map->history_size];
        if (change->key != NULL)
            cm_keep(map, change->key);
        if (change->value != NULL)
            cm_keep(map, change->value);
    }
    cm_spin_leave(&map->history_word);
    return found;
}

/* After the lock: what a change has replaced. Runs foreign code. */
void cm_drop(cm_map *map, cm_garbage *garbage)
{
    for (int i = 0; i < garbage->objects; i++)
        cm_let_go(map, garbage->object[i]);
    for (int i = 0; i < garbage->buckets; i++)
        cm_bucket_disown(map, garbage->bucket[i]);
    if (garbage->dir != NULL)
        cm_dir_release(map, garbage->dir);
}

/* --- clear() ------------------------------------------------------------------------ */

static void release_all(cm_map *map, cm_dir **dirs)
{
    for (uint32_t i = 0; i < map->shards; i++)
        if (dirs[i] != NULL)
            cm_dir_release(map, dirs[i]);
    free(dirs);
}

static cm_dir **fresh_dirs(cm_map *map)
{
    cm_dir **dirs = calloc(map->shards, sizeof *dirs);
    for (uint32_t i = 0; dirs != NULL && i < map->shards; i++)
        if ((dirs[i] = cm_dir_fresh(i)) == NULL) {
            release_all(map, dirs);
            return NULL;
        }
    return dirs;
}

static void replace_all(cm_map *map, cm_dir **dirs)
{
    for (uint32_t i = 0; i < map->shards; i++)
        dirs[i] = cm_shard_replace(map, &map->shard[i], dirs[i]);
}

/* Its version, or 0: no memory or a signal (errno-less: the host knows which). */
uint64_t cm_map_clear(cm_map *map)
{
    cm_garbage garbage = {0};
    cm_dir **dirs = fresh_dirs(map);
    if (dirs == NULL)
        return 0;
    if (cm_enter_all(map) < 0) {
        release_all(map, dirs);
        return 0;
    }
    replace_all(map, dirs);
    uint64_t version = cm_changed(map, CM_CLEAR, NULL, NULL, &garbage);
    cm_leave_all(map);
    cm_drop(map, &garbage);
    release_all(map, dirs);
    return version;
}

/* The garbage collector found the map in a cycle: break it. No lock: it must not wait,
 * and all who could be inside have the GIL, which the collector has now. */
void cm_map_abandon(cm_map *map)
{
    cm_dir **dirs = fresh_dirs(map);
    if (dirs == NULL)
        return;
    replace_all(map, dirs);
    forget_history(map);
    release_all(map, dirs);
}
