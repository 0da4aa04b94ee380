/* Threads that allocate and free small blocks all the time; their number and their bytes stay about the same.
 *
 * CHURNING_MIB is how much they have, CHURNING_FORKS=1 has it fork children that end at once. Asked, it prints the
 * blocks that it has, their bytes as malloc_usable_size() has them, and for how many ns a thread that looks at the
 * clock all the time has not run at most since it was asked last. */
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 2, MEAN = 516 };

static atomic_long blocks, bytes, worst, filled, rounds;
static long slots;

static long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}

static void pause_ns(long ns) {
    struct timespec time = {0, ns};
    nanosleep(&time, NULL);
}

static uint64_t next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static char *allocate(uint64_t *state) {
    size_t wanted = 16 + next(state) % 1000;
    char *block = malloc(wanted);
    if (!block) abort();
    memset(block, (int)wanted, wanted);
    atomic_fetch_add(&blocks, 1);
    atomic_fetch_add(&bytes, malloc_usable_size(block));
    return block;
}

static void *churn(void *number) {
    uint64_t state = (uint64_t)(uintptr_t)number;
    char **own = calloc(slots, sizeof *own);
    if (!own) abort();
    for (long i = 0; i < slots; i++) own[i] = allocate(&state);
    atomic_fetch_add(&filled, 1);
    for (;;) {
        for (int i = 0; i < 256; i++) {
            char **slot = &own[next(&state) % slots];
            atomic_fetch_sub(&blocks, 1);
            atomic_fetch_sub(&bytes, malloc_usable_size(*slot));
            free(*slot);
            *slot = allocate(&state);
        }
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void *watch(void *none) {
    (void)none;
    for (long before = now();;) {
        pause_ns(200000);
        long after = now();
        if (after - before > worst) worst = after - before;
        before = after;
    }
    return NULL;
}

static void *fork_all_the_time(void *none) {
    (void)none;
    for (;;) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, NULL, 0);
        pause_ns(1000000);
    }
    return NULL;
}

int main(void) {
    const char *mib = getenv("CHURNING_MIB");
    slots = (mib ? atol(mib) : 300) * (1L << 20) / THREADS / MEAN;
    pthread_t thread;
    for (uintptr_t i = 1; i <= THREADS; i++) pthread_create(&thread, NULL, churn, (void *)i);
    while (filled < THREADS || rounds < 2 * THREADS) pause_ns(1000000);
    pthread_create(&thread, NULL, watch, NULL);
    if (getenv("CHURNING_FORKS")) pthread_create(&thread, NULL, fork_all_the_time, NULL);
    puts("READY");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        printf("%ld %ld %ld\n", (long)blocks, (long)bytes, (long)worst);
        worst = 0;
        fflush(stdout);
    }
    return 0;
}
