// One area for each state that a page can be in. Prints their addresses on one line and waits.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ul << 20)
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *area(unsigned long bytes, int protection, int flags) {
    return mmap(0, bytes, protection, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(void) {
    int both = PROT_READ | PROT_WRITE;
    char *untouched = area(MIB, both, 0);
    char *vast = area(MIB << 16, both, MAP_NORESERVE);
    vast[MIB << 15] = 1;
    volatile char *zero = area(MIB, both, 0);
    int sum = 0;
    for (unsigned long at = 0; at < MIB; at += 4096) sum += zero[at];
    char *two = area(4 * MIB, both, 0);
    char *huge = (char *)(((unsigned long)two + 2 * MIB - 1) & ~(2 * MIB - 1));
    madvise(huge, 2 * MIB, MADV_HUGEPAGE);
    memset(huge, 1, 2 * MIB);
    char *four = area(4 * MIB, both, 0);
    volatile char *huge_zero = (char *)(((unsigned long)four + 2 * MIB - 1) & ~(2 * MIB - 1));
    madvise((void *)huge_zero, 2 * MIB, MADV_HUGEPAGE);
    sum += huge_zero[0];
    char *swapped = area(MIB, both, 0);
    for (unsigned long at = 0; at < MIB; at += 4096) swapped[at] = (char)(at >> 12) + 1;
    madvise(swapped, MIB, MADV_PAGEOUT);
    char *guarded = area(MIB, both, 0);
    memset(guarded, 1, MIB);
    madvise(guarded, MIB / 2, MADV_GUARD_INSTALL);
    char *shared = area(MIB, both, 0);
    memset(shared, 1, MIB);
    // From here on the child has all anonymous pages in common with us, until one of us writes.
    int wait_for_us[2];
    if (pipe(wait_for_us)) return 1;
    pid_t child = fork();
    char byte;
    if (child == 0) {
        close(wait_for_us[1]);
        return (int)read(wait_for_us[0], &byte, 1);
    }
    memset(shared, 2, MIB / 2);
    printf("%lu %lu %lu %lu %lu %lu %lu %lu %d\n", (unsigned long)untouched, (unsigned long)vast,
           (unsigned long)zero, (unsigned long)huge, (unsigned long)swapped,
           (unsigned long)guarded, (unsigned long)shared,
           (unsigned long)huge_zero, sum);
    fflush(stdout);
    return (int)read(0, &byte, 1);
}
