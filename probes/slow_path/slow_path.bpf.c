/* Waits for locks and for the GIL, timed on the contended paths of libc.
 *
 * ps_wait_entry and ps_wait_return sit on the semaphore waits and on the condition
 * waits. A wait ends in a PS_WAIT record or, when it was shorter than min_park, in a
 * histogram bucket.
 *
 * The GIL. take_gil (CPython, Python/ceval_gil.c) waits in slices of 5 ms, holding
 * gil->mutex whenever it is not asleep, and leaves its loop as soon as it sees
 * gil->locked == 0. So a condition wait that returns while gil->locked is 0 was the
 * last slice of one logical wait, and any other is followed by the next slice from
 * the same stack frame: both ends are exact, without a timer and without a guess.
 */

#define PS_HAVE_SLOW_PATH

#ifndef PS_HAVE_NATIVE_MAP
/* native_map.bpf.c has the real one. */
static __always_inline bool ps_in_map_wait(u32 tid, u64 sp)
{
    return false;
}
#endif

/* What a link's cookie says; probes/slow_path/spec.py has the same numbers. */
enum ps_wait_site {
    PS_SITE_CALIBRATE = 0, /* the scratch child: the same work, nothing reported */
    PS_SITE_SEM_WAIT = 1,
    PS_SITE_SEM_CLOCKWAIT = 2,
    PS_SITE_SEM_TIMEDWAIT = 3,
    PS_SITE_COND_TIMEDWAIT = 4,
    PS_SITE_COND_CLOCKWAIT = 5,
    PS_SITE_END = 8
};

/* struct _gil_runtime_state: …, int locked, unsigned long switch_number, PyCOND_T cond, …
 * (Include/internal/pycore_gil.h, the same from 3.2 to 3.15). */
#define PS_GIL_LOCKED_BEFORE_COND 16
/* struct wait_entry { void *park_arg; uintptr_t addr; _PySemaphore sema; struct llist_node node; … }
 * (Python/parking_lot.c, 3.13 and newer), a local of _PyParkingLot_Park: the semaphore that is
 * waited on stands between the lock's address and the links into the queue of waiters. */
#define PS_PARK_ADDRESS_BEFORE 8
#define PS_PARK_NODE_AFTER 32 /* sizeof(sem_t) */
#define PS_STACK_REACH 4096

struct ps_open_wait {
    u64 start_ns;
    u64 address;     /* of the lock, as the interpreter knows it */
    u64 waited_on;   /* semaphore or condition */
    u64 sp;          /* at the entry: tells this call from one nested in a signal handler */
    u64 slice_end_ns; /* GIL between two slices: when the last one ended, else 0 */
    u32 wait_class;
    u32 slices;
    u32 site;
    u32 pad;
};

struct ps_gil_key {
    u64 condition;
    u32 pid;
    u32 pad;
};

struct ps_code_range {
    u64 start;
    u64 end;
};

struct ps_hist_key {
    u32 pid;
    u16 wait_class;
    u16 bucket;
};

struct ps_hist_value {
    u64 count;
    u64 total_ns;
};

BPF_TABLE("hash", u32, struct ps_open_wait, ps_open_waits, PS_MAX_OPEN_WAITS);
BPF_TABLE("hash", struct ps_gil_key, u32, ps_gils, 1024);
BPF_TABLE("hash", u32, struct ps_code_range, ps_take_gil, 1024);
BPF_TABLE("percpu_hash", struct ps_hist_key, struct ps_hist_value, ps_wait_hist, 4096);
BPF_TABLE("percpu_array", u32, u64, ps_wait_hits, PS_SITE_END);

/* Not atomic: a program of this probe does not interrupt another one on its CPU. */
static __always_inline void ps_add_to_histogram(u32 pid, u16 wait_class, u64 duration_ns)
{
    struct ps_hist_key key = {
        .pid = pid, .wait_class = wait_class, .bucket = ps_log2(duration_ns)};
    struct ps_hist_value zero = {}, *value = ps_wait_hist.lookup_or_try_init(&key, &zero);
    if (!value) {
        ps_lose(PS_WAIT_HIST);
        return;
    }
    value->count += 1;
    value->total_ns += duration_ns;
}

static __always_inline void ps_end_wait(struct ps_open_wait *wait, u64 id, u64 end_ns, u16 flags)
{
    u64 duration_ns = end_ns - wait->start_ns;
    if (wait->site == PS_SITE_CALIBRATE)
        return;
    if (duration_ns < ps_setting(PS_SET_MIN_PARK_NS)) {
        ps_add_to_histogram(id >> 32, wait->wait_class, duration_ns);
        return;
    }
    struct ps_record *record = ps_reserve(PS_WAIT, end_ns, id >> 32, id);
    if (!record)
        return;
    record->flags = wait->wait_class == PS_WAIT_GIL ? PS_F_GIL : flags;
    record->wait.start_ns = wait->start_ns;
    record->wait.address = wait->address;
    record->wait.duration_ns = duration_ns;
    record->wait.wait_class = wait->wait_class;
    record->wait.slices = wait->slices;
    record->wait.site = wait->site;
    ps_submit(record);
}

/* Whether pthread_cond_*wait on this condition, called from where the stack says, is take_gil. */
static __always_inline int ps_is_gil(u32 pid, u64 condition, u64 sp)
{
    struct ps_gil_key key = {.condition = condition, .pid = pid};
    if (ps_gils.lookup(&key))
        return 1;
    struct ps_code_range *code = ps_take_gil.lookup(&pid);
    u64 caller = 0;
    if (!code || ps_read_user(&caller, sizeof caller, (void *)sp))
        return 0;
    return code->start <= caller && caller < code->end;
}

/* The lock behind a semaphore: the semaphore itself (CPython up to 3.13), unless it is a parking
 * lot's on the waiter's stack. The entry is in the queue then, so its neighbour points back to it.
 * Done by reading and not by a probe on _PyParkingLot_Park, which LTO builds inline. */
static __always_inline u64 ps_lock_of(u64 semaphore, u64 sp)
{
    u64 node = semaphore + PS_PARK_NODE_AFTER, address = 0, links[2] = {}, back = 0;

    if (semaphore < sp || semaphore > sp + PS_STACK_REACH)
        return semaphore;
    if (ps_read_user(links, sizeof links, (void *)node) ||
        ps_read_user(&back, sizeof back, (void *)links[1]) || back != node ||
        ps_read_user(&address, sizeof address,
                            (void *)(semaphore - PS_PARK_ADDRESS_BEFORE)))
        return semaphore;
    return address;
}

int ps_wait_entry(struct pt_regs *ctx)
{
    u32 site = bpf_get_attach_cookie(ctx);
    u64 id = bpf_get_current_pid_tgid();
    u32 tid = id;
    bool condition = site == PS_SITE_COND_TIMEDWAIT || site == PS_SITE_COND_CLOCKWAIT;

    u64 *hits = ps_wait_hits.lookup(&site);
    if (hits)
        *hits += 1;
    if (condition && !ps_is_gil(id >> 32, ctx->di, ctx->sp))
        return 0;
    if (ps_in_map_wait(tid, ctx->sp))
        return 0;
    struct ps_open_wait *open = ps_open_waits.lookup(&tid);
    if (open && open->slice_end_ns) {
        if (condition && open->waited_on == ctx->di && open->sp == ctx->sp) {
            open->slice_end_ns = 0;
            open->slices += 1;
            return 0;
        }
        ps_end_wait(open, id, open->slice_end_ns, 0); /* it left take_gil in another way */
    }
    struct ps_open_wait wait = {
        .start_ns = bpf_ktime_get_ns(),
        .address = condition ? ctx->di : ps_lock_of(ctx->di, ctx->sp),
        .waited_on = ctx->di,
        .sp = ctx->sp,
        .wait_class = condition ? PS_WAIT_GIL : PS_WAIT_LOCK,
        .slices = 1,
        .site = site,
    };
    if (ps_open_waits.update(&tid, &wait))
        ps_lose(PS_WAIT);
    return 0;
}

int ps_wait_return(struct pt_regs *ctx)
{
    u64 id = bpf_get_current_pid_tgid(), now_ns = bpf_ktime_get_ns();
    u32 tid = id, locked = 0;
    struct ps_open_wait *open = ps_open_waits.lookup(&tid);

    /* The return has taken its address off the stack; another wait's return has another sp. */
    if (!open || ctx->sp != open->sp + 8)
        return 0;
    if (open->wait_class == PS_WAIT_GIL) {
        void *flag = (void *)(open->waited_on - PS_GIL_LOCKED_BEFORE_COND);
        if (!ps_read_user(&locked, sizeof(locked), flag) && locked) {
            open->slice_end_ns = now_ns;
            return 0;
        }
    }
    bool failed = (int)ctx->ax != 0;
    ps_end_wait(open, id, now_ns, failed && open->site != PS_SITE_SEM_WAIT ? PS_F_TIMED_OUT : 0);
    ps_open_waits.delete(&tid);
    return 0;
}

/* A thread that ends inside a wait (take_gil does so when Python is finalizing) leaves its
 * entry behind, and its tid to a later thread. */
int ps_on_waiter_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u32 tid = bpf_get_current_pid_tgid();
    ps_open_waits.delete(&tid);
    return 0;
}

/* For the task iterator: what the thread waits for right now. */
static __always_inline void ps_fill_open_wait(u32 tid, struct ps_sample *sample)
{
    struct ps_open_wait *open = ps_open_waits.lookup(&tid);
    if (!open)
        return;
    sample->wait_start_ns = open->start_ns;
    sample->wait_address = open->address;
    sample->wait_site = open->site;
    sample->wait_class = open->wait_class;
    sample->wait_slices = open->slices;
}
