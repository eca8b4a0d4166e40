/* Leaving the target its CPUs while it runs.
 *
 * However low our priority, once we have a CPU the scheduler takes it back at its tick only,
 * every 4 ms with HZ=250, for a thread that has been waiting since. That would be a longer
 * pause than the one that all of this is for. So we work in short slices and sleep in
 * between: a third of the time, and as long as it takes where there is a queue for the CPUs.
 */
#include "freeze.h"

#include <sys/prctl.h>
#include <time.h>

#define NAP 100000
#define SHORTEST 200000
#define PRESSING 1000000 /* the moment of the stop may matter, or what is written meanwhile */
#define LONGEST 1500000 /* where there is a queue for the CPUs it would take for ever */

/* Called every few microseconds of work, by the main thread. */
void breathe(void) {
    static u64 began, slice;
    const u64 shortest = standing == AMONG ? PRESSING : SHORTEST;
    if (atomic_load(&shared->stopped_at))
        return; /* the target waits for us */
    u64 slept = now_ns();
    if (slept - began < (slice > shortest ? slice : shortest))
        return;
    const struct timespec time = {0, NAP};
    nanosleep(&time, NULL);
    began = now_ns();
    slice = (began - slept) / 3;
    slice = slice > LONGEST ? LONGEST : slice;
}

/* A sleep ends when it should, not up to 50 us later. */
__attribute__((constructor)) static void sleep_exactly(void) { prctl(PR_SET_TIMERSLACK, 1); }
