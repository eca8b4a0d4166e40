/* Every byte that crosses from a probe to the collector is defined here, once.
 *
 * A record is 64 bytes: a 24-byte header, the same for all kinds, and 40 bytes
 * of payload that the kind gives its meaning. BPF programs include this file;
 * probes/wire.py holds the same layout for Python and a test compiles this
 * header to compare the two. Fields only ever get appended by using up a pad or
 * by adding a kind; a change of an existing field raises PS_WIRE_VERSION, which
 * every trace carries.
 *
 * Times are CLOCK_MONOTONIC nanoseconds. pid and tid are what user space calls
 * them (kernel: tgid, pid), numbered in the initial PID namespace.
 */
#ifndef PARKSCOPE_RECORD_H
#define PARKSCOPE_RECORD_H

#ifndef PS_NO_TYPES
typedef unsigned char ps_u8;
typedef unsigned short ps_u16;
typedef unsigned int ps_u32;
typedef unsigned long long ps_u64;
typedef short ps_s16;
typedef int ps_s32;
#endif

#define PS_WIRE_VERSION 1
#define PS_RECORD_SIZE 64

enum ps_kind {
    PS_THREAD_STATE = 1, /* the task iterator (or /proc) saw a thread in a state */
    PS_WAIT_OPEN = 2,    /* a slow-path wait that has begun and not ended */
    PS_WAIT = 3,         /* a slow-path wait, complete */
    PS_WAKE = 4,         /* a watched thread is being made runnable */
    PS_THREAD_START = 5,
    PS_THREAD_EXIT = 6,
    PS_PROC_FORK = 7,
    PS_PROC_EXEC = 8,
    PS_PROC_EXIT = 9,
    PS_LARGE_ALLOC = 10, /* a request of more than 4 KiB that pymalloc handed on */
    PS_WAIT_HIST = 11,   /* waits shorter than --min-park, counted in the kernel */
    PS_POOL_REFILL = 12, /* pymalloc pool refills, counted in the kernel */
    PS_SCAN = 13,        /* one pass over all threads was made */
    PS_RUN = 14,         /* a thread that was woken has got a CPU */
    PS_MAP_COUNT = 15,   /* what a native map does, counted in the kernel */
    PS_BREAKER = 16,     /* a circuit breaker over a native map changed its state */
    PS_KIND_END = 17
};

enum ps_flag {
    PS_F_GIL = 1 << 0,           /* the wait address lies inside a GIL of the target */
    PS_F_BEFORE_ATTACH = 1 << 1, /* began before the probes were armed */
    PS_F_INFERRED = 1 << 2,      /* deduced (a tid vanished), not seen happening */
    PS_F_WATCHED = 1 << 3,       /* a PS_WAKE will follow when this thread is woken */
    PS_F_TIMED_OUT = 1 << 4,     /* the wait ended by its own timeout */
    PS_F_COARSE = 1 << 5,        /* since_ns is a bound from sampling, not a time stamp */
    PS_F_RUN_FOLLOWS = 1 << 6    /* a PS_RUN will follow when this woken thread runs */
};

enum ps_wait_class {
    PS_WAIT_LOCK = 1, /* contended semaphore, parking lot */
    PS_WAIT_GIL = 2,  /* one logical wait, however many 5 ms slices */
    PS_WAIT_MAP = 3   /* shard lock of a native map */
};

/* What of a native map is counted (PS_MAP_COUNT). */
enum ps_map_counter {
    PS_MAP_RANGE_BEGUN = 1,
    PS_MAP_RANGE = 2, /* a range has ended: mode, outcome, items, duration */
    PS_MAP_WAIT = 3,  /* a wait for a shard, shorter than --min-park: duration */
    PS_MAP_PARK = 4,  /* a longer one, which has a PS_WAIT of its own: duration */
    PS_MAP_RELEASED = 5, /* a shard that somebody waits for was released */
    PS_MAP_SPLIT = 6,
    PS_MAP_SPLIT_DONE = 7, /* items: entries moved */
    PS_MAP_RETIRED = 8,
    PS_MAP_STALE = 9,
    PS_MAP_RETRY = 10,
    PS_MAP_SPIN = 11,
    PS_MAP_VIEW_OPENED = 12,
    PS_MAP_VIEW_CLOSED = 13,
    PS_MAP_OPERATION = 14 /* any other call that a profile counts */
};

enum ps_map_mode {
    PS_MODE_WEAK = 0, PS_MODE_STRICT = 1, PS_MODE_SNAPSHOT = 2, PS_MODE_VIEW = 3,
    PS_MODE_CURSOR = 4, PS_MODE_OTHER = 5
};

enum ps_map_outcome {
    PS_OUTCOME_COMPLETE = 0, PS_OUTCOME_STOPPED = 1, PS_OUTCOME_STALE = 2,
    PS_OUTCOME_ERROR = 3, PS_OUTCOME_UNKNOWN = 4
};

enum ps_breaker_state {
    PS_STATE_CLOSED = 0, PS_STATE_OPEN = 1, PS_STATE_HALF_OPEN = 2, PS_STATE_UNKNOWN = 3
};

enum ps_alloc_api { PS_ALLOC_MALLOC = 1, PS_ALLOC_CALLOC = 2, PS_ALLOC_REALLOC = 3 };

/* ps_thread_state.state: one bit each, as user space needs them. */
enum ps_run_state {
    PS_RUNNING = 'R', PS_SLEEPING = 'S', PS_DISK_SLEEP = 'D', PS_STOPPED = 'T', PS_DEAD = 'X'
};

struct ps_thread_state {
    ps_u64 since_ns; /* blocked: when it blocked; running: when it got the CPU */
    ps_u64 arg0;     /* first system call argument (futex address, fd, ...) */
    ps_u64 arg1;     /* second system call argument */
    ps_u64 cpu_ns;   /* CPU time that the thread has used in its life */
    ps_s16 syscall;  /* number, -1 when it is not inside a system call */
    ps_u8 state;     /* enum ps_run_state */
    ps_u8 pad0;
    ps_u32 pad1;
};

struct ps_wait {
    ps_u64 start_ns;
    ps_u64 address;     /* the lock as the interpreter knows it; GIL: its condition */
    ps_u64 duration_ns; /* PS_WAIT_OPEN: until ts_ns */
    ps_u32 wait_class;  /* enum ps_wait_class */
    ps_u32 slices;      /* kernel waits that this logical wait consisted of */
    ps_u64 site;        /* id of the probe site; PS_WAIT_MAP: address of the map object */
};

struct ps_wake {
    ps_u32 waker_pid;
    ps_u32 waker_tid;
    ps_u64 waker_arg0;
    ps_u64 waker_arg1;
    ps_s16 waker_syscall; /* -1 when the waker was not inside a system call */
    ps_u16 cpu;           /* where the wake was done */
    ps_u32 slept_cpu;     /* where the thread had run before its sleep */
    ps_u64 since_ns;      /* start of the sleep that this ends, 0 unknown */
};

struct ps_run {
    ps_u32 cpu; /* which it runs on */
    ps_u32 pad0;
    ps_u64 pad1;
    ps_u64 pad2;
    ps_u64 pad3;
    ps_u64 pad4;
};

struct ps_lifecycle {
    ps_u32 parent_pid;
    ps_u32 parent_tid;
    ps_u32 child_pid; /* PS_PROC_FORK */
    ps_s32 exit_code; /* wait(2) status */
    char comm[16];
    ps_u64 pad0;
};

struct ps_large_alloc {
    ps_u64 size_bytes;
    ps_u64 old_address; /* realloc: the block that is being resized, else 0 */
    ps_u32 api;         /* enum ps_alloc_api */
    ps_u32 pad0;
    ps_u64 pad1;
    ps_u64 pad2;
};

struct ps_wait_hist {
    ps_u32 wait_class;
    ps_u32 bucket;   /* floor(log2(duration_ns)) */
    ps_u64 count;    /* since the last record of this bucket */
    ps_u64 total_ns; /* the sum of those durations */
    ps_u64 pad0;
    ps_u64 pad1;
};

struct ps_pool_refill {
    ps_u32 size_bytes; /* block size of the pool's size class */
    ps_u32 pad0;
    ps_u64 count; /* since the last record of this class and thread */
    ps_u64 pad1;
    ps_u64 pad2;
    ps_u64 pad3;
};

struct ps_scan {
    ps_u32 threads;
    ps_u32 blocked;
    ps_u64 cost_ns;   /* tracer time that the scan took */
    ps_u64 period_ns; /* the base period in force */
    ps_u64 pad0;
    ps_u64 pad1;
};

#define PS_NO_BUCKET 255
#define PS_SHARD_BITS 24
#define PS_NO_SHARD ((1ULL << PS_SHARD_BITS) - 1)

struct ps_map_count {
    ps_u64 map;      /* address of the map object */
    ps_u64 count;    /* since the last record of the same counter */
    ps_u64 total_ns; /* the sum of the durations */
    ps_u64 items;    /* the sum of the entries */
    ps_u8 counter;   /* enum ps_map_counter */
    ps_u8 mode;      /* enum ps_map_mode */
    ps_u8 outcome;   /* enum ps_map_outcome */
    ps_u8 bucket;    /* floor(log2(duration_ns)), PS_NO_BUCKET: without a duration */
    ps_u32 profile;  /* number of the profile that told of it */
};

struct ps_breaker {
    ps_u64 map;      /* address of the map object */
    ps_u64 failures; /* among the samples */
    ps_u64 samples;  /* outcomes that it looks at, 0 unknown */
    ps_u32 profile;  /* number of the profile that told of it */
    ps_u8 from;      /* enum ps_breaker_state */
    ps_u8 to;        /* enum ps_breaker_state */
    ps_u16 pad0;
    ps_u64 pad1;
};

struct ps_record {
    ps_u64 ts_ns;
    ps_u32 pid;
    ps_u32 tid;
    ps_u16 kind;  /* enum ps_kind */
    ps_u16 flags; /* enum ps_flag */
    /* PS_THREAD_STATE: voluntary context switches, low 32 bits; PS_WAKE: the key of the
     * waker's Python stack in the kernel's map, 0: none; PS_WAIT and PS_WAIT_OPEN of
     * PS_WAIT_MAP: the shard in the low 24 bits (all set: unknown), the profile above. */
    ps_u32 aux;
    union {
        ps_u64 words[5];
        struct ps_thread_state thread_state;
        struct ps_wait wait;
        struct ps_wake wake;
        struct ps_lifecycle lifecycle;
        struct ps_large_alloc large_alloc;
        struct ps_wait_hist wait_hist;
        struct ps_pool_refill pool_refill;
        struct ps_scan scan;
        struct ps_run run;
        struct ps_map_count map_count;
        struct ps_breaker breaker;
    };
};

#endif
