/* SPDX-License-Identifier: MIT */
/*
 * What of a program is the architecture's: nolibc's startup code, which calls
 * main(), and system calls. A file of its own because the instruction set
 * that makes the rest of a program small may have no system calls (MIPS16e).
 */

#ifndef my_syscall4			/* its name in later nolibc */
#define my_syscall4 __nolibc_syscall4
#define my_syscall5 __nolibc_syscall5
#endif

#include "calls.h"

/* A result or a negative error number. No call minds an argument too many. */
long system_call(long number, long a, long b, long c)
{
	return my_syscall4(number, a, b, c, 0);
}

long system_call5(long number, long a, long b, long c, long d, long e)
{
	return my_syscall5(number, a, b, c, d, e);
}
