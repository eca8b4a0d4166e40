/* Calls a probed function as often as it is told.
 *
 *   producer          prints "ready OFFSET", OFFSET of the probed instruction in its file
 *   stdin: "CALLS NS" makes CALLS calls, one every NS nanoseconds on average (0: at once)
 *   stdout: "CALLS NS" how many were made, and how long that took
 */
#define _GNU_SOURCE /* dl_iterate_phdr */
#include <link.h>
#include <stdio.h>
#include <stdint.h>
#include <time.h>

/* A nop of five bytes is what the kernel probes at the least cost. */
__attribute__((noinline, aligned(64))) static void flood_site(void)
{
    __asm__ volatile(".byte 0x0f, 0x1f, 0x44, 0x00, 0x00" ::: "memory");
}

#define CATCH_UP_NS 20000

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* The offset in the file of an address of this program. */
static int to_offset(struct dl_phdr_info *info, size_t size, void *data)
{
    uintptr_t *address = data;
    (void)size;
    for (int number = 0; number < info->dlpi_phnum; number++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[number];
        uintptr_t start = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD && *address >= start && *address < start + header->p_filesz) {
            *address += header->p_offset - start;
            return 1;
        }
    }
    return 0;
}

int main(void)
{
    unsigned long long calls, pace_ns;
    uint8_t *site = (uint8_t *)flood_site;
    while (site[0] != 0x0f || site[1] != 0x1f || site[2] != 0x44)
        site++; /* past what the compiler puts first (endbr64) */
    uintptr_t offset = (uintptr_t)site;
    if (!dl_iterate_phdr(to_offset, &offset))
        return 1;
    printf("ready %lu\n", (unsigned long)offset);
    fflush(stdout);
    while (scanf("%llu %llu", &calls, &pace_ns) == 2) {
        uint64_t began = now_ns(), next = began;
        for (uint64_t made = 0; made < calls; made++) {
            if (pace_ns) {
                uint64_t now = now_ns();
                while (now < next)
                    now = now_ns();
                /* It may catch up a little; time that others had is not made up for. */
                next = (now - next > CATCH_UP_NS ? now : next) + pace_ns;
            }
            flood_site();
        }
        printf("%llu %llu\n", calls, (unsigned long long)(now_ns() - began));
        fflush(stdout);
    }
    return 0;
}
