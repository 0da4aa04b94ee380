/* A program whose malloc is jemalloc's. It makes a heap with blocks of all kinds, says what jemalloc
 * says of itself, and stands still. Built with -DJE(name)=prefix##name when jemalloc is linked in
 * with a prefix. */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef JE
#define JE(name) name
#endif

/* Weak, so that a program for a preloaded jemalloc needs none to be linked. */
__attribute__((weak)) int JE(mallctl)(const char *, void *, size_t *, void *, size_t);
void *JE(malloc)(size_t);
void JE(free)(void *);
int JE(posix_memalign)(void **, size_t, size_t);
size_t JE(malloc_usable_size)(void *);

#define THREADS 4
#define BLOCKS 20000
#define ARENAS 512
#define BINS 36
#define ALL_ARENAS 4096

static void *blocks[THREADS + 1][BLOCKS];
static char freed[THREADS + 1][BLOCKS];
static pthread_barrier_t ready;

/* A line that is gathered without malloc. */
static char line[1 << 24];
static size_t used;

static void say(const char *format, ...) {
	va_list values;
	va_start(values, format);
	used += (size_t)vsnprintf(line + used, sizeof line - used, format, values);
	va_end(values);
}

static void flush(void) {
	line[used++] = '\n';
	for (size_t at = 0; at < used;) {
		ssize_t wrote = write(1, line + at, used - at);
		if (wrote <= 0)
			_exit(1);
		at += (size_t)wrote;
	}
	used = 0;
}

static uint32_t next(uint32_t *seed) {
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static size_t size(uint32_t *seed) {
	switch (next(seed) % 64) {
	case 0:
		return 14337 + next(seed) % 20000; /* large, and small enough for a cache */
	case 1:
		return next(seed) % 4 ? 60000 : 200000 + next(seed) % 400000;
	case 2 ... 8:
		return 1 + next(seed) % 14336;
	default:
		return 1 + next(seed) % 600;
	}
}

/* Makes blocks, gives back most of them. */
static void work(int who) {
	uint32_t seed = 77u + (uint32_t)who;
	for (int i = 0; i < BLOCKS; i++) {
		if (next(&seed) % 100 == 0) {
			if (JE(posix_memalign)(&blocks[who][i], 16384, size(&seed)))
				_exit(1);
		} else {
			blocks[who][i] = JE(malloc)(size(&seed));
		}
		memset(blocks[who][i], 1, 1);
	}
	for (int i = 0; i < BLOCKS; i++) {
		if (next(&seed) % 100 < 60) {
			JE(free)(blocks[who][i]);
			freed[who][i] = 1;
		}
	}
}

static void *run(void *who) {
	work((int)(intptr_t)who);
	pthread_barrier_wait(&ready);
	if ((intptr_t)who == 1)
		return NULL; /* its cache goes with it */
	pause();
	return NULL;
}

static uint64_t get(const char *name) {
	union {
		uint64_t word;
		unsigned half;
		char is;
	} value = {0};
	size_t length = 8;
	if (JE(mallctl)(name, &value, &length, NULL, 0)) {
		length = 4;
		if (JE(mallctl)(name, &value, &length, NULL, 0)) {
			length = 1;
			if (JE(mallctl)(name, &value, &length, NULL, 0))
				return 0;
		}
	}
	return value.word;
}

static uint64_t of_arena(unsigned arena, const char *name) {
	char path[128];
	snprintf(path, sizeof path, "stats.arenas.%u.%s", arena, name);
	return get(path);
}

static const char *totals[] = {"allocated", "active", "metadata", "mapped", "retained"};
static const char *by_arena[] = {"pactive", "pdirty", "pmuzzy", "retained", "base", "internal",
    "tcache_bytes"};

static uint64_t values[5], arenas[ARENAS][8], regions[BINS][2];

/* Asks everything; the first time jemalloc makes memory for the answers. */
static unsigned ask(void) {
	uint64_t epoch = 1;
	size_t length = sizeof epoch;
	JE(mallctl)("epoch", &epoch, &length, &epoch, length);
	unsigned count = (unsigned)get("arenas.narenas");
	if (count > ARENAS)
		_exit(1);
	char path[128];
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "stats.%s", totals[i]);
		values[i] = get(path);
	}
	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof path, "arena.%u.initialized", i);
		arenas[i][0] = get(path);
		for (int k = 0; arenas[i][0] && k < 7; k++)
			arenas[i][k + 1] = of_arena(i, by_arena[k]);
	}
	for (int i = 0; i < BINS; i++) {
		snprintf(path, sizeof path, "bins.%d.curregs", i);
		regions[i][0] = of_arena(ALL_ARENAS, path);
		snprintf(path, sizeof path, "bins.%d.curslabs", i);
		regions[i][1] = of_arena(ALL_ARENAS, path);
	}
	return count;
}

int main(void) {
	pthread_t threads[THREADS];
	pthread_barrier_init(&ready, NULL, THREADS + 1);
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	work(THREADS);
	pthread_barrier_wait(&ready);
	pthread_join(threads[1], NULL);

	ask();
	unsigned count = ask();
	say("%d", getpid());
	for (int i = 0; i < 5; i++)
		say(" %lu", values[i]);
	flush();
	for (unsigned i = 0; i < count; i++) {
		if (!arenas[i][0])
			continue;
		say("%u", i);
		for (int k = 1; k < 8; k++)
			say(" %lu", arenas[i][k]);
		say(";");
	}
	flush();
	for (int i = 0; i < BINS; i++)
		say("%lu %lu;", regions[i][0], regions[i][1]);
	flush();
	for (int who = 0; who <= THREADS; who++)
		for (int i = 0; i < BLOCKS; i++)
			if (!freed[who][i])
				say("%lx:%lx ", (uintptr_t)blocks[who][i],
				    JE(malloc_usable_size)(blocks[who][i]));
	flush();
	while (read(0, line, sizeof line) > 0)
		;
	return 0;
}
