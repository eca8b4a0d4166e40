/* Large memory without one reference: buffers of numbers, text, pixels.
 *
 * Told by what it holds, not by who made it, for a list's table and an array's buffer come
 * from the same malloc. Memory is looked at in blocks of 1 MiB. A block in which no aligned
 * word is an address of private or ELF memory holds no object (each begins with its type's
 * address) and no table of references; all of it that a walk could miss is the inside of a
 * value. Kept all the same: what may be the head and the index of a dict whose entries
 * follow (Objects/dictobject.c: the index takes up to 3/8 of the entries' size), the first
 * page of a chunk that malloc has mapped, and runs under 4 MiB.
 */
#include "freeze.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define BLOCK (1ULL << 20)
#define SMALLEST_RUN (4 * BLOCK)
#define SMALLEST_MAPPING (8 * BLOCK)
#define MMAP_CHUNK_BIT 2 /* glibc, malloc/malloc.c: IS_MMAPPED, in the size of a chunk */

static const char REASON[] = "no reference in it: numbers or text";

struct look {
    pid_t pid;
    struct pages *pages;
    const struct maps *maps;
    u64 lowest, highest;
    struct regions regions;
    unsigned char *buffer;
};

static bool is_address(const struct look *look, u64 word) {
    if (word < look->lowest || word >= look->highest)
        return false;
    const struct vma *vma = maps_find(look->maps, word);
    return vma && vma->perm[0] == 'r' && vma->perm[3] == 'p';
}

static bool has_address(const struct look *look, size_t bytes) {
    const u64 *words = (const u64 *)look->buffer;
    for (size_t i = 0; i < bytes / 8; i++)
        if (is_address(look, words[i]))
            return true;
    return false;
}

static size_t fetch(const struct look *look, u64 start, u64 end) {
    struct iovec local = {look->buffer, end - start}, remote = {(void *)start, end - start};
    ssize_t got = process_vm_readv(look->pid, &local, 1, &remote, 1, 0);
    return got > 0 ? (size_t)got : 0;
}

static bool is_zero(const struct look *look, size_t bytes) {
    const u64 *words = (const u64 *)look->buffer;
    for (size_t i = 0; i < bytes / 8; i++)
        if (words[i])
            return false;
    return true;
}

/* Must the block be in the image? If it holds an address; if it is all zero, for an unused
 * part of a table is read as well; if it cannot be read: nothing is left out unseen. */
static bool block_refers(struct look *look, u64 start, u64 end, bool *populated) {
    bool zero = true;
    look->regions.count = 0;
    breathe();
    if (pages_find(look->pages, start, end, 0, &look->regions))
        return true;
    *populated = look->regions.count > 0;
    if (*populated) { /* most blocks tell by their first page */
        u64 first = look->regions.items[0].start;
        if (fetch(look, first, first + PAGE) != PAGE || has_address(look, PAGE))
            return true;
    }
    for (size_t i = 0; i < look->regions.count; i++) {
        const struct region *one = &look->regions.items[i];
        size_t size = one->end - one->start;
        if (fetch(look, one->start, one->end) != size || has_address(look, size))
            return true;
        zero = zero && is_zero(look, size);
    }
    return zero && *populated;
}

/* Does a chunk that malloc has mapped begin here? Then its size, else 0. */
static u64 chunk_at(const struct look *look, u64 at, u64 mapping_end) {
    u64 head[2];
    struct iovec local = {head, sizeof head}, remote = {(void *)at, sizeof head};
    if (process_vm_readv(look->pid, &local, 1, &remote, 1, 0) != sizeof head)
        return 0;
    u64 size = head[1] & ~7ULL;
    bool is_one = (head[1] & 7) == MMAP_CHUNK_BIT && size % PAGE == 0 && size >= 32 * PAGE;
    return is_one && size <= mapping_end - at ? size : 0;
}

/* The pages of [start, end) that begin a chunk which malloc mapped stay in the image. */
static void cut_between_heads(struct look *look, struct plan *plan, u64 start, u64 end,
                              u64 mapping_end) {
    u64 from = start, next = start;
    look->regions.count = 0;
    if (pages_find(look->pages, start, end, 0, &look->regions))
        return;
    for (size_t i = 0; i < look->regions.count; i++) {
        u64 at = look->regions.items[i].start > next ? look->regions.items[i].start : next;
        for (; at < look->regions.items[i].end && !abandoned(); at = next) {
            u64 size = chunk_at(look, at, mapping_end);
            breathe();
            next = at + (size ? size : PAGE); /* inside of a chunk no other one begins */
            if (!size)
                continue;
            plan_cut(plan, from, at, REASON);
            from = at + PAGE;
        }
    }
    plan_cut(plan, from, end, REASON);
}

struct run {
    u64 start, end;
    bool refers, populated;
};

static void cut_mapping(struct look *look, struct plan *plan, u64 start, u64 end) {
    struct run *runs = malloc(((end - start) / BLOCK + 2) * sizeof *runs);
    size_t count = 0;
    if (!runs)
        return;
    for (u64 at = start; at < end && !abandoned();) {
        u64 next = (at / BLOCK + 1) * BLOCK < end ? (at / BLOCK + 1) * BLOCK : end;
        bool populated = false, refers = block_refers(look, at, next, &populated);
        if (count && runs[count - 1].refers == refers) {
            runs[count - 1].end = next;
            runs[count - 1].populated |= populated;
        } else {
            runs[count++] = (struct run){at, next, refers, populated};
        }
        at = next;
    }
    for (size_t i = 0; i < count; i++) {
        u64 last = runs[i].end;
        if (runs[i].refers || !runs[i].populated)
            continue;
        if (i + 1 < count) {
            u64 guard = ((runs[i + 1].end - runs[i + 1].start) / 2 / BLOCK + 1) * BLOCK;
            last = last - runs[i].start > guard ? last - guard : runs[i].start;
        }
        if (last - runs[i].start >= SMALLEST_RUN)
            cut_between_heads(look, plan, runs[i].start, last, end);
    }
    free(runs);
}

static bool prepare(struct look *look, pid_t pid, struct pages *pages, const struct maps *maps) {
    *look = (struct look){.pid = pid, .pages = pages, .maps = maps,
                          .buffer = malloc(BLOCK), .lowest = maps->items[0].start};
    for (size_t i = 0; i < maps->count; i++)
        if (maps->items[i].end <= 1ULL << 47)
            look->highest = maps->items[i].end;
    return look->buffer != NULL;
}

static void done(struct look *look) {
    free(look->buffer);
    free(look->regions.items);
}

/* Take out of the plan what holds no reference. Slow (reads all of it): target running. */
int foreign_cut(pid_t pid, struct pages *pages, const struct maps *maps, struct plan *plan) {
    struct look look;
    if (!prepare(&look, pid, pages, maps))
        return 0;
    size_t count = 0;
    struct run *large = malloc((plan->count + 1) * sizeof *large);
    for (size_t i = 0; large && i < plan->count; i++) {
        const struct segment *one = &plan->items[i];
        if (one->writable && !one->elf && !one->file && one->end - one->start >= SMALLEST_MAPPING)
            large[count++] = (struct run){one->start, one->end, false, false};
    }
    for (size_t i = 0; i < count; i++) {
        say_progress("look", i, count);
        cut_mapping(&look, plan, large[i].start, large[i].end);
    }
    free(large);
    done(&look);
    return abandoned() ? -1 : 0;
}

/* Bytes of what was cut that hold references by now: the image may lack them. */
u64 foreign_changed(pid_t pid, struct pages *pages, const struct maps *maps,
                    const struct plan *plan) {
    struct look look;
    u64 changed = 0;
    if (!prepare(&look, pid, pages, maps))
        return 0;
    for (size_t i = 0; i < plan->skip_count; i++) {
        const struct skip *one = &plan->skips[i];
        for (u64 at = one->start; one->cut && at < one->end && !abandoned(); at += BLOCK) {
            u64 next = at + BLOCK < one->end ? at + BLOCK : one->end;
            bool populated;
            const struct vma *vma = maps_find(maps, at);
            if (vma && vma->end >= next && block_refers(&look, at, next, &populated))
                changed += next - at;
        }
    }
    done(&look);
    return changed;
}
