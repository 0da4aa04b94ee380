/* Maps a page of a file many times, under as many names as are given, each of 4 KiB of bytes that are no text. Says so,
 * and waits for its input to close.
 *
 * Arguments: a folder in which to make the names, how many mappings, how many names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments) {
    char name[256], line[16];
    if (count < 4 || chdir(arguments[1]))
        return 1;
    prctl(PR_SET_NAME, "\xff\xff");
    memset(name, 0xff, 255);
    name[255] = 0;
    for (int i = 0; i < 15; i++)
        if ((mkdir(name, 0755) && access(name, F_OK)) || chdir(name))
            return 1;
    int mappings = atoi(arguments[2]), names = atoi(arguments[3]);
    int *files = calloc(names, sizeof *files);
    for (int i = 0; i < names; i++) {
        snprintf(name + 100, sizeof name - 100, "%08d", i);
        files[i] = open(name, O_RDWR | O_CREAT, 0644);
        if (files[i] < 0 || ftruncate(files[i], 8192))
            return 1;
    }
    for (int i = 0; i < mappings; i++)
        if (mmap(0, 4096, PROT_READ, MAP_PRIVATE, files[i % names], 0) == MAP_FAILED)
            return 1;
    puts("ready");
    fflush(stdout);
    return read(0, line, sizeof line) < 0;
}
