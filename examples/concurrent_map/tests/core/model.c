#include "model.h"

static const uint32_t shards[] = {1, 2, 4, 16};
static const uint64_t histories[] = {0, 1, 7, 64};

/* Two bits each for the hashes, the shards and the history, one for keys that only foreign
 * code can compare, and one for an end as the garbage collector makes it. */
void make(Table *table, int kind)
{
    memset(table, 0, offsetof(Table, past));
    table->happened = 0;
    memset(table->picture, 0, sizeof table->picture);
    memset(table->walk, 0, sizeof table->walk);
    table->hashing = kind & 3;
    table->foreign = kind >> 6 & 1;
    table->abandoned = kind >> 7 & 1;
    table->map = cm_map_new(table, 0, shards[kind >> 2 & 3], histories[kind >> 4 & 3]);
    MUST(table->map != NULL);
}

/* Memory runs out on the way: then there is no map, and nothing is left of it. */
void make_fails(int kind, long allocations)
{
    memory_fails_after(allocations);
    cm_map *map = cm_map_new(NULL, 0, shards[kind >> 2 & 3], histories[kind >> 4 & 3]);
    memory_fails_after(0);
    if (map != NULL)
        cm_map_free(map);
}

static void abandon(Table *table)
{
    cm_map_abandon(table->map);
    MUST(cm_map_entries(table->map) == 0);
    for (int key = 0; key < KEYS; key++)
        if (table->value[key] != 0)
            set(table, key, 0);
    table->shape++;
}

void unmake(Table *table)
{
    all_is_sound(table);
    if (table->abandoned)
        abandon(table);
    for (int which = 0; which < WALKS; which++)
        end_walk(table, which);
    for (int which = 0; which < PICTURES; which++)
        close_picture(table, which);
    all_is_sound(table);
    cm_counts *counts = &table->map->counts;
    MUST(counts->views_open == 0 && counts->kept_bytes == 0 && counts->kept_entries == 0);
    cm_map_free(table->map);
    MUST(things_alive() == 0);
}

/* Well mixed; all in few buckets that cannot be told apart; apart in the last bits only; in
 * the first bits only. */
uint64_t hash_of(const Table *table, int key)
{
    switch (table->hashing) {
    case 0: return cm_mix((uint64_t)key + 1);
    case 1: return (uint64_t)(key & 3) << 61;
    case 2: return (uint64_t)key;
    default: return (uint64_t)key << 55;
    }
}

cm_query asked_for(const Table *table, int key)
{
    struct cm_thing *thing = thing_new((uint64_t)key);
    thing->foreign = table->foreign && key % 3 == 0;
    return (cm_query){.hash = hash_of(table, key), .key = thing};
}

/* With the comparisons that only foreign code can make, as ../../src/ext/locate.c has them
 * made and remembered. */
int find(const cm_map *map, const cm_bucket *bucket, cm_query *query)
{
    static void *different[KEYS];
    int at;
    query->different = different;
    while ((at = cm_find(map, bucket, query)) == CM_ASK) {
        const struct cm_thing *key = query->key;
        if (((struct cm_thing *)query->ask)->value == key->value) {
            MUST(query->same == NULL);
            query->same = query->ask;
        } else {
            MUST(query->differing < KEYS);
            different[query->differing++] = query->ask;
        }
    }
    return at;
}

void set(Table *table, int key, uint64_t value)
{
    table->past[table->happened++] = (Past){key, table->value[key]};
    table->value[key] = value;
}

void changed(Table *table, uint64_t version, int operation, int key, uint64_t value)
{
    MUST(version == ++table->version);
    MUST(cm_read(&table->map->version) == version && version < LOG);
    table->change[version] = (Change){operation, key, value};
}

typedef struct {
    cm_query query;
    cm_shard *shard;
    cm_bucket *bucket;
    cm_garbage garbage;
    uint64_t structure;
} Place;

static int enter(Table *table, int key, Place *place)
{
    memset(place, 0, sizeof *place);
    place->query = asked_for(table, key);
    place->shard = cm_shard_of(table->map, place->query.hash);
    MUST(cm_enter(table->map, place->shard) == 0);
    place->structure = table->map->structure;
    place->bucket = cm_bucket_of(table->map, place->shard->dir, place->query.hash);
    return find(table->map, place->bucket, &place->query);
}

static void leave(Table *table, Place *place)
{
    cm_leave(table->map, place->shard);
    cm_drop(table->map, &place->garbage);
    cm_host_release(place->query.key);
}

/* Nothing is changed, but that a bucket may have been split. */
static void failed(Table *table, const Place *place)
{
    MUST(table->frail);
    table->shape += place->structure != table->map->structure;
}

static void put(Table *table, int key, Place *place, int at, uint64_t value)
{
    struct cm_thing *thing = thing_new(value);
    uint64_t version =
        cm_put(table->map, place->shard, &place->query, at, thing, &place->garbage);
    if (version == 0) {
        failed(table, place);
    } else {
        table->shape += table->value[key] == 0;
        set(table, key, value);
        changed(table, version, CM_STORE, key, value);
    }
    cm_host_release(thing);
}

static void take(Table *table, int key, Place *place, int at)
{
    uint64_t version =
        cm_remove(table->map, place->shard, place->query.hash, at, &place->garbage);
    if (version == 0) {
        failed(table, place);
        return;
    }
    table->shape++;
    set(table, key, 0);
    changed(table, version, CM_DELETE, key, 0);
}

/* What is found has to be what the array has; then the operation does what its name says. */
void perform(Table *table, int operation, int key, int argument)
{
    if (table->happened >= LOG - KEYS)
        return;
    Place place;
    int at = enter(table, key, &place);
    uint64_t there = table->value[key], value = ++table->serial << 16 | (uint64_t)key;
    MUST(at == CM_ABSENT ? there == 0 : at >= 0);
    if (at >= 0)
        MUST(((struct cm_thing *)place.bucket->entry[at].value)->value == there);
    int matches = at >= 0 && (argument & 3) != 0; /* now and then another value is expected */
    if (operation == STORE || (operation == LOAD_OR_STORE && at < 0) ||
        (operation == SWAP && matches))
        put(table, key, &place, at, value);
    if ((operation == LOAD_AND_DELETE && at >= 0) ||
        (operation == COMPARE_AND_DELETE && matches))
        take(table, key, &place, at);
    leave(table, &place);
}

/* --- changes ---------------------------------------------------------------------------- */

static void is_change(Table *table, const cm_change *got)
{
    const Change *change = &table->change[got->version];
    MUST(got->operation == change->operation);
    if (change->operation == CM_CLEAR) {
        MUST(got->key == NULL && got->value == NULL);
        return;
    }
    MUST(((struct cm_thing *)got->key)->value == (uint64_t)change->key);
    cm_host_release(got->key);
    MUST((got->value == NULL) == (change->operation == CM_DELETE));
    if (got->value != NULL) {
        MUST(((struct cm_thing *)got->value)->value == change->value);
        cm_host_release(got->value);
    }
}

void ask_changes(Table *table, int key, int argument)
{
    enum { ROOM = 64 };
    cm_change got[ROOM];
    uint64_t version = table->version, size = table->map->history_size;
    uint64_t since = version + 4 > (uint64_t)argument ? version + 4 - (uint64_t)argument : 0;
    uint64_t room = (uint64_t)key % (ROOM + 1);
    int64_t count = cm_changes(table->map, since, got, room);
    if (since > version) {
        MUST(count == CM_ABSENT);
    } else if (version - since > size) {
        MUST(count == CM_STALE);
    } else if (version - since > room) {
        MUST(count == CM_ASK);
    } else {
        MUST(count == (int64_t)(version - since));
        for (int64_t i = 0; i < count; i++) {
            MUST(got[i].version == since + 1 + (uint64_t)i);
            is_change(table, &got[i]);
        }
    }
}

void all_is_sound(Table *table)
{
    cm_walk *walks[WALKS];
    int count = 0;
    uint64_t entries = 0;
    for (int which = 0; which < WALKS; which++)
        if (table->walk[which].begun)
            walks[count++] = &table->walk[which].walk;
    for (int key = 0; key < KEYS; key++)
        entries += table->value[key] != 0;
    MUST(cm_map_entries(table->map) == entries);
    sound(table->map, walks, count);
}
