/* Builds a heap of the kind that its argument names, and gives glibc's own account of it.
   Three lines a report: mallinfo2 and the pid; malloc_info by arena; the blocks in use.
   Nothing between the account and the next line of input allocates. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 4000
#define MAX_THREADS 16

struct worker {
    pthread_t thread;
    uint64_t random;
    size_t largest;
    void *slots[SLOTS];
};

static struct worker workers[MAX_THREADS];
static pthread_barrier_t start, done;
static char info_buffer[1 << 16], text[1 << 22];
static size_t written;
static FILE *info;
static int info_fd;

static void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    written += vsnprintf(text + written, sizeof text - written, format, args);
    va_end(args);
}

static void send_text(void) {
    for (size_t sent = 0; sent < written;) {
        ssize_t n = write(1, text + sent, written - sent);
        if (n <= 0) _exit(1);
        sent += n;
    }
    written = 0;
}

/* The first letter of the next line of input; the end of input ends the program. */
static char next_command(void) {
    char first = 0, letter = 0;
    while (letter != '\n') {
        if (read(0, &letter, 1) <= 0) _exit(0);
        if (!first) first = letter;
    }
    return first;
}

static void report_arenas(void) {
    static char xml[1 << 20];
    rewind(info);
    if (ftruncate(info_fd, 0) || malloc_info(0, info) || fflush(info)) _exit(2);
    ssize_t n = pread(info_fd, xml, sizeof xml - 1, 0);
    if (n <= 0) _exit(3);
    xml[n] = 0;
    for (char *heap = strstr(xml, "<heap nr="); heap; heap = strstr(heap + 1, "<heap nr=")) {
        size_t fast = 0, fast_bytes = 0, rest, rest_bytes, system;
        char *totals = strstr(heap, "<total type=");
        /* 2.43 has no fastbins. */
        if (sscanf(totals, "<total type=\"fast\" count=\"%zu\" size=\"%zu\"/>", &fast,
                   &fast_bytes) == 2)
            totals = strstr(totals + 1, "<total type=");
        if (sscanf(totals,
                   "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n"
                   "<system type=\"current\" size=\"%zu\"/>",
                   &rest, &rest_bytes, &system) != 3)
            _exit(4);
        say("%zu %zu %zu %zu %zu;", fast, fast_bytes, rest, rest_bytes, system);
    }
    say("\n");
}

/* Not there before 2.33. */
extern struct mallinfo2 mallinfo2(void) __attribute__((weak));

static struct mallinfo2 totals(void) {
    if (mallinfo2) return mallinfo2();
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo m = mallinfo();
#define FIELD(name) .name = (unsigned)m.name
    return (struct mallinfo2){FIELD(arena), FIELD(ordblks), FIELD(smblks), FIELD(hblks),
                              FIELD(hblkhd), FIELD(fsmblks), FIELD(uordblks), FIELD(fordblks)};
}

static void report(void) {
    struct mallinfo2 m = totals();
    say("%d %zu %zu %zu %zu %zu %zu %zu %zu\n", getpid(), m.arena, m.ordblks, m.smblks, m.hblks,
        m.hblkhd, m.fsmblks, m.uordblks, m.fordblks);
    report_arenas();
    for (int w = 0; w < MAX_THREADS; w++)
        for (int i = 0; i < SLOTS; i++)
            if (workers[w].slots[i])
                say("%lx:%zx ", (unsigned long)workers[w].slots[i],
                    malloc_usable_size(workers[w].slots[i]));
    say("\n");
    send_text();
}

static uint64_t random_number(struct worker *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static size_t random_size(struct worker *w) {
    uint64_t kind = random_number(w) % 100, r = random_number(w);
    if (kind < 70) return r % 400;
    if (kind < 95) return r % 5000;
    return r % w->largest;
}

static void work(struct worker *w) {
    for (int round = 0; round < 40000; round++) {
        void **slot = &w->slots[random_number(w) % SLOTS];
        uint64_t what = random_number(w) % 100;
        if (*slot && what < 80) {
            free(*slot);
            *slot = NULL;
        } else if (*slot) {
            *slot = realloc(*slot, 1 + random_size(w));
        } else if (what < 95) {
            size_t size = random_size(w);
            *slot = malloc(size);
            memset(*slot, 0x5a, size);
        } else {
            size_t size = 1 + random_size(w);
            *slot = memalign((size_t)32 << (random_number(w) % 8), size);
            memset(*slot, 0xa5, size);
        }
    }
    /* Leaves holes, and caches and fastbins full: a large free or allocation would empty these. */
    for (int i = 0; i < SLOTS; i += 3) {
        free(w->slots[i]);
        w->slots[i] = NULL;
    }
    for (int i = 1; i < SLOTS; i += 3)
        if (!w->slots[i]) w->slots[i] = malloc(random_number(w) % 100);
    for (int i = 1; i < SLOTS; i += 6)
        if (w->slots[i] && malloc_usable_size(w->slots[i]) < 110) {
            free(w->slots[i]);
            w->slots[i] = NULL;
        }
}

static void *thread(void *argument) {
    pthread_barrier_wait(&start);
    work(argument);
    pthread_barrier_wait(&done);
    pause();
    return NULL;
}

static void mapped(struct worker *w) {
    mallopt(M_MMAP_THRESHOLD, 64 << 10);
    for (int i = 0; i < 400; i++) {
        size_t size = (64 << 10) + random_number(w) % (256 << 10);
        if (i % 3 == 0)
            w->slots[i] = memalign((size_t)32 << (random_number(w) % 16), size);
        else
            w->slots[i] = malloc(size);
        memset(w->slots[i], 0x11, size);
    }
    for (int i = 0; i < 400; i += 5)
        w->slots[i] = realloc(w->slots[i], (80 << 10) + random_number(w) % (1 << 20));
    for (int i = 0; i < 400; i += 7) {
        free(w->slots[i]);
        w->slots[i] = NULL;
    }
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "single";
    info_fd = memfd_create("info", 0);
    info = fdopen(info_fd, "w+");
    setvbuf(info, info_buffer, _IOFBF, sizeof info_buffer);
    int threads = strcmp(kind, "threads") ? 0 : 8;
    for (int i = 0; i < MAX_THREADS; i++) {
        workers[i].random = 88172645463325252ull + 977 * i;
        workers[i].largest = 300 << 10;
    }
    pthread_barrier_init(&start, NULL, threads + 1);
    pthread_barrier_init(&done, NULL, threads + 1);
    for (int i = 1; i <= threads; i++)
        pthread_create(&workers[i].thread, NULL, thread, &workers[i]);
    report();
    next_command();

    pthread_barrier_wait(&start);
    if (!strcmp(kind, "mapped")) {
        mapped(&workers[0]);
    } else if (!strcmp(kind, "obstacle")) {
        /* brk cannot grow over it, so the main arena goes on in mappings. Where a free in the
           middle of growing could trim what was just got, malloc would fail. */
        mallopt(M_MMAP_THRESHOLD, 16 << 20);
        mallopt(M_TRIM_THRESHOLD, 1 << 30);
        void *end = sbrk(0);
        void *wall = mmap(end, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (wall != end) _exit(5);
        workers[0].largest = 2 << 20;
        work(&workers[0]);
        munmap(wall, 4096);
        work(&workers[0]);
    } else if (!strcmp(kind, "foreign")) {
        mallopt(M_MMAP_THRESHOLD, 16 << 20);
        mallopt(M_TRIM_THRESHOLD, 1 << 30);
        work(&workers[0]);
        memset(sbrk(10000), 0x31, 10000);
        work(&workers[0]);
        memset(sbrk(1 << 16), 0x31, 1 << 16);
        workers[0].largest = 1 << 20;
        work(&workers[0]);
    } else {
        work(&workers[0]);
        if (!strcmp(kind, "trimmed")) {
            malloc_trim(0);
            work(&workers[0]);
        }
    }
    pthread_barrier_wait(&done);
    if (!strcmp(kind, "forked")) {
        if (fork() != 0) {
            pause();
        }
        work(&workers[0]);
    }
    report();
    while (next_command() == 't') {
        malloc_trim(0);
        report();
    }
    return 0;
}
