// A thread that waits in malloc and free, because the ring is full: it gets a signal and is to be cancelled
// there. Prints how it ended, and how often errno was changed.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile int begins;
static long changed;

static void nothing(int signal) { (void)signal; }

static void *allocate(void *unused) {
  (void)unused;
  int before;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
  while (!begins) usleep(100);
  pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
  // More events than the ring has slots.
  for (int i = 0; i < 1000000; i++) {
    errno = 77;
    void *volatile block = malloc(100);
    free(block);
    changed += errno != 77;
  }
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
  return "by itself";
}

int main(void) {
  struct sigaction action = {.sa_handler = nothing};
  sigaction(SIGUSR1, &action, NULL);
  pid_t fragscope = getppid();
  pthread_t thread;
  pthread_create(&thread, NULL, allocate, NULL);
  pthread_cancel(thread);
  kill(fragscope, SIGSTOP);
  begins = 1;
  // Shorter than the two seconds after which it goes on without fragscope.
  for (int i = 0; i < 100; i++) {
    usleep(10000);
    pthread_kill(thread, SIGUSR1);
  }
  kill(fragscope, SIGCONT);
  void *ended;
  pthread_join(thread, &ended);
  printf("%s %ld\n", ended == PTHREAD_CANCELED ? "cancelled" : (char *)ended, changed);
  return 0;
}
