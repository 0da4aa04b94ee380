// As many threads as its argument says, all of which wait.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

int main(int count, char **arguments) {
    pthread_attr_t small;
    pthread_t thread;
    char line[16];
    if (count < 2) return 1;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    pthread_attr_setguardsize(&small, 0);
    for (long left = atol(arguments[1]); left > 0; left--)
        if (pthread_create(&thread, &small, wait_for_ever, 0)) return 1;
    puts("ready");
    fflush(stdout);
    return read(0, line, sizeof line) < 0;
}
