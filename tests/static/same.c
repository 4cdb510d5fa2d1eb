/* Asks libseccomp's own table of system calls (their_…) and the one that takes its place the same things: every name, and every number in use. */
#include <stdio.h>
#include <string.h>

struct call { const char *name; unsigned int num; };

#define TABLE(of) \
	int of##syscall_resolve_name(const char *, int); \
	const char *of##syscall_resolve_num(int, int); \
	int of##syscall_resolve_name_kver(const char *, int); \
	int of##syscall_resolve_num_kver(int, int, int); \
	const struct call *of##syscall_iterate(unsigned int, int);
TABLE()
TABLE(their_)

static long asked, differ;

static void same(int equal)
{
	asked++;
	differ += !equal;
}

static void number(int value, int offset)
{
	const char *theirs = their_syscall_resolve_num(value, offset), *ours = syscall_resolve_num(value, offset);

	same(theirs && ours ? !strcmp(theirs, ours) : theirs == ours);
	same(their_syscall_resolve_num_kver(value, offset, offset + 4) == syscall_resolve_num_kver(value, offset, offset + 4));
}

static void name(const char *word, int offset)
{
	same(their_syscall_resolve_name(word, offset) == syscall_resolve_name(word, offset));
	same(their_syscall_resolve_name_kver(word, offset + 4) == syscall_resolve_name_kver(word, offset + 4));
}

int main(void)
{
	/* x86, x86_64, x32, arm, aarch64: where their numbers stand in a row */
	for (int offset = 8; offset <= 40; offset += 8) {
		for (unsigned int row = 0; their_syscall_iterate(row, offset)->name; row++)
			name(their_syscall_iterate(row, offset)->name, offset);
		name("no_such_call", offset);
		name("", offset);
		for (int value = -11000; value < 2000; value++)
			number(value, offset);
		for (int value = 983000; value < 984000; value++)
			number(value, offset);
	}
	printf("%ld asked, %ld differ\n", asked, differ);
	return differ != 0;
}
