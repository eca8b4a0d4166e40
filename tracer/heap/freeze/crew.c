/* Several hands for what has to be done while the target stands still: its CPUs are free.
 *
 * The helpers are threads of the worker that sleep until there is something to do, and take
 * part in it as soon as they have a CPU; one that has none is not waited for. They never
 * call ptrace, which is the main thread's alone, and no signal is delivered to them.
 */
#include "freeze.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK (128 << 10)

static struct {
    _Atomic uint32_t turn;     /* grows with each job: the helpers sleep on it */
    _Atomic int open, inside;  /* the job may be begun; helpers that may be at it */
    _Atomic pid_t members[MAX_HANDS];
    void (*job)(int hand);
} crew;

static void *help(void *argument) {
    int hand = (int)(intptr_t)argument;
    atomic_store(&crew.members[hand], (pid_t)syscall(SYS_gettid));
    for (uint32_t seen = 0, now;; seen = now) {
        while ((now = atomic_load(&crew.turn)) == seen)
            syscall(SYS_futex, &crew.turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        atomic_fetch_add(&crew.inside, 1);
        if (atomic_load(&crew.open))
            crew.job(hand);
        atomic_fetch_sub(&crew.inside, 1);
    }
    return NULL;
}

static void nothing(int hand) { (void)hand; }

/* As many helpers as there are CPUs besides ours. Fewer, or none, where there is a limit. */
void crew_call(void) {
    cpu_set_t cpus;
    pthread_attr_t attributes;
    sigset_t all, before;
    int wanted = sched_getaffinity(0, sizeof cpus, &cpus) ? 1 : CPU_COUNT(&cpus);
    if (pthread_attr_init(&attributes))
        return;
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all); /* the alarm is for the main thread, which waits for the target's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int hand = 1; hand < wanted && hand < MAX_HANDS; hand++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, help, (void *)(intptr_t)hand))
            break;
        while (!crew_member(hand))
            sched_yield();
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    hurry(LAST);
    crew_do(nothing);
}

/* The thread that is this hand, 0: there is none. */
pid_t crew_member(int hand) { return atomic_load(&crew.members[hand]); }

/* Have `job` done, by this thread (hand 0) and whoever comes in time: it has to hand out its
 * parts itself, and to return when there are none left. */
void crew_do(void (*job)(int hand)) {
    crew.job = job;
    atomic_store(&crew.open, 1);
    atomic_fetch_add(&crew.turn, 1);
    if (crew_member(1))
        syscall(SYS_futex, &crew.turn, FUTEX_WAKE_PRIVATE, MAX_HANDS, NULL, NULL, 0);
    job(0);
    atomic_store(&crew.open, 0);
    while (atomic_load(&crew.inside))
        sched_yield(); /* of the same priority: it may be on our own CPU */
}
