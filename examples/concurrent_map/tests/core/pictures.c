/* What walks and views of the table have to give. */
#include "model.h"

static int key_of(const Table *table, const cm_entry *entry)
{
    uint64_t key = ((struct cm_thing *)entry->key)->value;
    MUST(key < KEYS && entry->hash == hash_of(table, (int)key));
    return (int)key;
}

static uint64_t value_of(const cm_entry *entry)
{
    return ((struct cm_thing *)entry->value)->value;
}

/* --- views -------------------------------------------------------------------------------- */

void open_picture(Table *table, int which)
{
    Picture *picture = &table->picture[which % PICTURES];
    if (picture->view != NULL)
        return;
    picture->view = cm_view_open(table->map);
    if (picture->view == NULL) {
        MUST(table->frail);
        return;
    }
    MUST(picture->view->version == table->version);
    MUST(picture->view->entries == cm_map_entries(table->map));
    memcpy(picture->value, table->value, sizeof picture->value);
}

void close_picture(Table *table, int which)
{
    Picture *picture = &table->picture[which % PICTURES];
    if (picture->view != NULL)
        cm_view_release(picture->view);
    picture->view = NULL;
}

void load_picture(Table *table, int which, int key)
{
    Picture *picture = &table->picture[which % PICTURES];
    if (picture->view == NULL)
        return;
    cm_query query = asked_for(table, key);
    cm_shard *shard = cm_shard_of(table->map, query.hash);
    cm_bucket *bucket =
        cm_bucket_of(table->map, picture->view->dir[shard - table->map->shard], query.hash);
    int at = find(table->map, bucket, &query);
    MUST(picture->value[key] == (at >= 0 ? value_of(&bucket->entry[at]) : 0));
    cm_host_release(query.key);
}

/* Each entry once, with the value that it had. */
static void is_picture(const Table *table, const Picture *picture, const cm_entry *entry,
                       uint8_t *given)
{
    int key = key_of(table, entry);
    MUST(!given[key] && picture->value[key] == value_of(entry));
    given[key] = 1;
}

static void is_complete(const uint64_t *value, const uint8_t *given)
{
    for (int key = 0; key < KEYS; key++)
        MUST((value[key] != 0) == given[key]);
}

void walk_picture(Table *table, int which)
{
    Picture *picture = &table->picture[which % PICTURES];
    if (picture->view == NULL)
        return;
    uint8_t given[KEYS] = {0};
    cm_walk walk;
    atomic_fetch_add(&picture->view->refs, 1);
    cm_walk_begin(&walk, table->map, CM_VIEW, picture->view);
    while (cm_walk_next(&walk) == 1)
        is_picture(table, picture, &walk.bucket->entry[walk.at++], given);
    is_complete(picture->value, given);
    MUST(cm_walk_valid(&walk));
    cm_walk_end(&walk, CM_COMPLETE);
}

/* By steps, as cursors take them. */
void share_picture(Table *table, int which)
{
    Picture *picture = &table->picture[which % PICTURES];
    if (picture->view == NULL)
        return;
    uint8_t given[KEYS] = {0};
    uint64_t steps = cm_view_steps(picture->view);
    for (uint64_t step = steps; step > 0; step--) {
        const cm_bucket *bucket = cm_view_step(picture->view, step - 1);
        for (uint32_t i = 0; bucket != NULL && i < bucket->count; i++)
            is_picture(table, picture, &bucket->entry[i], given);
    }
    is_complete(picture->value, given);
}

/* --- walks -------------------------------------------------------------------------------- */

void begin_walk(Table *table, int which, int mode)
{
    Walk *walk = &table->walk[which % WALKS];
    if (walk->begun)
        return;
    mode %= CM_VIEW;
    cm_view *view = mode == CM_SNAPSHOT ? cm_view_open(table->map) : NULL;
    if (mode == CM_SNAPSHOT && view == NULL) {
        MUST(table->frail);
        return;
    }
    cm_walk_begin(&walk->walk, table->map, mode, view);
    walk->begun = 1;
    walk->since = table->happened;
    walk->shape = table->shape;
    memset(walk->given, 0, sizeof walk->given);
    memcpy(walk->value, table->value, sizeof walk->value);
}

/* Whether it was the key's value at some moment since the walk began. */
static int was_there(const Table *table, const Walk *walk, int key, uint64_t value)
{
    if (table->value[key] == value)
        return 1;
    for (size_t i = walk->since; i < table->happened; i++)
        if (table->past[i].key == key && table->past[i].before == value)
            return 1;
    return 0;
}

static void is_due(const Table *table, Walk *walk, const cm_entry *entry)
{
    int key = key_of(table, entry), unchanged = walk->shape == table->shape;
    if (walk->walk.mode == CM_SNAPSHOT)
        MUST(walk->value[key] == value_of(entry));
    else
        MUST(was_there(table, walk, key, value_of(entry)));
    if (walk->walk.mode != CM_WEAK || unchanged)
        MUST(!walk->given[key]);
    walk->given[key] = 1;
}

/* Weak walks owe all only if no key has come or gone; strict ones have failed otherwise. */
static void is_over(const Table *table, const Walk *walk, int got)
{
    int mode = walk->walk.mode, unchanged = walk->shape == table->shape;
    MUST(got == (mode == CM_STRICT && !unchanged ? CM_STALE : 0));
    MUST(cm_walk_valid(&walk->walk) == (unchanged || mode == CM_SNAPSHOT));
    if (got == 0 && (mode != CM_WEAK || unchanged))
        is_complete(walk->value, walk->given);
}

void go_on(Table *table, int which, int steps)
{
    Walk *walk = &table->walk[which % WALKS];
    int got = 1;
    for (int i = 0; walk->begun && got == 1 && i < steps; i++) {
        got = cm_walk_next(&walk->walk);
        if (got != 1)
            break;
        MUST(walk->walk.mode != CM_STRICT || walk->shape == table->shape);
        is_due(table, walk, &walk->walk.bucket->entry[walk->walk.at++]);
    }
    if (got == 1)
        return;
    is_over(table, walk, got);
    end_walk(table, which);
}

void end_walk(Table *table, int which)
{
    Walk *walk = &table->walk[which % WALKS];
    if (walk->begun)
        cm_walk_end(&walk->walk, CM_STOPPED);
    walk->begun = 0;
}
