/* roundup_pow_of_two for constants, which bcc's stack table macro uses. */
#ifndef PS_LINUX_LOG2_H
#define PS_LINUX_LOG2_H
#define ilog2(n) (63 - __builtin_clzll((unsigned long long)(n)))
#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzll((n) - 1ULL)))
#endif
