/* A flood of records: one hit of the probed function makes PS_FLOOD_BURST of them.
 *
 * Each is a lock wait of 2 ms with an address of its own, the dearest kind for the
 * collector; made by ps_reserve and ps_submit as those of the real probes are.
 */
int ps_flood(struct pt_regs *ctx)
{
    u64 id = bpf_get_current_pid_tgid(), now_ns = bpf_ktime_get_ns();
#pragma unroll
    for (int number = 0; number < PS_FLOOD_BURST; number++) {
        struct ps_record *record = ps_reserve(PS_WAIT, now_ns, id >> 32, id);
        if (!record)
            continue;
        record->wait.start_ns = now_ns - 2000000;
        record->wait.duration_ns = 2000000;
        record->wait.address = number;
        record->wait.wait_class = PS_WAIT_LOCK;
        record->wait.slices = 1;
        ps_submit(record);
    }
    return 0;
}
