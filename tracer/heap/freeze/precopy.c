/* userfaultfd with asynchronous write protection: copy while the target runs, then copy
 * what it wrote meanwhile, until little is left; stop it for the rest.
 *
 * The target makes two system calls for this, userfaultfd and close; what follows acts on
 * the descriptor, which pidfd_getfd brings over here. Sources: the kernel's
 * Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst (6.7).
 */
#include "freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define WP_UNPOPULATED (1ULL << 13) /* UFFD_FEATURE_…, 6.4 */
#define WP_ASYNC (1ULL << 15)       /* 6.7 */
#define FEW (4ULL << 20)            /* bytes that are copied in under a millisecond */
#define MAX_ROUNDS 12

static int uffd = -1;
static struct regions registered;

/* Does this kernel have all of it? Tried on this very process. */
bool precopy_possible(void) {
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_UNPOPULATED | WP_ASYNC};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct pages pages = {.fd = -1};
    bool possible = fd >= 0 && !ioctl(fd, UFFDIO_API, &api) && !pages_open(getpid(), &pages) &&
                    pages.scan;
    pages_close(&pages);
    if (fd >= 0)
        close(fd);
    return possible;
}

/* The target stands still. Its thread makes the descriptor, we take it, it closes its own. */
static int borrow(u64 gadget) {
    long fd = 0, closed = 0;
    struct thread *thread = injectable();
    if (!thread)
        return oops("no_thread", "no thread of the target may make a system call for us");
    const long make[6] = {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY};
    if (inject(thread, gadget, SYS_userfaultfd, make, &fd))
        return -1;
    if (fd < 0)
        return oops("engine", "userfaultfd in the target: %s", strerror((int)-fd));
    step("lent");
    int pidfd = (int)syscall(SYS_pidfd_open, options.pid, 0);
    uffd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, (int)fd, 0);
    int why = errno;
    if (pidfd >= 0)
        close(pidfd);
    const long give[6] = {fd};
    if (inject(thread, gadget, SYS_close, give, &closed))
        return -1;
    atomic_store(&shared->remote_fd, -1);
    return uffd < 0 ? oops("engine", "pidfd_getfd: %s", strerror(why)) : 0;
}

static int watch(const struct plan *plan) {
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_UNPOPULATED | WP_ASYNC};
    if (ioctl(uffd, UFFDIO_API, &api))
        return oops("engine", "userfaultfd has no asynchronous write protection: %s",
                    strerror(errno));
    for (size_t i = 0; i < plan->count; i++) {
        const struct segment *one = &plan->items[i];
        struct uffdio_register range = {.range = {one->start, one->end - one->start},
                                        .mode = UFFDIO_REGISTER_MODE_WP};
        /* What is not watched is copied at the stop: of files the few pages of its own, and
         * what the target watches itself. */
        if (!one->writable || one->file || ioctl(uffd, UFFDIO_REGISTER, &range))
            continue;
        regions_reserve(&registered, registered.count + 1);
        registered.items[registered.count++] = (struct region){one->start, one->end, 0};
    }
    return 0;
}

/* Give up watching, in steps that the target does not feel: whoever needs a page of a mapping
 * waits while the kernel goes through its page table, 15 ms a GB. A step splits the mapping
 * and the next one joins the part again; where there may be no more mappings, all at once. */
static void unwatch(void) {
    for (size_t i = 0; i < registered.count; i++) {
        const struct region *one = &registered.items[i];
        for (u64 at = one->start; at < one->end; at += RELEASE_STEP) {
            u64 length = one->end - at < RELEASE_STEP ? one->end - at : RELEASE_STEP;
            struct uffdio_range step = {at, length};
            breathe();
            if (ioctl(uffd, UFFDIO_UNREGISTER, &step))
                break;
        }
        struct uffdio_range range = {one->start, one->end - one->start};
        ioctl(uffd, UFFDIO_UNREGISTER, &range);
    }
    registered.count = 0;
    if (uffd >= 0)
        close(uffd);
    uffd = -1;
    step("unwatched");
}

/* One round: what was written since the last is protected again and copied. Bytes of it. */
static u64 sweep(struct pages *pages, struct plan *plan, struct regions *found) {
    found->count = 0;
    for (size_t i = 0; i < registered.count; i++)
        pages_written(pages, registered.items[i].start, registered.items[i].end, found);
    u64 bytes = copy_regions(options.pid, plan, found, false);
    facts.copied += bytes;
    facts.rounds++;
    return bytes;
}

/* Rounds until little is dirty, or no less than the last time. Bytes of the last round. */
static u64 converge(struct pages *pages, struct plan *plan, struct regions *found) {
    u64 last = ~0ULL, dirty = sweep(pages, plan, found);
    step("precopied");
    hurry(AMONG);
    for (int round = 0; round < MAX_ROUNDS && dirty > FEW / 4 && !abandoned(); round++) {
        if (round > 2 && dirty > last / 10 * 9)
            break;
        last = dirty;
        dirty = sweep(pages, plan, found);
    }
    return dirty;
}

/* The target stands still: copy what differs from what we have. 1: that is too much. */
static int copy_changed(struct maps *maps, struct plan *plan, struct pages *pages,
                        struct regions *holes) {
    int status = maps_read(options.pid, maps);
    if (status)
        return oops("gone", "the target's mappings cannot be read: %s", strerror(-status));
    if (plan_follow(maps, plan) || store_grow(plan->size))
        return -1;
    return rest_copy(plan, pages, false, 2 * options.dirty_limit, holes);
}

static int stop_at_last(struct maps *maps, struct plan *plan, struct pages *pages,
                        struct regions *found) {
    if (rest_prepare(plan))
        return -1;
    for (int attempt = 0; attempt < 4; attempt++) {
        u64 left = converge(pages, plan, found);
        if (abandoned())
            return oops("abandoned", "the dump was given up");
        if (left > options.dirty_limit)
            return oops("dirty", "%llu", (unsigned long long)left);
        step("ready");
        if (freeze(true))
            return -1;
        facts.frozen_at = now_ns();
        int status = copy_changed(maps, plan, pages, found);
        step("copied");
        thaw();
        if (status <= 0) {
            facts.copied += facts.dirty;
            return status;
        }
    }
    return oops("dirty", "%llu", (unsigned long long)rest_bytes());
}

int engine_precopy(struct plan *plan) {
    struct maps maps = {0};
    struct pages pages;
    struct regions found = {0};
    int status = maps_read(options.pid, &maps);
    if (status)
        return oops(status == -EACCES ? "permission" : "gone",
                    "the target's mappings cannot be read: %s", strerror(-status));
    u64 gadget = find_gadget(options.pid, &maps);
    if (!gadget)
        return oops("engine", "the target has no system call instruction that can be borrowed");
    if (plan_make(options.pid, &maps, plan) || pages_open(options.pid, &pages))
        return -1;
    if (!pages.scan)
        return oops("engine", "the kernel has no PAGEMAP_SCAN (6.7)");
    if ((options.skip_foreign && foreign_cut(options.pid, &pages, &maps, plan)) ||
        store_open(options.memfd, plan->size) || copy_files(options.pid, plan, true) ||
        freeze(false))
        return -1;
    status = borrow(gadget);
    thaw();
    if (!status)
        status = watch(plan);
    step("watched");
    if (!status)
        status = stop_at_last(&maps, plan, &pages, &found);
    unwatch();
    if (status)
        return -1;
    store_trim(plan, &found);
    if (foreign_changed(options.pid, &pages, &maps, plan))
        note("memory that was left out as free of references has some by now");
    return 0;
}
