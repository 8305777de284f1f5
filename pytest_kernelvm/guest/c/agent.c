/* SPDX-License-Identifier: MIT */
/*
 * agent - PID 1 of a guest under test: an interpreter of system calls.
 *
 * The host sends a batch of system calls, the agent makes them one after the
 * other and sends their results and what they wrote into memory.  All meaning
 * (reading a file, mounting, loading a module) is the host's.  Three things are
 * more than a system call here: running a program, reading the kernel's log,
 * and reading the kernel's taint.  The log and the taint are read from files
 * that the agent opened at its start, so that no test can take them away.
 *
 * On the wire (see frames.py, the other end) a frame is
 *
 *	SOH (0x01), bytes with the top bit set, EOT (0x04)
 *
 * Kernel text on the same line is below 0x80 and never SOH or EOT, so that it
 * may land in the middle of a frame and do no harm.  Seven payload bytes make
 * eight on the wire: one with their top bits, then each with its lower seven.
 * The payload's integers are in the guest's byte order:
 *
 *	request:  u32 id, u16 count, u16 data offset, steps, data ..., u32 crc
 *	reply:    u32 id, u32 count, s32 result of each step, output ..., u32 crc
 *
 * A damaged request is dropped; the host sends it again.  A request with the
 * id of the last one is answered with the last reply and not executed again.
 * The first frame, with id 0, says hello: version of the protocol and a number
 * that differs from boot to boot.  A request with id 0 asks for it again.
 * A request without steps is answered at once, or, while a program runs, ends
 * that program with SIGKILL.  A request whose only step reads the kernel's log
 * is answered while a program runs, too.
 *
 * Built on the nolibc of the kernel under test.  The build gives CHANNEL, the
 * device, and SHARED_CONSOLE, the word on the kernel's command line that makes
 * the agent use the console instead.
 */

#include <linux/fcntl.h>
#include <linux/reboot.h>
#include <linux/wait.h>
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include "ppoll.h"
#include "run.h"

/* 5.10's nolibc has struct pollfd, which the header that has this has too. */
#ifndef POLLIN
#define POLLIN 0x0001
#endif

#define PROTOCOL_VERSION 3

#define SOH 0x01
#define EOT 0x04

/* The host keeps requests and outputs below this; protocol.py has the same. */
#define MEMORY_SIZE (64 * 1024)
#define WIRE_SIZE (MEMORY_SIZE / 7 * 8 + 64)

#define STEP_ALWAYS 0x01 /* also after a step that failed */
#define STEP_LOOP 0x02	 /* as read and write: again until all or nothing */

#define ARG_VALUE 0
#define ARG_POINTER 1 /* offset into the request's data */
#define ARG_RESULT 2  /* result of an earlier step */

#define OUT_RESULT 0x8000 /* as many bytes as the step's result says */

/* Not system calls; protocol.py has the same. */
#define NR_RUN 0xffff	    /* run a program */
#define NR_LOG 0xfffe	    /* read what is new in the kernel's log */
#define NR_TAINT 0xfffd	    /* read /proc/sys/kernel/tainted */
#define NOT_MADE (-0x10000) /* result of a step that was skipped */

/* linux/random.h: never wait for the generator; since 5.6. */
#ifndef GRND_INSECURE
#define GRND_INSECURE 4
#endif

/*
 * The longest record that /dev/kmsg gives (CONSOLE_EXT_LOG_MAX and later
 * PRINTK_MESSAGE_MAX in kernel/printk).  A record that does not fit into what
 * is left of a buffer is lost.
 */
#define RECORD_SIZE 8192

/* A reader of the log asks for no more than this at once. */
#define LOG_SIZE (2 * RECORD_SIZE)

/* How often the agent wakes up while a program runs. */
#define TICK_MS 10

#define SIGSET_BYTES (_NSIG / 8)

#define ALIGNED_8 __attribute__((aligned(8)))

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

struct request {
	u32 id;
	u16 count;
	u16 data;
	u8 steps[];
};

struct step {
	u16 nr;
	u8 flags;
	u8 args;
	u16 kinds; /* two bits an argument */
	u16 out;   /* 0, or bits 12-14 the argument that points, rest the length */
	int arg[];
};

struct reply {
	u32 id;
	u32 count;
	int results[];
};

/* What was read; several frames may come at once. */
static u8 unread[4096];
static int unread_at, unread_end;

/* What arrives: the frame being received, already back to eight bits. */
static u8 incoming[MEMORY_SIZE] ALIGNED_8;
static u32 incoming_wire; /* wire bytes of the frame so far */
static u32 incoming_length;
static u8 incoming_tops;
static u8 incoming_open;

/* What is executed; outputs are written into it behind the data. */
static u8 memory[MEMORY_SIZE] ALIGNED_8;

/* What is answered, and the same as sent, kept to be sent again. */
static u8 answer[MEMORY_SIZE] ALIGNED_8;
static u8 wire[WIRE_SIZE];
static u32 wire_length;
static u32 last_id;
static u32 boot_id; /* tells this boot from others */

/* The answer to a request for the log that comes while a program runs. */
static u8 aside[LOG_SIZE + 64] ALIGNED_8;

static int channel;
static int log_file;   /* /dev/kmsg, or why it is not open */
static int taint_file; /* /proc/sys/kernel/tainted, likewise */
static int children; /* a signalfd of SIGCHLD */
static int running;  /* the program's process, 0 if none */

static u32 crc32(const u8 *data, u32 length)
{
	static const u32 table[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
		0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
		0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};
	u32 crc = ~0u;

	while (length--) {
		crc ^= *data++;
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

static void copy(u8 *to, const u8 *from, u32 length)
{
	while (length--)
		*to++ = *from++;
}

static void sleep_ms(int milliseconds)
{
	struct __kernel_timespec pause = { 0, milliseconds * 1000000 };

	my_syscall5(NR_PPOLL, 0, 0, &pause, 0, 0);
}

static void write_wire(void)
{
	u32 done = 0;

	while (done < wire_length) {
		long put = my_syscall3(__NR_write, channel, wire + done,
				       wire_length - done);

		/* The host is not there yet (virtio port): it asks again. */
		if (put <= 0)
			break;
		done += put;
	}
}

/* Send the first bytes of an answer as a frame; their CRC goes behind them. */
static void send_answer(u8 *answer, u32 length)
{
	u32 crc = crc32(answer, length);
	u8 *out = wire;
	u32 at = 0;

	copy(answer + length, (u8 *)&crc, 4);
	length += 4;
	*out++ = SOH;
	while (at < length) {
		u8 *tops = out++;
		u32 bit = 0;

		*tops = 0x80;
		for (; bit < 7 && at < length; bit++, at++) {
			*tops |= answer[at] >> 7 << bit;
			*out++ = answer[at] | 0x80;
		}
	}
	*out++ = EOT;
	wire_length = out - wire;
	write_wire();
}

/* Take one wire byte; return the payload's length when it ends a good frame. */
static u32 take_byte(u8 byte)
{
	u32 place, crc;

	if (byte == SOH) {
		incoming_open = 1;
		incoming_wire = incoming_length = 0;
	} else if (!incoming_open) {
		return 0;
	} else if (byte & 0x80) {
		place = incoming_wire++ & 7;
		if (!place)
			incoming_tops = byte;
		else if (incoming_length < MEMORY_SIZE)
			incoming[incoming_length++] =
				(byte & 0x7f) | (incoming_tops >> (place - 1) & 1) << 7;
	} else if (byte == EOT) {
		incoming_open = 0;
		if (incoming_length < sizeof(struct request) + 4)
			return 0;
		copy((u8 *)&crc, incoming + incoming_length - 4, 4);
		if (crc == crc32(incoming, incoming_length - 4))
			return incoming_length - 4;
	}
	return 0;
}

/* Read from the channel until a good frame is whole; 0 if none is yet. */
static u32 receive(void)
{
	u32 length;

	for (;;) {
		if (unread_at == unread_end) {
			unread_at = 0;
			unread_end = my_syscall3(__NR_read, channel, unread, sizeof(unread));
			if (unread_end <= 0) {
				/* A virtio port without a host end reads as ended. */
				unread_end = 0;
				sleep_ms(1);
				return 0;
			}
		}
		while (unread_at < unread_end) {
			length = take_byte(unread[unread_at++]);
			if (length)
				return length;
		}
		/* Never block while a program runs: its end must be seen. */
		if (running)
			return 0;
	}
}

/* Reap whatever ended; return the status of `process` if it is among it. */
static int reap(int process, int *status)
{
	static u8 signals[4096];
	int found = 0, ended, pid;

	my_syscall3(__NR_read, children, signals, sizeof(signals));
	while ((pid = my_syscall4(__NR_wait4, -1, &ended, WNOHANG, 0)) > 0) {
		if (pid == process) {
			*status = ended;
			found = 1;
		}
	}
	return found;
}

/* Sleep until there is input on the channel (1), or only ended children (0). */
static int wait_for_input(void)
{
	struct pollfd watched[2] = {
		{ .fd = channel, .events = POLLIN },
		{ .fd = children, .events = POLLIN },
	};

	/*
	 * An idle kernel without a tick ends an RCU grace period at the next
	 * switch of tasks, which may be a second away.  What waits for it is a
	 * program being run, so then this task wakes up now and then.
	 */
	struct __kernel_timespec pause = { 0, TICK_MS * 1000000 };

	if (unread_at < unread_end)
		return 1;
	my_syscall5(NR_PPOLL, watched, 2, running > 0 ? &pause : 0, 0, 0);
	return watched[0].revents != 0;
}

/* Of the program to be started: its standard descriptors, and a pipe for why it failed. */
static const long *standard_fds;
static int report_pipe[2];

static void prepare_child(void)
{
	static const u8 no_signals[SIGSET_BYTES] ALIGNED_8;
	int fd;

	my_syscall2(__NR_setpgid, 0, 0);
	my_syscall4(__NR_rt_sigprocmask, SIG_SETMASK, no_signals, 0, SIGSET_BYTES);
	for (fd = 0; fd < 3; fd++)
		my_syscall3(__NR_dup3, standard_fds[fd], fd, 0);
}

static void exec_failed(const char *path, long error)
{
	int failed = error;

	(void)path;
	my_syscall3(__NR_write, report_pipe[1], &failed, sizeof(failed));
	for (;;)
		my_syscall1(__NR_exit, 127);
}

/*
 * Read whole records until there is no other one, or no room for one.  A
 * record that the kernel may still add to is not readable before the next one
 * begins; `mark` is one, if its length is not zero.  With `anew` the log is
 * read from its beginning.  Of what programs wrote only the numbers are kept:
 * their records begin with two digits or more, the kernel's with one.
 */
static long read_log(u8 *to, long room, const char *mark, long mark_length, long anew)
{
	long total = 0, got;

	if (log_file < 0)
		return log_file;
	if (anew)
		my_syscall3(__NR_lseek, log_file, 0, SEEK_SET);
	if (mark_length)
		my_syscall3(__NR_write, log_file, mark, mark_length);
	do {
		u8 *record = to + total;

		got = my_syscall3(__NR_read, log_file, record, room - total);
		if (got > 0 && record[1] != ',') {
			for (got = 0; record[got] != ';'; got++)
				;
			record[++got] = '\n';
			got++;
		}
		if (got > 0)
			total += got;
		/* EPIPE: records were lost, as their numbers will show. */
	} while ((got > 0 || got == -EPIPE) && room - total >= RECORD_SIZE);
	return total || got == -EAGAIN ? total : got;
}

/* Whether a request reads the kernel's log and does nothing else. */
static int is_for_log(const struct request *request)
{
	return request->count == 1 &&
	       ((const struct step *)request->steps)->nr == NR_LOG;
}

/* Answer a request for the log while a program runs. */
static void answer_aside(const struct request *request)
{
	struct reply *reply = (struct reply *)aside;
	long length = read_log((u8 *)(reply->results + 1), LOG_SIZE, 0, 0, 0);

	reply->id = request->id;
	reply->count = 1;
	reply->results[0] = length;
	if (length < 0)
		length = 0;
	send_answer(aside, sizeof(*reply) + 4 + length);
}

/*
 * Run a program to its end: path, its arguments one behind the other with a
 * zero byte each, how many, then its standard descriptors.  They must not be
 * below 3.  Returns the status as of wait(2), or the error of fork or exec.
 */
static long run_program(const char *path, char *words, long count, const long *fds)
{
	static char *const environment[] = {
		"HOME=/", "PATH=/sbin:/bin:/usr/sbin:/usr/bin", "TERM=dumb", 0
	};
	static char *argv[256];
	int status = 0, failed = 0, at;
	u32 length;

	if (count > 255)
		return -E2BIG;
	for (at = 0; at < count; at++) {
		argv[at] = words;
		while (*words++)
			;
	}
	argv[at] = 0;
	my_syscall2(__NR_pipe2, report_pipe, O_CLOEXEC);
	standard_fds = fds;
	running = start(path, argv, environment);
	my_syscall1(__NR_close, report_pipe[1]);
	if (running > 0)
		my_syscall3(__NR_read, report_pipe[0], &failed, sizeof(failed));
	else
		failed = running;
	my_syscall1(__NR_close, report_pipe[0]);

	while (running > 0 && !reap(running, &status)) {
		if (!wait_for_input())
			continue;
		length = receive();
		if (!length)
			continue;
		if (!((struct request *)incoming)->count)
			my_syscall2(__NR_kill, -running, SIGKILL);
		else if (is_for_log((struct request *)incoming))
			answer_aside((struct request *)incoming);
	}
	running = 0;
	return failed ? failed : status;
}

static long make(const struct step *step, const long *arg)
{
	if (step->nr == NR_RUN)
		return run_program((char *)arg[0], (char *)arg[1], arg[2], arg + 3);
	if (step->nr == NR_LOG)
		return read_log((u8 *)arg[0], arg[1], (char *)arg[2], arg[3],
				arg[4]);
	if (step->nr == NR_TAINT) {
		my_syscall3(__NR_lseek, taint_file, 0, SEEK_SET);
		return my_syscall3(__NR_read, taint_file, arg[0], arg[1]);
	}
#ifdef my_syscall6
	if (step->args == 6)
		return my_syscall6(step->nr, arg[0], arg[1], arg[2], arg[3],
				   arg[4], arg[5]);
#endif
	return my_syscall5(step->nr, arg[0], arg[1], arg[2], arg[3], arg[4]);
}

static long make_step(const struct step *step, u8 *data, const int *results,
		      long *arg)
{
	long result, total = 0;
	int at;

	for (at = 0; at < 6; at++) {
		int value = at < step->args ? step->arg[at] : 0;
		int kind = step->kinds >> 2 * at & 3;

		arg[at] = kind == ARG_POINTER ? (long)(data + value) :
			  kind == ARG_RESULT ? results[value] : value;
	}
	result = make(step, arg);
	if (!(step->flags & STEP_LOOP))
		return result;
	while (result > 0) {
		total += result;
		arg[1] += result;
		arg[2] -= result;
		if (!arg[2])
			break;
		result = make(step, arg);
	}
	arg[1] -= total;
	return total ? total : result;
}

/* Make all steps of the request in `memory`; return the answer's length. */
static u32 execute(void)
{
	struct request *request = (struct request *)memory;
	struct reply *reply = (struct reply *)answer;
	u8 *at = request->steps, *out = (u8 *)(reply->results + request->count);
	int failed = 0;
	u32 nr, length;

	reply->id = request->id;
	reply->count = request->count;
	for (nr = 0; nr < request->count; nr++) {
		struct step *step = (struct step *)at;
		long arg[6], result = NOT_MADE;

		at += sizeof(*step) + 4 * step->args;
		if (!failed || step->flags & STEP_ALWAYS)
			result = make_step(step, memory + request->data,
					   reply->results, arg);
		reply->results[nr] = result;
		if (result < 0) {
			failed = 1;
			continue;
		}
		if (!step->out)
			continue;
		length = step->out & OUT_RESULT ? result : step->out & 0xfff;
		copy(out, (u8 *)arg[step->out >> 12 & 7], length);
		out += length;
	}
	return out - answer;
}

static void hello(void)
{
	struct reply *reply = (struct reply *)answer;

	reply->id = 0;
	reply->count = 2;
	reply->results[0] = PROTOCOL_VERSION;
	reply->results[1] = boot_id;
	send_answer(answer, sizeof(*reply) + 8);
}

static void answer_request(u32 length)
{
	struct request *request = (struct request *)incoming;

	if (!request->id) {
		hello();
		return;
	}
	if (request->id == last_id) {
		write_wire();
		return;
	}
	last_id = request->id;
	copy(memory, incoming, length);
	send_answer(answer, execute());
}

static void mount_at(const char *type, const char *where)
{
	my_syscall3(__NR_mkdirat, AT_FDCWD, where, 0755);
	my_syscall5(__NR_mount, type, where, type, 0, 0);
}

/*
 * Bytes as they are, at the highest speed: at 9600 baud a 16550 waits 4 ms
 * before it says that fewer bytes than its trigger level have come.
 */
static void make_raw(void)
{
	/* Not on the stack: zeroing it there would be a call of memset(). */
	static const struct termios line = {
		.c_cflag = B115200 | CS8 | CREAD | CLOCAL,
		.c_cc[VMIN] = 1,
	};

	my_syscall3(__NR_ioctl, channel, TCSETS, &line);
}

static long open_at(const char *path, int flags)
{
	return my_syscall4(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0);
}

/* Whether the command line says that the console is the channel as well. */
static int shares_console(void)
{
	static const char word[] = SHARED_CONSOLE;
	static char line[4096];
	long file = open_at("/proc/cmdline", O_RDONLY);
	int at, same;

	my_syscall3(__NR_read, file, line, sizeof(line) - sizeof(word));
	my_syscall1(__NR_close, file);
	for (at = 0; line[at]; at++) {
		for (same = 0; word[same] && line[at + same] == word[same]; same++)
			;
		if (!word[same])
			return 1;
	}
	return 0;
}

static void open_channel(void)
{
	int tries = shares_console() ? 0 : 1000;

	/* A virtio port is there some time after init was started. */
	for (channel = -1; channel < 0 && tries; tries--) {
		channel = open_at(CHANNEL, O_RDWR | O_NOCTTY);
		if (channel < 0)
			sleep_ms(1);
	}
	if (channel < 0)
		channel = open_at("/dev/console", O_RDWR | O_NOCTTY);
	make_raw();
}

static void watch_children(void)
{
	static u8 mask[SIGSET_BYTES] ALIGNED_8;
	unsigned long *word = (unsigned long *)mask;

	*word = 1ul << (SIGCHLD - 1);
	my_syscall4(__NR_rt_sigprocmask, SIG_BLOCK, mask, 0, SIGSET_BYTES);
	children = my_syscall4(__NR_signalfd4, -1, mask, SIGSET_BYTES, O_NONBLOCK | O_CLOEXEC);
}

int main(void)
{
	static const char lost[] = "kernelvm agent: no channel to the host\n";
	int status;
	u32 length;

	mount_at("devtmpfs", "/dev");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	log_file = open_at("/dev/kmsg", O_RDWR | O_NONBLOCK);
	/* printk.devkmsg=off: reading is allowed still. */
	if (log_file < 0)
		log_file = open_at("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	taint_file = open_at("/proc/sys/kernel/tainted", O_RDONLY);
	open_channel();
	if (channel < 0) {
		my_syscall3(__NR_write, 2, lost, sizeof(lost) - 1);
		return 1;
	}
	watch_children();
	my_syscall3(__NR_getrandom, &boot_id, sizeof(boot_id), GRND_INSECURE);
	hello();
	for (;;) {
		if (!wait_for_input()) {
			reap(0, &status);
			continue;
		}
		length = receive();
		if (length)
			answer_request(length);
	}
}
