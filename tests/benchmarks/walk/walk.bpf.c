/* Every getppid of a target has its stack taken three times, and the time that this took is
 * added up: as one that was seen before, as a new one of known code, as one of code that
 * nobody has seen. */

struct ps_walk_cost {
    u64 walks;
    u64 took_ns;
    u64 depth;
};
BPF_ARRAY(ps_walk_costs, struct ps_walk_cost, 3);

static __always_inline void ps_add_cost(int which, u32 key, u64 took_ns)
{
    struct ps_walk_cost *cost = ps_walk_costs.lookup(&which);
    struct ps_stack *stack = ps_stacks.lookup(&key);
    if (!cost || !stack)
        return;
    cost->walks++;
    cost->took_ns += took_ns;
    cost->depth = stack->depth;
}

int ps_walk_timed(struct bpf_raw_tracepoint_args *ctx)
{
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    if (ctx->args[1] != 110 /* getppid */ || !ps_traced(tgid))
        return 0;
    u32 key = 0;
    struct ps_python *python = ps_pythons.lookup(&tgid);
    for (int which = 0; python && which < 3; which++) {
        u64 began_ns = bpf_ktime_get_ns();
        key = ps_stack_of_current(tgid, began_ns);
        u64 took_ns = bpf_ktime_get_ns() - began_ns;
        ps_add_cost(which, key, took_ns);
        if (which < 2)
            ps_stacks.delete(&key);
        if (which == 1)
            python->salt += 0x9e3779b97f4a7c15ULL;
    }
    return 0;
}
