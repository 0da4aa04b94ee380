/* A process whose name, argument and thread's name are bytes that are no text; the name of the program and what it maps
 * are those that it was started with. Says so, and waits for its input to close. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

static void *stand(void *name) {
    pthread_setname_np(pthread_self(), name);
    pause();
    return 0;
}

int main(int count, char **arguments) {
    char line[16];
    pthread_t thread;
    if (count < 2)
        return 1;
    prctl(PR_SET_NAME, arguments[1]);
    pthread_create(&thread, 0, stand, arguments[1]);
    /* Shared memory of a name that is no text either. */
    int file = memfd_create(arguments[1], 0);
    if (file < 0 || ftruncate(file, 4096) || mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED)
        return 1;
    for (int i = 0; i < 1000; i++)
        memset(malloc(i + 1), 1, i + 1);
    puts("ready");
    fflush(stdout);
    return read(0, line, sizeof line) < 0;
}
