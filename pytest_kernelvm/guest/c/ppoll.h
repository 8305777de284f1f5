/* SPDX-License-Identifier: MIT */

#include <linux/time_types.h>

/* A 32-bit kernel without COMPAT_32BIT_TIME has the one with 64-bit times only. */
#ifdef __NR_ppoll_time64
#define NR_PPOLL __NR_ppoll_time64
#else
#define NR_PPOLL __NR_ppoll
#endif
