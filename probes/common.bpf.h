/* What every BPF program of Parkscope stands on: targets, settings, the ring.
 *
 * The loader compiles one text: this file, then the *.bpf.c of each probe in PROBES
 * order (bcc rewrites map calls in the main file only). Values come in as -D flags
 * (PS_OFF_*: offsets from the kernel's BTF; PS_*_PAGES and PS_MAX_*: map sizes) or
 * through the maps below, never by changing the text.
 */
#include <uapi/linux/ptrace.h>
#include "record.h"

/* Which processes are traced, by tgid. The parent's entry is copied at fork. */
struct ps_target {
    u32 flags; /* enum ps_target_flag */
    u32 pad;
};

enum ps_target_flag {
    PS_TARGET_TRACED = 1 << 0,  /* records are made of it */
    PS_TARGET_SAMPLED = 1 << 1, /* the task iterator shows it (Parkscope itself: only this) */
    PS_TARGET_FOLLOW = 1 << 2   /* its children become targets */
};

enum ps_setting {
    PS_SET_WATCH_AFTER_NS = 0, /* sleeps that are older get a watch on their wake-up */
    PS_SET_CLOCK_OFFSET_NS,    /* scheduler clock minus CLOCK_MONOTONIC, two's complement */
    PS_SET_MIN_PARK_NS,        /* slow-path waits that are shorter are only counted */
    PS_SET_FULL_SCAN,          /* the iterator shows sleeps that are watched already, too */
    PS_SET_TELLS_WAKE,         /* ps_on_waking is attached: sleeps are watched */
    PS_SET_TELLS_RUN,          /* ps_on_switch is attached */
    PS_SET_END = 8
};

BPF_HASH(ps_targets, u32, struct ps_target, PS_MAX_TARGETS);
BPF_ARRAY(ps_settings, u64, PS_SET_END);
BPF_RINGBUF_OUTPUT(ps_ring, PS_RING_PAGES);
BPF_PERCPU_ARRAY(ps_emitted, u64, PS_KIND_END);
BPF_PERCPU_ARRAY(ps_dropped, u64, PS_KIND_END);

static __always_inline u64 ps_setting(int which)
{
    u64 *value = ps_settings.lookup(&which);
    return value ? *value : 0;
}

static __always_inline u32 ps_target_flags(u32 tgid)
{
    struct ps_target *target = ps_targets.lookup(&tgid);
    return target ? target->flags : 0;
}

static __always_inline bool ps_traced(u32 tgid)
{
    return ps_target_flags(tgid) & PS_TARGET_TRACED;
}

/* The helper under a name of our own: at each call by its own name bcc looks through
 * all kernel symbols for it, a tenth of a second every time. */
static long (*ps_read_user)(void *to, u32 size, const void *from) =
    (void *)BPF_FUNC_probe_read_user;

/* A field of a kernel structure at a PS_OFF_* offset; 0 when it cannot be read. */
#define PS_FIELD(type, base, offset)                                             \
    ({                                                                           \
        type ps_value = 0;                                                       \
        bpf_probe_read_kernel(&ps_value, sizeof(ps_value), (void *)((base) + (offset))); \
        ps_value;                                                                \
    })

/* A field of a structure whose type the verifier knows (the task of an iterator or a
 * BTF tracepoint): one load. In assembly, because bcc makes a helper call of every
 * dereference in C, ten times as dear. */
#define PS_LOAD(bits, base, offset)                                             \
    ({                                                                          \
        u64 ps_loaded;                                                          \
        asm volatile("%0 = *(u" #bits " *)(%1 + %2)"                            \
                     : "=r"(ps_loaded)                                          \
                     : "r"(base), "i"(offset));                                 \
        ps_loaded;                                                              \
    })

/* A record with its header filled and its payload zero, or NULL: then it has been
 * counted as dropped. Emitted = received + dropped + what is still in the ring.
 * Atomic, because an interrupt's program may count on the same CPU in between. */
static __always_inline struct ps_record *ps_reserve(u16 kind, u64 ts_ns, u32 pid, u32 tid)
{
    int slot = kind;
    u64 *count = ps_emitted.lookup(&slot);
    if (count)
        __sync_fetch_and_add(count, 1);
    struct ps_record *record = ps_ring.ringbuf_reserve(sizeof(struct ps_record));
    if (!record) {
        count = ps_dropped.lookup(&slot);
        if (count)
            __sync_fetch_and_add(count, 1);
        return 0;
    }
    __builtin_memset(record, 0, sizeof(*record));
    record->ts_ns = ts_ns;
    record->pid = pid;
    record->tid = tid;
    record->kind = kind;
    return record;
}

/* A record that was due and could not even be begun (a map was full). */
static __always_inline void ps_lose(u16 kind)
{
    int slot = kind;
    u64 *emitted = ps_emitted.lookup(&slot), *dropped = ps_dropped.lookup(&slot);
    if (emitted && dropped) {
        __sync_fetch_and_add(emitted, 1);
        __sync_fetch_and_add(dropped, 1);
    }
}

/* The reader comes round by time: a wake-up per record would cost the target. */
static __always_inline void ps_submit(struct ps_record *record)
{
    ps_ring.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* Same shape as a histogram of bpf tools: floor(log2(value)). */
static __always_inline u16 ps_log2(u64 value)
{
    u16 result = 0;
    for (int step = 32; step; step >>= 1)
        if (value >> step) {
            value >>= step;
            result += step;
        }
    return result;
}

/* One thread as the task iterator shows it: not a record, it never enters the ring.
 * Times of `state` but for ts_ns are of the scheduler's clock; user space converts. */
struct ps_sample {
    struct ps_record state; /* PS_THREAD_STATE */
    u64 wait_start_ns;      /* an open slow-path wait (CLOCK_MONOTONIC), 0: none */
    u64 wait_address;
    u64 wait_site;
    u32 wait_class;
    u32 wait_slices; /* PS_WAIT_MAP: `aux` of its records */
};

/* Threads whose wake-up is wanted: tid -> begin of the sleep (scheduler's clock). */
BPF_HASH(ps_watch, u32, u64, PS_MAX_WATCHES);

/* What is expected of a thread, a byte for each tid: every wake-up and every switch of
 * the machine asks, and an array answers in a tenth of the time that a hash takes. The
 * byte follows the element of ps_watch when that is made and goes after it; one that is
 * left over costs a look-up. Of tids beyond the array (pid_max was raised) every wake-up
 * looks into ps_watch, and no PS_RUN tells. */
#define PS_TIDS_A_PAGE 4096
enum ps_expected {
    PS_EXPECT_NOTHING = 0,
    PS_EXPECT_WAKE,
    PS_EXPECT_RUN
};
struct ps_tid_page {
    u8 expected[PS_TIDS_A_PAGE];
};
BPF_ARRAY(ps_expected_of, struct ps_tid_page, PS_TID_PAGES);

/* The byte of a thread, NULL beyond the array. */
static __always_inline u8 *ps_expected(u32 tid)
{
    int number = tid / PS_TIDS_A_PAGE;
    struct ps_tid_page *page = ps_expected_of.lookup(&number);
    return page ? &page->expected[tid % PS_TIDS_A_PAGE] : 0;
}

static __always_inline void ps_expect(u32 tid, u8 what)
{
    u8 *expected = ps_expected(tid);
    if (expected)
        *expected = what;
}
