/* Every getppid of a target has its stack taken, and the time that this took is added up. */

struct ps_walk_cost {
    u64 walks;
    u64 took_ns;
    u64 depth;
};
BPF_ARRAY(ps_walk_costs, struct ps_walk_cost, 1);

int ps_walk_timed(struct bpf_raw_tracepoint_args *ctx)
{
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    if (ctx->args[1] != 110 /* getppid */ || !ps_traced(tgid))
        return 0;
    u64 began_ns = bpf_ktime_get_ns();
    u32 key = ps_stack_of_current(tgid);
    u64 took_ns = bpf_ktime_get_ns() - began_ns;
    int zero = 0;
    struct ps_walk_cost *cost = ps_walk_costs.lookup(&zero);
    struct ps_stack *stack = ps_stacks.lookup(&key);
    if (!cost || !stack)
        return 0;
    cost->walks++;
    cost->took_ns += took_ns;
    cost->depth = stack->depth;
    return 0;
}
