/* SPDX-License-Identifier: MIT */
/*
 * conf_answers - preloaded into a kernel's conf: asks the shell everything once.
 *
 * Kconfig's $(shell) is popen(3) (scripts/kconfig/preprocess.c, do_shell()).
 * Some 90 of them ask what compiler, assembler and linker can do, and take
 * ten times as long as all the rest of conf.  A remedy takes a dozen runs of
 * conf that differ in nothing but symbols, and to each the answers are the
 * same.
 *
 * KERNELVM_ANSWERS names a directory with one file a question, named by its
 * hash: the question, a zero byte, the answer.  Without it all is as usual.
 * shell_cache.py reads the same.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As 64-bit FNV-1a. */
static uint64_t hash(const char *text)
{
	uint64_t sum = 0xcbf29ce484222325;

	while (*text)
		sum = (sum ^ (unsigned char)*text++) * 0x100000001b3;
	return sum;
}

/* Return a file's answer, to be read from there on, if it is to this question. */
static FILE *answer_in(const char *path, const char *question)
{
	FILE *file = fopen(path, "re");

	if (!file)
		return NULL;
	while (getc(file) == (unsigned char)*question)
		if (!*question++)
			return file;
	fclose(file);
	return NULL;
}

/* Have the shell asked, and write its answer where the next one finds it. */
static void ask(FILE *shell, const char *path, const char *question)
{
	char temporary[PATH_MAX], buffer[4096];
	size_t length;
	FILE *file;

	snprintf(temporary, sizeof(temporary), "%s.%d", path, getpid());
	file = fopen(temporary, "we");
	if (!file)
		return;
	fwrite(question, 1, strlen(question) + 1, file);
	while ((length = fread(buffer, 1, sizeof(buffer), shell)) > 0)
		fwrite(buffer, 1, length, file);
	if (ferror(file) | fclose(file) || rename(temporary, path))
		unlink(temporary);
}

/* What popen() returned without a process behind it. */
static FILE *answer;

int pclose(FILE *stream)
{
	int (*end)(FILE *) = dlsym(RTLD_NEXT, "pclose");

	if (stream != answer)
		return end(stream);
	answer = NULL;
	return fclose(stream);
}

FILE *popen(const char *command, const char *type)
{
	FILE *(*start)(const char *, const char *) = dlsym(RTLD_NEXT, "popen");
	const char *directory = getenv("KERNELVM_ANSWERS");
	char path[PATH_MAX - 16];
	FILE *shell;

	if (!directory || *type != 'r')
		return start(command, type);
	snprintf(path, sizeof(path), "%s/%016llx", directory,
		 (unsigned long long)hash(command));
	answer = answer_in(path, command);
	if (answer)
		return answer;
	shell = start(command, type);
	if (!shell)
		return NULL;
	ask(shell, path, command);
	pclose(shell);
	answer = answer_in(path, command);
	/* A full disk keeps nothing. */
	return answer ? answer : start(command, type);
}
