/* What native maps do, at places that profiles declare: waits for a shard, ranges, counts.
 *
 * One program for all places. A link's cookie is the index of a ps_map_site, in which user
 * space has put what the place means and where its arguments stand: a USDT probe's may be in
 * any register, on the stack or in memory, and differ from one place to the next.
 *
 * Counters only ever grow, and are read without being taken: a hit on another CPU at the
 * same moment is in the next reading. So they are exact.
 */

#define PS_HAVE_NATIVE_MAP

#define PS_MAX_MAP_SITES 512
#define PS_MAP_NUMBERS 8 /* of a mode or outcome, as the library numbers them */
#define PS_ADDRESS_MASK 0xffffffffffffULL

/* tracer/native/sites.py has the same numbers. */
enum ps_map_role {
    PS_ROLE_COUNT = 0, /* add one to site->counter */
    PS_ROLE_WAIT_BEGIN = 1,
    PS_ROLE_WAIT_END = 2,
    PS_ROLE_WAIT = 3, /* a function that waits: where it is left is the end */
    PS_ROLE_RANGE_BEGIN = 4,
    PS_ROLE_RANGE_END = 5,
    PS_ROLE_RANGE = 6, /* a function that goes over the map, from its entry to where it is left */
    PS_ROLE_BREAKER = 7, /* a circuit breaker over the map has changed its state */
    PS_ROLE_WAIT_LEFT = 8,
    PS_ROLE_RANGE_LEFT = 9
};

enum ps_map_slot {
    PS_SLOT_MAP = 0,
    PS_SLOT_THING,   /* the lock; the id of the range; the samples of a breaker */
    PS_SLOT_DETAIL,  /* the shard; the mode; the state that a breaker was in */
    PS_SLOT_OUTCOME, /* … and the one that it is in */
    PS_SLOT_ITEMS,   /* … and its failures */
    PS_SLOT_END
};

enum ps_map_source {
    PS_FROM_NOWHERE = 0,
    PS_FROM_CONSTANT = 1,
    PS_FROM_REGISTER = 2,
    PS_FROM_MEMORY = 3
};

/* What the return value of a function says. */
enum ps_map_return {
    PS_RETURN_NOTHING = 0,
    PS_RETURN_OBJECT = 1, /* NULL is an error */
    PS_RETURN_STATUS = 2  /* an int, negative is an error */
};

struct ps_map_argument {
    u64 value;  /* the constant, or what is added to the registers */
    u16 base;   /* offset of a register in struct pt_regs */
    u16 index;  /* the same of another one … */
    u8 scale;   /* … which counts so often, 0: there is none */
    u8 source;  /* enum ps_map_source */
    u8 shift;   /* 64 minus the width in bits */
    u8 is_signed;
};

struct ps_map_site {
    u8 role;
    u8 counter; /* enum ps_map_counter */
    u8 returns; /* enum ps_map_return */
    u8 known;   /* a bit for each slot that the place fills */
    u32 profile;
    u8 details[PS_MAP_NUMBERS];  /* the library's number of a mode → enum ps_map_mode */
    u8 outcomes[PS_MAP_NUMBERS]; /* … of an outcome → enum ps_map_outcome; both: of a state */
    struct ps_map_argument arguments[PS_SLOT_END];
};

struct ps_map_wait {
    u64 start_ns;
    u64 lock;
    u64 map;
    u64 sp;
    u32 aux;
    u32 by_exit; /* it ends where the function that it began in is left */
};

/* A bit of ps_map_site.known besides those of the slots: each map numbers its own ranges. */
#define PS_KNOWN_BY_MAP (1 << 7)

struct ps_map_range_key {
    u64 id;
    u64 map; /* where each map numbers its own */
    u32 pid;
    u32 profile;
};

struct ps_map_range {
    u64 start_ns;
    u64 map;
    u32 mode;
    u32 pad;
};

struct ps_map_key {
    u64 map;
    u32 pid;
    u32 profile;
    u8 counter;
    u8 mode;
    u8 outcome;
    u8 bucket;
    u32 pad;
};

struct ps_map_value {
    u64 count;
    u64 total_ns;
    u64 items;
};

BPF_TABLE("array", u32, struct ps_map_site, ps_map_sites, PS_MAX_MAP_SITES);
BPF_TABLE("percpu_array", u32, u64, ps_map_hits, PS_MAX_MAP_SITES);
BPF_TABLE("hash", u32, struct ps_map_wait, ps_map_waits, PS_MAX_MAP_WAITS);
BPF_TABLE("lru_hash", struct ps_map_range_key, struct ps_map_range, ps_map_ranges, PS_MAX_MAP_RANGES);
BPF_TABLE("percpu_hash", struct ps_map_key, struct ps_map_value, ps_map_counts, PS_MAX_MAP_COUNTS);

/* As ps_read_user, for the same reason. */
static long (*ps_read_registers)(void *to, u32 size, const void *from) =
    (void *)BPF_FUNC_probe_read_kernel;

static __always_inline u64 ps_map_value_of(void *ctx, struct ps_map_argument *from)
{
    u64 value = from->value, part = 0;
    u64 shift = from->shift & 63;
    u32 source = from->source;

    if (source == PS_FROM_REGISTER || source == PS_FROM_MEMORY) {
        ps_read_registers(&part, sizeof part, ctx + from->base);
        value += part;
        if (from->scale) {
            ps_read_registers(&part, sizeof part, ctx + from->index);
            value += part * from->scale;
        }
    }
    if (source == PS_FROM_MEMORY) {
        part = 0;
        if (ps_read_user(&part, sizeof part, (void *)value))
            return 0;
        value = part;
    }
    value <<= shift;
    return from->is_signed ? (u64)((s64)value >> shift) : value >> shift;
}

static __always_inline void ps_map_add(struct ps_map_key *key, u64 duration_ns, u64 items)
{
    struct ps_map_value zero = {}, *value = ps_map_counts.lookup_or_try_init(key, &zero);
    if (!value) {
        ps_lose(PS_MAP_COUNT);
        return;
    }
    __sync_fetch_and_add(&value->count, 1);
    if (duration_ns)
        __sync_fetch_and_add(&value->total_ns, duration_ns);
    if (items)
        __sync_fetch_and_add(&value->items, items);
}

static __always_inline void ps_map_begin_wait(struct ps_map_site *site, void *ctx, u64 map, u64 sp,
                                              bool by_exit)
{
    u32 tid = bpf_get_current_pid_tgid();
    u64 shard = PS_NO_SHARD;
    if (site->known & (1 << PS_SLOT_DETAIL))
        shard = ps_map_value_of(ctx, &site->arguments[PS_SLOT_DETAIL]);
    if (shard > PS_NO_SHARD)
        shard = PS_NO_SHARD;
    struct ps_map_wait wait = {
        .start_ns = bpf_ktime_get_ns(),
        .lock = ps_map_value_of(ctx, &site->arguments[PS_SLOT_THING]),
        .map = map,
        .sp = sp,
        .aux = shard | site->profile << PS_SHARD_BITS,
        .by_exit = by_exit,
    };
    if (ps_map_waits.update(&tid, &wait))
        ps_lose(PS_WAIT);
}

static __always_inline void ps_map_end_wait(struct ps_map_wait *wait, u64 id)
{
    u64 now_ns = bpf_ktime_get_ns(), duration_ns = now_ns - wait->start_ns;
    bool told = duration_ns >= ps_setting(PS_SET_MIN_PARK_NS);
    struct ps_map_key key = {
        .map = wait->map,
        .pid = id >> 32,
        .profile = wait->aux >> PS_SHARD_BITS,
        .counter = told ? PS_MAP_PARK : PS_MAP_WAIT,
        .bucket = ps_log2(duration_ns),
    };
    ps_map_add(&key, duration_ns, 0);
    struct ps_record *record = told ? ps_reserve(PS_WAIT, now_ns, id >> 32, id) : 0;
    if (!record)
        return;
    record->aux = wait->aux;
    record->wait.start_ns = wait->start_ns;
    record->wait.address = wait->lock;
    record->wait.duration_ns = duration_ns;
    record->wait.wait_class = PS_WAIT_MAP;
    record->wait.slices = 1;
    record->wait.site = wait->map;
    ps_submit(record);
}

static __always_inline u32 ps_map_number(u8 *table, u64 number, u32 otherwise)
{
    return number < PS_MAP_NUMBERS ? table[number & (PS_MAP_NUMBERS - 1)] : otherwise;
}

static __always_inline u32 ps_map_mode_of(struct ps_map_site *site, void *ctx)
{
    u64 number = ps_map_value_of(ctx, &site->arguments[PS_SLOT_DETAIL]);
    return ps_map_number(site->details, number, PS_MODE_OTHER);
}

static __always_inline struct ps_map_range_key ps_map_open_range(struct ps_map_site *site, u64 map,
                                                                 u64 id)
{
    struct ps_map_range_key key = {
        .id = id,
        .map = site->known & PS_KNOWN_BY_MAP ? map : 0,
        .pid = bpf_get_current_pid_tgid() >> 32,
        .profile = site->profile,
    };
    return key;
}

static __always_inline void ps_map_begin_range(struct ps_map_site *site, void *ctx, u64 map, u64 id)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    struct ps_map_range_key open = ps_map_open_range(site, map, id);
    struct ps_map_range range = {
        .start_ns = bpf_ktime_get_ns(), .map = map, .mode = ps_map_mode_of(site, ctx)};
    struct ps_map_key key = {
        .map = map,
        .pid = pid,
        .profile = site->profile,
        .counter = PS_MAP_RANGE_BEGUN,
        .mode = range.mode,
        .bucket = PS_NO_BUCKET,
    };
    ps_map_ranges.update(&open, &range); /* in place of one that was left long ago, unended */
    ps_map_add(&key, 0, 0);
}

static __always_inline void ps_map_end_range(struct ps_map_site *site, u64 map, u64 id, u32 mode,
                                             u32 outcome, u64 items)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    struct ps_map_range_key open = ps_map_open_range(site, map, id);
    struct ps_map_range *range = ps_map_ranges.lookup(&open);
    struct ps_map_key key = {
        .map = map,
        .pid = pid,
        .profile = site->profile,
        .counter = PS_MAP_RANGE,
        .mode = mode,
        .outcome = outcome,
        .bucket = PS_NO_BUCKET,
    };
    u64 duration_ns = 0;
    if (range) {
        duration_ns = bpf_ktime_get_ns() - range->start_ns;
        key.bucket = ps_log2(duration_ns);
        if (!map)
            key.map = range->map;
        if (!(site->known & (1 << PS_SLOT_DETAIL)))
            key.mode = range->mode;
        ps_map_ranges.delete(&open);
    }
    ps_map_add(&key, duration_ns, items);
}

/* A function is left, maybe by a call that began elsewhere: the same one has the same sp, for
 * at a ret and at a tail call the stack is what it was at the entry. */
static __always_inline void ps_map_left(struct ps_map_site *site, u64 id, u64 sp, u64 result)
{
    u32 tid = id, outcome = PS_OUTCOME_UNKNOWN;
    if (site->role == PS_ROLE_WAIT_LEFT) {
        struct ps_map_wait *wait = ps_map_waits.lookup(&tid);
        if (wait && wait->by_exit && wait->sp == sp) {
            ps_map_end_wait(wait, id);
            ps_map_waits.delete(&tid);
        }
        return;
    }
    struct ps_map_range_key open = ps_map_open_range(site, 0, sp);
    bool failed = site->returns == PS_RETURN_OBJECT ? !result : (s32)result < 0;
    if (site->returns)
        outcome = failed ? PS_OUTCOME_ERROR : PS_OUTCOME_COMPLETE;
    if (ps_map_ranges.lookup(&open)) /* else it was entered before the attach, map unknown */
        ps_map_end_range(site, 0, sp, 0, outcome, 0);
}

/* Each change is told: they are rare, and their order is what counts. */
static __always_inline void ps_map_breaker(struct ps_map_site *site, void *ctx, u64 map, u64 id)
{
    u64 from = ps_map_value_of(ctx, &site->arguments[PS_SLOT_DETAIL]);
    u64 to = ps_map_value_of(ctx, &site->arguments[PS_SLOT_OUTCOME]);
    u64 failures = ps_map_value_of(ctx, &site->arguments[PS_SLOT_ITEMS]);
    u64 samples = ps_map_value_of(ctx, &site->arguments[PS_SLOT_THING]);
    struct ps_record *record = ps_reserve(PS_BREAKER, bpf_ktime_get_ns(), id >> 32, id);
    if (!record)
        return;
    record->breaker.map = map;
    record->breaker.failures = failures;
    record->breaker.samples = samples;
    record->breaker.profile = site->profile;
    record->breaker.from = ps_map_number(site->details, from, PS_STATE_UNKNOWN);
    record->breaker.to = ps_map_number(site->outcomes, to, PS_STATE_UNKNOWN);
    ps_submit(record);
}

static __always_inline struct ps_map_site *ps_map_site_of(void *ctx)
{
    u32 number = bpf_get_attach_cookie(ctx);
    u64 *hits = ps_map_hits.lookup(&number);
    if (hits)
        __sync_fetch_and_add(hits, 1); /* a thread may be preempted here */
    return ps_map_sites.lookup(&number);
}

int ps_map_hit(struct pt_regs *ctx)
{
    u64 id = bpf_get_current_pid_tgid(), sp = ctx->sp;
    u32 tid = id, role;
    struct ps_map_site *site = ps_map_site_of(ctx);
    if (!site)
        return 0;
    role = site->role;
    if (role >= PS_ROLE_WAIT_LEFT) {
        ps_map_left(site, id, sp, ctx->ax);
        return 0;
    }
    u64 map = ps_map_value_of(ctx, &site->arguments[PS_SLOT_MAP]) & PS_ADDRESS_MASK;
    if (role == PS_ROLE_WAIT_BEGIN || role == PS_ROLE_WAIT) {
        ps_map_begin_wait(site, ctx, map, sp, role == PS_ROLE_WAIT);
    } else if (role == PS_ROLE_WAIT_END) {
        struct ps_map_wait *wait = ps_map_waits.lookup(&tid);
        if (!wait)
            return 0;
        bool of_it = !(site->known & (1 << PS_SLOT_THING)) ||
                     ps_map_value_of(ctx, &site->arguments[PS_SLOT_THING]) == wait->lock;
        if (!of_it)
            return 0;
        ps_map_end_wait(wait, id);
        ps_map_waits.delete(&tid);
    } else if (role == PS_ROLE_RANGE_BEGIN || role == PS_ROLE_RANGE) {
        u64 range = role == PS_ROLE_RANGE
                        ? sp
                        : ps_map_value_of(ctx, &site->arguments[PS_SLOT_THING]);
        ps_map_begin_range(site, ctx, map, range);
    } else if (role == PS_ROLE_BREAKER) {
        ps_map_breaker(site, ctx, map, id);
    } else {
        u64 items = ps_map_value_of(ctx, &site->arguments[PS_SLOT_ITEMS]);
        if (role == PS_ROLE_RANGE_END) {
            u64 outcome = ps_map_value_of(ctx, &site->arguments[PS_SLOT_OUTCOME]);
            ps_map_end_range(site, map, ps_map_value_of(ctx, &site->arguments[PS_SLOT_THING]),
                             ps_map_mode_of(site, ctx),
                             ps_map_number(site->outcomes, outcome, PS_OUTCOME_UNKNOWN), items);
            return 0;
        }
        struct ps_map_key key = {
            .map = map,
            .pid = id >> 32,
            .profile = site->profile,
            .counter = site->counter,
            .bucket = PS_NO_BUCKET,
        };
        ps_map_add(&key, 0, items);
    }
    return 0;
}

/* A thread that ends inside a wait leaves its tid to a later one. */
int ps_on_map_waiter_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u32 tid = bpf_get_current_pid_tgid();
    ps_map_waits.delete(&tid);
    return 0;
}

/* Whether a thread with its stack at sp is still in a wait for a shard, or has left the
 * function that it began in without a word, as a signal makes it do. */
static __always_inline bool ps_is_in(struct ps_map_wait *wait, u64 sp)
{
    return sp <= wait->sp;
}

/* Whether a thread waits for a shard: what it waits for meanwhile, further in, is part of that. */
static __always_inline bool ps_in_map_wait(u32 tid, u64 sp)
{
    struct ps_map_wait *wait = ps_map_waits.lookup(&tid);
    if (!wait)
        return false;
    if (ps_is_in(wait, sp))
        return true;
    ps_map_waits.delete(&tid);
    return false;
}

/* For the task iterator: the shard that the thread waits for right now. sp: as it was when the
 * thread last entered the kernel. */
static __always_inline void ps_fill_map_wait(u32 tid, u64 sp, struct ps_sample *sample)
{
    struct ps_map_wait *open = ps_map_waits.lookup(&tid);
    if (!open || !ps_is_in(open, sp))
        return;
    sample->wait_start_ns = open->start_ns;
    sample->wait_address = open->lock;
    sample->wait_site = open->map;
    sample->wait_class = PS_WAIT_MAP;
    sample->wait_slices = open->aux;
}
