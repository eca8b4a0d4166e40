/* Walks, bucket by bucket: over the live table (weak, strict) or over a view.
 *
 * Over the live table the walk becomes an owner of the bucket that it hands out, under the
 * shard's lock: who writes to that bucket makes a copy (table.c), and the walk goes on with
 * the entries as they were. A strict walk compares the map's structure counter before each
 * step and under the lock before it takes a bucket: what it hands out belongs to the
 * structure that it began with, and no bucket that was retired is ever looked into. A weak
 * walk goes on by slot numbers in whatever directory it finds: that is where its misses
 * and repetitions come from.
 *
 * In a large map each object that is handed out is a miss of the cache. So the objects of
 * the next bucket are asked for while this one's are handed out, one by one. Their
 * addresses were copied under the lock; they may be gone when they are asked for, which
 * for a prefetch does not matter: it reads nothing and cannot fault.
 */
#include "map.h"

enum { LARGE = 1 << 15 }; /* entries of a map that the caches cannot hold */

void cm_range_begun(cm_map *map, int mode, uint64_t id)
{
    cm_count(&map->counts.ranges_begun, 1);
    CM_PROBE3(range_begin, map->self, mode, id);
}

void cm_range_ended(cm_map *map, int mode, uint64_t id, int outcome, uint64_t items)
{
    cm_count(&map->counts.ranges[mode][outcome], 1);
    cm_count(&map->counts.range_items, items);
    CM_PROBE5(range_end, map->self, mode, id, outcome, items);
}

/* `view`: a reference that the walk takes over, for the modes that walk one. */
void cm_walk_begin(cm_walk *walk, cm_map *map, int mode, cm_view *view)
{
    memset(walk, 0, sizeof *walk);
    walk->map = map;
    walk->view = view;
    walk->mode = mode;
    walk->structure = atomic_load_explicit(&map->structure, memory_order_acquire);
    walk->id = atomic_fetch_add_explicit(&map->range_ids, 1, memory_order_relaxed) + 1;
    if (!map->raw && cm_map_entries(map) > LARGE)
        walk->ahead = malloc(2 * CM_FULL * sizeof *walk->ahead); /* or goes without */
    cm_range_begun(map, mode, walk->id);
}

int cm_walk_valid(const cm_walk *walk)
{
    if (walk->view != NULL)
        return 1;
    _Atomic uint64_t *structure = (_Atomic uint64_t *)&walk->map->structure;
    return atomic_load_explicit(structure, memory_order_acquire) == walk->structure;
}

static void met_stale(cm_walk *walk, uint32_t shard, cm_bucket *bucket)
{
    cm_count(&walk->map->counts.stale_hits, 1);
    CM_PROBE3(stale_bucket, walk->map->self, shard, bucket);
}

static int fail_stale(cm_walk *walk)
{
    uint32_t last = walk->map->shards - 1;
    met_stale(walk, walk->shard < last ? walk->shard : last, walk->bucket);
    return CM_STALE;
}

static void leave_bucket(cm_walk *walk)
{
    cm_bucket *bucket = walk->bucket;
    walk->bucket = NULL;
    if (bucket != NULL && walk->view == NULL)
        cm_bucket_disown(walk->map, bucket);
}

static void done_with_bucket(cm_walk *walk)
{
    cm_bucket *done = walk->bucket;
    if (atomic_load_explicit(&done->retired, memory_order_acquire))
        met_stale(walk, done->shard, done);
    leave_bucket(walk);
}

/* Take down the objects of the bucket that probably comes next. */
static void look_ahead(cm_walk *walk, const cm_dir *dir)
{
    walk->ahead_count = 0;
    if (walk->ahead == NULL || walk->slot >= UINT64_C(1) << dir->depth)
        return;
    const cm_bucket *next = dir->slot[walk->slot];
    uint32_t count = next->count < CM_FULL ? next->count : CM_FULL;
    for (uint32_t i = 0; i < count; i++) {
        walk->ahead[2 * i] = next->entry[i].key;
        walk->ahead[2 * i + 1] = next->entry[i].value;
    }
    walk->ahead_count = count;
    uint64_t after = walk->slot + (UINT64_C(1) << (dir->depth - next->depth));
    if (after < UINT64_C(1) << dir->depth) {
        const char *line = (const char *)dir->slot[after];
        for (size_t i = 0; i < 64 + CM_FULL * sizeof(cm_entry); i += 64)
            __builtin_prefetch(line + i);
    }
}

/* The next bucket of a directory that has entries, or NULL at the limit. */
static cm_bucket *next_bucket(cm_walk *walk, const cm_dir *dir)
{
    uint64_t slots = UINT64_C(1) << dir->depth;
    if (walk->slot == 0)
        walk->limit = slots; /* not looked at again: see «weak» above */
    while (walk->slot < walk->limit && walk->slot < slots) {
        cm_bucket *bucket = dir->slot[walk->slot];
        uint64_t span = UINT64_C(1) << (dir->depth - bucket->depth);
        walk->slot = (walk->slot & ~(span - 1)) + span;
        if (bucket->count > 0)
            return bucket;
    }
    walk->shard++;
    walk->slot = 0;
    return NULL;
}

/* Under the shard's lock: 1 taken, 0 the shard is done, CM_STALE. */
static int take_next(cm_walk *walk, const cm_shard *shard)
{
    if (walk->mode == CM_STRICT && !cm_walk_valid(walk))
        return CM_STALE;
    cm_bucket *bucket = next_bucket(walk, shard->dir);
    if (bucket == NULL)
        return 0;
    atomic_fetch_add_explicit(&bucket->owners, 1, memory_order_relaxed);
    walk->bucket = bucket;
    walk->at = 0;
    look_ahead(walk, shard->dir);
    return 1;
}

/* Who waits for a shard gives up the GIL, and who leaves a bucket runs foreign code: then
 * another thread that shares the walk may go on with it, or end it. Hence all is looked at
 * anew after each. */
static int next_live(cm_walk *walk)
{
    while (!walk->ended) {
        if (walk->bucket != NULL && walk->at < walk->bucket->count)
            return 1;
        if (walk->bucket != NULL) {
            done_with_bucket(walk);
            continue;
        }
        uint32_t number = walk->shard;
        if (number == walk->map->shards)
            /* Unchanged up to here: what was handed out is the map as it was all the time. */
            return walk->mode == CM_STRICT && !cm_walk_valid(walk) ? fail_stale(walk) : 0;
        cm_shard *shard = &walk->map->shard[number];
        if (cm_enter(walk->map, shard) < 0)
            return CM_FAILED;
        int unchanged = walk->shard == number && walk->bucket == NULL && !walk->ended;
        int got = unchanged ? take_next(walk, shard) : 0;
        cm_leave(walk->map, shard);
        if (got == CM_STALE)
            return fail_stale(walk);
    }
    return 0;
}

/* A view's buckets do not change: no lock, no owner. */
static int next_of_view(cm_walk *walk)
{
    walk->bucket = NULL;
    while (walk->shard < walk->map->shards) {
        const cm_dir *dir = walk->view->dir[walk->shard];
        cm_bucket *bucket = next_bucket(walk, dir);
        if (bucket == NULL)
            continue;
        walk->bucket = bucket;
        walk->at = 0;
        look_ahead(walk, dir);
        return 1;
    }
    return 0;
}

/* 1: the next entry is bucket->entry[at] (the caller raises `at` and `items`); 0: the end;
 * CM_STALE; CM_FAILED: a signal handler raised. */
int cm_walk_next(cm_walk *walk)
{
    if (walk->mode == CM_STRICT && !cm_walk_valid(walk))
        return fail_stale(walk);
    if (walk->bucket != NULL && walk->at < walk->bucket->count)
        return 1;
    return walk->view != NULL ? next_of_view(walk) : next_live(walk);
}

/* May be called again, which does nothing. Runs foreign code. */
void cm_walk_end(cm_walk *walk, int outcome)
{
    if (walk->ended)
        return;
    walk->ended = 1;
    cm_range_ended(walk->map, walk->mode, walk->id, outcome, walk->items);
    cm_view *view = walk->view;
    free(walk->ahead);
    walk->ahead = NULL;
    walk->ahead_count = 0;
    leave_bucket(walk);
    walk->view = NULL;
    if (view != NULL)
        cm_view_release(view);
}
