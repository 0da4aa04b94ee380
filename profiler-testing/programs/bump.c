/* A preloaded allocator that no one knows: no size stands before its blocks, and its functions call
 * each other, so each call must be counted by its own arguments, and once. It never reuses memory. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static char memory[1ul << 30];
static size_t used;

void *memalign(size_t alignment, size_t size) {
    if (size > sizeof memory / 4)
        return NULL;
    size_t room = size + alignment + 16;
    size_t at = __atomic_fetch_add(&used, (room + 15) & ~15ul, __ATOMIC_RELAXED);
    if (at + room > sizeof memory)
        return NULL;
    uintptr_t block = ((uintptr_t)memory + at + 16 + alignment - 1) & ~(alignment - 1);
    /* Turned over, so that it does not pass for a chunk header. */
    ((size_t *)block)[-1] = ~size;
    return (void *)block;
}

size_t malloc_usable_size(void *block) { return block ? ~((size_t *)block)[-1] : 0; }

void *malloc(size_t size) { return memalign(16, size); }

void free(void *block) {
    if (block)
        __atomic_store_n((char *)block, 0, __ATOMIC_RELAXED);
}

void *calloc(size_t count, size_t size) {
    void *block = malloc(count * size);
    return block ? memset(block, 0, count * size) : NULL;
}

void *realloc(void *old, size_t size) {
    if (old && size == 0) {
        free(old);
        return NULL;
    }
    void *block = malloc(size);
    if (block && old) {
        size_t had = malloc_usable_size(old);
        memcpy(block, old, had < size ? had : size);
        free(old);
    }
    return block;
}

void *reallocarray(void *old, size_t count, size_t size) {
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(old, all);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

void *valloc(size_t size) { return memalign(4096, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (alignment < 8 || alignment & (alignment - 1))
        return EINVAL;
    *result = memalign(alignment, size);
    return *result ? 0 : ENOMEM;
}
