// Children with many threads that do nothing but allocate, each killed in the midst of it. Their
// parent allocates too, and prints the longest time in ms that one call took, without what it waited for
// a processor.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int schedstat;

// How long this thread has waited for a processor, in ms: the second number of its schedstat (proc(5)).
static double waited(void) {
  char text[100];
  ssize_t length = pread(schedstat, text, sizeof text - 1, 0);
  unsigned long long ran, waited;
  text[length > 0 ? length : 0] = 0;
  if (sscanf(text, "%llu %llu", &ran, &waited) != 2) exit(1);
  return waited / 1e6;
}

static void *work(void *arg) {
  for (;;) {
    void *volatile block = malloc(100);
    free(block);
  }
  return arg;
}

static double longest;

static void allocate(int calls) {
  for (int i = 0; i < calls; i++) {
    double before = waited(), began = now();
    void *volatile block = malloc(50);
    free(block);
    double took = now() - began - (waited() - before);
    if (took > longest) longest = took;
  }
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 10;
  schedstat = open("/proc/thread-self/schedstat", O_RDONLY);
  for (int round = 0; round < rounds; round++) {
    int ready[2];
    if (pipe(ready)) return 1;
    pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 64; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL)) _exit(1);
      }
      // Long enough to fill the ring.
      usleep(300000);
      if (write(ready[1], "x", 1) != 1) _exit(1);
      pause();
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) return 1;
    kill(child, SIGKILL);
    allocate(2000);
    waitpid(child, NULL, 0);
    allocate(2000);
    close(ready[0]);
    close(ready[1]);
  }
  printf("%.0f\n", longest);
  return 0;
}
