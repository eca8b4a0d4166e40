/* Stopping all threads of the target, letting them go, and having one make a system call. */
#include "freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STRAGGLER_NS 20000000LL /* a thread that does not stop for so long cannot now */
#define LATE_NS 1000000000LL     /* … and for so long it is waited for, to let it go */
#define STUCK_TRIES 3
#define STARVED_TRIES 6
#define COLLECTOR_WAIT_NS 10000000000LL
#define MAX_INTERPRETERS 1024
#define MAX_THREADS 65536
#define MANY_FILTERED 100
#define GADGET "\x0f\x05\xc3"   /* syscall; ret */
#define GADGET_SIZE 3
#define USER_CODE 0x33          /* __USER_CS: a thread in 64-bit mode */
#define VSYSCALL 0xffffffffff600000ULL

enum { STUCK = 1, STARVED = 2 };

struct threads threads;
bool finishing;
static struct {
    unsigned char code[1 << 20];
} window;

static void nap(long nanoseconds) {
    struct timespec time = {0, nanoseconds};
    nanosleep(&time, NULL);
}

/* --- stopping ------------------------------------------------------------------------------ */

static bool is_filtered(pid_t pid, pid_t tid) {
    char name[64], text[4096];
    snprintf(name, sizeof name, "/proc/%d/task/%d/status", pid, tid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return true;
    text[got] = 0;
    char *found = strstr(text, "\nSeccomp:");
    return found && atoi(found + 9) != 0;
}

static struct thread *find_thread(pid_t tid) {
    static size_t next; /* asked for in the order of the list, mostly: a target may have thousands */
    for (size_t i = 0; i < threads.count; i++) {
        size_t at = (next + i) % threads.count;
        if (threads.items[at].tid == tid) {
            next = at + 1;
            return &threads.items[at];
        }
    }
    return NULL;
}

/* Does a thread that does not stop sleep where it cannot? Else it has no CPU to stop on. */
static bool is_stuck(pid_t tid) {
    char name[64], text[1024];
    snprintf(name, sizeof name, "/proc/%d/task/%d/stat", options.pid, tid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    char *end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] == 'D';
}

static void drop_thread(size_t index) {
    threads.items[index] = threads.items[--threads.count];
}

/* Attach to every thread that we have not yet; PTRACE_SEIZE stops none. Returns how many. */
static int seize_new(bool interrupt) {
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/task", options.pid);
    DIR *directory = opendir(name);
    if (!directory)
        return oops("gone", "the target has exited");
    int added = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        pid_t tid = atoi(entry->d_name);
        if (tid <= 0 || find_thread(tid))
            continue;
        if (ptrace(PTRACE_SEIZE, tid, 0, 0)) {
            if (errno == ESRCH)
                continue; /* a thread that has just ended */
            int why = errno;
            closedir(directory);
            return oops(why == EPERM ? "permission" : "ptrace",
                        "thread %d cannot be attached to: %s", tid, strerror(why));
        }
        if (threads.count == threads.room) {
            threads.room = threads.room ? 2 * threads.room : 256;
            threads.items = realloc(threads.items, threads.room * sizeof *threads.items);
            if (!threads.items || threads.room > MAX_THREADS)
                abort();
        }
        threads.items[threads.count++] = (struct thread){.tid = tid};
        if (interrupt)
            ptrace(PTRACE_INTERRUPT, tid, 0, 0);
        added++;
    }
    closedir(directory);
    return added;
}

static void on_alarm(int signal) { (void)signal; }

/* waitpid is interrupted from `ns` from now on, again and again; 0: no more. */
static void set_alarm(int64_t ns) {
    struct itimerval timer = {{0, ns ? 1000 : 0}, {ns / 1000000000, ns % 1000000000 / 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* What waitpid said of a thread. False: it has ended. */
static bool take_stop(struct thread *thread, int status) {
    if (!WIFSTOPPED(status))
        return false;
    thread->held = true;
    int event = status >> 16, signal = WSTOPSIG(status);
    thread->trapped = event == PTRACE_EVENT_STOP && signal == SIGTRAP;
    thread->signal = event ? 0 : signal;
    return true;
}

/* Wait until every attached thread is held. 0: all are; 1: one does not come. */
static int await_stops(int64_t until) {
    for (size_t i = 0; i < threads.count;) {
        struct thread *thread = &threads.items[i];
        int status;
        if (thread->held) {
            i++;
            continue;
        }
        pid_t got = waitpid(thread->tid, &status, __WALL);
        if (got == thread->tid && take_stop(thread, status))
            i++;
        else if (got < 0 && errno == EINTR) {
            if ((int64_t)now_ns() > until)
                return 1;
        } else
            drop_thread(i);
    }
    return 0;
}

static void release(struct thread *thread) {
    ptrace(PTRACE_DETACH, thread->tid, 0, (long)thread->signal);
    thread->held = false;
}

/* Let everybody go; those that have not stopped yet, as soon as they do. */
static void release_all(void) {
    size_t waiting = 0;
    for (size_t i = 0; i < threads.count; i++)
        if (threads.items[i].held)
            release(&threads.items[i]);
        else
            threads.items[waiting++] = threads.items[i];
    threads.count = waiting;
    atomic_store(&shared->stopped_at, 0);
    hurry(LAST);
    for (int64_t until = (int64_t)now_ns() + LATE_NS; threads.count; nap(200000)) {
        for (size_t i = threads.count; i-- > 0;) {
            struct thread *thread = &threads.items[i];
            int status;
            pid_t got = waitpid(thread->tid, &status, __WALL | WNOHANG);
            if (got == 0)
                continue;
            if (got == thread->tid && take_stop(thread, status))
                release(thread);
            drop_thread(i);
        }
        /* One that does not come is let go by the kernel, when the worker ends. */
        if ((int64_t)now_ns() > until)
            return;
    }
}

u64 thaw(void) {
    u64 began = (u64)atomic_load(&shared->stopped_at);
    for (size_t i = 0; i < threads.count; i++)
        release(&threads.items[i]);
    u64 length = now_ns() - began;
    facts.threads = (int)threads.count;
    threads.count = 0;
    atomic_store(&shared->stopped_at, 0);
    hurry(LAST);
    step("released");
    if (facts.stop_count < MAX_STOPS)
        facts.stops[facts.stop_count++] = length;
    if (length > facts.pause)
        facts.pause = length;
    return length;
}

/* Every thread is held when this returns 0. STUCK, STARVED: one does not stop, all were let go. */
static int stop_all(void) {
    for (int added; (added = seize_new(false)) != 0;)
        if (added < 0)
            return -1;
    step("seized");
    hurry(FIRST);
    atomic_store(&shared->stopped_at, (int64_t)now_ns());
    set_alarm(STRAGGLER_NS);
    int64_t until = (int64_t)now_ns() + STRAGGLER_NS;
    for (size_t i = 0; i < threads.count; i++)
        ptrace(PTRACE_INTERRUPT, threads.items[i].tid, 0, 0);
    step("stopping");
    int late = await_stops(until), added = 0;
    while (!late && (added = seize_new(true)) > 0) /* made by a thread before it stopped */
        late = await_stops(until);
    set_alarm(0);
    if (late || added < 0 || !threads.count) {
        int why = STARVED;
        for (size_t i = 0; late && i < threads.count; i++)
            if (!threads.items[i].held && is_stuck(threads.items[i].tid))
                why = STUCK;
        release_all();
        return added < 0 ? -1 : late ? why : oops("gone", "the target has exited");
    }
    step("stopped");
    return 0;
}

/* --- the garbage collector -------------------------------------------------------------------- */

static bool read_word(u64 address, void *word, size_t size) {
    struct iovec local = {word, size}, remote = {(void *)address, size};
    return process_vm_readv(options.pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

/* Is any interpreter collecting? Then its lists hang on the C stack (Python/gc.c). */
static bool is_collecting(void) {
    u64 interpreter = 0;
    if (!options.interpreters || !read_word(options.interpreters, &interpreter, 8))
        return false;
    for (int i = 0; interpreter && i < MAX_INTERPRETERS; i++) {
        int32_t collecting = 0;
        if (!read_word(interpreter + options.interp_collecting, &collecting, 4))
            return false;
        if (collecting)
            return true;
        if (!read_word(interpreter + options.interp_next, &interpreter, 8))
            return false;
    }
    return false;
}

/* Stop the target, at a moment when no collection runs. Returns 0, or -1 and all are free. */
int freeze(bool watch_collector) {
    int64_t give_up = (int64_t)now_ns() + COLLECTOR_WAIT_NS;
    int stuck = 0, starved = 0;
    for (int attempt = 0; attempt < options.tries; attempt++) {
        while (watch_collector && is_collecting() && (int64_t)now_ns() < give_up && !abandoned())
            nap(500000); /* looking costs the target nothing, stopping would */
        int late = stop_all();
        if (late < 0)
            return -1;
        if (abandoned() && !finishing) {
            release_all();
            return oops("abandoned", "the dump was given up");
        }
        if (!late && !(watch_collector && is_collecting()))
            return 0;
        if (!late)
            thaw();
        else if (late == STUCK && ++stuck == STUCK_TRIES)
            return oops("uninterruptible",
                        "a thread was in an uninterruptible sleep at each of %d tries", stuck);
        else if (late == STARVED && ++starved == STARVED_TRIES)
            return oops("deadline", "a thread got no CPU to stop on at each of %d tries", starved);
        facts.retries++;
        nap(5000000L << starved); /* whoever has the CPUs may be done by then */
    }
    return oops("collecting", "a garbage collection ran at each of %d stops", options.tries);
}

/* --- having a thread make a system call ---------------------------------------------------- */

/* Address of `syscall; ret` in code of the target; 0: there is none. */
u64 find_gadget(pid_t pid, const struct maps *maps) {
    for (int libc_first = 1; libc_first >= 0; libc_first--)
        for (size_t i = 0; i < maps->count; i++) {
            const struct vma *vma = &maps->items[i];
            if (vma->perm[2] != 'x' || vma->perm[0] != 'r' || vma->start >= 1ULL << 47 ||
                (libc_first && !strstr(vma->path, "/libc")))
                continue;
            for (u64 at = vma->start; at < vma->end; at += sizeof window.code - 2) {
                u64 length = vma->end - at;
                if (length > sizeof window.code)
                    length = sizeof window.code;
                struct iovec local = {window.code, length}, remote = {(void *)at, length};
                ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
                if (got < 3)
                    break;
                unsigned char *found = memmem(window.code, (size_t)got, GADGET, GADGET_SIZE);
                if (found)
                    return at + (u64)(found - window.code);
            }
        }
    return 0;
}

static bool may_inject(const struct thread *thread, bool *in_call) {
    struct user_regs_struct now;
    if (!thread->trapped || ptrace(PTRACE_GETREGS, thread->tid, 0, &now))
        return false;
    /* In a system call: surely in no restartable sequence (rseq(2)), which a detour breaks. */
    *in_call = (long)now.orig_rax >= 0;
    return now.cs == USER_CODE && now.rip < VSYSCALL;
}

/* A held thread that may make a system call for us, best one that waits in one already. Filters
 * are looked for now, when none can be added, and at few: the target waits for it. */
struct thread *injectable(void) {
    struct thread *second = NULL;
    int filtered = 0;
    for (size_t i = 0; i < threads.count && filtered < MANY_FILTERED; i++) {
        bool in_call = false;
        struct thread *thread = &threads.items[i];
        if (!may_inject(thread, &in_call) || (!in_call && second))
            continue;
        if (is_filtered(options.pid, thread->tid))
            filtered++;
        else if (in_call)
            return thread;
        else
            second = thread;
    }
    return second;
}

/* One step over the instruction at `gadget`. What else may stop the thread is SIGSTOP, which
 * cannot be blocked; it is sent again afterwards. Returns 0, or -1: the thread has ended. */
static int step_over(pid_t tid, u64 gadget, struct user_regs_struct *after, bool *stop_again) {
    for (int i = 0; i < 100; i++) {
        int status;
        if (ptrace(PTRACE_SINGLESTEP, tid, 0, 0))
            return -1;
        step("stepping");
        pid_t got;
        do
            got = waitpid(tid, &status, __WALL);
        while (got < 0 && errno == EINTR);
        if (got != tid || !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, tid, 0, after))
            return -1;
        if (after->rip != gadget)
            return 0;
        if (WSTOPSIG(status) == SIGSTOP && !(status >> 16))
            *stop_again = true;
    }
    return -1;
}

/* Have the thread go before everybody else: what it does for us is the target's pause, and
 * on a busy machine it would wait for its turn. Root may. Undone by whoever is left. */
void prefer(struct thread *thread) {
    errno = 0;
    int before = getpriority(PRIO_PROCESS, (id_t)thread->tid);
    if (errno || sched_getscheduler(thread->tid) != SCHED_OTHER)
        return;
    atomic_store(&shared->nice, before);
    atomic_store(&shared->hurried, thread->tid);
    setpriority(PRIO_PROCESS, (id_t)thread->tid, -20);
    step("preferred");
}

void prefer_no_more(void) {
    int tid = atomic_load(&shared->hurried);
    if (tid)
        setpriority(PRIO_PROCESS, (id_t)tid, atomic_load(&shared->nice));
    atomic_store(&shared->hurried, 0);
}

/* From the stop behind the step into one like that before it. Behind the step a SIGTRAP is
 * about to be delivered, and were the tracer to die now, it would be, and end the target. */
static int settle(pid_t tid) {
    int status;
    pid_t got;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) || ptrace(PTRACE_CONT, tid, 0, 0))
        return -1;
    do
        got = waitpid(tid, &status, __WALL);
    while (got < 0 && errno == EINTR);
    return got == tid && WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_STOP ? 0 : -1;
}

/* The thread, held in our own trap, makes one system call; then its registers and its signal
 * mask are its own again, and it is held as before. The time in between is the dangerous
 * window: a thread that is let go in it, for the worker has died, runs on with what is ours,
 * or gets our SIGTRAP. `result` is that of the call. */
int inject(struct thread *thread, u64 gadget, long number, const long arguments[6], long *result) {
    struct user_regs_struct own, ours, after = {0};
    u64 own_mask, our_mask = ~(1ULL << (SIGTRAP - 1));
    pid_t tid = thread->tid;
    bool stop_again = false;
    char code[GADGET_SIZE];
    if (!read_word(gadget, code, sizeof code) || memcmp(code, GADGET, sizeof code))
        return oops("gone", "the process replaced its program meanwhile"); /* or unmapped it */
    if (ptrace(PTRACE_GETREGS, tid, 0, &own) || ptrace(PTRACE_GETSIGMASK, tid, 8, &own_mask))
        return oops("ptrace", "the registers of thread %d cannot be read", tid);
    ours = own;
    ours.rip = gadget;
    ours.rax = (u64)number;
    ours.orig_rax = -1ULL; /* or the kernel would restart the call that it interrupted */
    ours.rdi = (u64)arguments[0], ours.rsi = (u64)arguments[1], ours.rdx = (u64)arguments[2];
    ours.r10 = (u64)arguments[3], ours.r8 = (u64)arguments[4], ours.r9 = (u64)arguments[5];
    step("injecting");
    u64 began = now_ns();
    atomic_store(&shared->window, 1);
    int failed = ptrace(PTRACE_SETSIGMASK, tid, 8, &our_mask) ? 1
                 : ptrace(PTRACE_SETREGS, tid, 0, &ours)      ? 1
                                                              : 0;
    if (!failed) {
        failed = step_over(tid, gadget, &after, &stop_again);
        if (!failed && after.rax < -4096ULL) { /* what has to be undone if we die now */
            if (number == SYS_clone)
                atomic_store(&shared->child, (int)after.rax);
            if (number == SYS_userfaultfd)
                atomic_store(&shared->remote_fd, (int)after.rax);
        }
    }
    int unrestored = ptrace(PTRACE_SETREGS, tid, 0, &own) != 0;
    unrestored |= ptrace(PTRACE_SETSIGMASK, tid, 8, &own_mask) != 0;
    unrestored |= settle(tid) != 0;
    atomic_store(&shared->window, 0);
    u64 length = now_ns() - began;
    if (length > facts.window)
        facts.window = length;
    if (stop_again)
        kill(options.pid, SIGSTOP);
    if (failed || unrestored)
        return oops("gone", "thread %d ended while it made a system call", tid);
    step("injected");
    *result = (long)after.rax;
    return 0;
}

/* --- at the start ------------------------------------------------------------------------------- */

__attribute__((constructor)) static void prepare_alarm(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
}
