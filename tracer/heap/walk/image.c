#include "image.h"

#include <stdlib.h>
#include <sys/mman.h>

void *lazy_new(u64 count, u64 size)
{
    u64 bytes;
    if (__builtin_mul_overflow(count ? count : 1, size, &bytes))
        return NULL;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void lazy_free(void *memory, u64 count, u64 size)
{
    if (memory)
        munmap(memory, (count ? count : 1) * size);
}

bool image_open(struct image *image, const u64 (*rows)[3], u32 count, const u8 *base, u64 base_size)
{
    memset(image, 0, sizeof *image);
    image->segments = calloc(count ? count : 1, sizeof *image->segments);
    if (!image->segments)
        return false;
    u64 bits = 0, last_end = 0;
    for (u32 at = 0; at < count; at++) {
        u64 start = rows[at][0], end = rows[at][1], offset = rows[at][2];
        if (start < last_end || end <= start || start % 8 || offset > base_size ||
            end - start > base_size - offset || image->size + (end - start) > base_size) {
            image_close(image);
            return false;
        }
        /* Each begins a word of its own, so that threads never share one. */
        image->segments[at] = (struct segment){start, end, base + offset, bits};
        bits += ((end - start) / 8 + 64) / 64 * 64;
        image->size += end - start;
        last_end = end;
    }
    image->count = count;
    image->words = bits / 64;
    image->bits = lazy_new(image->words + 1, sizeof *image->bits);
    if (!image->bits) {
        image_close(image);
        return false;
    }
    return true;
}

void image_close(struct image *image)
{
    lazy_free(image->bits, image->words + 1, sizeof *image->bits);
    lazy_free(image->ranks, image->words / RANK_WORDS + 1, sizeof *image->ranks);
    free(image->segments);
    memset(image, 0, sizeof *image);
}

const struct segment *image_find(const struct image *image, struct hints *hints, u64 address)
{
    u32 *hint = &hints->at[address >> 22 & (HINTS - 1)];
    if (*hint < image->count) {
        const struct segment *last = &image->segments[*hint];
        if (address >= last->start && address < last->end)
            return last;
    }
    u32 low = 0, high = image->count;
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        if (image->segments[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == image->count || address < image->segments[low].start)
        return NULL;
    *hint = low;
    return &image->segments[low];
}

i64 image_count_marks(struct image *image)
{
    image->ranks = lazy_new(image->words / RANK_WORDS + 1, sizeof *image->ranks);
    if (!image->ranks)
        return -1;
    u64 marks = 0;
    for (u64 word = 0; word < image->words; word++) {
        if (word % RANK_WORDS == 0)
            image->ranks[word / RANK_WORDS] = (u32)marks;
        marks += (u64)__builtin_popcountll(image->bits[word]);
        if (marks >= UINT32_MAX)
            return -1;
    }
    return (i64)marks;
}
