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

static size_t bytes_of(uint32_t capacity)
{
    size_t head = (offsetof(cm_bucket, tag) + tags_of(capacity) + 7) / 8 * 8;
    return (head + capacity * sizeof(cm_entry) + 63) / 64 * 64;
}

cm_bucket *cm_bucket_new(uint32_t shard, uint8_t depth, uint32_t capacity)
{
    cm_bucket *bucket = aligned_alloc(64, bytes_of(capacity));
    if (bucket == NULL)
        return NULL;
    size_t head = (offsetof(cm_bucket, tag) + tags_of(capacity) + 7) / 8 * 8;
    memset(bucket, 0, head);
    bucket->entry = (cm_entry *)((char *)bucket + head);
    bucket->capacity = capacity;
    bucket->depth = depth;
    bucket->shard = shard;
    atomic_init(&bucket->owners, 1);
    return bucket;
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

/* A copy with references of its own. The objects lie all over the heap: their lines are
 * asked for before the first is touched, so that the misses overlap. */
cm_bucket *cm_bucket_copy(const cm_map *map, const cm_bucket *bucket, uint32_t capacity)
{
    cm_bucket *copy = cm_bucket_new(bucket->shard, bucket->depth, capacity);
    if (copy == NULL)
        return NULL;
    if (!map->raw)
        for (uint32_t i = 0; i < bucket->count; i++) {
            __builtin_prefetch(bucket->entry[i].key, 1);
            __builtin_prefetch(bucket->entry[i].value, 1);
        }
    for (uint32_t i = 0; i < bucket->count; i++) {
        cm_keep(map, bucket->entry[i].key);
        cm_keep(map, bucket->entry[i].value);
        cm_bucket_append(copy, &bucket->entry[i]);
    }
    return copy;
}

/* Nobody owns it any more. Runs foreign code: never under a lock. */
void cm_bucket_dispose(cm_map *map, cm_bucket *bucket)
{
    if (bucket->kept) {
        atomic_fetch_sub(&map->counts.kept_bytes, cm_bucket_bytes(bucket));
        atomic_fetch_sub(&map->counts.kept_entries, bucket->count);
    }
    for (uint32_t i = 0; i < bucket->count; i++) {
        cm_let_go(map, bucket->entry[i].key);
        cm_let_go(map, bucket->entry[i].value);
    }
    free(bucket);
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
