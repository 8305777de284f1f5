/* SPDX-License-Identifier: MIT */
/*
 * System calls, from start.c: each returns a result or a negative error
 * number, as in the kernel.
 */

#include <asm/unistd.h>
#include <linux/errno.h>

long system_call(long number, long a, long b, long c);
long system_call5(long number, long a, long b, long c, long d, long e);

#define call1(number, a) system_call(number, (long)(a), 0, 0)
#define call2(number, a, b) system_call(number, (long)(a), (long)(b), 0)
#define call3(number, a, b, c) \
	system_call(number, (long)(a), (long)(b), (long)(c))
#define call4(number, a, b, c, d) call5(number, a, b, c, d, 0)
#define call5(number, a, b, c, d, e) \
	system_call5(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
