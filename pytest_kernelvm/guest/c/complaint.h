/* SPDX-License-Identifier: MIT */
/*
 * One line in the kernel's log about what could not be done, with the name of
 * the error.  PROGRAM is who says so.
 *
 * It goes to /dev/kmsg where that is what the descriptor is: a line on a tty
 * may still be on its way when the kernel panics.
 */

#include "calls.h"

struct error_name {
	unsigned char number;
	char name[13];
};

#define ERROR(name) { name, #name }

static const struct error_name error_names[] = {
	ERROR(EPERM), ERROR(ENOENT), ERROR(EIO), ERROR(ENXIO), ERROR(E2BIG),
	ERROR(ENOEXEC), ERROR(EAGAIN), ERROR(ENOMEM), ERROR(EACCES), ERROR(ENOTBLK),
	ERROR(EBUSY), ERROR(EEXIST), ERROR(ENODEV), ERROR(ENOTDIR), ERROR(EISDIR),
	ERROR(EINVAL), ERROR(EFBIG), ERROR(ENOSPC), ERROR(EROFS), ERROR(ENOSYS),
	ERROR(ELOOP), ERROR(ENAMETOOLONG), ERROR(EBADMSG), ERROR(EUCLEAN), { 0, "error " },
};

static char complaint[512];
static unsigned int complaint_length;
static int complaints = 2; /* the descriptor that they are written to */

static void tell(const char *text)
{
	while (*text && complaint_length < sizeof(complaint) - 1)
		complaint[complaint_length++] = *text++;
}

static const char *in_digits(unsigned int number)
{
	static char digits[11];
	char *first = digits + sizeof(digits) - 1;

	do
		*--first = '0' + number % 10;
	while (number /= 10);
	return first;
}

/* End with the line `PROGRAM: cannot DO WHAT HOW WHOM: why`; error 0 has no name. */
static void __attribute__((noreturn)) give_up(const char *todo, const char *what,
					       const char *how, const char *whom,
					       long error)
{
	const struct error_name *known = error_names;

	tell("<3>" PROGRAM ": cannot ");
	tell(todo);
	tell(what);
	tell(how);
	tell(whom);
	if (error) {
		tell(": ");
		while (known->number && known->number != -error)
			known++;
		tell(known->name);
		if (!known->number)
			tell(in_digits(-error));
	}
	complaint[complaint_length++] = '\n';
	call3(__NR_write, complaints, complaint, complaint_length);
	call1(__NR_exit, 1);
	__builtin_unreachable();
}
