/* The table: shards of extendible hashing, copy-on-write for views.
 *
 *   map ─ shard[0..n-1] ─ directory (2^depth slots) ─ buckets (up to 64 entries, compact)
 *
 * The upper bits of a key's mixed hash choose the shard, the next ones the directory's
 * slot; seven others are the tag by which a bucket is searched, 16 entries at a time.
 * A bucket of depth d stands in 2^(depth-d) neighbouring slots. A full one is split in two
 * by the next bit: that is all the work that an insertion ever does, but for the doubling
 * of a directory, which is a copy of pointers.
 *
 * Views. A directory counts who refers to it: the shard, and each view (cm_view). A bucket
 * counts the directories that it stands in (`owners`). Taking a view is one more reference
 * for each shard's directory. Who writes under a shard's lock and finds the directory
 * shared makes himself a copy of it, and finds the bucket owned twice, makes a copy of it:
 * so what a view can reach never changes, and it is read without locks. The counts of a
 * live table go up only under the shard's lock; views let go whenever they like, which at
 * worst costs the writer a copy that was no longer needed.
 *
 * Walkers of the live table do the same with the one bucket that they hand out: they own
 * it, so that nobody changes it. `retired` says that a bucket has left the live table, by a
 * split, by a copy, by clear().
 *
 * A copy of a bucket does not take references to what it copies: it borrows them of the
 * bucket that it was copied from, which is there for as long as somebody can read it, and
 * hands them over when it goes (bucket.c). So a copy costs a memcpy, and what the two still
 * share when the view is closed costs nothing either.
 *
 * Objects are kept (cm_keep) under the lock and let go (cm_garbage) after it, because that
 * may run foreign code. Nothing under a lock can wait, fail but for want of memory, or
 * call back.
 */
#ifndef CM_MAP_H
#define CM_MAP_H

#include "host.h"
#include "lock.h"
#include "probes.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    CM_SMALLEST = 8,      /* entries of a shard's first bucket */
    CM_FULL = 64,         /* a bucket of this many is split rather than enlarged */
    CM_MAX_SHARDS = 1024, /* 2^10 */
    CM_SPARES = 32,       /* buckets that a map keeps for the next copies */
    CM_MAX_DEPTH = 28,    /* of a directory; beyond it buckets grow */
    CM_ABSENT = -1,
    CM_ASK = -2,    /* only foreign code can compare: see cm_query.ask */
    CM_FAILED = -3, /* no memory, or a signal handler raised: nothing is locked */
    CM_STALE = -4,
};

/* Lending needs somebody who sees to it that nobody else changes the two: the GIL. */
#ifndef CM_LENDING
#if defined(CM_STANDALONE) || defined(Py_GIL_DISABLED)
#define CM_LENDING 0
#else
#define CM_LENDING 1
#endif
#endif

enum cm_mode { CM_WEAK, CM_STRICT, CM_SNAPSHOT, CM_VIEW, CM_CURSOR, CM_MODES };
enum cm_outcome { CM_COMPLETE, CM_STOPPED, CM_WAS_STALE, CM_ERROR, CM_OUTCOMES };
enum cm_operation { CM_STORE, CM_DELETE, CM_CLEAR };

typedef struct {
    uint64_t hash; /* mixed; equal keys have equal ones */
    void *key, *value;
} cm_entry;

typedef struct cm_bucket {
    _Atomic uint32_t owners; /* directories that it stands in, and walkers */
    uint32_t count, capacity;
    uint8_t depth;
    _Atomic uint8_t retired;
    uint8_t kept; /* counted in cm_counts.kept_bytes */
    uint32_t shard;
    uint32_t mark; /* the last traversal of the garbage collector that came by */
    struct cm_bucket *lender, *borrower; /* see bucket.c */
    uint64_t borrowed; /* a bit for each entry whose references are the lender's */
    cm_entry *entry;   /* behind the tags, in the same piece of memory */
    uint8_t tag[];
} cm_bucket;

typedef struct cm_dir {
    _Atomic uint32_t refs;
    uint32_t depth, buckets;
    uint8_t kept;
    cm_bucket *slot[];
} cm_dir;

typedef struct cm_shard {
    cm_lock lock;
    cm_dir *dir;
    uint64_t mods;            /* structural changes of this shard */
    _Atomic uint64_t entries; /* written under the lock */
    uint64_t bytes, buckets;  /* of the live table */
    uint64_t splits, moved, retired;
} __attribute__((aligned(128))) cm_shard; /* two lines: neighbours are fetched in pairs */

/* What happened since the map was made; each is raised where its probe stands. */
typedef struct {
    _Atomic uint64_t waits, retries, stale_hits;
    _Atomic uint64_t ranges[CM_MODES][CM_OUTCOMES], ranges_begun, range_items;
    _Atomic uint64_t views_open, kept_bytes, kept_entries;
} cm_counts;

typedef struct cm_view {
    struct cm_map *map;
    struct cm_view *previous, *next;
    _Atomic uint32_t refs;
    uint64_t version, entries;
    cm_dir *dir[]; /* one for each shard */
} cm_view;

typedef struct {
    uint64_t version; /* 0: never used */
    int operation;
    void *key, *value; /* kept */
} cm_change;

typedef struct cm_map {
    void *self; /* the Python object, for probes */
    int raw;    /* integers instead of objects: see ext/raw.c */
    uint32_t shards, shard_bits;
    cm_shard *shard;
    _Atomic uint64_t version;   /* of the last change */
    _Atomic uint64_t structure; /* keys added or deleted, buckets split, clear() */
    cm_counts counts;
    _Atomic uint32_t views_word, history_word; /* spin locks */
    cm_view *views;
    _Atomic uint64_t range_ids;
    uint32_t mark;
    uint32_t spares; /* as all of lending: with the GIL in hand */
    cm_bucket *spare[CM_SPARES];
    uint64_t history_size;
    cm_change *history;             /* a ring: version % history_size */
    struct cm_map *previous, *next; /* all maps of the process, for fork */
} cm_map;

/* A key on its way through the table. Comparisons that ran foreign code are remembered, by
 * object: after one the search begins anew, and finds what it has compared already. */
typedef struct {
    uint64_t hash;
    void *key;
    void *same;           /* is equal; kept */
    void **different;     /* are not; kept */
    size_t differing;
    void *ask; /* to be compared next; not kept */
} cm_query;

/* What is to be let go after the lock. */
typedef struct {
    void *object[6];
    cm_bucket *bucket[2];
    cm_dir *dir;
    int objects, buckets;
} cm_garbage;

/* --- hash and place ------------------------------------------------------------ */

/* A bijection, so that comparing the mixed hash is comparing the hash. The multiplier is
 * 2^64 divided by the golden ratio. The three lowest bits are left out of the mixing: eight
 * consecutive integers, which are neighbours in memory more often than not, come to lie in
 * one bucket, and a range over a million of them meets each line and page once. */
static inline uint64_t cm_mix(uint64_t hash)
{
    uint64_t run = hash >> 3;
    run ^= run >> 32;
    return run * UINT64_C(0x9E3779B97F4A7C15) << 3 | (hash & 7);
}

static inline uint8_t cm_tag(uint64_t hash)
{
    return (uint8_t)((hash ^ hash >> 12 ^ hash >> 24) & 0x7f);
}

/* The first `bits` bits; shifting by 64 would be undefined, hence in two steps. */
static inline uint64_t cm_leading(uint64_t hash, uint32_t bits)
{
    return hash >> 1 >> (63 - bits);
}

static inline cm_shard *cm_shard_of(cm_map *map, uint64_t hash)
{
    return &map->shard[cm_leading(hash, map->shard_bits)];
}

static inline uint64_t cm_slot_of(const cm_map *map, const cm_dir *dir, uint64_t hash)
{
    return cm_leading(hash << map->shard_bits, dir->depth);
}

static inline cm_bucket *cm_bucket_of(const cm_map *map, const cm_dir *dir, uint64_t hash)
{
    return dir->slot[cm_slot_of(map, dir, hash)];
}

/* --- counting, keeping --------------------------------------------------------- */

static inline void cm_count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static inline uint64_t cm_read(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

static inline void cm_keep(const cm_map *map, void *object)
{
    if (!map->raw)
        cm_host_retain(object);
}

static inline void cm_let_go(const cm_map *map, void *object)
{
    if (!map->raw)
        cm_host_release(object);
}

static inline void cm_discard(cm_garbage *garbage, void *object)
{
    garbage->object[garbage->objects++] = object;
}

static inline void cm_retried(cm_map *map, uint32_t shard, int what)
{
    cm_count(&map->counts.retries, 1);
    CM_PROBE3(retry, map->self, shard, what);
}

/* Whether the references of the entry are another bucket's. */
static inline int cm_borrowed(const cm_bucket *bucket, uint32_t at)
{
    return CM_UNLIKELY(bucket->borrowed != 0) && (bucket->borrowed >> at & 1);
}

/* --- lock.c -------------------------------------------------------------------- */

int cm_enter_contended(cm_map *map, cm_shard *shard);
void cm_leave_contended(cm_map *map, cm_shard *shard);
int cm_try_enter(cm_shard *shard);
int cm_enter_all(cm_map *map);
void cm_leave_all(cm_map *map);
void cm_after_fork(cm_map *map, uint32_t parent_tid);

/* 0, or -1 when a signal handler raised while it waited (then it is not entered). */
static inline int cm_enter(cm_map *map, cm_shard *shard)
{
    if (CM_LIKELY(cm_lock_try(&shard->lock))) {
        cm_lock_owned(&shard->lock);
        return 0;
    }
    return cm_enter_contended(map, shard);
}

static inline void cm_leave(cm_map *map, cm_shard *shard)
{
    if (CM_UNLIKELY(shard->lock.depth != 0))
        shard->lock.depth--;
    else if (CM_UNLIKELY(cm_lock_free(&shard->lock)))
        cm_leave_contended(map, shard);
}

/* --- bucket.c: one bucket ------------------------------------------------------- */

cm_bucket *cm_bucket_new(uint32_t shard, uint8_t depth, uint32_t capacity);
size_t cm_bucket_bytes(const cm_bucket *bucket);
cm_bucket *cm_bucket_copy(cm_map *map, cm_bucket *bucket);
void cm_bucket_append(cm_bucket *bucket, const cm_entry *entry);
void cm_bucket_delete(const cm_map *map, cm_bucket *bucket, uint32_t at);
void cm_bucket_own(const cm_map *map, cm_bucket *bucket, uint32_t at);
void cm_bucket_leave_lender(cm_bucket *bucket);
void cm_bucket_disown(cm_map *map, cm_bucket *bucket);
void cm_bucket_spares_free(cm_map *map);
void cm_bucket_dispose(cm_map *map, cm_bucket *bucket);
int cm_find(const cm_map *map, const cm_bucket *bucket, cm_query *query);

/* --- table.c: changes of one shard, under its lock -------------------------------- */

cm_dir *cm_dir_new(uint32_t depth);
size_t cm_dir_bytes(const cm_dir *dir);
void cm_dir_release(cm_map *map, cm_dir *dir);
int cm_shard_init(cm_map *map, cm_shard *shard);
cm_dir *cm_shard_replace(cm_map *map, cm_shard *shard, cm_dir *fresh);
cm_dir *cm_dir_fresh(uint32_t shard);

/* Store or delete at what cm_find said of the key. The change's version, or 0 when there
 * is no memory (nothing is changed then). `value` and a new key are kept. */
uint64_t cm_put(cm_map *map, cm_shard *shard, const cm_query *query, int at, void *value,
                cm_garbage *garbage);
uint64_t cm_remove(cm_map *map, cm_shard *shard, uint64_t hash, int at, cm_garbage *garbage);

/* --- map.c ------------------------------------------------------------------------ */

cm_map *cm_map_new(void *self, int raw, uint32_t shards, uint64_t history);
void cm_map_free(cm_map *map);
uint64_t cm_map_entries(const cm_map *map);
uint64_t cm_map_clear(cm_map *map);
void cm_map_abandon(cm_map *map);
void cm_drop(cm_map *map, cm_garbage *garbage);
uint64_t cm_changed(cm_map *map, int operation, void *key, void *value,
                    cm_garbage *garbage);
int64_t cm_changes(cm_map *map, uint64_t since, cm_change *into, uint64_t room);

/* --- view.c ----------------------------------------------------------------------- */

cm_view *cm_view_open(cm_map *map);
void cm_view_release(cm_view *view);
uint64_t cm_view_steps(const cm_view *view);
const cm_bucket *cm_view_step(const cm_view *view, uint64_t step);

/* --- walk.c ----------------------------------------------------------------------- */

typedef struct {
    cm_map *map;
    cm_view *view; /* NULL when the live table is walked */
    int mode;
    uint32_t shard;
    uint64_t slot, limit; /* within the shard's directory */
    uint64_t structure;   /* the map's when it began */
    cm_bucket *bucket;    /* what is handed out; owned, unless a view has it */
    uint32_t at;          /* the next of its entries */
    uint32_t ahead_count;
    void **ahead; /* the objects of the bucket after it: only to be asked for, see walk.c */
    uint64_t id, items;
    int ended;
} cm_walk;

void cm_walk_begin(cm_walk *walk, cm_map *map, int mode, cm_view *view);
int cm_walk_next(cm_walk *walk);
int cm_walk_valid(const cm_walk *walk);
void cm_walk_end(cm_walk *walk, int outcome);
void cm_range_begun(cm_map *map, int mode, uint64_t id);
void cm_range_ended(cm_map *map, int mode, uint64_t id, int outcome, uint64_t items);

#endif
