// Large programs that end in ways in which the recorder must not ask the C library or the kernel for anything.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALLOW(call) \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static const char *how;
static int is_set_up;

#ifdef OWN_OPEN
// A program's own functions of these names, which work only while it is set up.
#define OWN(name, ...)                                   \
  {                                                      \
    if (!is_set_up) {                                    \
      static const char why[] = "own " name "\n";        \
      syscall(SYS_write, 2, why, sizeof why - 1);        \
      abort();                                           \
    }                                                    \
    return syscall(__VA_ARGS__);                         \
  }
int open(const char *path, int flags, ...) OWN("open", SYS_openat, AT_FDCWD, path, flags, 0)
int close(int fd) OWN("close", SYS_close, fd)
ssize_t read(int fd, void *to, size_t most) OWN("read", SYS_read, fd, to, most)
pid_t getpid(void) OWN("getpid", SYS_getpid)
#endif

__attribute__((destructor)) static void take_down(void) { is_set_up = 0; }

// Nothing but writing and leaving, and what malloc needs.
static void filter(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ALLOW(SYS_write), ALLOW(SYS_exit_group), ALLOW(SYS_munmap), ALLOW(SYS_mmap), ALLOW(SYS_brk),
      ALLOW(SYS_futex), ALLOW(SYS_mprotect), ALLOW(SYS_madvise),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) _exit(20);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) _exit(21);
}

// What a sandbox's launcher does: a child that the C library knows nothing of, behind a filter of its own.
static void child_of_a_launcher(void) {
  pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    filter();
    _exit(5);
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("the child: %x\n", status);
  fflush(stdout);
}

// Hardly any call is allowed any more, and the processor's counter of time faults.
static void strict(void) {
  free(malloc(100));
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) _exit(22);
  for (int i = 0; i < 10; i++) free(malloc(100));
  syscall(SYS_exit, 6);
}

static void *cancelled(void *none) {
  pthread_cancel(pthread_self());
  if (strstr(how, "_exit")) _exit(3);
  exit(3);
  return none;
}

int main(int argc, char **argv) {
  how = argc > 1 ? argv[1] : "";
  is_set_up = 1;
  size_t bytes = 40 << 20;
  char *block = malloc(bytes);
  memset(block, 1, bytes);
  // It is known to be large by then.
  usleep(300000);
  alarm(60);
  if (strstr(how, "cancel")) {
    pthread_t thread;
    pthread_create(&thread, NULL, cancelled, NULL);
    pthread_join(thread, NULL);
    static const char why[] = "cancelled in exit\n";
    write(1, why, sizeof why - 1);
    for (;;) pause();
  }
  if (strstr(how, "launcher")) child_of_a_launcher();
  if (strstr(how, "strict")) strict();
  if (strstr(how, "filter")) filter();
  write(1, "ends\n", 5);
  if (strstr(how, "_exit")) _exit(4);
  return 0;
}
