/* A producer for tests: every getppid of a target makes PS_FLOOD records. */

int ps_flood(struct bpf_raw_tracepoint_args *ctx)
{
    u64 id = bpf_get_current_pid_tgid();
    if (ctx->args[1] != 110 /* getppid */ || !ps_traced(id >> 32))
        return 0;
    for (int i = 0; i < PS_FLOOD; i++) {
        u64 now_ns = bpf_ktime_get_ns();
        struct ps_record *record = ps_reserve(PS_WAIT, now_ns, id >> 32, id);
        if (!record)
            continue;
        record->wait.start_ns = now_ns - 5000000;
        record->wait.address = i;
        record->wait.duration_ns = 5000000;
        record->wait.wait_class = PS_WAIT_LOCK;
        record->wait.slices = 1;
        ps_submit(record);
    }
    return 0;
}
