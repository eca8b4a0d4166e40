/* One bucket: its memory, its entries, the search in it. */
#include "map.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { GROUP = 16 }; /* tags compared at once */

static size_t tags_of(uint32_t capacity)
{
    return (capacity + GROUP - 1) / GROUP * GROUP;
}

static size_t head_of(uint32_t capacity)
{
    return (offsetof(cm_bucket, tag) + tags_of(capacity) + 7) / 8 * 8;
}

static size_t bytes_of(uint32_t capacity)
{
    return (head_of(capacity) + capacity * sizeof(cm_entry) + 63) / 64 * 64;
}

static cm_bucket *made(cm_bucket *bucket, uint32_t shard, uint8_t depth, uint32_t capacity)
{
    size_t head = head_of(capacity);
    memset(bucket, 0, head);
    bucket->entry = (cm_entry *)((char *)bucket + head);
    bucket->capacity = capacity;
    bucket->depth = depth;
    bucket->shard = shard;
    atomic_init(&bucket->owners, 1);
    return bucket;
}

cm_bucket *cm_bucket_new(uint32_t shard, uint8_t depth, uint32_t capacity)
{
    cm_bucket *bucket = aligned_alloc(64, bytes_of(capacity));
    return bucket == NULL ? NULL : made(bucket, shard, depth, capacity);
}

size_t cm_bucket_bytes(const cm_bucket *bucket)
{
    return bytes_of(bucket->capacity);
}

void cm_bucket_append(cm_bucket *bucket, const cm_entry *entry)
{
    bucket->tag[bucket->count] = cm_tag(entry->hash);
    bucket->entry[bucket->count++] = *entry;
}

/* --- copies -------------------------------------------------------------------------
 *
 * Buckets that were copied one from the other make a chain, from the oldest, which only
 * views and walks have, to the one in the live table. Each entry's two references belong to
 * one of them, and those after it borrow them. What is borrowed lies at the same place in
 * both: what has to move takes references of its own first.
 *
 *   overwrite, delete   the borrower forgets the loan: the value stays the lender's
 *   the lender goes     what is lent becomes the borrower's, or a loan of the lender's own
 *                       lender; all else that it has is let go
 *   the borrower goes   nothing happens to what it has borrowed
 *
 * All this happens with the GIL in hand. */

static int lends(const cm_map *map)
{
    return CM_LENDING && !map->raw;
}

/* A map of which one snapshot after the other is taken needs the same few buckets again
 * and again, and malloc() takes as long for one of this size and alignment as its copy. */
static cm_bucket *new_copy(cm_map *map, const cm_bucket *of)
{
    if (of->capacity == CM_FULL && map->spares > 0)
        return made(map->spare[--map->spares], of->shard, of->depth, CM_FULL);
    return cm_bucket_new(of->shard, of->depth, of->capacity);
}

static void give_back(cm_map *map, cm_bucket *bucket)
{
    if (lends(map) && bucket->capacity == CM_FULL && map->spares < CM_SPARES)
        map->spare[map->spares++] = bucket;
    else
        free(bucket);
}

void cm_bucket_spares_free(cm_map *map)
{
    while (map->spares > 0)
        free(map->spare[--map->spares]);
}

static void borrow(cm_bucket *copy, cm_bucket *from)
{
    uint32_t count = from->count;
    memcpy(copy->tag, from->tag, count);
    memcpy(copy->entry, from->entry, count * sizeof *copy->entry);
    copy->count = count;
    copy->borrowed = count == 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
    copy->lender = from;
    from->borrower = copy;
}

/* Have the entry's references be the bucket's. */
void cm_bucket_own(const cm_map *map, cm_bucket *bucket, uint32_t at)
{
    if (!cm_borrowed(bucket, at))
        return;
    cm_keep(map, bucket->entry[at].key);
    cm_keep(map, bucket->entry[at].value);
    bucket->borrowed &= ~(UINT64_C(1) << at);
}

/* Take an entry out; its references, if it has any, are the caller's. */
void cm_bucket_delete(const cm_map *map, cm_bucket *bucket, uint32_t at)
{
    uint32_t last = bucket->count - 1;
    if (at != last)
        cm_bucket_own(map, bucket, last);
    if (cm_borrowed(bucket, at))
        bucket->borrowed &= ~(UINT64_C(1) << at);
    bucket->entry[at] = bucket->entry[last];
    bucket->tag[at] = bucket->tag[last];
    bucket->count = last;
}

/* The objects lie all over the heap: their lines are asked for before the first is touched,
 * so that the misses overlap. */
static void copy_with_references(const cm_map *map, cm_bucket *copy, const cm_bucket *from)
{
    if (!map->raw)
        for (uint32_t i = 0; i < from->count; i++) {
            __builtin_prefetch(from->entry[i].key, 1);
            __builtin_prefetch(from->entry[i].value, 1);
        }
    for (uint32_t i = 0; i < from->count; i++) {
        cm_keep(map, from->entry[i].key);
        cm_keep(map, from->entry[i].value);
        cm_bucket_append(copy, &from->entry[i]);
    }
}

/* What is to take the bucket's place in the live table: it was not copied before. */
cm_bucket *cm_bucket_copy(cm_map *map, cm_bucket *bucket)
{
    cm_bucket *copy = new_copy(map, bucket);
    if (copy == NULL)
        return NULL;
    if (lends(map) && bucket->capacity <= 64)
        borrow(copy, bucket);
    else
        copy_with_references(map, copy, bucket);
    return copy;
}

/* Out of the chain. Which entries' references are left to the bucket, to be let go. */
static uint64_t leave_chain(cm_bucket *bucket)
{
    cm_bucket *lender = bucket->lender, *borrower = bucket->borrower;
    uint64_t own = ~bucket->borrowed;
    if (lender != NULL)
        lender->borrower = borrower;
    if (borrower != NULL) {
        uint64_t given = borrower->borrowed & own;
        borrower->lender = lender;
        borrower->borrowed &= ~given;
        own &= ~given;
    }
    return own;
}

/* For a bucket whose entries have found references of their own. */
void cm_bucket_leave_lender(cm_bucket *bucket)
{
    if (bucket->lender != NULL)
        bucket->lender->borrower = NULL;
}

static void let_go(cm_map *map, const cm_entry *entry)
{
    cm_let_go(map, entry->key);
    cm_let_go(map, entry->value);
}

/* Nobody owns it any more. Runs foreign code: never under a lock. */
void cm_bucket_dispose(cm_map *map, cm_bucket *bucket)
{
    if (bucket->kept) {
        atomic_fetch_sub(&map->counts.kept_bytes, cm_bucket_bytes(bucket));
        atomic_fetch_sub(&map->counts.kept_entries, bucket->count);
    }
    uint64_t own = leave_chain(bucket);
    if (bucket->count < 64)
        own &= (UINT64_C(1) << bucket->count) - 1;
    for (; own != 0; own &= own - 1)
        let_go(map, &bucket->entry[__builtin_ctzll(own)]);
    for (uint32_t i = 64; i < bucket->count; i++)
        let_go(map, &bucket->entry[i]);
    give_back(map, bucket);
}

/* One owner less. Runs foreign code with the last one. */
void cm_bucket_disown(cm_map *map, cm_bucket *bucket)
{
    if (atomic_fetch_sub_explicit(&bucket->owners, 1, memory_order_acq_rel) == 1)
        cm_bucket_dispose(map, bucket);
}

/* Which of 16 tags are `tag`, as bits. */
static inline uint32_t matches(const uint8_t *tags, uint8_t tag)
{
#ifdef __SSE2__
    __m128i group = _mm_loadu_si128((const __m128i *)tags);
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(group, _mm_set1_epi8((char)tag)));
#else
    uint32_t found = 0;
    for (int i = 0; i < GROUP; i++)
        found |= (uint32_t)(tags[i] == tag) << i;
    return found;
#endif
}

static int recall(const cm_query *query, const void *key)
{
    if (key == query->same)
        return 1;
    for (size_t i = 0; i < query->differing; i++)
        if (query->different[i] == key)
            return 0;
    return -1;
}

static inline int equal(const cm_map *map, cm_query *query, cm_entry *entry)
{
    if (entry->hash != query->hash)
        return 0;
    if (map->raw)
        return 0; /* integers that are equal are identical */
    int known = recall(query, entry->key);
    return known >= 0 ? known : cm_host_quick_equal(entry->key, query->key);
}

/* The place of the key among the bucket's entries, CM_ABSENT, or CM_ASK. */
int cm_find(const cm_map *map, const cm_bucket *bucket, cm_query *query)
{
    uint8_t tag = cm_tag(query->hash);
    for (uint32_t from = 0; from < bucket->count; from += GROUP) {
        uint32_t found = matches(bucket->tag + from, tag);
        if (bucket->count - from < GROUP)
            found &= (1u << (bucket->count - from)) - 1;
        for (; found != 0; found &= found - 1) {
            uint32_t at = from + (uint32_t)__builtin_ctz(found);
            cm_entry *entry = &bucket->entry[at];
            if (entry->key == query->key)
                return (int)at;
            int same = equal(map, query, entry);
            if (same > 0)
                return (int)at;
            if (same < 0) {
                query->ask = entry->key;
                return CM_ASK;
            }
        }
    }
    return CM_ABSENT;
}
