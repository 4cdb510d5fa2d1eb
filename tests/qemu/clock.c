/* clock [SECONDS]: sets the wall clock of a 32-bit guest, whose busybox cannot say a year after 2038, and prints it in seconds since 1970. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

_Static_assert(sizeof(time_t) == 8, "a time of 64 bits");

int main(int count, char **words)
{
    struct timespec now = {0};
    if (count > 1) {
        now.tv_sec = strtoll(words[1], NULL, 10);
        if (clock_settime(CLOCK_REALTIME, &now)) {
            perror("clock_settime");
            return 1;
        }
    }
    if (clock_gettime(CLOCK_REALTIME, &now)) {
        perror("clock_gettime");
        return 1;
    }
    printf("%lld\n", (long long)now.tv_sec);
    return 0;
}
