/* Which pages a process has, and copying them into the image file. */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* struct pm_scan_arg, PAGEMAP_SCAN: include/uapi/linux/fs.h of 6.7, here for older headers. */
struct scan_argument {
    u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
    u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_argument)
#define SCAN_PROTECT 1 /* PM_SCAN_WP_MATCHING */
#define SCAN_STEP (16ULL << 20)       /* bytes whose pages are listed in one go: up to 0.3 ms */
#define RESERVE (64ULL << 30)         /* address space for what is mapped meanwhile */

static struct store store = {.fd = -1};

int pages_open(pid_t pid, struct pages *pages) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/pagemap", pid);
    *pages = (struct pages){.pid = pid, .fd = open(name, O_RDONLY | O_CLOEXEC)};
    if (pages->fd < 0)
        return oops(errno == EACCES || errno == EPERM ? "permission" : "gone",
                    "%s cannot be opened: %s", name, strerror(errno));
    struct scan_argument empty = {.size = sizeof empty, .start = 0, .end = 0,
                                  .return_mask = IS_PRESENT, .category_mask = IS_PRESENT};
    struct region one;
    empty.vec = (u64)&one, empty.vec_len = 1;
    pages->scan = ioctl(pages->fd, SCAN, &empty) >= 0;
    return 0;
}

void pages_close(struct pages *pages) {
    if (pages->fd >= 0)
        close(pages->fd);
    pages->fd = -1;
}

void regions_reserve(struct regions *regions, size_t count) {
    if (count <= regions->room)
        return;
    size_t room = regions->room ? 2 * regions->room : 4096;
    while (room < count)
        room *= 2;
    struct region *grown = realloc(regions->items, room * sizeof *grown);
    if (!grown)
        abort(); /* the kernel releases the target */
    regions->items = grown;
    regions->room = room;
}

static void add_region(struct regions *regions, u64 start, u64 end, u64 categories) {
    if (regions->count) {
        struct region *last = &regions->items[regions->count - 1];
        if (last->end == start && last->categories == categories) {
            last->end = end;
            return;
        }
    }
    regions_reserve(regions, regions->count + 1);
    regions->items[regions->count++] = (struct region){start, end, categories};
}

u64 regions_bytes(const struct regions *regions) {
    u64 bytes = 0;
    for (size_t i = 0; i < regions->count; i++)
        bytes += regions->items[i].end - regions->items[i].start;
    return bytes;
}

static int scan(struct pages *pages, struct scan_argument argument, struct regions *found) {
    const u64 end = argument.end, step = atomic_load(&shared->stopped_at) ? end : SCAN_STEP;
    argument.size = sizeof argument;
    while (argument.start < end) {
        argument.end = end - argument.start < step ? end : argument.start + step;
        regions_reserve(found, found->count + PAGES_ROOM);
        argument.vec = (u64)(found->items + found->count), argument.vec_len = PAGES_ROOM;
        int got = ioctl(pages->fd, SCAN, &argument);
        if (got < 0)
            return -errno;
        found->count += (size_t)got;
        if (argument.walk_end <= argument.start)
            break;
        argument.start = argument.walk_end;
        breathe();
    }
    return 0;
}

/* The same from the table of Documentation/admin-guide/mm/pagemap.rst, for older kernels. */
static int find_by_table(struct pages *pages, u64 start, u64 end, struct regions *found) {
    u64 table[4096];
    while (start < end) {
        u64 count = (end - start) / PAGE;
        if (count > 4096)
            count = 4096;
        ssize_t got = pread(pages->fd, table, count * 8, (off_t)(start / PAGE * 8));
        if (got < 8)
            return got < 0 ? -errno : -ESRCH;
        for (ssize_t i = 0; i < got / 8; i++, start += PAGE)
            if (table[i] >> 62) /* present or swapped */
                add_region(found, start, start + PAGE,
                           IS_WRITTEN | (table[i] >> 61 & 1 ? IS_FILE : 0));
    }
    return 0;
}

/* The pages of [start, end) that exist, with those of their categories that are `wanted`.
 * IS_FILE is dear: the kernel has to look at each page's own data for it. */
int pages_find(struct pages *pages, u64 start, u64 end, unsigned wanted, struct regions *found) {
    if (!pages->scan)
        return find_by_table(pages, start, end, found);
    struct scan_argument argument = {.start = start, .end = end,
                                     .category_anyof_mask = IS_PRESENT | IS_SWAPPED,
                                     .return_mask = wanted ? wanted : IS_PRESENT};
    return scan(pages, argument, found);
}

/* Those written since the last time, write-protected again in the same step. */
int pages_written(struct pages *pages, u64 start, u64 end, struct regions *found) {
    struct scan_argument argument = {.flags = SCAN_PROTECT, .start = start, .end = end,
                                     .category_anyof_mask = IS_PRESENT | IS_SWAPPED,
                                     .category_mask = IS_WRITTEN, .return_mask = IS_WRITTEN};
    return scan(pages, argument, found);
}

/* Those written since then, and those that do not exist (any more): what is neither costs
 * 3 ns a page, and each that is listed four times as much. Memory that is not watched
 * counts as written. */
int pages_changed(struct pages *pages, const struct segment *segment, struct regions *found) {
    unsigned dear = segment->file ? IS_FILE : 0;
    struct scan_argument argument = {.start = segment->start, .end = segment->end,
                                     .category_inverted = IS_PRESENT,
                                     .category_anyof_mask = IS_PRESENT | IS_WRITTEN,
                                     .return_mask = IS_WRITTEN | IS_PRESENT | IS_SWAPPED | dear};
    return scan(pages, argument, found);
}

/* All pages that exist in writable segments; of private file mappings, those of their own. */
int pages_of_plan(struct pages *pages, struct plan *plan, unsigned wanted,
                  struct regions *found) {
    found->count = 0;
    for (size_t i = 0; i < plan->count; i++) {
        const struct segment *segment = &plan->items[i];
        if (!segment->writable)
            continue;
        size_t before = found->count;
        int status = pages_find(pages, segment->start, segment->end,
                                wanted | (segment->file ? IS_FILE : 0), found);
        if (status)
            return oops("gone", "the target's pages cannot be listed: %s", strerror(-status));
        if (!segment->file)
            continue;
        size_t kept = before;
        for (size_t k = before; k < found->count; k++)
            if (!(found->items[k].categories & IS_FILE))
                found->items[kept++] = found->items[k];
        found->count = kept;
    }
    return 0;
}

/* --- the image file ------------------------------------------------------------------------ */

int store_open(int fd, u64 size) {
    store = (struct store){.fd = fd, .room = size + RESERVE};
    if (ftruncate(fd, (off_t)size))
        return oops("memory", "the image file cannot be made: %s", strerror(errno));
    store.base = mmap(NULL, store.room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (store.base == MAP_FAILED)
        return oops("memory", "the image file cannot be mapped: %s", strerror(errno));
    return 0;
}

int store_grow(u64 size) {
    if (size > store.room || ftruncate(store.fd, (off_t)size))
        return oops("memory", "the image file cannot grow to %llu bytes", (unsigned long long)size);
    return 0;
}

/* Unmap it: for a gigabyte the kernel takes 60 ms, at a stretch if left to our end. */
void store_close(void) {
    struct stat now;
    u64 size = store.base && !fstat(store.fd, &now) ? (u64)now.st_size : 0;
    for (u64 at = 0; at < size; at += RELEASE_STEP, breathe())
        munmap(store.base + at, size - at < RELEASE_STEP ? size - at : RELEASE_STEP);
}

static char *place_of(const struct segment *segment, u64 address) {
    return store.base + segment->offset + (address - segment->start);
}

/* Have the memory that will be written to while the target stands still. */
void store_touch(const struct plan *plan, const struct regions *regions) {
    for (size_t i = 0; i < regions->count; i++) {
        const struct region *one = &regions->items[i];
        struct segment *segment = plan_find((struct plan *)plan, one->start);
        if (!segment)
            continue;
        char *start = place_of(segment, one->start);
        for (u64 at = 0, size = one->end - one->start; at < size; at += PIECE) {
            u64 length = size - at < PIECE ? size - at : PIECE;
            if (madvise(start + at, length, MADV_POPULATE_WRITE)) /* since 5.14 */
                for (u64 k = 0; k < length; k += PAGE)
                    ((volatile char *)start)[at + k] = 0;
            breathe();
            if (abandoned())
                return;
        }
    }
}

static void punch(u64 start, u64 end) {
    if (end > start)
        (void)!fallocate(store.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
                         (off_t)(end - start));
}

/* Pages that were copied earlier and did not exist any more when the target stood still. */
void store_trim(struct plan *plan, const struct regions *holes) {
    for (size_t i = 0; i < holes->count; i++)
        for (u64 at = holes->items[i].start; at < holes->items[i].end;) {
            const struct segment *segment = plan_find(plan, at);
            if (!segment)
                break;
            u64 end = holes->items[i].end < segment->end ? holes->items[i].end : segment->end;
            if (!segment->elf)
                punch(segment->offset + at - segment->start, segment->offset + end - segment->start);
            at = end;
        }
}

/* --- copying --------------------------------------------------------------------------------- */

/* Bytes that arrived. What is not mapped any more is passed over, page by page. */
static u64 flush(pid_t source, struct batch *batch) {
    u64 copied = 0;
    size_t first = 0;
    while (first < batch->count) {
        ssize_t got = process_vm_readv(source, batch->local + first, batch->count - first,
                                       batch->remote + first, batch->count - first, 0);
        if (got < 0) {
            if (errno != EFAULT && errno != EIO)
                break;
            got = 0;
        }
        copied += (u64)got;
        for (; first < batch->count && (size_t)got >= batch->local[first].iov_len; first++)
            got -= (ssize_t)batch->local[first].iov_len;
        if (first == batch->count)
            break;
        size_t skip = ((size_t)got / PAGE + 1) * PAGE;
        if (skip >= batch->local[first].iov_len) {
            first++;
            continue;
        }
        batch->local[first].iov_base = (char *)batch->local[first].iov_base + skip;
        batch->remote[first].iov_base = (char *)batch->remote[first].iov_base + skip;
        batch->local[first].iov_len -= skip;
        batch->remote[first].iov_len = batch->local[first].iov_len;
    }
    batch->count = 0;
    batch->bytes = 0;
    return copied;
}

static void add_to_batch(struct batch *batch, const struct segment *segment, u64 at, u64 end) {
    batch->local[batch->count] = (struct iovec){place_of(segment, at), end - at};
    batch->remote[batch->count++] = (struct iovec){(void *)at, end - at};
    batch->bytes += end - at;
}

/* Copy those regions, all of which lie in the segment. */
u64 copy_segment(pid_t source, struct batch *batch, const struct segment *segment,
                 const struct regions *regions) {
    u64 copied = 0;
    for (size_t i = 0; i < regions->count; i++) {
        add_to_batch(batch, segment, regions->items[i].start, regions->items[i].end);
        if (batch->count == VECTOR)
            copied += flush(source, batch);
    }
    return copied + flush(source, batch);
}

/* Copy those regions that lie in the plan. `quiet`: without a word. */
u64 copy_regions(pid_t source, struct plan *plan, const struct regions *regions, bool quiet) {
    static struct batch batch;
    u64 copied = 0, total = quiet ? 0 : regions_bytes(regions);
    for (size_t i = 0; i < regions->count; i++) {
        for (u64 at = regions->items[i].start; at < regions->items[i].end;) {
            struct segment *segment = plan_find(plan, at);
            if (!segment)
                break;
            u64 end = regions->items[i].end < segment->end ? regions->items[i].end : segment->end;
            if (end - at > PIECE)
                end = at + PIECE;
            add_to_batch(&batch, segment, at, end);
            at = end;
            if (batch.count < VECTOR && batch.bytes < PIECE)
                continue;
            copied += flush(source, &batch);
            breathe();
            if (!quiet) {
                if (abandoned())
                    return copied;
                say_progress("copy", copied, total);
            }
        }
    }
    return copied + flush(source, &batch);
}

/* The constant data of ELF files, and of writable ones the pages that nobody has touched. */
int copy_files(pid_t source, struct plan *plan, bool writable_too) {
    struct regions all = {0}, present = {0};
    struct pages pages;
    if (pages_open(source, &pages))
        return -1;
    for (size_t i = 0; i < plan->count; i++) {
        const struct segment *segment = &plan->items[i];
        if (segment->elf && (writable_too || !segment->writable))
            add_region(&all, segment->start, segment->end, i);
        else if (!segment->writable)
            pages_find(&pages, segment->start, segment->end, 0, &present);
    }
    facts.copied += copy_regions(source, plan, &all, true);
    facts.copied += copy_regions(source, plan, &present, true);
    pages_close(&pages);
    free(all.items);
    free(present.items);
    return abandoned() ? -1 : 0;
}
