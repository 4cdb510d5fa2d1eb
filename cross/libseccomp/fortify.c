/* Debian compiles libseccomp with _FORTIFY_SOURCE, so its archive calls glibc's checking fprintf, which musl lacks. The check only
 * refuses %n in writable memory; libseccomp's formats are constants. */
#include <stdarg.h>
#include <stdio.h>

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
