/* Threads on one table, all kinds of use at once, for the sanitizers.
 *
 *     overlap THREADS OPERATIONS SEED
 *
 * Prints one line of JSON. What is checked here is little: each value carries its key, views
 * hold as many entries as they say, and in the end nothing is left. Counters of this program
 * are relaxed: they must not order what the table ought to order. */
#include "sound.h"

#include <pthread.h>
#include <stdio.h>

enum { LOAD, STORE, LOAD_OR_STORE, LOAD_AND_DELETE, SWAP, COMPARE_AND_DELETE, OPERATIONS };

typedef struct {
    const char *name;
    uint32_t shards;
    uint64_t history, keys, filled;
    unsigned single; /* of 1000 uses so many are of single keys; the rest are walks, views … */
} Kind;

static const Kind kinds[] = {
    {"few keys, one shard", 1, 16, 24, 0, 900},
    {"many keys", 4, 64, 3000, 0, 980},
    {"more than the caches hold", 16, 0, 60000, 45000, 999},
};

static const Kind *kind;
static cm_map *map;
static uint64_t operations;
static _Atomic uint64_t inside, overlapped, walks, stale, views;

static void count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static uint64_t dice(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717) >> 16;
}

static void belongs(const cm_entry *entry)
{
    uint64_t key = ((struct cm_thing *)entry->key)->value;
    MUST(entry->hash == cm_mix(key) && ((struct cm_thing *)entry->value)->value >> 32 == key);
}

static void perform(int operation, uint64_t key, uint64_t serial)
{
    cm_garbage garbage = {0};
    cm_query query = {.hash = cm_mix(key), .key = thing_new(key)};
    struct cm_thing *value = thing_new(key << 32 | (serial & 0xffffffff)), *found = NULL;
    cm_shard *shard = cm_shard_of(map, query.hash);
    MUST(cm_enter(map, shard) == 0);
    cm_bucket *bucket = cm_bucket_of(map, shard->dir, query.hash);
    int at = cm_find(map, bucket, &query);
    if (at >= 0) {
        belongs(&bucket->entry[at]);
        found = bucket->entry[at].value;
        cm_host_retain(found);
    }
    if (operation == STORE || (operation == LOAD_OR_STORE && at < 0) ||
        (operation == SWAP && at >= 0))
        MUST(cm_put(map, shard, &query, at, value, &garbage) != 0);
    if ((operation == LOAD_AND_DELETE || operation == COMPARE_AND_DELETE) && at >= 0)
        MUST(cm_remove(map, shard, query.hash, at, &garbage) != 0);
    cm_leave(map, shard);
    cm_drop(map, &garbage);
    if (found != NULL)
        cm_host_release(found);
    cm_host_release(value);
    cm_host_release(query.key);
}

static void walk_over(int mode, cm_view *view)
{
    cm_walk walk;
    int got;
    uint64_t entries = view != NULL ? view->entries : 0;
    cm_walk_begin(&walk, map, mode, view);
    while ((got = cm_walk_next(&walk)) == 1) {
        belongs(&walk.bucket->entry[walk.at++]);
        walk.items++;
    }
    MUST(got == 0 || (got == CM_STALE && mode == CM_STRICT));
    MUST(view == NULL || walk.items == entries);
    count(&walks, 1);
    count(&stale, got == CM_STALE);
    cm_walk_end(&walk, got == 0 ? CM_COMPLETE : CM_WAS_STALE);
}

static void look(uint64_t *state)
{
    cm_view *view = cm_view_open(map);
    MUST(view != NULL);
    count(&views, 1);
    for (int i = 0; i < 8; i++) {
        uint64_t key = dice(state) % kind->keys;
        cm_query query = {.hash = cm_mix(key), .key = thing_new(key)};
        cm_shard *shard = cm_shard_of(map, query.hash);
        cm_bucket *bucket = cm_bucket_of(map, view->dir[shard - map->shard], query.hash);
        int at = cm_find(map, bucket, &query);
        if (at >= 0)
            belongs(&bucket->entry[at]);
        cm_host_release(query.key);
    }
    atomic_fetch_add_explicit(&view->refs, 1, memory_order_relaxed);
    walk_over(CM_VIEW, view);
    cm_view_release(view);
}

static void ask_changes(void)
{
    cm_change changes[64];
    uint64_t version = cm_read(&map->version);
    int64_t found = cm_changes(map, version > 8 ? version - 8 : 0, changes, 64);
    for (int64_t i = 0; i < found; i++) {
        if (changes[i].key != NULL)
            cm_host_release(changes[i].key);
        if (changes[i].value != NULL)
            cm_host_release(changes[i].value);
    }
}

static void other(uint64_t *state)
{
    switch (dice(state) % 8) {
    case 0: walk_over(CM_WEAK, NULL); break;
    case 1: walk_over(CM_STRICT, NULL); break;
    case 2: walk_over(CM_SNAPSHOT, cm_view_open(map)); break;
    case 3: look(state); break;
    case 4: ask_changes(); break;
    case 5: cm_map_entries(map); break;
    case 6:
        if (dice(state) % 16 == 0)
            MUST(cm_map_clear(map) != 0);
        break;
    default:
        MUST(cm_enter_all(map) == 0);
        cm_leave_all(map);
    }
}

static void *use(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument * 2 + 1;
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t others = atomic_fetch_add_explicit(&inside, 1, memory_order_relaxed);
        count(&overlapped, others > 0);
        if (dice(&state) % 1000 < kind->single)
            perform((int)(dice(&state) % OPERATIONS), dice(&state) % kind->keys, i);
        else
            other(&state);
        atomic_fetch_sub_explicit(&inside, 1, memory_order_relaxed);
    }
    return NULL;
}

static uint64_t run(int threads, uint64_t seed)
{
    enum { MOST = 64 };
    pthread_t thread[MOST];
    map = cm_map_new(NULL, 0, kind->shards, kind->history);
    MUST(map != NULL && threads <= MOST);
    for (uint64_t key = 0; key < kind->filled; key++)
        perform(STORE, key, 0);
    for (int i = 0; i < threads; i++)
        MUST(pthread_create(&thread[i], NULL, use,
                            (void *)(uintptr_t)(seed * 1000 + (uint64_t)i)) == 0);
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    MUST(map->views == NULL && map->counts.kept_bytes == 0 && map->counts.kept_entries == 0);
    if (kind->keys < 5000)
        sound(map, NULL, 0);
    uint64_t waits = cm_read(&map->counts.waits);
    cm_map_free(map);
    MUST(things_alive() == 0);
    return waits;
}

int main(int argc, char **words)
{
    uint64_t waits = 0, all = 0;
    if (argc != 4)
        return 2;
    int threads = atoi(words[1]);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        kind = &kinds[i];
        operations = strtoull(words[2], NULL, 10);
        waits += run(threads, strtoull(words[3], NULL, 10));
        all += operations * (uint64_t)threads;
    }
    printf("{\"operations\": %llu, \"overlapped\": %llu, \"waits\": %llu, \"walks\": %llu, "
           "\"stale\": %llu, \"views\": %llu}\n",
           (unsigned long long)all, (unsigned long long)overlapped, (unsigned long long)waits,
           (unsigned long long)walks, (unsigned long long)stale, (unsigned long long)views);
    return 0;
}
