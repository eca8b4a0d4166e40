/* bcc asks for the version only to choose helpers; what the programs use exists
 * since 5.15, and whether the running kernel has it is found out by loading them. */
#ifndef PS_LINUX_VERSION_H
#define PS_LINUX_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif
