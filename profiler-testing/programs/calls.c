/* Makes an exact number of calls of each allocation function, on command, and tells how many.
 *
 * Commands on stdin, one a line, answered by one line on stdout:
 *   run N    each thread makes N rounds of calls; answers "ran ALLOCS FREES BYTES"
 *   spin N   each thread makes N malloc and free pairs; answers "spun"
 *   fork N   a child makes N pairs, and is waited for; answers "forked"
 * It uses no stdio and starts its threads beforehand, so that nothing else allocates. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* How many: the first argument, else 3. */
enum { MAX_THREADS = 16 };
static int threads = 3;

struct tally {
    unsigned long allocs, frees, bytes;
};

static pthread_barrier_t begin, end;
static unsigned long rounds;
static int command;
static struct tally tallies[MAX_THREADS];

static void *got(struct tally *t, void *block) {
    if (block == NULL)
        abort();
    t->allocs++;
    t->bytes += malloc_usable_size(block);
    return block;
}

static void give(struct tally *t, void *block) {
    t->frees++;
    free(block);
}

static void *grown(struct tally *t, void *old, size_t size) {
    t->frees += old != NULL;
    return got(t, realloc(old, size));
}

/* Tried and failed: told as a free and an allocation of the same block. */
static void failed(struct tally *t, void *block, void *result) {
    if (result != NULL)
        abort();
    t->frees++;
    got(t, block);
}

static void round_of_calls(struct tally *t) {
    void *p, *q;
    give(t, got(t, malloc(100)));
    give(t, got(t, calloc(3, 40)));
    p = grown(t, NULL, 50);
    p = grown(t, p, 500);
    q = got(t, malloc(10)); /* keeps the next one from growing in place */
    p = grown(t, p, 5000);
    give(t, q);
    t->frees++;
    if (realloc(p, 0) != NULL)
        abort();
    if (posix_memalign(&p, 64, 200))
        abort();
    give(t, got(t, p));
    if (posix_memalign(&p, 8, 24)) /* served by malloc */
        abort();
    give(t, got(t, p));
    if (posix_memalign(&p, 3, 24) == 0) /* refused */
        abort();
    give(t, got(t, aligned_alloc(64, 256)));
    give(t, got(t, valloc(100)));
    give(t, got(t, memalign(256, 300)));
    p = got(t, reallocarray(NULL, 10, 10));
    t->frees++;
    give(t, got(t, reallocarray(p, 20, 20)));
    free(NULL);
    p = got(t, malloc(200000)); /* a mapping of its own */
    p = grown(t, p, 400000);    /* mremap */
    p = grown(t, p, 100);       /* back into the heap */
    failed(t, p, realloc(p, SIZE_MAX / 4));
    failed(t, p, reallocarray(p, SIZE_MAX, 2));
    give(t, p);
}

static void pairs(unsigned long count) {
    while (count--) {
        void *volatile p = malloc(40);
        free(p);
    }
}

static void work(int thread) {
    if (command == 'r')
        for (unsigned long i = 0; i < rounds; i++)
            round_of_calls(&tallies[thread]);
    else
        pairs(rounds);
}

static void *serve(void *thread) {
    for (;;) {
        pthread_barrier_wait(&begin);
        work((int)(intptr_t)thread);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static char *put(char *to, unsigned long number) {
    char digits[24], *d = digits + sizeof digits;
    do
        *--d = '0' + number % 10;
    while (number /= 10);
    *to++ = ' ';
    memcpy(to, d, digits + sizeof digits - d);
    return to + (digits + sizeof digits - d);
}

static void answer(const char *word, const struct tally *t) {
    char line[128], *to = stpcpy(line, word);
    if (t != NULL)
        to = put(put(put(to, t->allocs), t->frees), t->bytes);
    *to++ = '\n';
    if (write(1, line, to - line) < 0)
        _exit(1);
}

static int read_command(void) {
    char line[64];
    size_t length = 0;
    while (length < sizeof line - 1 && read(0, line + length, 1) == 1 && line[length] != '\n')
        length++;
    line[length] = 0;
    command = line[0];
    char *number = strchr(line, ' ');
    rounds = number ? strtoul(number, NULL, 10) : 0;
    return length > 0;
}

static void fork_and_wait(void) {
    pid_t child = fork();
    if (child == 0) {
        pairs(rounds);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        abort();
}

int main(int count, char **arguments) {
    if (count > 1)
        threads = atoi(arguments[1]);
    if (threads < 1 || threads > MAX_THREADS)
        return 2;
    pthread_barrier_init(&begin, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (intptr_t i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, (void *)i))
            return 1;
    }
    answer("ready", NULL);
    while (read_command()) {
        if (command == 'f') {
            fork_and_wait();
            answer("forked", NULL);
            continue;
        }
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        struct tally sum = {0, 0, 0};
        for (int i = 0; i < threads; i++) {
            sum.allocs += tallies[i].allocs;
            sum.frees += tallies[i].frees;
            sum.bytes += tallies[i].bytes;
        }
        memset(tallies, 0, sizeof tallies);
        if (command == 'r')
            answer("ran", &sum);
        else
            answer("spun", NULL);
    }
    return 0;
}
