/* SPDX-License-Identifier: MIT */
/*
 * terminal - run a program on a pseudo terminal, as a person would see it.
 *
 *	terminal PATH ARGUMENT...
 *
 * The program gets a session of its own with the terminal as its controlling
 * one.  What it reads there is what stands in our standard input, then an end
 * of input (Ctrl-D) if there was any; what it writes goes to our standard
 * output.  The terminal does not echo and does not turn newlines into CR LF.
 * Our standard error gets a struct report in the end.
 *
 * If we are killed, the program is too (PR_SET_PDEATHSIG), and the others of
 * its session are hung up.  See pty(7), ioctl_tty(2).
 */

#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/wait.h>
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <asm/termios.h>
#include "ppoll.h"
#include "run.h"

/* 5.10's nolibc has struct pollfd, which the header that has this has too. */
#ifndef POLLIN
#define POLLIN 0x0001
#define POLLOUT 0x0004
#endif

/* How often we look whether the program has ended. */
#define TICK_MS 10

#define END_OF_INPUT 4 /* Ctrl-D, the terminal's VEOF */

/* On a line that is not at its end the first one only hands it over. */
static const char end_of_input[] = { END_OF_INPUT, END_OF_INPUT };

/* What became of it; programs.py reads this. */
static struct {
	int no_terminal; /* an errno */
	int not_started; /* an errno */
	int status;	 /* as of wait(2) */
} report;

static int mounted;

static long open_master(void)
{
	return my_syscall4(__NR_openat, AT_FDCWD, "/dev/ptmx",
			   O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0);
}

/*
 * Terminals are there as soon as devpts is mounted beside ptmx.  By the mount's
 * source the host knows it, should we be killed.
 */
static long find_master(void)
{
	long master = open_master();

	if (master >= 0)
		return master;
	my_syscall3(__NR_mkdirat, AT_FDCWD, "/dev/pts", 0755);
	mounted = !my_syscall5(__NR_mount, "terminal", "/dev/pts", "devpts", 0, 0);
	return mounted ? open_master() : master;
}

static void leave_no_mount(void)
{
	if (!mounted)
		return;
	my_syscall2(__NR_umount2, "/dev/pts", 2 /* MNT_DETACH */);
	my_syscall3(__NR_unlinkat, AT_FDCWD, "/dev/pts", 0x200 /* AT_REMOVEDIR */);
}

static long open_slave(long master)
{
	static const struct winsize size = { .ws_row = 24, .ws_col = 80 };
	static const int locked;
	static struct termios line;
	long slave;

	my_syscall3(__NR_ioctl, master, TIOCSPTLCK, &locked);
	slave = my_syscall3(__NR_ioctl, master, TIOCGPTPEER,
			    O_RDWR | O_NOCTTY | O_CLOEXEC);
	my_syscall3(__NR_ioctl, slave, TCGETS, &line);
	line.c_lflag &= ~ECHO;
	line.c_oflag &= ~ONLCR;
	my_syscall3(__NR_ioctl, slave, TCSETS, &line);
	my_syscall3(__NR_ioctl, slave, TIOCSWINSZ, &size);
	return slave;
}

/* Of the program to be started: its terminal, and a pipe for why it failed. */
static long slave;
static int report_pipe[2];

static void prepare_child(void)
{
	int fd;

	my_syscall5(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	my_syscall1(__NR_setsid, 0);
	my_syscall3(__NR_ioctl, slave, TIOCSCTTY, 0);
	for (fd = 0; fd < 3; fd++)
		my_syscall3(__NR_dup3, slave, fd, 0);
}

static void exec_failed(const char *path, long error)
{
	(void)path;
	report.not_started = -error;
	my_syscall3(__NR_write, report_pipe[1], &report, sizeof(report));
	for (;;)
		my_syscall1(__NR_exit, 127);
}

/* What is to be typed, a piece at a time; 0 when all was. */
static long next_input(const char **piece)
{
	static char buffer[512];
	static int typed, at_line_start, ended;
	long length = my_syscall3(__NR_read, 0, buffer, sizeof(buffer));

	*piece = buffer;
	if (length > 0) {
		typed = 1;
		at_line_start = buffer[length - 1] == '\n';
		return length;
	}
	if (ended || !typed)
		return 0;
	ended = 1;
	*piece = end_of_input;
	return at_line_start ? 1 : 2;
}

/* Copy what the program has written; whether there was something. */
static int copy_output(long master)
{
	static char buffer[4096];
	long length = my_syscall3(__NR_read, master, buffer, sizeof(buffer));
	long done = 0;

	while (done < length) {
		long put = my_syscall3(__NR_write, 1, buffer + done, length - done);

		if (put <= 0)
			break;
		done += put;
	}
	return length > 0;
}

static void serve(long master, long child)
{
	struct __kernel_timespec tick = { 0, TICK_MS * 1000000 };
	const char *piece = 0;
	long left = next_input(&piece);
	int ended = 0;

	while (!ended) {
		struct pollfd watched = {
			.fd = master,
			.events = left ? POLLIN | POLLOUT : POLLIN,
		};

		my_syscall5(NR_PPOLL, &watched, 1, &tick, 0, 0);
		ended = my_syscall4(__NR_wait4, child, &report.status, WNOHANG, 0) == child;
		while (copy_output(master))
			;
		if (left && watched.revents & POLLOUT) {
			long put = my_syscall3(__NR_write, master, piece, left);

			if (put > 0) {
				piece += put;
				left -= put;
			}
			if (!left)
				left = next_input(&piece);
		}
		/* The program has closed it, and poll() does not wait. */
		if (!ended && watched.revents & ~(POLLIN | POLLOUT))
			my_syscall5(NR_PPOLL, 0, 0, &tick, 0, 0);
	}
}

int main(int argc, char **argv, char **envp)
{
	long master = argc > 2 ? find_master() : -EINVAL;

	slave = master < 0 ? master : open_slave(master);
	if (slave < 0) {
		report.no_terminal = -slave;
	} else {
		long child;

		my_syscall2(__NR_pipe2, report_pipe, O_CLOEXEC);
		child = start(argv[1], argv + 2, envp);
		my_syscall1(__NR_close, slave);
		my_syscall1(__NR_close, report_pipe[1]);
		if (child < 0)
			report.not_started = -child;
		else
			my_syscall3(__NR_read, report_pipe[0], &report, sizeof(report));
		if (!report.not_started)
			serve(master, child);
	}
	leave_no_mount();
	my_syscall3(__NR_write, 2, &report, sizeof(report));
	return 0;
}
