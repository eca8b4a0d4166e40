/* Stop-and-copy, and the copy from a clone. */
#include "freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The clone's stack pointer: no address. Its first instruction would be `ret`: should it
 * ever run, for the worker was killed before it held the clone, it dies there at once, by
 * a signal that it has blocked, and so without a handler of the program. */
#define NO_STACK 8
#define REAP_TRIES 20

static int read_maps(pid_t pid, struct maps *maps) {
    int status = maps_read(pid, maps);
    return status ? oops(status == -EACCES || status == -EPERM ? "permission" : "gone",
                         "the mappings of process %d cannot be read: %s", pid, strerror(-status))
                  : 0;
}

/* --- stop and copy ---------------------------------------------------------------------------- */

static int copy_held(struct maps *maps, struct plan *plan, struct pages *pages) {
    if (read_maps(options.pid, maps) || plan_follow(maps, plan) || store_grow(plan->size))
        return -1;
    return rest_copy(plan, pages, true, ~0ULL, NULL);
}

int engine_copy(struct plan *plan) {
    struct maps maps = {0};
    struct pages pages;
    struct regions found = {0};
    if (read_maps(options.pid, &maps) || plan_make(options.pid, &maps, plan) ||
        pages_open(options.pid, &pages))
        return -1;
    if ((options.skip_foreign && foreign_cut(options.pid, &pages, &maps, plan)) ||
        store_open(options.memfd, plan->size) || copy_files(options.pid, plan, true) ||
        pages_of_plan(&pages, plan, 0, &found))
        return -1;
    store_touch(plan, &found);
    if (rest_prepare(plan))
        return -1;
    step("ready");
    if (freeze(true))
        return -1;
    facts.frozen_at = now_ns();
    int status = copy_held(&maps, plan, &pages);
    step("copied");
    thaw();
    facts.copied += facts.dirty;
    if (status)
        return -1;
    if (foreign_changed(options.pid, &pages, &maps, plan))
        note("memory that was left out as free of references has some by now");
    return 0;
}

/* --- clone ------------------------------------------------------------------------------------ */

static const char *why_no_clone(long error) {
    switch (-error) {
    case EAGAIN: return "a limit on processes (RLIMIT_NPROC, pids.max) is reached";
    case ENOMEM: return "there is not enough memory, or it may not be overcommitted";
    default: return strerror((int)-error);
    }
}

static int make_clone(u64 gadget) {
    long child = 0;
    const long arguments[6] = {CLONE_FILES | CLONE_FS | CLONE_IO | CLONE_PTRACE, NO_STACK};
    struct thread *thread = injectable();
    if (!thread)
        return oops("no_thread", "no thread of the target may make a system call for us");
    prefer(thread);
    int status = inject(thread, gadget, SYS_clone, arguments, &child);
    prefer_no_more();
    if (status)
        return -1;
    if (child < 0)
        return oops("engine", "clone: %s", why_no_clone(child));
    return 0;
}

/* The clone's PID here, once it is held; it is the only one that we trace by now. -1: gone. */
static pid_t hold_clone(void) {
    int status;
    pid_t child;
    do
        child = waitpid(-1, &status, __WALL);
    while (child < 0 && errno == EINTR);
    if (child < 0 || !WIFSTOPPED(status))
        return oops("gone", "the clone of the target has gone");
    atomic_store(&shared->outer, child);
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL);
    step("held");
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/oom_score_adj", child);
    int fd = open(name, O_WRONLY | O_CLOEXEC); /* should memory run out: the clone first */
    if (fd >= 0) {
        (void)!write(fd, "1000", 4);
        close(fd);
    }
    return child;
}

static int copy_clone(pid_t child, struct maps *maps, struct plan *plan) {
    struct pages pages;
    struct regions found = {0};
    if (read_maps(child, maps) || plan_make(child, maps, plan) || pages_open(child, &pages))
        return -1;
    int status = (options.skip_foreign && foreign_cut(child, &pages, maps, plan)) ||
                         store_open(options.memfd, plan->size) ||
                         pages_of_plan(&pages, plan, 0, &found)
                     ? -1
                     : 0;
    step("copying");
    if (!status && !(status = copy_files(child, plan, true)))
        facts.copied += copy_regions(child, plan, &found, false);
    pages_close(&pages);
    free(found.items);
    return abandoned() ? oops("abandoned", "the dump was given up") : status;
}

/* Once: 0 when the target has it off its list of children. The instruction to borrow is
 * looked for anew, for the target may have replaced its program. */
static int try_to_reap(void) {
    struct maps maps = {0};
    long reaped = 0;
    pid_t child = atomic_load(&shared->child);
    const long arguments[6] = {child, 0, __WALL | WNOHANG};
    int status = read_maps(options.pid, &maps);
    u64 gadget = status ? 0 : find_gadget(options.pid, &maps);
    maps_free(&maps);
    if (!gadget || freeze(false))
        return -1;
    struct thread *thread = injectable();
    status = thread ? inject(thread, gadget, SYS_wait4, arguments, &reaped) : -1;
    thaw();
    return !status && (reaped == child || reaped == -ECHILD) ? 0 : -1;
}

/* Have the target take the dead clone off its list of children. Any thread of it can. */
static int reap_clone(void) {
    const struct timespec pause = {0, 2000000};
    finishing = true;
    for (int i = 0; i < REAP_TRIES; i++, nanosleep(&pause, NULL)) {
        if (!try_to_reap()) {
            atomic_store(&shared->child, 0);
            step("reaped");
            return 0;
        }
    }
    return -1;
}

static void kill_clone(pid_t child) {
    int status;
    kill(child, SIGKILL);
    while (waitpid(child, &status, __WALL) < 0 && errno == EINTR)
        ;
    step("killed");
}

int engine_clone(struct plan *plan) {
    struct maps maps = {0};
    hurry(AMONG); /* little is to be done before the stop, and its moment may matter */
    if (read_maps(options.pid, &maps))
        return -1;
    u64 gadget = find_gadget(options.pid, &maps);
    if (!gadget)
        return oops("engine", "the target has no system call instruction that can be borrowed");
    step("ready");
    if (freeze(true))
        return -1;
    facts.frozen_at = now_ns();
    int status = make_clone(gadget);
    facts.dirty = 0;
    thaw();
    if (!atomic_load(&shared->child))
        return -1;
    pid_t child = hold_clone();
    if (child > 0) {
        status = status ? status : copy_clone(child, &maps, plan);
        kill_clone(child);
    }
    if (reap_clone() && !status)
        note("the clone of the target could not be reaped and is a zombie until the target ends");
    return status;
}

/* --- what a dead worker left -------------------------------------------------------------------- */

/* The state of a child of the target (proc(5)), 0 when it is none (any more). */
static char child_state(pid_t child) {
    char name[64], text[1024];
    snprintf(name, sizeof name, "/proc/%d/stat", child);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return 0;
    text[got] = 0;
    char *end = strrchr(text, ')'), state = 0;
    int parent = 0;
    bool read = end && sscanf(end + 1, " %c %d", &state, &parent) == 2;
    return read && parent == options.pid ? state : 0;
}

static int close_remote(u64 gadget, int remote) {
    char name[64], what[64] = {0};
    snprintf(name, sizeof name, "/proc/%d/fd/%d", options.pid, remote);
    if (readlink(name, what, sizeof what - 1) < 0 || !strstr(what, "userfaultfd"))
        return 0;
    long result;
    const long arguments[6] = {remote};
    if (freeze(false))
        return -1;
    struct thread *thread = injectable();
    if (thread)
        inject(thread, gadget, SYS_close, arguments, &result);
    thaw();
    return 0;
}

/* The target's child that the target itself numbers so, as it is numbered here; or 0. */
static pid_t find_outer(pid_t inner) {
    DIR *directory = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
        char name[300], text[4096];
        pid_t pid = atoi(entry->d_name);
        if (pid <= 0 || !child_state(pid))
            continue;
        snprintf(name, sizeof name, "/proc/%d/status", pid);
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[got > 0 ? got : 0] = 0;
        char *numbers = strstr(text, "\nNSpid:"), *end = numbers ? strchr(numbers + 1, '\n') : NULL;
        if (!end)
            continue;
        *end = 0;
        char *last = strrchr(numbers, '\t');
        if (last && atoi(last + 1) == inner)
            found = pid;
    }
    if (directory)
        closedir(directory);
    return found;
}

/* In a worker of its own, after one that was killed: its clone, and its descriptor. */
int clean_up(void) {
    struct maps maps = {0};
    finishing = true;
    if (read_maps(options.pid, &maps))
        return -1;
    u64 gadget = find_gadget(options.pid, &maps);
    int inner = atomic_load(&shared->child), remote = atomic_load(&shared->remote_fd);
    if (remote >= 0)
        close_remote(gadget, remote);
    if (!inner)
        return 0;
    int outer = atomic_load(&shared->outer);
    pid_t child = outer ? outer : find_outer(inner);
    if (child && child_state(child)) {
        kill(child, SIGKILL); /* EXITKILL has done it, unless the clone was not held yet */
        struct timespec pause = {0, 5000000};
        for (int i = 0; i < 1000 && child_state(child) && child_state(child) != 'Z'; i++)
            nanosleep(&pause, NULL); /* it has a gigabyte to give back */
        if (child_state(child) == 'Z')
            reap_clone();
    }
    return 0;
}
