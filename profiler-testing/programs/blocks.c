/* Allocates and frees by a seeded pattern in several threads, then says every live block as
 * "address:size" in hexadecimal and stands still until its input closes. Before, when its threads
 * run and it has allocated nothing, it says "ready" and waits for a line. (Each thread has taken and
 * freed one block by then, so that what the allocator itself keeps for a thread is there.)
 *
 * Blocks are handed from thread to thread, so that some are freed by another thread than took
 * them. Usage: blocks THREADS STEPS SEED
 *
 * All that the program itself keeps lies in one mapping of its own, so that it adds nothing to the
 * heap. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 4096, MAX_THREADS = 16 };

struct block {
    void *addr;
    size_t size;
};

struct shared {
    /* Each slot has its owner, who alone touches it between two barriers. */
    struct block blocks[MAX_THREADS][SLOTS];
    pthread_barrier_t round;
    unsigned threads, steps;
    uint64_t seed;
};

static struct shared *shared;

static void say(const char *text, size_t len) {
    while (len) {
        ssize_t done = write(1, text, len);
        if (done <= 0)
            _exit(1);
        text += done;
        len -= (size_t)done;
    }
}

static uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t draw_size(uint64_t *state) {
    uint64_t kind = draw(state) % 1000;
    if (kind < 700)
        return 1 + draw(state) % 512;
    if (kind < 900)
        return 1 + draw(state) % 8192;
    if (kind < 985)
        return 1 + draw(state) % (200 << 10);
    if (kind < 999)
        return 1 + draw(state) % (3 << 20);
    return 17u << 20 | draw(state) % (20 << 20);
}

static void take(struct block *block, uint64_t *state) {
    block->size = draw_size(state);
    switch (draw(state) % 8) {
    case 0:
        block->addr = aligned_alloc((size_t)32 << draw(state) % 9, block->size);
        break;
    case 1:
        block->addr = calloc(1, block->size);
        break;
    case 2:
        block->addr = realloc(malloc(1 + block->size / 3), block->size);
        break;
    default:
        block->addr = malloc(block->size);
    }
    if (!block->addr)
        abort();
    memset(block->addr, 0xa5, block->size < 256 ? block->size : 256);
}

static void *work(void *number) {
    unsigned self = (unsigned)(uintptr_t)number;
    uint64_t state = shared->seed * 2654435761u + self * 40503u + 1;
    free(malloc(1));
    pthread_barrier_wait(&shared->round);
    if (!self) {
        char byte = 0;
        say("ready\n", 6);
        while (byte != '\n')
            if (read(0, &byte, 1) <= 0)
                _exit(0);
    }
    pthread_barrier_wait(&shared->round);
    /* Each round works on another thread's blocks. */
    for (unsigned round = 0; round < shared->threads + 2; round++) {
        struct block *blocks = shared->blocks[(self + round) % shared->threads];
        for (unsigned step = 0; step < shared->steps; step++) {
            struct block *block = &blocks[draw(&state) % SLOTS];
            if (block->addr) {
                free(block->addr);
                block->addr = NULL;
            } else {
                take(block, &state);
            }
        }
        pthread_barrier_wait(&shared->round);
    }
    /* Frees most of what it has last, so that whole pages and groups become empty. */
    struct block *blocks = shared->blocks[self];
    for (unsigned i = 0; i < SLOTS; i++) {
        if (blocks[i].addr && draw(&state) % 4) {
            free(blocks[i].addr);
            blocks[i].addr = NULL;
        }
    }
    pthread_barrier_wait(&shared->round);
    if (self)
        pause();
    return NULL;
}

int main(int argc, char **argv) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 4 || shared == MAP_FAILED)
        return 2;
    shared->threads = (unsigned)atoi(argv[1]);
    shared->steps = (unsigned)atoi(argv[2]);
    shared->seed = (uint64_t)atoll(argv[3]);
    pthread_barrier_init(&shared->round, NULL, shared->threads);
    for (unsigned i = 1; i < shared->threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)i))
            return 3;
    }
    work(NULL);
    for (unsigned t = 0; t < shared->threads; t++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            struct block *block = &shared->blocks[t][i];
            char text[64];
            if (block->addr)
                say(text, (size_t)snprintf(text, sizeof text, "%lx:%zx ",
                                           (unsigned long)block->addr, block->size));
        }
    }
    say("\n", 1);
    char end;
    return read(0, &end, 1) < 0;
}
