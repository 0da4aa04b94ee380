// A library that allocates before the program begins, in its constructor and in a thread that this starts.
#include <pthread.h>
#include <stdlib.h>

static volatile int is_over;

static void *allocate(void *none) {
  while (!is_over) {
    void *volatile block = malloc(100000);
    if (!block) abort();
    free(block);
  }
  return none;
}

__attribute__((constructor)) static void begin(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, allocate, NULL);
  // They stay.
  for (int i = 0; i < 1000; i++) {
    if (!malloc(123461)) abort();
  }
  is_over = 1;
  pthread_join(thread, NULL);
}
