// Counts the queued signals that it gets, and says how many at every line that it is told.
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static atomic_long count;

static void counted(int signal) {
    (void)signal;
    atomic_fetch_add(&count, 1);
}

int main(void) {
    struct sigaction action = {.sa_handler = counted, .sa_flags = SA_RESTART};
    sigaction(SIGRTMIN + 1, &action, 0);
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        printf("%ld\n", atomic_load(&count));
        fflush(stdout);
    }
    return 0;
}
