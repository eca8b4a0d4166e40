/* The end of a watched sleep and who ended it. sched_waking runs in the waker, or in
 * the interrupt that stands for a timer or a device: then the current task is only
 * whoever was interrupted, and its system call tells no more than that. */

int ps_on_waking(struct bpf_raw_tracepoint_args *ctx)
{
    u64 wakee = ctx->args[0];
    u32 tid = PS_LOAD(32, wakee, PS_OFF_TASK_PID);
    u8 *expected = ps_expected(tid);
    if (expected && *expected == PS_EXPECT_RUN) {
        /* It sleeps again, so it has run since its last wake-up and no program was told:
         * better no time at all than that of its next run. */
        *expected = PS_EXPECT_NOTHING;
        return 0;
    }
    if ((expected && !*expected) || ps_watch.delete(&tid))
        return 0;
    bool run_follows = expected && ps_setting(PS_SET_TELLS_RUN);
    if (expected)
        *expected = run_follows ? PS_EXPECT_RUN : PS_EXPECT_NOTHING;
    u32 tgid = PS_LOAD(32, wakee, PS_OFF_TASK_TGID);
    u64 now_ns = bpf_ktime_get_ns();
    struct ps_record *record = ps_reserve(PS_WAKE, now_ns, tgid, tid);
    if (!record)
        return 0;
    record->flags = run_follows ? PS_F_RUN_FOLLOWS : 0;
    struct pt_regs regs = {};
    u64 waker = bpf_get_current_pid_tgid();
    record->wake.waker_pid = waker >> 32;
    record->wake.waker_tid = waker;
    record->wake.waker_syscall = -1;
    record->wake.cpu = bpf_get_smp_processor_id();
    record->wake.slept_cpu = PS_LOAD(32, wakee, PS_OFF_TASK_CPU);
    /* Not what the watch says: now and then a wake-up passes by all tracepoints, and
     * this one then ends a later sleep than the watched one. */
    record->wake.since_ns = PS_LOAD(64, wakee, PS_OFF_TASK_LAST_ARRIVAL) +
                            PS_LOAD(64, wakee, PS_OFF_TASK_SUM_EXEC) -
                            PS_LOAD(64, wakee, PS_OFF_TASK_PREV_SUM_EXEC);
    if (waker) { /* not the idle task, which has no registers of user space */
        bpf_probe_read_kernel(&regs, sizeof(regs),
                              (void *)bpf_task_pt_regs(bpf_get_current_task_btf()));
        if ((long)regs.orig_ax >= 0 && regs.orig_ax <= 0x7fff) {
            record->wake.waker_syscall = regs.orig_ax;
            record->wake.waker_arg0 = regs.di;
            record->wake.waker_arg1 = regs.si;
            record->aux = ps_stack_of_current(record->wake.waker_pid, now_ns);
        }
    }
    ps_submit(record);
    return 0;
}

/* (preempted, previous task, next task, state of the previous one): a thread whose wake-up
 * was told comes to a CPU. What lies between is its delay on the run queue. */
int ps_on_switch(struct bpf_raw_tracepoint_args *ctx)
{
    u64 next = ctx->args[2];
    u32 tid = PS_LOAD(32, next, PS_OFF_TASK_PID);
    u8 *expected = ps_expected(tid);
    if (!expected || *expected != PS_EXPECT_RUN)
        return 0;
    *expected = PS_EXPECT_NOTHING;
    u32 tgid = PS_LOAD(32, next, PS_OFF_TASK_TGID);
    struct ps_record *record = ps_reserve(PS_RUN, bpf_ktime_get_ns(), tgid, tid);
    if (!record)
        return 0;
    record->run.cpu = bpf_get_smp_processor_id();
    ps_submit(record);
    return 0;
}
