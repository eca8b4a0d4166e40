/* Attributes that BPF programs and bcc's helpers use. */
#ifndef PS_LINUX_COMPILER_H
#define PS_LINUX_COMPILER_H
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif
