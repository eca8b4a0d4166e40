/* What is copied while the target stands still, by several hands. */
#include "freeze.h"

#include <stdlib.h>
#include <string.h>

#define PART (4ULL << 20) /* what one hand takes at a time: its pages are listed, then copied */

struct part {
    u64 start, end;
    const struct segment *segment;
};

struct hand {
    struct regions pages, holes;
    struct batch batch;
    u64 copied;
    int status; /* -errno */
};

static struct hand hands[MAX_HANDS];
static struct {
    struct part *items;
    size_t count, room;
    _Atomic size_t next;
    _Atomic u64 bytes;
    u64 limit;
    struct pages *pages;
    bool all;
} parts;

static bool parts_reserve(size_t count) {
    if (count <= parts.room)
        return true;
    struct part *grown = realloc(parts.items, 2 * count * sizeof *grown);
    if (!grown)
        return false;
    parts.items = grown;
    parts.room = 2 * count;
    return true;
}

/* Have what the stop will need, so that it meets no page fault of ours; and the helpers. */
int rest_prepare(const struct plan *plan) {
    if (!parts_reserve(plan->count + plan->size / PART + 1))
        return oops("memory", "no memory for the list of pages");
    memset(parts.items, 0, parts.room * sizeof *parts.items);
    for (int i = 0; i < MAX_HANDS; i++) {
        struct hand *hand = &hands[i];
        regions_reserve(&hand->pages, PAGES_ROOM);
        regions_reserve(&hand->holes, PAGES_ROOM);
        memset(hand->pages.items, 0, hand->pages.room * sizeof *hand->pages.items);
        memset(hand->holes.items, 0, hand->holes.room * sizeof *hand->holes.items);
        memset(&hand->batch, 0, sizeof hand->batch);
    }
    crew_call();
    return 0;
}

static int divide(const struct plan *plan) {
    parts.count = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const struct segment *one = &plan->items[i];
        for (u64 at = one->start; one->writable && at < one->end; at += PART) {
            if (!parts_reserve(parts.count + 1))
                return oops("memory", "no memory for the list of pages");
            u64 end = one->end - at < PART ? one->end : at + PART;
            parts.items[parts.count++] = (struct part){at, end, one};
        }
    }
    return 0;
}

/* Leave those in the list that have to be copied; those that do not exist are holes. */
static u64 sift(struct hand *hand, const struct part *part) {
    size_t kept = 0;
    u64 bytes = 0;
    for (size_t i = 0; i < hand->pages.count; i++) {
        struct region one = hand->pages.items[i];
        bool file = part->segment->file; /* of a file count only pages of its own */
        if (!parts.all && !(one.categories & (IS_PRESENT | IS_SWAPPED))) {
            regions_reserve(&hand->holes, hand->holes.count + 1);
            hand->holes.items[hand->holes.count++] = one;
        } else if (!(file && one.categories & IS_FILE) &&
                   (parts.all || one.categories & IS_WRITTEN)) {
            hand->pages.items[kept++] = one;
            bytes += one.end - one.start;
        }
    }
    hand->pages.count = kept;
    return bytes;
}

static void work_on_parts(int number) {
    struct hand *hand = &hands[number];
    size_t at;
    while (!hand->status && (at = atomic_fetch_add(&parts.next, 1)) < parts.count) {
        const struct part *part = &parts.items[at];
        struct segment piece = *part->segment;
        piece.offset += part->start - piece.start;
        piece.start = part->start, piece.end = part->end;
        hand->pages.count = 0;
        hand->status = parts.all ? pages_find(parts.pages, piece.start, piece.end,
                                              piece.file ? IS_FILE : 0, &hand->pages)
                                 : pages_changed(parts.pages, &piece, &hand->pages);
        u64 bytes = hand->status ? 0 : sift(hand, part);
        if (atomic_fetch_add(&parts.bytes, bytes) + bytes > parts.limit)
            return;
        hand->copied += copy_segment(options.pid, &hand->batch, &piece, &hand->pages);
    }
}

/* Copy all pages that exist (`all`), or those written since they were swept. 0: done; 1: it
 * would be more than `limit` bytes; -1. `holes`, if wanted: what does not exist any more. */
int rest_copy(struct plan *plan, struct pages *pages, bool all, u64 limit, struct regions *holes) {
    if (divide(plan))
        return -1;
    atomic_store(&parts.next, 0);
    atomic_store(&parts.bytes, 0);
    parts.limit = limit, parts.pages = pages, parts.all = all;
    for (int i = 0; i < MAX_HANDS; i++)
        hands[i].status = 0, hands[i].copied = 0, hands[i].holes.count = 0;
    crew_do(work_on_parts);
    facts.dirty = 0;
    if (holes)
        holes->count = 0;
    for (int i = 0; i < MAX_HANDS; i++) {
        const struct hand *hand = &hands[i];
        if (hand->status)
            return oops("gone", "the target's pages cannot be listed: %s",
                        strerror(-hand->status));
        facts.dirty += hand->copied;
        if (!holes)
            continue;
        regions_reserve(holes, holes->count + hand->holes.count);
        memcpy(holes->items + holes->count, hand->holes.items,
               hand->holes.count * sizeof *holes->items);
        holes->count += hand->holes.count;
    }
    return atomic_load(&parts.bytes) > limit;
}

/* How many the last call found. */
u64 rest_bytes(void) { return atomic_load(&parts.bytes); }
