/* The task iterator: state, exact block time and system call of every thread of the
 * targets, with no instruction changed in them. It also sets the watch on long
 * sleeps, before it reads the state, so that no wake-up falls in between. */

struct bpf_iter_meta {
    void *seq;
    u64 session_id;
    u64 seq_num;
};
struct task_struct;
struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
};

/* include/linux/sched.h: task->__state and task->flags, stable for tools like ps. */
#define PS_TASK_INTERRUPTIBLE 0x1
#define PS_TASK_UNINTERRUPTIBLE 0x2
#define PS_TASK_STOPPED_OR_TRACED (0x4 | 0x8)
#define PS_PF_NOT_OF_USER_SPACE (0x10 | 0x4000 | 0x200000) /* IO_WORKER USER_WORKER KTHREAD */

/* Offsets of pt_regs are those of the x86-64 ABI (uapi/linux/ptrace.h). */
#define PS_REG(regs, name) PS_LOAD(64, regs, __builtin_offsetof(struct pt_regs, name))

#ifndef PS_HAVE_SLOW_PATH
/* slow_path.bpf.c has the real one; without that probe no wait is ever open. */
static __always_inline void ps_fill_open_wait(u32 tid, struct ps_sample *sample)
{
}
#endif

#ifndef PS_HAVE_NATIVE_MAP
/* native_map.bpf.c has the real one. */
static __always_inline void ps_fill_map_wait(u32 tid, u64 sp, struct ps_sample *sample)
{
}
#endif

static __always_inline u8 ps_run_state(struct task_struct *task)
{
    if (PS_LOAD(32, task, PS_OFF_TASK_EXIT_STATE))
        return PS_DEAD;
    u32 state = PS_LOAD(32, task, PS_OFF_TASK_STATE);
    /* On its CPU with a sleeping state: on its way to sleep, or already called back. */
    if (!state || PS_LOAD(32, task, PS_OFF_TASK_ON_CPU))
        return PS_RUNNING;
    if (state & PS_TASK_UNINTERRUPTIBLE)
        return PS_DISK_SLEEP;
    if (state & PS_TASK_INTERRUPTIBLE)
        return PS_SLEEPING;
    return state & PS_TASK_STOPPED_OR_TRACED ? PS_STOPPED : PS_SLEEPING;
}

static __always_inline bool ps_is_blocked(u8 state)
{
    return state == PS_SLEEPING || state == PS_DISK_SLEEP;
}

/* When the thread left the CPU: when it came to it, plus what it has run since
 * then. Both of the run queue's clock; exec_start is of another one per CPU. */
static __always_inline void ps_fill_times(struct task_struct *task, struct ps_thread_state *out)
{
    u64 arrived = PS_LOAD(64, task, PS_OFF_TASK_LAST_ARRIVAL);
    u64 ran = PS_LOAD(64, task, PS_OFF_TASK_SUM_EXEC);
    u64 ran_before = PS_LOAD(64, task, PS_OFF_TASK_PREV_SUM_EXEC);
    out->state = ps_run_state(task);
    out->cpu_ns = ran;
    out->since_ns = ps_is_blocked(out->state) ? arrived + ran - ran_before : arrived;
}

static __always_inline void ps_fill_syscall(struct task_struct *task, struct ps_thread_state *out)
{
    out->syscall = -1;
    if (!ps_is_blocked(out->state))
        return;
    long regs = bpf_task_pt_regs(task);
    u64 number = PS_REG(regs, orig_ax);
    if (number > 0x7fff) /* -1 is above it too */
        return;
    out->syscall = number;
    out->arg0 = PS_REG(regs, di);
    out->arg1 = PS_REG(regs, si);
}

/* Whether the coming wake-up will be told. First the watch, then one more look: a
 * wake-up before that look shows in it, one after it finds the watch. */
static __always_inline bool ps_set_watch(struct task_struct *task, u32 tid,
                                         struct ps_thread_state *out)
{
    u64 since = out->since_ns;
    if (ps_watch.update(&tid, &since))
        return false;
    ps_expect(tid, PS_EXPECT_WAKE);
    ps_fill_times(task, out);
    if (ps_is_blocked(out->state) && out->since_ns == since)
        return true;
    ps_watch.delete(&tid);
    ps_expect(tid, PS_EXPECT_NOTHING);
    return false;
}

static __always_inline bool ps_is_watched(u32 tid, u64 since)
{
    u64 *watched = ps_watch.lookup(&tid);
    return watched && *watched == since && ps_setting(PS_SET_TELLS_WAKE);
}

/* Whether to watch a sleep: it is old enough, or in a slow path. Not for the GIL: a
 * wait for that consists of many sleeps, and the end of one is not its end. */
static __always_inline bool ps_is_worth_a_watch(struct ps_sample *sample)
{
    if (!ps_setting(PS_SET_TELLS_WAKE))
        return false;
    if (sample->wait_start_ns)
        return sample->wait_class != PS_WAIT_GIL;
    u64 clock = sample->state.ts_ns + ps_setting(PS_SET_CLOCK_OFFSET_NS);
    return clock > sample->state.thread_state.since_ns + ps_setting(PS_SET_WATCH_AFTER_NS);
}

int bpf_iter__task(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    struct ps_sample sample = {};
    if (!task)
        return 0;
    u32 tgid = PS_LOAD(32, task, PS_OFF_TASK_TGID);
    u32 flags = ps_target_flags(tgid);
    if (!flags || PS_LOAD(32, task, PS_OFF_TASK_FLAGS) & PS_PF_NOT_OF_USER_SPACE)
        return 0;
    u32 tid = PS_LOAD(32, task, PS_OFF_TASK_PID);
    struct ps_thread_state *state = &sample.state.thread_state;
    ps_fill_times(task, state);
    bool watched = ps_is_blocked(state->state) && ps_is_watched(tid, state->since_ns);
    if (watched && !ps_setting(PS_SET_FULL_SCAN))
        return 0; /* shown before, and its end will be told */
    sample.state.ts_ns = bpf_ktime_get_ns();
    ps_fill_open_wait(tid, &sample);
    /* The outer one, where there are both. */
    ps_fill_map_wait(tid, PS_REG(bpf_task_pt_regs(task), sp), &sample);
    if (!watched && flags & PS_TARGET_TRACED && ps_is_blocked(state->state) &&
        ps_is_worth_a_watch(&sample))
        watched = ps_set_watch(task, tid, state);
    ps_fill_syscall(task, state);
    sample.state.pid = tgid;
    sample.state.tid = tid;
    sample.state.kind = PS_THREAD_STATE;
    sample.state.flags = watched ? PS_F_WATCHED : 0;
    sample.state.aux = PS_LOAD(64, task, PS_OFF_TASK_NVCSW);
    bpf_seq_write((void *)ctx->meta->seq, &sample, sizeof(sample));
    return 0;
}
