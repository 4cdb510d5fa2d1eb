/* Names that Debian's libseccomp.a asks of glibc and that musl does not have; each does here what it does there. */
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

/* Debian compiles with _FORTIFY_SOURCE, so its archive calls glibc's checking fprintf. The check only refuses %n in writable memory;
 * libseccomp's formats are constants. */
int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
	va_list arguments;
	int written;

	(void)flag;
	va_start(arguments, format);
	written = vfprintf(stream, format, arguments);
	va_end(arguments);
	return written;
}

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
