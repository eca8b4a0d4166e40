/* Pool refills, counted per thread and size class, and requests over 4 KiB, told one by one. */

#define PS_LARGE_BYTES 4096
/* Keeps clang from choosing between two fields' addresses, which the verifier refuses. */
#define PS_READ(value) asm volatile("" : "+r"(value))


/* What a link's cookie says; probes/alloc/spec.py has the same numbers. */
enum ps_alloc_site {
    PS_SITE_REFILL_EDI = 1, /* size class in edi: CPython up to 3.11 */
    PS_SITE_REFILL_ESI = 2, /* size class in esi: 3.12 and newer */
    PS_SITE_MALLOC = 3,
    PS_SITE_CALLOC = 4,
    PS_SITE_REALLOC = 5,
    PS_ALLOC_SITE_END = 8
};

struct ps_refill_key {
    u32 pid;
    u32 tid;
    u32 size_class;
};

/* Where the target's libc keeps those of its entries that call malloc themselves. */
struct ps_libc_code {
    u64 calloc_start;
    u64 calloc_end;
    u64 realloc_start;
    u64 realloc_end;
    u32 realloc_null_is_malloc;
    u32 pad;
};

BPF_TABLE("hash", struct ps_refill_key, u64, ps_refills, 16384); /* a thread runs on one CPU */
BPF_TABLE("hash", u32, struct ps_libc_code, ps_libc_code, 1024);
BPF_TABLE("percpu_array", u32, u64, ps_alloc_hits, PS_ALLOC_SITE_END);

static __always_inline void ps_count_alloc_hit(u32 site)
{
    u64 *hits = ps_alloc_hits.lookup(&site);
    if (hits)
        *hits += 1;
}

int ps_refill(struct pt_regs *ctx)
{
    u32 site = bpf_get_attach_cookie(ctx);
    u64 id = bpf_get_current_pid_tgid(), first = ctx->di, second = ctx->si, one = 1;
    struct ps_refill_key key = {.pid = id >> 32, .tid = id};

    PS_READ(first);
    PS_READ(second);
    ps_count_alloc_hit(site);
    key.size_class = site == PS_SITE_REFILL_EDI ? first : second;
    u64 *count = ps_refills.lookup(&key);
    if (count)
        *count += 1;
    else if (ps_refills.update(&key, &one))
        ps_lose(PS_POOL_REFILL);
    return 0;
}

static __always_inline int ps_within_libc(struct ps_libc_code *code, u64 sp)
{
    u64 caller = 0;
    if (ps_read_user(&caller, sizeof caller, (void *)sp))
        return 0;
    return (code->calloc_start <= caller && caller < code->calloc_end) ||
           (code->realloc_start <= caller && caller < code->realloc_end);
}

int ps_libc_alloc(struct pt_regs *ctx)
{
    u32 site = bpf_get_attach_cookie(ctx), api = PS_ALLOC_MALLOC;
    u64 first = ctx->di, second = ctx->si, size = first, old = 0;

    PS_READ(first);
    PS_READ(second);
    ps_count_alloc_hit(site);
    if (site == PS_SITE_CALLOC) {
        api = PS_ALLOC_CALLOC;
        if (first >> 32 && second >> 32)
            return 0; /* more than 64 bits: calloc refuses it */
        size = first * second;
    } else if (site == PS_SITE_REALLOC) {
        api = PS_ALLOC_REALLOC;
        old = first;
        size = second;
    }
    if (size <= PS_LARGE_BYTES)
        return 0;
    u64 id = bpf_get_current_pid_tgid();
    u32 pid = id >> 32;
    struct ps_libc_code *code = ps_libc_code.lookup(&pid);
    if (code && site == PS_SITE_REALLOC && !old && code->realloc_null_is_malloc)
        return 0; /* goes on to malloc, where it is counted */
    if (code && site == PS_SITE_MALLOC && ps_within_libc(code, ctx->sp))
        return 0; /* was counted at its own entry */
    struct ps_record *record = ps_reserve(PS_LARGE_ALLOC, bpf_ktime_get_ns(), pid, id);
    if (!record)
        return 0;
    record->large_alloc.size_bytes = size;
    record->large_alloc.old_address = old;
    record->large_alloc.api = api;
    ps_submit(record);
    return 0;
}
