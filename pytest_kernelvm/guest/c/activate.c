/* SPDX-License-Identifier: MIT */
/*
 * activate - makes in a directory what of a root file system is not kept.
 *
 * Its argument is the directory; DIRECTORY/persist/pseudofiles lists what is
 * made in it, in this order, each as
 *
 *	KIND MODE OWNER GROUP NUMBER PATH newline CONTENT newline
 *
 * KIND is d(irectory), f(ile), l(ink), c(haracter device), b(lock device) or
 * p(ipe, a FIFO); MODE is octal.  NUMBER is how many bytes the CONTENT of a
 * file or a link has; of a device it is the number, as mknod(2) takes it.
 * The host makes the list (see root_image.py).
 */

#define PROGRAM "activate"

#include <linux/fcntl.h>
#include <linux/stat.h>
#include "complaint.h"

#define LIST "persist/pseudofiles"

static char path[4096], content[4096];

static unsigned char unread[1024];
static int unread_at, unread_end;
static int list;

/* Return the list's next byte, -1 behind its end. */
static int take(void)
{
	if (unread_at == unread_end) {
		unread_at = 0;
		unread_end = call3(__NR_read, list, unread, sizeof(unread));
		if (unread_end <= 0) {
			unread_end = 0;
			return -1;
		}
	}
	return unread[unread_at++];
}

static void __attribute__((noreturn)) damaged(void)
{
	give_up("make sense of ", LIST, "", "", -EINVAL);
}

static unsigned int take_number(unsigned int base)
{
	unsigned int number = 0, digit;

	while ((digit = take() - '0') < base)
		number = number * base + digit;
	if (digit != (unsigned int)(' ' - '0'))
		damaged();
	return number;
}

/* Take a text of a length, or with -1 the rest of the line. */
static void take_text(char *text, int length)
{
	int at = 0, byte;

	while (at != length) {
		byte = take();
		if (byte < 0 || at == sizeof(path) - 1)
			damaged();
		if (byte == '\n' && length < 0)
			break;
		text[at++] = byte;
	}
	text[at] = 0;
}

static long make_file(unsigned int length)
{
	long file = call4(__NR_openat, AT_FDCWD, path,
				O_WRONLY | O_CREAT | O_EXCL, 0600);
	long put = 0;

	if (file < 0)
		return file;
	while (length && put >= 0) {
		unsigned int part = length < sizeof(content) - 1 ? length : sizeof(content) - 1;

		take_text(content, part);
		put = call3(__NR_write, file, content, part);
		if (put >= 0 && put < (long)part)
			put = -ENOSPC;
		length -= part;
	}
	call1(__NR_close, file);
	return put < 0 ? put : 0;
}

static long make_node(unsigned int type, unsigned int number)
{
	return call4(__NR_mknodat, AT_FDCWD, path, type | 0600, number);
}

static long make(int kind, unsigned int number)
{
	long error;

	switch (kind) {
	case 'd':
		error = call3(__NR_mkdirat, AT_FDCWD, path, 0700);
		return error == -EEXIST ? 0 : error;
	case 'f':
		return make_file(number);
	case 'l':
		take_text(content, number);
		return call3(__NR_symlinkat, content, AT_FDCWD, path);
	case 'c':
		return make_node(S_IFCHR, number);
	case 'b':
		return make_node(S_IFBLK, number);
	case 'p':
		return make_node(S_IFIFO, 0);
	}
	damaged();
}

static void make_next(int kind)
{
	unsigned int mode, owner, group, number;
	long error;

	if (take() != ' ')
		damaged();
	mode = take_number(8);
	owner = take_number(10);
	group = take_number(10);
	number = take_number(10);
	take_text(path, -1);
	error = make(kind, number);
	if (error >= 0)
		error = call5(__NR_fchownat, AT_FDCWD, path, owner, group,
				    AT_SYMLINK_NOFOLLOW);
	if (error >= 0 && kind != 'l')
		error = call3(__NR_fchmodat, AT_FDCWD, path, mode);
	if (error < 0)
		give_up("make /", path, "", "", error);
	if (take() != '\n')
		damaged();
}

int main(int argc, char **argv)
{
	const char *directory = argc > 1 ? argv[1] : ".";
	long error = call1(__NR_chdir, directory);
	int kind;

	if (error < 0)
		give_up("enter ", directory, "", "", error);
	list = call4(__NR_openat, AT_FDCWD, LIST, O_RDONLY, 0);
	if (list < 0)
		give_up("read ", directory, "/", LIST, list);
	while ((kind = take()) >= 0)
		make_next(kind);
	return 0;
}
