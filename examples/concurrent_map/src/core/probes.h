/* USDT probes of the provider «concurrent_map», by <sys/sdt.h> where it is installed.
 *
 * Each site is a 5-byte nop instead of sdt.h's single byte: since 6.18 the kernel can turn
 * a uprobe on such a nop into a call, which costs a tenth of a trap (arch/x86/kernel/uprobes.c).
 * All arguments are 64 bits wide; the first is always the Python object of the map.
 */
#ifndef CM_PROBES_H
#define CM_PROBES_H

#include <stdint.h>

#if !defined(CM_NO_PROBES) && !defined(CM_STANDALONE) && defined(__has_include)
#if __has_include(<sys/sdt.h>)
#define CM_HAS_PROBES 1
#endif
#endif

#ifdef CM_HAS_PROBES
/* Arguments stand in registers or are constants: a tracer need not read memory for them. */
#define STAP_SDT_ARG_CONSTRAINT nr
#include <sys/sdt.h>
#ifdef __x86_64__
#undef _SDT_NOP
/* No commas: sdt.h hands it through another macro. */
#define _SDT_NOP .byte 0x0f; .byte 0x1f; .byte 0x44; .byte 0x00; .byte 0x00
#endif
#define CM_WIDE(value) ((uint64_t)(value))
#define CM_PROBE2(name, a, b) DTRACE_PROBE2(concurrent_map, name, CM_WIDE(a), CM_WIDE(b))
#define CM_PROBE3(name, a, b, c) \
    DTRACE_PROBE3(concurrent_map, name, CM_WIDE(a), CM_WIDE(b), CM_WIDE(c))
#define CM_PROBE4(name, a, b, c, d) \
    DTRACE_PROBE4(concurrent_map, name, CM_WIDE(a), CM_WIDE(b), CM_WIDE(c), CM_WIDE(d))
#define CM_PROBE5(name, a, b, c, d, e)                                             \
    DTRACE_PROBE5(concurrent_map, name, CM_WIDE(a), CM_WIDE(b), CM_WIDE(c), CM_WIDE(d), \
                  CM_WIDE(e))
#else
#define CM_HAS_PROBES 0
#define CM_PROBE2(name, a, b) ((void)(a), (void)(b))
#define CM_PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define CM_PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#define CM_PROBE5(name, a, b, c, d, e) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#endif

/* What retry(map, shard, what) tells. */
enum { CM_RETRY_LOCK = 0, CM_RETRY_COMPARE = 1, CM_RETRY_CURSOR = 2 };

#endif
