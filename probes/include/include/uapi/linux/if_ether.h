/* bcc's packet helpers include this; no program here handles packets. */
#ifndef PS_UAPI_LINUX_IF_ETHER_H
#define PS_UAPI_LINUX_IF_ETHER_H
#include <linux/types.h>
#endif
