/* The captured memory: segments of bytes by address, and a set of marked addresses.
 *
 * Every byte may be garbage. All reads go through here and are checked against the
 * segments; what is not there reads as absent (NULL) or zero, never as a fault. */
#ifndef PARKSCOPE_IMAGE_H
#define PARKSCOPE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

/* Bytes [start, end) of the target; `bytes` lies in the walker's own memory. */
struct segment {
    u64 start, end;
    const u8 *bytes;
    u64 first_bit; /* where this segment's marks begin: one bit for 8 bytes */
};

struct image {
    struct segment *segments; /* by address, not overlapping */
    u32 count;
    u64 size;  /* bytes in all segments */
    u64 *bits; /* the marks */
    u64 words;
    u32 *ranks; /* marks before each block of RANK_WORDS words */
};

enum { RANK_WORDS = 8, HINTS = 256 };

/* Which segment an address was in last, by its upper bits: one per thread. */
struct hints {
    u32 at[HINTS];
};

/* Takes `count` rows of (start, end, offset into base): false when they overlap, are not
 * sorted or do not lie in `base_size`, or memory is short. */
bool image_open(struct image *image, const u64 (*rows)[3], u32 count, const u8 *base, u64 base_size);
void image_close(struct image *image);

const struct segment *image_find(const struct image *image, struct hints *hints, u64 address);

/* `size` bytes at `address`, or NULL. */
static inline const u8 *image_at(const struct image *image, struct hints *hints, u64 address,
                                 u64 size)
{
    const struct segment *found = image_find(image, hints, address);
    if (!found || size > found->end - address)
        return NULL;
    return found->bytes + (address - found->start);
}

static inline u64 load64(const u8 *bytes)
{
    u64 value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline u32 load32(const u8 *bytes)
{
    u32 value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline u64 image_u64(const struct image *image, struct hints *hints, u64 address)
{
    const u8 *bytes = image_at(image, hints, address, 8);
    return bytes ? load64(bytes) : 0;
}

/* Marks. `address` must lie in a segment and be a multiple of 8. */
static inline u64 mark_bit(const struct segment *segment, u64 address)
{
    return segment->first_bit + (address - segment->start) / 8;
}

static inline bool mark_test(const struct image *image, u64 bit)
{
    return image->bits[bit / 64] >> (bit % 64) & 1;
}

static inline void mark_set(struct image *image, u64 bit)
{
    image->bits[bit / 64] |= 1ull << (bit % 64);
}

/* Counts the marks, so that image_rank works. Returns how many there are, or -1 when
 * they are more than a u32 can number or memory is short. */
i64 image_count_marks(struct image *image);

/* The number of marks before `bit`. */
static inline u32 image_rank(const struct image *image, u64 bit)
{
    u64 word = bit / 64, block = word / RANK_WORDS;
    u32 rank = image->ranks[block];
    for (u64 at = block * RANK_WORDS; at < word; at++)
        rank += (u32)__builtin_popcountll(image->bits[at]);
    u64 below = image->bits[word] & ((1ull << (bit % 64)) - 1);
    return rank + (u32)__builtin_popcountll(below);
}

/* Memory for `count` items of `size`, zeroed, touched only where written; NULL when it
 * cannot be had. Given back with the same numbers. */
void *lazy_new(u64 count, u64 size);
void lazy_free(void *memory, u64 count, u64 size);

#endif
