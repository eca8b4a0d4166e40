/* parkscope-freeze: one consistent image of another process's memory, at a minimal pause.
 *
 * Two processes: the supervisor watches the clock and cleans up, the worker (its child)
 * stops the target, injects, copies. A target is only ever stopped by ptrace of the worker,
 * so the death of the worker, however it comes, lets the target run on (ptrace(2)).
 */
#ifndef FREEZE_H
#define FREEZE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PAGE 4096ULL
#define MAX_STOPS 64
#define MAX_HANDS 4       /* at what is done while the target stands still */
#define MAX_TEXT 512

typedef uint64_t u64;

/* --- what worker and supervisor share (anonymous shared memory) ----------------------- */
struct shared {
    _Atomic int64_t stopped_at;  /* ns; 0 while no thread of the target is held */
    _Atomic int window;          /* a thread has registers or a signal mask of ours */
    _Atomic int child;           /* a clone that nobody has reaped yet, as the target numbers it */
    _Atomic int outer;           /* the same as we do, which differs in a PID namespace; or 0 */
    _Atomic int remote_fd;       /* the target's own number of a userfaultfd, or -1 */
    _Atomic int hurried;         /* a thread of the target that goes first for a moment, or 0 */
    _Atomic int nice;            /* … and what it had before */
    _Atomic int sent;            /* the worker has said how it ended */
};
extern struct shared *shared;

/* --- the command line ------------------------------------------------------------------ */
struct options {
    const char *engine;
    pid_t pid;
    u64 start_ticks;      /* field 22 of /proc/PID/stat: the process and no later one */
    int memfd;            /* where the image goes */
    u64 deadline_ns;      /* no stop lasts longer */
    u64 dirty_limit;      /* precopy gives up when more bytes than this stay dirty */
    u64 interpreters;     /* address of _PyRuntime.interpreters.head, 0: no look at the GC */
    u64 interp_next, interp_collecting;
    int tries;            /* how often a stop is repeated that met a garbage collection */
    bool skip_foreign;
    int tracer;           /* the process that started the supervisor */
    int supervisor;
    const char *fault_step;
    char fault_action;
};
extern struct options options;

/* --- results ---------------------------------------------------------------------------- */
struct facts {
    u64 stops[MAX_STOPS];
    int stop_count;
    u64 pause, window, frozen_at, copied, dirty;
    int rounds, threads, retries;
};
extern struct facts facts;

u64 now_ns(void);
void step(const char *name);
bool abandoned(void);                     /* tracer or supervisor is gone */
enum place {
    LAST,  /* behind everybody else: the target comes first */
    AMONG, /* as everybody: what the target writes is to be caught up with */
    FIRST, /* before everybody: the target waits */
};
extern enum place standing;
void hurry(enum place place);
int oops(const char *code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void note(const char *text);
void say_progress(const char *phase, u64 done, u64 total);

/* --- maps.c: mappings and what of them goes into the image ------------------------------ */
struct vma {
    u64 start, end, offset, inode;
    uint32_t device;
    char perm[4];
    const char *path;
};
struct maps {
    struct vma *items;
    size_t count, room;
    char *text;
    size_t text_room;
};
struct segment {
    u64 start, end, offset;
    bool writable;
    bool elf;       /* belongs to an ELF file: pages that were never touched count, too */
    bool file;      /* a private mapping of another file: only pages of its own count */
    const char *path;
};
struct skip {
    u64 start, end;
    const char *path, *reason;
    bool cut;       /* a part of a mapping that is in the image otherwise */
};
struct plan {
    struct segment *items;
    size_t count, room;
    struct skip *skips;
    size_t skip_count, skip_room;
    u64 size;       /* bytes of the image file handed out so far */
};
int maps_read(pid_t pid, struct maps *maps);
void maps_free(struct maps *maps);
const struct vma *maps_find(const struct maps *maps, u64 address);
int plan_make(pid_t pid, const struct maps *maps, struct plan *plan);
int plan_follow(const struct maps *maps, struct plan *plan);
struct segment *plan_find(struct plan *plan, u64 address);
void plan_cut(struct plan *plan, u64 start, u64 end, const char *reason);
void plan_free(struct plan *plan);

/* --- pages.c: which pages are there, and copying them ------------------------------------ */
#define IS_WPALLOWED 1u /* linux/fs.h, PAGEMAP_SCAN, since 6.7 */
#define IS_WRITTEN 2u
#define IS_FILE 4u
#define IS_PRESENT 8u
#define IS_SWAPPED 16u
#define IS_HUGE 64u
struct region {
    u64 start, end, categories;
};
struct regions {
    struct region *items;
    size_t count, room;
};
struct pages {
    pid_t pid;
    int fd;
    bool scan;      /* the kernel has PAGEMAP_SCAN */
};
int pages_open(pid_t pid, struct pages *pages);
void pages_close(struct pages *pages);
int pages_find(struct pages *pages, u64 start, u64 end, unsigned wanted, struct regions *found);
int pages_written(struct pages *pages, u64 start, u64 end, struct regions *found);
int pages_changed(struct pages *pages, const struct segment *segment, struct regions *found);
int pages_of_plan(struct pages *pages, struct plan *plan, unsigned wanted,
                  struct regions *found);
u64 regions_bytes(const struct regions *regions);
void regions_reserve(struct regions *regions, size_t count);
#define PAGES_ROOM 16384 /* regions that are asked for at a time */

struct store {
    int fd;
    char *base;
    u64 room;       /* mapped address space */
};
int store_open(int fd, u64 size);
void store_close(void);
int store_grow(u64 size);
void store_touch(const struct plan *plan, const struct regions *regions);
void store_trim(struct plan *plan, const struct regions *holes);
#define VECTOR 512        /* of 1024 that process_vm_readv takes */
struct batch {
    struct iovec local[VECTOR], remote[VECTOR];
    size_t count;
    u64 bytes;
};
u64 copy_regions(pid_t source, struct plan *plan, const struct regions *regions, bool quiet);
u64 copy_segment(pid_t source, struct batch *batch, const struct segment *segment,
                 const struct regions *regions);
int copy_files(pid_t source, struct plan *plan, bool writable_too);

/* --- courtesy.c: what is done while the target runs -------------------------------------------- */
#define RELEASE_STEP (1ULL << 20)
#define PIECE (256ULL << 10) /* bytes that are copied without a look at the clock */
void breathe(void);

/* --- price.c ---------------------------------------------------------------------------------- */
u64 clone_price(u64 small_bytes);

/* --- crew.c, rest.c: what is done while the target stands still ------------------------------ */
void crew_call(void);
pid_t crew_member(int hand);
void crew_do(void (*job)(int hand));
int rest_prepare(const struct plan *plan);
int rest_copy(struct plan *plan, struct pages *pages, bool all, u64 limit, struct regions *holes);
u64 rest_bytes(void);

/* --- foreign.c: large memory without a single reference ----------------------------------- */
int foreign_cut(pid_t pid, struct pages *pages, const struct maps *maps, struct plan *plan);
u64 foreign_changed(pid_t pid, struct pages *pages, const struct maps *maps,
                    const struct plan *plan);

/* --- stop.c: ptrace ------------------------------------------------------------------------ */
struct thread {
    pid_t tid;
    bool held;       /* in a ptrace stop of ours */
    bool trapped;    /* … that is our own interrupt, so that it may be made to inject */
    int signal;      /* a signal that it was about to get: handed on at the release */
};
struct threads {
    struct thread *items;
    size_t count, room;
};
extern struct threads threads;
extern bool finishing;                   /* what was begun is undone: whoever gives up, does not */
int freeze(bool watch_collector);
u64 thaw(void);                          /* the length of the stop that it ends */
struct thread *injectable(void);
void prefer(struct thread *thread);
void prefer_no_more(void);
u64 find_gadget(pid_t pid, const struct maps *maps);
int inject(struct thread *thread, u64 gadget, long number, const long arguments[6], long *result);

/* --- the engines ---------------------------------------------------------------------------- */
int engine_survey(struct plan *plan);
int engine_copy(struct plan *plan);
int engine_clone(struct plan *plan);
int engine_precopy(struct plan *plan);
int clean_up(void);                      /* what a dead worker left in the target */

#endif
