// Executes itself again and again while other threads of it allocate and many wait: by its first thread, or by
// another one (`execs other`). After each it prints how long that took, in milliseconds, and the time, in ns of
// CLOCK_MONOTONIC.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <pthread.h>

static char **arguments;

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void *allocate(void *slot) {
    void *kept[200] = {0};
    unsigned random = (unsigned)(long)slot;
    for (;;) {
        random = random * 1103515245 + 12345;
        unsigned place = (random >> 16) % 200;
        free(kept[place]);
        kept[place] = malloc(16 + (random >> 8) % 3000);
    }
    return 0;
}

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

static void execute(void) {
    char since[32];
    usleep(random() % 5000);
    snprintf(since, sizeof since, "%ld", now_ns());
    execv("/proc/self/exe", (char *[]){arguments[0], arguments[1], since, 0});
    _exit(9);
}

static void *execute_aside(void *unused) {
    (void)unused;
    execute();
    return 0;
}

int main(int count, char **given) {
    pthread_t thread;
    arguments = given;
    long now = now_ns();
    printf("%ld %ld\n", count > 2 ? (now - atol(given[2])) / 1000000 : 0, now);
    fflush(stdout);
    srandom(now_ns());
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    // So many that one of them is just about to be traced when it executes.
    for (int i = 0; i < 200; i++)
        pthread_create(&thread, &small, wait_for_ever, 0);
    for (long slot = 0; slot < 6; slot++)
        pthread_create(&thread, 0, allocate, (void *)slot);
    if (strcmp(given[1], "other") == 0) {
        pthread_create(&thread, 0, execute_aside, 0);
        for (;;)
            pause();
    }
    execute();
}
