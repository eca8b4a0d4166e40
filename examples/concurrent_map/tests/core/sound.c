#include "sound.h"

#include <stdio.h>

enum { SEEN = 1 << 12 };

typedef struct {
    const void *thing[SEEN];
    uint32_t owners[SEEN];
    size_t count;
} Seen;

_Noreturn void must_hold(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

/* Whether it was seen before; one more owner of it. */
static int seen(Seen *all, const void *thing)
{
    size_t at = ((uintptr_t)thing >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 52;
    while (all->thing[at] != NULL && all->thing[at] != thing)
        at = (at + 1) % SEEN;
    all->owners[at]++;
    if (all->thing[at] == thing)
        return 1;
    all->thing[at] = thing;
    MUST(++all->count < SEEN / 2);
    return 0;
}

static uint32_t owners_of(const Seen *all, const void *thing)
{
    size_t at = ((uintptr_t)thing >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 52;
    while (all->thing[at] != thing)
        at = (at + 1) % SEEN;
    return all->owners[at];
}

/* What is borrowed is there, at the same place, and both know of each other. */
static void loans_are_sound(const cm_bucket *bucket)
{
    const cm_bucket *lender = bucket->lender, *borrower = bucket->borrower;
    MUST(lender == NULL || lender->borrower == bucket);
    MUST(borrower == NULL || borrower->lender == bucket);
    MUST(bucket->count >= 64 || bucket->borrowed >> bucket->count == 0);
    for (uint32_t i = 0; i < bucket->count; i++) {
        if (!cm_borrowed(bucket, i))
            continue;
        MUST(lender != NULL && i < lender->count);
        MUST(lender->entry[i].key == bucket->entry[i].key);
        MUST(lender->entry[i].value == bucket->entry[i].value);
    }
}

static void bucket_is_sound(const cm_map *map, uint32_t shard, const cm_dir *dir, uint64_t slot)
{
    const cm_bucket *bucket = dir->slot[slot];
    uint64_t span = UINT64_C(1) << (dir->depth - bucket->depth);
    MUST(bucket->depth <= dir->depth && slot % span == 0 && bucket->shard == shard);
    MUST(bucket->count <= bucket->capacity);
    loans_are_sound(bucket);
    for (uint64_t i = 1; i < span; i++)
        MUST(dir->slot[slot + i] == bucket);
    for (uint32_t i = 0; i < bucket->count; i++) {
        uint64_t hash = bucket->entry[i].hash;
        MUST(bucket->tag[i] == cm_tag(hash));
        MUST(cm_leading(hash, map->shard_bits) == shard);
        MUST(cm_slot_of(map, dir, hash) / span == slot / span);
    }
}

/* Its buckets: how many, their entries and bytes; `kept` is raised by those not seen yet. */
typedef struct {
    uint64_t buckets, entries, bytes;
} Sums;

static Sums dir_is_sound(const cm_map *map, uint32_t shard, const cm_dir *dir, Seen *all,
                         Sums *kept)
{
    Sums sums = {0};
    for (uint64_t slot = 0; slot < UINT64_C(1) << dir->depth;) {
        const cm_bucket *bucket = dir->slot[slot];
        bucket_is_sound(map, shard, dir, slot);
        sums.buckets++;
        sums.entries += bucket->count;
        sums.bytes += cm_bucket_bytes(bucket);
        if (!seen(all, bucket)) {
            kept->entries += bucket->count;
            kept->bytes += cm_bucket_bytes(bucket);
        }
        slot += UINT64_C(1) << (dir->depth - bucket->depth);
    }
    MUST(sums.buckets == dir->buckets);
    sums.bytes += cm_dir_bytes(dir);
    return sums;
}

static void shard_is_sound(const cm_map *map, uint32_t number, Seen *all)
{
    const cm_shard *shard = &map->shard[number];
    Sums ignored = {0};
    Sums sums = dir_is_sound(map, number, shard->dir, all, &ignored);
    MUST(sums.buckets == shard->buckets && sums.bytes == shard->bytes);
    MUST(sums.entries == cm_read(&shard->entries));
    MUST(shard->lock.word == 0 && shard->lock.owner_tid == 0 && shard->lock.waiters == 0);
}

static Sums view_is_sound(const cm_map *map, const cm_view *view, Seen *all)
{
    Sums kept = {0};
    uint64_t entries = 0;
    for (uint32_t i = 0; i < map->shards; i++) {
        const cm_dir *dir = view->dir[i];
        if (seen(all, dir))
            continue;
        entries += dir_is_sound(map, i, dir, all, &kept).entries;
        kept.bytes += cm_dir_bytes(dir);
    }
    MUST(entries <= view->entries);
    return kept;
}

static void owners_are_right(const cm_map *map, const Seen *all)
{
    for (uint32_t i = 0; i < map->shards; i++) {
        const cm_dir *dir = map->shard[i].dir;
        MUST(dir->refs == owners_of(all, dir));
        for (uint64_t slot = 0; slot < UINT64_C(1) << dir->depth;) {
            const cm_bucket *bucket = dir->slot[slot];
            MUST(!bucket->retired && bucket->owners == owners_of(all, bucket));
            slot += UINT64_C(1) << (dir->depth - bucket->depth);
        }
    }
}

void sound(cm_map *map, cm_walk *const *walks, int count)
{
    static Seen all;
    Sums kept = {0};
    memset(&all, 0, sizeof all);
    for (uint32_t i = 0; i < map->shards; i++) {
        shard_is_sound(map, i, &all);
        seen(&all, map->shard[i].dir);
    }
    for (const cm_view *view = map->views; view != NULL; view = view->next) {
        Sums more = view_is_sound(map, view, &all);
        kept.entries += more.entries;
        kept.bytes += more.bytes;
    }
    for (int i = 0; i < count; i++) {
        const cm_bucket *bucket = walks[i]->view == NULL ? walks[i]->bucket : NULL;
        if (bucket != NULL && !seen(&all, bucket)) {
            kept.entries += bucket->count;
            kept.bytes += cm_bucket_bytes(bucket);
        }
    }
    MUST(cm_read(&map->counts.kept_bytes) == kept.bytes);
    MUST(cm_read(&map->counts.kept_entries) == kept.entries);
    owners_are_right(map, &all);
}
