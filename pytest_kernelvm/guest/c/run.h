/* SPDX-License-Identifier: MIT */
/*
 * How a program is started, and how one is run to its end.  Whoever includes
 * this has nolibc or calls.h.
 */

#include <asm/signal.h>

/* system_call() passes zero for each argument that is not given. */
#ifdef call3
#define new_process() call1(__NR_clone, SIGCHLD)
#else
#define call3 my_syscall3
#define new_process() sys_fork()
#endif

/* In the new process: before the program is executed, and if it cannot be. */
static void prepare_child(void);
static void __attribute__((noreturn)) exec_failed(const char *path, long error);

/* Return the process of a program, or why there is none. */
static inline long start(const char *path, char *const *argv, char *const *environment)
{
	long process = new_process();

	if (process)
		return process;
	prepare_child();
	exec_failed(path, call3(__NR_execve, path, argv, environment));
}

/* Run a program to its end; return its status as of wait(2), or why there is no process. */
static inline long run(const char *path, char *const *argv, char *const *environment)
{
	int status = 0;
	long process = start(path, argv, environment);

	if (process < 0)
		return process;
	call3(__NR_wait4, process, &status, 0);
	return status;
}
