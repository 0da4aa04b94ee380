// A thread of it waits uninterruptibly, as every vfork(2) does, and it has written over the head of a block, so
// that no walk of its heap agrees with the allocator's own account. Another thread waits by epoll_wait(2), which
// each stop ends: told a line it writes how often that was.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

static atomic_int interruptions;

static void *wait_in_the_kernel(void *unused) {
    (void)unused;
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return 0;
}

static void *count_interruptions(void *unused) {
    struct epoll_event event;
    int none = epoll_create1(0);
    (void)unused;
    for (;;)
        if (epoll_wait(none, &event, 1, -1) < 0 && errno == EINTR) interruptions++;
    return 0;
}

int main(void) {
    pthread_t thread;
    char line[16];
    setvbuf(stdout, 0, _IONBF, 0);
    setvbuf(stdin, 0, _IONBF, 0);
    pthread_create(&thread, 0, count_interruptions, 0);
    pthread_create(&thread, 0, wait_in_the_kernel, 0);
    // Neither is used again, nor anything that would be made of them.
    char *damaged = malloc(4000);
    char *behind = malloc(4000);
    memset(damaged, 1, 4000);
    memset(behind - 16, 0x55, 16);
    puts("ready");
    while (read(0, line, sizeof line) > 0)
        printf("%d\n", interruptions);
    return 0;
}
