/* Changes its heap by every function of malloc's, on command, in a way that its number decides.
 *
 * Commands on stdin, one a line, answered by one line on stdout:
 *   run N     each of its threads does N changes, and so does one that ends; answers "ran"
 *   busy      its threads make changes until the next command; answers "busy"
 *   idle      answers "idle"
 *   list      answers with the addresses of all blocks that it holds
 *   fork N    a child does N changes, and is waited for; answers "forked"
 *   exec      becomes another program, which answers "execed"
 * Answering, it uses no stdio, so that all of its blocks are those of its threads. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_THREADS = 16, SLOTS = 512 };
static int threads = 3;

struct table {
    uint64_t random;
    void *slots[SLOTS];
};
/* The last is of the thread that ends. */
static struct table tables[MAX_THREADS + 1];
static void *shared[SLOTS];

static pthread_barrier_t begin, end;
static unsigned long changes;
static int busy, halt;
static int command;

static uint32_t next(struct table *t) {
    t->random = t->random * 6364136223846793005u + 1442695040888963407u;
    return t->random >> 33;
}

static size_t size(struct table *t) {
    switch (next(t) % 16) {
    case 0:
        return next(t) % 400000; /* some of them with a mapping of their own */
    case 1:
    case 2:
        return next(t) % 20000;
    default:
        return next(t) % 600;
    }
}

static void *new_block(struct table *t) {
    void *block = NULL;
    switch (next(t) % 8) {
    case 0:
        return calloc(next(t) % 9, size(t) / 8);
    case 1:
        return posix_memalign(&block, 8u << next(t) % 10, size(t)) ? NULL : block;
    case 2:
        return memalign(16u << next(t) % 8, size(t));
    case 3:
        return aligned_alloc(64, 64 * (size(t) / 64));
    case 4:
        return strdup("a block that libc allocates for its caller");
    case 5:
        return next(t) % 50 ? reallocarray(NULL, next(t) % 7, size(t) / 4) : valloc(size(t));
    default:
        return malloc(size(t));
    }
}

static void change(struct table *t) {
    void **slot = &t->slots[next(t) % SLOTS];
    switch (next(t) % 8) {
    case 0:
    case 1: {
        size_t bytes = size(t);
        void *moved = realloc(*slot, bytes);
        if (moved != NULL || bytes == 0)
            *slot = moved;
        break;
    }
    case 2: /* fails: the block lives on */
        if (realloc(*slot, SIZE_MAX / 4) != NULL || malloc(SIZE_MAX / 4) != NULL)
            abort();
        break;
    case 3: { /* goes to another thread, which frees it */
        void **other = &shared[next(t) % SLOTS];
        *slot = __atomic_exchange_n(other, *slot, __ATOMIC_ACQ_REL);
        break;
    }
    default:
        free(*slot);
        *slot = next(t) % 4 ? new_block(t) : NULL;
    }
}

static void change_all(struct table *t) {
    for (unsigned long i = 0; i < changes && !__atomic_load_n(&halt, __ATOMIC_ACQUIRE); i++)
        change(t);
}

static void *serve(void *table) {
    for (;;) {
        pthread_barrier_wait(&begin);
        change_all(table);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static void *serve_once(void *table) {
    change_all(table);
    return NULL;
}

static void answer(const char *line) {
    if (write(1, line, strlen(line)) < 0)
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
    changes = number ? strtoul(number, NULL, 10) : 0;
    return length > 0;
}

static void run(void) {
    pthread_t once;
    if (pthread_create(&once, NULL, serve_once, &tables[MAX_THREADS]))
        abort();
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&end);
    pthread_join(once, NULL);
}

/* The addresses of all blocks that it holds. */
static void list(void) {
    static char line[17 * (MAX_THREADS + 2) * SLOTS + 2];
    char *to = line;
    for (int i = 0; i < (MAX_THREADS + 2) * SLOTS; i++) {
        int table = i / SLOTS;
        void *block = table > MAX_THREADS ? shared[i % SLOTS] : tables[table].slots[i % SLOTS];
        for (int shift = 60; block != NULL && shift >= 0; shift -= 4)
            *to++ = "0123456789abcdef"[(uintptr_t)block >> shift & 15];
        if (block != NULL)
            *to++ = ' ';
    }
    *to++ = '\n';
    *to = 0;
    answer(line);
}

static void fork_and_wait(void) {
    pid_t child = fork();
    if (child == 0) {
        change_all(&tables[0]);
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
    for (int i = 0; i <= MAX_THREADS; i++)
        tables[i].random = i + 1;
    pthread_barrier_init(&begin, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, &tables[i]))
            return 1;
    }
    answer("ready\n");
    while (read_command()) {
        if (busy) {
            __atomic_store_n(&halt, 1, __ATOMIC_RELEASE);
            pthread_barrier_wait(&end);
            busy = halt = 0;
        }
        switch (command) {
        case 'f':
            fork_and_wait();
            answer("forked\n");
            break;
        case 'b':
            busy = 1;
            changes = -1;
            pthread_barrier_wait(&begin);
            answer("busy\n");
            break;
        case 'i':
            answer("idle\n");
            break;
        case 'l':
            list();
            break;
        case 'e':
            execlp("sh", "sh", "-c", "echo execed; read line", (char *)NULL);
            return 1;
        default:
            run();
            answer("ran\n");
        }
    }
    return 0;
}
