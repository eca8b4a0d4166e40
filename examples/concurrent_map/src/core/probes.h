/* USDT probes of the provider «concurrent_map».
 *
 * A probe is a nop in the code and a note in the file that says where it is and in which
 * registers its arguments are: what <sys/sdt.h> of systemtap makes, written out here, so that
 * nothing has to be installed for it (format: sourceware.org/systemtap/wiki/
 * UserSpaceProbeImplementation). The nop is of 5 bytes instead of one: since 6.18 the kernel can
 * turn a uprobe on such a nop into a call, which costs a tenth of a trap
 * (arch/x86/kernel/uprobes.c). All arguments are 64 bits wide; the first is always the Python
 * object of the map.
 */
#ifndef CM_PROBES_H
#define CM_PROBES_H

#include <stdint.h>

#if !defined(CM_NO_PROBES) && !defined(CM_STANDALONE) && defined(__ELF__) && defined(__LP64__) && \
    (defined(__x86_64__) || defined(__aarch64__))
#define CM_HAS_PROBES 1
#else
#define CM_HAS_PROBES 0
#endif

#if CM_HAS_PROBES

#ifdef __x86_64__
#define CM_NOP ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" /* nopl 0(%rax,%rax,1) */
#else
#define CM_NOP "nop\n"
#endif

/* A tool that moved the file's addresses (prelink) is told by `_.stapsdt.base`. */
#define CM_NOTE(name, arguments)                                            \
    "990: " CM_NOP                                                          \
    ".pushsection .note.stapsdt,\"?\",\"note\"\n"                           \
    ".balign 4\n"                                                           \
    ".4byte 992f-991f, 994f-993f, 3\n"                                      \
    "991: .asciz \"stapsdt\"\n"                                             \
    "992: .balign 4\n"                                                      \
    "993: .8byte 990b, _.stapsdt.base, 0\n" /* 0: it has no semaphore */    \
    ".asciz \"concurrent_map\"\n"                                           \
    ".asciz \"" #name "\"\n"                                                \
    ".asciz \"" arguments "\"\n"                                            \
    "994: .balign 4\n"                                                      \
    ".popsection\n"                                                         \
    ".ifndef _.stapsdt.base\n"                                              \
    ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n" \
    ".weak _.stapsdt.base\n"                                                \
    ".hidden _.stapsdt.base\n"                                              \
    "_.stapsdt.base: .space 1\n"                                            \
    ".size _.stapsdt.base, 1\n"                                             \
    ".popsection\n"                                                         \
    ".endif\n"

/* In a register: a tracer need not read memory for it. */
#define CM_WIDE(value) "r"((uint64_t)(value))
#define CM_PROBE2(name, a, b) \
    __asm__ volatile(CM_NOTE(name, "8@%0 8@%1")::CM_WIDE(a), CM_WIDE(b))
#define CM_PROBE3(name, a, b, c) \
    __asm__ volatile(CM_NOTE(name, "8@%0 8@%1 8@%2")::CM_WIDE(a), CM_WIDE(b), CM_WIDE(c))
#define CM_PROBE4(name, a, b, c, d)                                                       \
    __asm__ volatile(CM_NOTE(name, "8@%0 8@%1 8@%2 8@%3")::CM_WIDE(a), CM_WIDE(b), CM_WIDE(c), \
                     CM_WIDE(d))
#define CM_PROBE5(name, a, b, c, d, e)                                                         \
    __asm__ volatile(CM_NOTE(name, "8@%0 8@%1 8@%2 8@%3 8@%4")::CM_WIDE(a), CM_WIDE(b), CM_WIDE(c), \
                     CM_WIDE(d), CM_WIDE(e))
#else
#define CM_PROBE2(name, a, b) ((void)(a), (void)(b))
#define CM_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define CM_PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#define CM_PROBE5(name, a, b, c, d, e) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#endif

/* What retry(map, shard, what) tells. */
enum { CM_RETRY_LOCK = 0, CM_RETRY_COMPARE = 1, CM_RETRY_CURSOR = 2 };

#endif
