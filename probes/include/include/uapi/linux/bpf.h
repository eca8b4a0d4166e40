/* bcc brings this header itself and includes it before everything else. */
#ifndef PS_UAPI_LINUX_BPF_H
#define PS_UAPI_LINUX_BPF_H
#include <linux/types.h>
#include <linux/bpf_common.h>
#endif
