/* Goes into the copy of Debian's libseccomp.a that is linked: names that it asks of glibc and musl does not have, and two functions that are
 * smaller here, since Wherry has no use for what they print. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#ifdef __arm__
/* Debian compiles for armhf with 64-bit time, for which glibc has these two under a second name. musl has one of each, with 64-bit time.
 * libseccomp asks for no time: it makes SECCOMP_IOCTL_* requests and sets PR_SET_NO_NEW_PRIVS and PR_SET_SECCOMP. */
int __ioctl_time64(int descriptor, unsigned long request, void *argument)
{
	return ioctl(descriptor, request, argument);
}

int __prctl_time64(int option, unsigned long second, unsigned long third, unsigned long fourth, unsigned long fifth)
{
	return prctl(option, second, third, fourth, fifth);
}
#endif

/* In place of gen_pfc.o: no "pseudo filter code" for people to read (seccomp_export_pfc), which Wherry never asks for. */
int gen_pfc_generate(const void *filter, int descriptor)
{
	(void)filter;
	(void)descriptor;
	return -EOPNOTSUPP;
}

/* A failed assertion ends the process as it does in the C library, without its sentence: the functions that print it are ten kilobytes. */
void __assert_fail(const char *what, const char *file, int line, const char *function)
{
	(void)what;
	(void)file;
	(void)line;
	(void)function;
	abort();
}
