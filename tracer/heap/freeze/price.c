/* What a clone costs on this machine: it differs threefold from one host to another. Told from
 * clones of our own, of as much memory as can be had in a few milliseconds. */
#include "freeze.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PRICED (16ULL << 20)
#define TIMES 3
#define WORTH (100ULL << 20) /* of small pages: less is cloned within the pause that is wanted */

static u64 clone_once(void) {
    u64 began = now_ns();
    pid_t child = fork();
    if (!child)
        _exit(0);
    u64 took = now_ns() - began;
    return child > 0 && waitpid(child, NULL, 0) == child ? took : 0;
}

/* Nanoseconds for each small page, the caches being warm; 0: there are too few for it to matter, or it failed. */
u64 clone_price(u64 small_bytes) {
    if (small_bytes < WORTH)
        return 0;
    char *memory = mmap(NULL, PRICED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 0;
    madvise(memory, PRICED, MADV_NOHUGEPAGE);
    for (u64 at = 0; at < PRICED; at += PAGE) {
        memory[at] = 1;
        breathe();
    }
    u64 least = 0;
    for (int i = 0; i < TIMES; i++) {
        u64 took = clone_once();
        least = took && (!least || took < least) ? took : least;
    }
    munmap(memory, PRICED);
    return least / (PRICED / PAGE);
}
