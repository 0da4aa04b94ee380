/* A program in C: a table of blobs that are replaced, grown by realloc, and dropped. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 60000 };

static char **slots;
static size_t *sizes;
static uint64_t state = 88172645463325252u;
static int ask_fd = -1, answer_fd = -1;

static uint64_t chance(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void moment(const char *name)
{
    char c = 0;
    if (ask_fd < 0)
        return;
    dprintf(ask_fd, "%s\n", name);
    if (read(answer_fd, &c, 1) != 1)
        exit(1);
}

static size_t some_size(void)
{
    switch (chance(8)) {
    case 0: return 16 + chance(48);
    case 1: return 64 + chance(200);
    case 2: return 300 + chance(700);
    case 3: return 1000 + chance(3000);
    case 4: return chance(50) ? 32 : 4096 + chance(300000);
    default: return 24 + chance(1000);
    }
}

static void replace(unsigned i)
{
    free(slots[i]);
    sizes[i] = some_size();
    slots[i] = chance(4) ? malloc(sizes[i]) : calloc(1, sizes[i]);
    memset(slots[i], 1, sizes[i]);
}

static void grow(unsigned i)
{
    size_t more = sizes[i] + sizes[i] / 2 + 8;
    if (more > 400000)
        more = 64;
    slots[i] = realloc(slots[i], more);
    memset(slots[i], 2, more);
    sizes[i] = more;
}

static void churn(int steps, int each, unsigned used)
{
    for (int step = 0; step < steps; step++) {
        struct timespec pause = {0, 200000000};
        for (int n = 0; n < each; n++) {
            unsigned i = (unsigned)chance(used);
            if (chance(5))
                replace(i);
            else
                grow(i);
        }
        nanosleep(&pause, NULL);
    }
}

static void drop(unsigned percent)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (chance(100) < percent) {
            free(slots[i]);
            slots[i] = NULL;
            sizes[i] = 0;
        }
}

int main(void)
{
    if (getenv("ACCURACY_ASK")) {
        ask_fd = open(getenv("ACCURACY_ASK"), O_WRONLY);
        answer_fd = open(getenv("ACCURACY_ANSWER"), O_RDONLY);
    }
    slots = calloc(SLOTS, sizeof *slots);
    sizes = calloc(SLOTS, sizeof *sizes);
    churn(6, 40000, 20000);
    moment("warm");
    churn(10, 60000, SLOTS);
    moment("full");
    drop(90);
    moment("dropped");
    churn(8, 10000, 12000);
    moment("again");
    drop(97);
    churn(6, 100, 500);
    moment("final");
    return 0;
}
