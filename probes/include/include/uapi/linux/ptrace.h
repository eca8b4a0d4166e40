/* A thread's registers as the x86-64 kernel saves them on entry (asm/ptrace.h of
 * the kernel ABI): the order in which the entry code pushes them. orig_ax is the
 * number of the system call, -1 outside of one. */
#ifndef PS_UAPI_LINUX_PTRACE_H
#define PS_UAPI_LINUX_PTRACE_H
struct pt_regs {
    unsigned long r15, r14, r13, r12, bp, bx;
    unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
    unsigned long orig_ax;
    unsigned long ip, cs, flags, sp, ss;
};
#endif
