/* Changes of one shard's table, under its lock: copy-on-write, splits, entries. */
#include "map.h"

/* --- directories ------------------------------------------------------------------ */

cm_dir *cm_dir_new(uint32_t depth)
{
    cm_dir *dir = malloc(sizeof *dir + (sizeof dir->slot[0] << depth));
    if (dir == NULL)
        return NULL;
    atomic_init(&dir->refs, 1);
    dir->depth = depth;
    dir->buckets = 0;
    dir->kept = 0;
    return dir;
}

size_t cm_dir_bytes(const cm_dir *dir)
{
    return sizeof *dir + (sizeof dir->slot[0] << dir->depth);
}

/* How many slots the bucket stands in, which is also where the next one begins. */
static uint64_t span(const cm_dir *dir, const cm_bucket *bucket)
{
    return UINT64_C(1) << (dir->depth - bucket->depth);
}

/* A directory with one empty bucket. */
cm_dir *cm_dir_fresh(uint32_t shard)
{
    cm_dir *dir = cm_dir_new(0);
    if (dir == NULL)
        return NULL;
    if ((dir->slot[0] = cm_bucket_new(shard, 0, CM_SMALLEST)) == NULL) {
        free(dir);
        return NULL;
    }
    dir->buckets = 1;
    return dir;
}

/* One reference less; with the last one go its buckets. Runs foreign code. */
void cm_dir_release(cm_map *map, cm_dir *dir)
{
    if (atomic_fetch_sub_explicit(&dir->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint64_t i = 0; i < UINT64_C(1) << dir->depth;) {
        cm_bucket *bucket = dir->slot[i];
        i += span(dir, bucket);
        cm_bucket_disown(map, bucket);
    }
    if (dir->kept)
        atomic_fetch_sub(&map->counts.kept_bytes, cm_dir_bytes(dir));
    free(dir);
}

/* It leaves the live table, while a view still needs it. */
static void keep_dir(cm_map *map, cm_dir *dir)
{
    dir->kept = 1;
    atomic_fetch_add(&map->counts.kept_bytes, cm_dir_bytes(dir));
}

static void keep_bucket(cm_map *map, cm_bucket *bucket)
{
    bucket->kept = 1;
    atomic_fetch_add(&map->counts.kept_bytes, cm_bucket_bytes(bucket));
    atomic_fetch_add(&map->counts.kept_entries, bucket->count);
}

static int shared_dir(const cm_dir *dir)
{
    return atomic_load_explicit((_Atomic uint32_t *)&dir->refs, memory_order_acquire) > 1;
}

static int shared_bucket(const cm_bucket *bucket)
{
    return atomic_load_explicit((_Atomic uint32_t *)&bucket->owners, memory_order_acquire) > 1;
}

/* It leaves the live table. */
static void retire(cm_map *map, cm_shard *shard, cm_bucket *bucket)
{
    atomic_store_explicit(&bucket->retired, 1, memory_order_release);
    shard->retired++;
    CM_PROBE3(bucket_retired, map->self, shard->lock.shard, bucket);
}

/* A bucket that others own, too, leaves the live table. They may let go in the same moment:
 * who is last is found out after the lock. */
static void leave_shared(cm_map *map, cm_shard *shard, cm_bucket *old, cm_garbage *garbage)
{
    retire(map, shard, old);
    keep_bucket(map, old);
    garbage->bucket[garbage->buckets++] = old;
}

/* Make `shard->dir` the shard's alone, with at least `depth` bits. */
static int own_dir(cm_map *map, cm_shard *shard, uint32_t depth, cm_garbage *garbage)
{
    cm_dir *old = shard->dir;
    int shared = shared_dir(old);
    if (!shared && old->depth >= depth)
        return 0;
    if (depth < old->depth)
        depth = old->depth;
    cm_dir *dir = cm_dir_new(depth);
    if (dir == NULL)
        return -1;
    uint32_t wider = depth - old->depth;
    for (uint64_t i = 0; i < UINT64_C(1) << depth; i++)
        dir->slot[i] = old->slot[i >> wider];
    dir->buckets = old->buckets;
    shard->bytes += cm_dir_bytes(dir) - cm_dir_bytes(old);
    if (shared) {
        for (uint64_t i = 0; i < UINT64_C(1) << old->depth; i += span(old, old->slot[i]))
            atomic_fetch_add_explicit(&old->slot[i]->owners, 1, memory_order_relaxed);
        keep_dir(map, old);
        garbage->dir = old;
    } else {
        free(old);
    }
    shard->dir = dir;
    return 0;
}

static void stand(cm_dir *dir, cm_bucket *bucket, uint64_t from)
{
    uint64_t slots = span(dir, bucket);
    for (uint64_t i = 0; i < slots; i++)
        dir->slot[from + i] = bucket;
}

static uint64_t first_slot(const cm_map *map, const cm_dir *dir, const cm_bucket *bucket,
                           uint64_t hash)
{
    return cm_slot_of(map, dir, hash) & ~(span(dir, bucket) - 1);
}

/* The bucket of `hash`, which may be written to; NULL when there is no memory. */
static cm_bucket *own_bucket(cm_map *map, cm_shard *shard, uint64_t hash, cm_garbage *garbage)
{
    if (CM_UNLIKELY(shared_dir(shard->dir)) && own_dir(map, shard, 0, garbage) < 0)
        return NULL;
    cm_dir *dir = shard->dir;
    cm_bucket *old = cm_bucket_of(map, dir, hash);
    if (CM_LIKELY(!shared_bucket(old)))
        return old;
    cm_bucket *copy = cm_bucket_copy(map, old);
    if (copy == NULL)
        return NULL;
    stand(dir, copy, first_slot(map, dir, old, hash));
    leave_shared(map, shard, old, garbage);
    return copy;
}

/* --- splits ------------------------------------------------------------------------ */

static void structure_changed(cm_map *map, cm_shard *shard)
{
    shard->mods++;
    atomic_fetch_add_explicit(&map->structure, 1, memory_order_release);
}

/* `old` gives all it has to its successors, and goes; what others own is copied. */
static void hand_over(cm_map *map, cm_shard *shard, cm_bucket *old, cm_bucket *low,
                      cm_bucket *high, cm_garbage *garbage)
{
    int shared = shared_bucket(old);
    for (uint32_t i = 0; i < old->count; i++) {
        cm_entry *entry = &old->entry[i];
        int upper = cm_leading(entry->hash << map->shard_bits, old->depth + 1u) & 1;
        cm_bucket_append(high != NULL && upper ? high : low, entry);
        if (shared || cm_borrowed(old, i)) {
            cm_keep(map, entry->key);
            cm_keep(map, entry->value);
        }
    }
    shard->moved += old->count;
    shard->bytes += cm_bucket_bytes(low) + (high ? cm_bucket_bytes(high) : 0);
    shard->bytes -= cm_bucket_bytes(old);
    structure_changed(map, shard);
    if (shared) {
        leave_shared(map, shard, old, garbage);
    } else {
        retire(map, shard, old);
        cm_bucket_leave_lender(old);
        free(old);
    }
}

static int enlarge(cm_map *map, cm_shard *shard, cm_bucket *old, uint64_t hash,
                   cm_garbage *garbage)
{
    cm_dir *dir = shard->dir;
    cm_bucket *larger = cm_bucket_new(old->shard, old->depth, old->capacity * 2u);
    if (larger == NULL)
        return -1;
    uint32_t moved = old->count;
    CM_PROBE4(split_begin, map->self, old->shard, shard->buckets, shard->buckets);
    stand(dir, larger, first_slot(map, dir, old, hash));
    hand_over(map, shard, old, larger, NULL, garbage);
    shard->splits++;
    CM_PROBE3(split_end, map->self, larger->shard, moved);
    return 0;
}

static int split(cm_map *map, cm_shard *shard, cm_bucket *old, uint64_t hash,
                 cm_garbage *garbage)
{
    if (own_dir(map, shard, old->depth + 1u, garbage) < 0)
        return -1;
    cm_dir *dir = shard->dir;
    cm_bucket *low = cm_bucket_new(old->shard, old->depth + 1, old->capacity);
    cm_bucket *high = cm_bucket_new(old->shard, old->depth + 1, old->capacity);
    if (low == NULL || high == NULL) {
        free(low);
        free(high);
        return -1;
    }
    uint32_t moved = old->count;
    CM_PROBE4(split_begin, map->self, old->shard, shard->buckets, shard->buckets + 1);
    uint64_t from = first_slot(map, dir, old, hash);
    stand(dir, low, from);
    stand(dir, high, from + span(dir, low));
    hand_over(map, shard, old, low, high, garbage);
    dir->buckets++;
    shard->buckets++;
    shard->splits++;
    CM_PROBE3(split_end, map->self, low->shard, moved);
    return 0;
}

/* Whether the next bit would part the entries, and the directory is not out of proportion:
 * hashes that agree in many bits must not make it explode. */
static int worth_splitting(const cm_shard *shard, const cm_bucket *bucket)
{
    uint32_t depth = bucket->depth + 1u;
    if (bucket->capacity < CM_FULL || depth > CM_MAX_DEPTH)
        return 0;
    if (depth > shard->dir->depth && UINT64_C(1) << depth > 64 + 8 * shard->buckets)
        return 0;
    for (uint32_t i = 1; i < bucket->count; i++)
        if (bucket->entry[i].hash != bucket->entry[0].hash)
            return 1;
    return 0;
}

/* The bucket of `hash`, which may be written to, with room for one more. */
static cm_bucket *make_room(cm_map *map, cm_shard *shard, uint64_t hash, cm_garbage *garbage)
{
    for (;;) {
        if (own_dir(map, shard, 0, garbage) < 0)
            return NULL;
        cm_bucket *bucket = cm_bucket_of(map, shard->dir, hash);
        if (bucket->count < bucket->capacity)
            return own_bucket(map, shard, hash, garbage);
        int done = worth_splitting(shard, bucket) ? split(map, shard, bucket, hash, garbage)
                                                  : enlarge(map, shard, bucket, hash, garbage);
        if (done < 0)
            return NULL;
    }
}

/* --- entries ------------------------------------------------------------------------ */

uint64_t cm_put(cm_map *map, cm_shard *shard, const cm_query *query, int at, void *value,
                cm_garbage *garbage)
{
    if (at >= 0) {
        cm_bucket *bucket = own_bucket(map, shard, query->hash, garbage);
        if (bucket == NULL)
            return 0;
        cm_entry *entry = &bucket->entry[at];
        cm_bucket_own(map, bucket, (uint32_t)at);
        cm_keep(map, value);
        cm_discard(garbage, entry->value);
        entry->value = value;
        return cm_changed(map, CM_STORE, entry->key, value, garbage);
    }
    cm_bucket *bucket = make_room(map, shard, query->hash, garbage);
    if (bucket == NULL)
        return 0;
    cm_keep(map, query->key);
    cm_keep(map, value);
    cm_bucket_append(bucket, &(cm_entry){query->hash, query->key, value});
    atomic_store_explicit(&shard->entries, cm_read(&shard->entries) + 1, memory_order_relaxed);
    structure_changed(map, shard);
    return cm_changed(map, CM_STORE, query->key, value, garbage);
}

uint64_t cm_remove(cm_map *map, cm_shard *shard, uint64_t hash, int at, cm_garbage *garbage)
{
    cm_bucket *bucket = own_bucket(map, shard, hash, garbage);
    if (bucket == NULL)
        return 0;
    cm_entry gone = bucket->entry[at];
    int borrowed = cm_borrowed(bucket, (uint32_t)at);
    cm_bucket_delete(map, bucket, (uint32_t)at);
    atomic_store_explicit(&shard->entries, cm_read(&shard->entries) - 1, memory_order_relaxed);
    structure_changed(map, shard);
    uint64_t version = cm_changed(map, CM_DELETE, gone.key, NULL, garbage);
    if (!borrowed) {
        cm_discard(garbage, gone.key);
        cm_discard(garbage, gone.value);
    }
    return version;
}

/* --- a whole shard ------------------------------------------------------------------- */

int cm_shard_init(cm_map *map, cm_shard *shard)
{
    uint32_t number = (uint32_t)(shard - map->shard);
    cm_lock_init(&shard->lock, number);
    shard->dir = cm_dir_fresh(number);
    if (shard->dir == NULL)
        return -1;
    shard->buckets = 1;
    shard->bytes = cm_dir_bytes(shard->dir) + cm_bucket_bytes(shard->dir->slot[0]);
    return 0;
}

/* Put an empty table into the shard, under its lock; the old one is to be released after. */
cm_dir *cm_shard_replace(cm_map *map, cm_shard *shard, cm_dir *fresh)
{
    cm_dir *old = shard->dir;
    int shared = shared_dir(old);
    if (shared)
        keep_dir(map, old);
    for (uint64_t i = 0; i < UINT64_C(1) << old->depth;) {
        cm_bucket *bucket = old->slot[i];
        i += span(old, bucket);
        retire(map, shard, bucket);
        if (shared || shared_bucket(bucket))
            keep_bucket(map, bucket);
    }
    shard->dir = fresh;
    shard->buckets = 1;
    shard->bytes = cm_dir_bytes(fresh) + cm_bucket_bytes(fresh->slot[0]);
    atomic_store_explicit(&shard->entries, 0, memory_order_relaxed);
    structure_changed(map, shard);
    return old;
}
