/* Threads and processes that come and go. A followed child becomes a target here, at
 * its fork, before it has run an instruction. */

static __always_inline void ps_fill_life(struct ps_record *record, u64 task)
{
    bpf_probe_read_kernel(record->lifecycle.comm, sizeof(record->lifecycle.comm),
                          (void *)(task + PS_OFF_TASK_COMM));
}

/* (parent task, child task), in the parent, the child not yet running. */
int ps_on_fork(struct bpf_raw_tracepoint_args *ctx)
{
    u64 parent = ctx->args[0], child = ctx->args[1];
    u32 parent_tgid = PS_FIELD(u32, parent, PS_OFF_TASK_TGID);
    u32 flags = ps_target_flags(parent_tgid);
    if (!(flags & PS_TARGET_TRACED))
        return 0;
    u32 parent_tid = PS_FIELD(u32, parent, PS_OFF_TASK_PID);
    u32 tgid = PS_FIELD(u32, child, PS_OFF_TASK_TGID);
    u32 tid = PS_FIELD(u32, child, PS_OFF_TASK_PID);
    bool thread = tgid == parent_tgid;
    if (!thread && flags & PS_TARGET_FOLLOW) {
        struct ps_target target = { .flags = flags };
        ps_targets.update(&tgid, &target);
    }
    struct ps_record *record =
        ps_reserve(thread ? PS_THREAD_START : PS_PROC_FORK, bpf_ktime_get_ns(), parent_tgid,
                   thread ? tid : parent_tid);
    if (!record)
        return 0;
    record->lifecycle.parent_pid = parent_tgid;
    record->lifecycle.parent_tid = parent_tid;
    record->lifecycle.child_pid = thread ? 0 : tgid;
    ps_fill_life(record, child);
    ps_submit(record);
    return 0;
}

/* (task, its tid before, binary parameters): the new program is in place. */
int ps_on_exec(struct bpf_raw_tracepoint_args *ctx)
{
    u64 task = ctx->args[0];
    u32 tgid = PS_FIELD(u32, task, PS_OFF_TASK_TGID);
    if (!ps_traced(tgid))
        return 0;
    u32 tid = PS_FIELD(u32, task, PS_OFF_TASK_PID);
    struct ps_record *record = ps_reserve(PS_PROC_EXEC, bpf_ktime_get_ns(), tgid, tid);
    if (!record)
        return 0;
    ps_fill_life(record, task);
    ps_submit(record);
    return 0;
}

static __always_inline void ps_emit_exit(u16 kind, u64 now_ns, u32 tgid, u32 tid, u64 task)
{
    struct ps_record *record = ps_reserve(kind, now_ns, tgid, tid);
    if (!record)
        return;
    record->lifecycle.exit_code = PS_FIELD(u32, task, PS_OFF_TASK_EXIT_CODE);
    ps_fill_life(record, task);
    ps_submit(record);
}

/* (task, ...), in the exiting thread. signal->live was counted down before: at 0 the
 * process is over. Two last threads may both see 0; the map's entry goes only once. */
int ps_on_exit(struct bpf_raw_tracepoint_args *ctx)
{
    u64 task = ctx->args[0];
    u32 tgid = PS_FIELD(u32, task, PS_OFF_TASK_TGID);
    if (!ps_traced(tgid))
        return 0;
    u32 tid = PS_FIELD(u32, task, PS_OFF_TASK_PID);
    u64 now_ns = bpf_ktime_get_ns();
    ps_watch.delete(&tid);
    ps_expect(tid, PS_EXPECT_NOTHING);
    ps_emit_exit(PS_THREAD_EXIT, now_ns, tgid, tid, task);
    u64 signal = PS_FIELD(u64, task, PS_OFF_TASK_SIGNAL);
    if (PS_FIELD(u32, signal, PS_OFF_SIGNAL_LIVE))
        return 0;
    if (ps_targets.delete(&tgid))
        return 0;
    ps_emit_exit(PS_PROC_EXIT, now_ns, tgid, tgid, task);
    return 0;
}
