/* Whatever can be chosen of a process is hostile: its comm, arguments, program's name, working
 * directory, a mapped library's name, a thread's name, names of mappings and settings. */
#define _GNU_SOURCE
#include <fcntl.h>
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
    if (count < 3)
        return 1;
    int file = open(arguments[1], O_RDONLY);
    if (file < 0 || mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED)
        return 1;
    prctl(PR_SET_NAME, arguments[2]);
    pthread_create(&thread, 0, stand, arguments[2]);
    for (int i = 0; i < 1000; i++)
        if (i % 2)
            free(malloc(i));
        else
            memset(malloc(i + 1), 1, i + 1);
    puts("ready");
    fflush(stdout);
    return read(0, line, sizeof line) < 0;
}
