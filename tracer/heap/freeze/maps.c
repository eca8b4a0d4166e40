/* /proc/PID/maps, and which of it belongs into the image. */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define WHOLE_FILE_LIMIT (64ULL << 20) /* of larger files only the pages in memory are read */
#define SAID_FROM (1ULL << 20)         /* smaller mappings that are left out are not listed */
#define MAX_SKIPS 4096

static u64 hex(char **at) {
    u64 value = 0;
    for (;; (*at)++) {
        char c = **at;
        if (c >= '0' && c <= '9')
            value = value << 4 | (u64)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (u64)(c - 'a' + 10);
        else
            return value;
    }
}

/* One line; the text is changed: its end becomes the end of the path. */
static char *parse_line(char *at, struct vma *vma) {
    vma->start = hex(&at);
    at++;
    vma->end = hex(&at);
    at++;
    memcpy(vma->perm, at, 4);
    at += 5;
    vma->offset = hex(&at);
    at++;
    vma->device = (uint32_t)hex(&at) << 20;
    at++;
    vma->device |= (uint32_t)hex(&at);
    at++;
    vma->inode = strtoull(at, &at, 10);
    while (*at == ' ')
        at++;
    vma->path = at;
    while (*at && *at != '\n')
        at++;
    if (*at)
        *at++ = 0;
    return at;
}

static int read_text(int fd, struct maps *maps, size_t *length) {
    *length = 0;
    for (;;) {
        if (maps->text_room - *length < 65536) {
            size_t room = maps->text_room ? 2 * maps->text_room : 1 << 20;
            char *grown = realloc(maps->text, room);
            if (!grown)
                return -ENOMEM;
            maps->text = grown;
            maps->text_room = room;
        }
        ssize_t got = read(fd, maps->text + *length, maps->text_room - *length - 1);
        if (got < 0)
            return -errno;
        if (!got)
            break;
        *length += (size_t)got;
    }
    maps->text[*length] = 0;
    return 0;
}

/* Fills `maps`, whose memory is used again. Returns 0 or -errno. */
int maps_read(pid_t pid, struct maps *maps) {
    char name[64];
    size_t length;
    snprintf(name, sizeof name, "/proc/%d/maps", pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int status = read_text(fd, maps, &length);
    close(fd);
    maps->count = 0;
    for (char *at = maps->text; !status && *at;) {
        if (maps->count == maps->room) {
            size_t room = maps->room ? 2 * maps->room : 4096;
            struct vma *grown = realloc(maps->items, room * sizeof *grown);
            if (!grown)
                return -ENOMEM;
            maps->items = grown;
            maps->room = room;
        }
        at = parse_line(at, &maps->items[maps->count++]);
    }
    return status ? status : maps->count ? 0 : -ESRCH;
}

void maps_free(struct maps *maps) {
    free(maps->items);
    free(maps->text);
    memset(maps, 0, sizeof *maps);
}

const struct vma *maps_find(const struct maps *maps, u64 address) {
    size_t low = 0, high = maps->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (address >= maps->items[middle].end)
            low = middle + 1;
        else
            high = middle;
    }
    return low < maps->count && address >= maps->items[low].start ? &maps->items[low] : NULL;
}

static struct segment *add_segment(struct plan *plan, u64 start, u64 end, const struct vma *vma) {
    if (plan->count == plan->room) {
        size_t room = plan->room ? 2 * plan->room : 4096;
        struct segment *grown = realloc(plan->items, room * sizeof *grown);
        if (!grown)
            return NULL;
        plan->items = grown;
        plan->room = room;
    }
    char *path = strdup(vma->path);
    if (!path)
        return NULL;
    struct segment *made = &plan->items[plan->count++];
    *made = (struct segment){.start = start, .end = end, .offset = plan->size,
                             .writable = vma->perm[1] == 'w', .path = path};
    plan->size += end - start;
    return made;
}

static void add_skip(struct plan *plan, u64 start, u64 end, const char *path, const char *reason,
                     bool cut) {
    if (!cut && (end - start < SAID_FROM || plan->skip_count >= MAX_SKIPS))
        return;
    if (plan->skip_count == plan->skip_room) {
        size_t room = plan->skip_room ? 2 * plan->skip_room : 64;
        struct skip *grown = realloc(plan->skips, room * sizeof *grown);
        if (!grown)
            return;
        plan->skips = grown;
        plan->skip_room = room;
    }
    plan->skips[plan->skip_count++] = (struct skip){start, end, strdup(path), reason, cut};
}

static bool has_elf_head(pid_t pid, u64 address) {
    char head[4] = {0};
    struct iovec local = {head, 4}, remote = {(void *)address, 4};
    return process_vm_readv(pid, &local, 1, &remote, 1, 0) == 4 && !memcmp(head, "\177ELF", 4);
}

static bool is_private_writable(const struct vma *vma) {
    return vma->perm[0] == 'r' && vma->perm[1] == 'w' && vma->perm[3] == 'p';
}

static bool is_device(const struct vma *vma) {
    return !strncmp(vma->path, "/dev/", 5) && strcmp(vma->path, "/dev/zero");
}

/* Why a mapping is left out, or NULL: it is taken, or not worth a word (guards, code). */
static const char *why_not(const struct vma *vma, bool elf) {
    if (vma->perm[0] != 'r' || vma->path[0] == '[')
        return NULL;
    if (vma->perm[3] == 's')
        return "shared with other processes, or a file";
    if (is_device(vma))
        return "a device";
    if (vma->inode && !elf && vma->perm[2] != 'x')
        return "a file that is no program or library";
    return NULL;
}

/* What goes into the image: private writable memory, and the read-only data of ELF files. */
int plan_make(pid_t pid, const struct maps *maps, struct plan *plan) {
    u64 inode = 0;
    uint32_t device = 0;
    bool elf = false;
    for (size_t i = 0; i < maps->count; i++) {
        const struct vma *vma = &maps->items[i];
        if (vma->inode && (vma->inode != inode || vma->device != device)) {
            inode = vma->inode, device = vma->device;
            elf = !vma->offset && vma->perm[0] == 'r' && !is_device(vma) &&
                  has_elf_head(pid, vma->start);
        }
        bool of_elf = vma->inode && elf;
        bool writable = is_private_writable(vma) && !is_device(vma);
        bool constant = of_elf && !memcmp(vma->perm, "r--p", 4);
        if (!writable && !constant) {
            const char *reason = why_not(vma, of_elf);
            if (reason)
                add_skip(plan, vma->start, vma->end, vma->path, reason, false);
            continue;
        }
        struct segment *made = add_segment(plan, vma->start, vma->end, vma);
        if (!made)
            return oops("memory", "no memory for the list of mappings");
        made->elf = of_elf && vma->end - vma->start <= WHOLE_FILE_LIMIT;
        made->file = vma->inode && !of_elf;
    }
    return 0;
}

struct known {
    u64 start, end;
    const struct segment *segment; /* NULL: left out on purpose */
};

static int by_start(const void *one, const void *other) {
    u64 a = ((const struct known *)one)->start, b = ((const struct known *)other)->start;
    return a < b ? -1 : a > b;
}

/* One mapping of now, in the pieces that were known before and those that are new. */
static int follow_vma(const struct vma *vma, const struct known *known, size_t count,
                      struct plan *fresh) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (known[middle].end <= vma->start)
            low = middle + 1;
        else
            high = middle;
    }
    for (u64 at = vma->start; at < vma->end;) {
        const struct known *next = low < count && known[low].start < vma->end ? &known[low] : NULL;
        u64 end = !next ? vma->end : next->start > at ? next->start
                  : next->end < vma->end ? next->end : vma->end;
        bool inside = next && next->start <= at;
        if (!inside || next->segment) {
            struct segment *made = add_segment(fresh, at, end, vma);
            if (!made)
                return oops("memory", "no memory for the list of mappings");
            if (inside) {
                fresh->size -= end - at;
                made->offset = next->segment->offset + at - next->segment->start;
                made->elf = next->segment->elf;
                made->file = next->segment->file;
            }
        }
        if (inside && end == next->end)
            low++;
        at = end;
    }
    return 0;
}

/* The plan of a moment ago, brought to the mappings of now: what has gone is dropped, what
 * is new or has grown gets a place behind the rest; read-only segments stay as they are. */
int plan_follow(const struct maps *maps, struct plan *plan) {
    size_t count = 0;
    struct known *known = malloc((plan->count + plan->skip_count + 1) * sizeof *known);
    struct plan fresh = {.size = plan->size};
    if (!known)
        return oops("memory", "no memory for the list of mappings");
    for (size_t i = 0; i < plan->count; i++)
        if (plan->items[i].writable)
            known[count++] = (struct known){plan->items[i].start, plan->items[i].end,
                                            &plan->items[i]};
    for (size_t i = 0; i < plan->skip_count; i++)
        if (plan->skips[i].cut)
            known[count++] = (struct known){plan->skips[i].start, plan->skips[i].end, NULL};
    qsort(known, count, sizeof *known, by_start);
    int status = 0;
    size_t constant = 0;
    for (size_t i = 0; i < maps->count && !status; i++) {
        const struct vma *vma = &maps->items[i];
        for (; constant < plan->count && plan->items[constant].start < vma->end; constant++) {
            const struct segment *old = &plan->items[constant];
            if (old->writable || old->start < vma->start || is_private_writable(vma))
                continue;
            struct segment *made = add_segment(&fresh, old->start, old->end, vma);
            if (!made)
                status = oops("memory", "no memory for the list of mappings");
            else
                fresh.size -= old->end - old->start, made->offset = old->offset,
                    made->writable = false, made->elf = old->elf;
        }
        if (is_private_writable(vma) && !is_device(vma) && !status)
            status = follow_vma(vma, known, count, &fresh);
    }
    free(known);
    for (size_t i = 0; i < plan->count; i++)
        free((char *)plan->items[i].path);
    free(plan->items);
    plan->items = fresh.items, plan->count = fresh.count, plan->room = fresh.room;
    plan->size = fresh.size;
    return status;
}

struct segment *plan_find(struct plan *plan, u64 address) {
    size_t low = 0, high = plan->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (address >= plan->items[middle].end)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->count && address >= plan->items[low].start ? &plan->items[low] : NULL;
}

/* Take [start, end), a part of one segment, out of the image. */
void plan_cut(struct plan *plan, u64 start, u64 end, const char *reason) {
    struct segment *whole = end > start ? plan_find(plan, start) : NULL;
    if (!whole || end > whole->end)
        return;
    struct segment before = *whole;
    size_t index = (size_t)(whole - plan->items);
    struct vma like = {.path = before.path, .perm = {'r', 'w', '-', 'p'}};
    add_skip(plan, start, end, before.path, reason, true);
    bool head = start > before.start, tail = end < before.end;
    if (head && tail) {
        u64 size = plan->size;
        if (!add_segment(plan, end, before.end, &like))
            return;
        plan->size = size;
        struct segment last = plan->items[--plan->count];
        memmove(&plan->items[index + 2], &plan->items[index + 1],
                (plan->count - index - 1) * sizeof last);
        last.offset = before.offset + end - before.start;
        last.elf = before.elf, last.file = before.file;
        plan->items[index + 1] = last;
        plan->items[index].end = start;
        plan->count++;
    } else if (head) {
        plan->items[index].end = start;
    } else if (tail) {
        plan->items[index].start = end;
        plan->items[index].offset += end - before.start;
    } else {
        free((char *)before.path);
        plan->count--;
        memmove(&plan->items[index], &plan->items[index + 1],
                (plan->count - index) * sizeof before);
    }
}

void plan_free(struct plan *plan) {
    for (size_t i = 0; i < plan->count; i++)
        free((char *)plan->items[i].path);
    for (size_t i = 0; i < plan->skip_count; i++)
        free((char *)plan->skips[i].path);
    free(plan->items);
    free(plan->skips);
    memset(plan, 0, sizeof *plan);
}
