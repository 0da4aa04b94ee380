// A clock of its own, that is far ahead and allocates, as libfaketime has it.
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
  void *volatile block = malloc(100);
  free(block);
  long error = syscall(SYS_clock_gettime, clock, time);
  time->tv_sec += 1000000;
  return (int)error;
}
