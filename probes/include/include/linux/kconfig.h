/* The kernel options that bcc's helpers.h asks about. */
#ifndef PS_LINUX_KCONFIG_H
#define PS_LINUX_KCONFIG_H
#define CONFIG_64BIT 1
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_X86_64 1
#endif
