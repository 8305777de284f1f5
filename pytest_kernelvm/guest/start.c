/* SPDX-License-Identifier: MIT */
/*
 * What of a program is the architecture's: nolibc's startup code, which calls
 * main(), and a system call. A file of its own because the instruction set
 * that makes the rest of a program small may have no system calls (MIPS16e).
 */

#ifndef my_syscall4			/* its name in later nolibc */
#define my_syscall4 __nolibc_syscall4
#endif

long system_call(long number, long a, long b, long c);

/* A result or a negative error number. No call minds an argument too many. */
long system_call(long number, long a, long b, long c)
{
	return my_syscall4(number, a, b, c, 0);
}
