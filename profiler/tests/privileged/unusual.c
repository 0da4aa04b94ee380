// Programs that do what few do: each prints what came of it, the same alone and recorded.
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALLOW(call) \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void allocate(long blocks, size_t bytes) {
  for (long i = 0; i < blocks; i++) {
    void *volatile block = malloc(bytes);
    free(block);
  }
}

// Nothing but what malloc needs, reading, writing and leaving: for all threads, by a call that libseccomp makes.
static void filter(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_exit_group), ALLOW(SYS_exit), ALLOW(SYS_munmap),
      ALLOW(SYS_mmap), ALLOW(SYS_brk), ALLOW(SYS_futex), ALLOW(SYS_mprotect), ALLOW(SYS_madvise),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) _exit(20);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) _exit(21);
}

// A sandboxed child allocates a little, while its siblings fill the ring.
static void sandboxed(void) {
  int ask[2];
  if (pipe(ask)) _exit(22);
  signal(SIGPIPE, SIG_IGN);
  // The C library's own beginning wants more.
  allocate(1, 100);
  pid_t child = fork();
  if (child == 0) {
    close(ask[1]);
    filter();
    char byte;
    while (read(ask[0], &byte, 1) == 1) allocate(1, 100);
    _exit(0);
  }
  close(ask[0]);
  for (int i = 0; i < 4; i++) {
    if (fork() == 0) {
      close(ask[1]);
      allocate(2000000, 50);
      _exit(0);
    }
  }
  for (int i = 0; i < 400; i++) {
    allocate(20000, 200);
    if (write(ask[1], "x", 1) < 0) break;
  }
  close(ask[1]);
  int status = 0;
  waitpid(child, &status, 0);
  printf("sandboxed: %x\n", status);
}

static int is_exit;
static volatile int is_filtered;

static void *leave(void *none) {
  while (!is_filtered) usleep(1000);
  if (is_exit) exit(4);
  _exit(4);
  return none;
}

// A thread that has never allocated ends a large program behind a filter.
static void quiet(void) {
  size_t bytes = 40 << 20;
  memset(malloc(bytes), 1, bytes);
  pthread_t thread;
  pthread_create(&thread, NULL, leave, NULL);
  // It is known to be large by then.
  usleep(300000);
  // The thread must not sleep behind it.
  is_filtered = 1;
  filter();
  for (;;);
}

static volatile int is_over;

static void *allocates(void *none) {
  while (!is_over) allocate(1000, 64);
  return none;
}

// The two calls by which a recorder would wait for room, and no others.
static void filter_waits(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_yield, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) _exit(20);
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) _exit(21);
}

// Threads that wait for room in a full ring get a filter from another one.
static void filled(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, allocates, NULL);
  usleep(800000);
  filter_waits();
  for (volatile long i = 0; i < 300000000; i++);
  is_over = 1;
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

// A program that is executed behind such a filter, by a user of many groups, fills the ring.
static void many_groups(const char *self) {
  enum { GROUPS = 1000 };
  static gid_t groups[GROUPS];
  for (int i = 0; i < GROUPS; i++) groups[i] = 100000 + i;
  if (setgroups(GROUPS, groups)) _exit(23);
  filter_waits();
  execl(self, self, "fills", NULL);
  _exit(24);
}

static void fills(void) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, allocates, NULL);
  for (volatile long i = 0; i < 500000000; i++);
  is_over = 1;
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

// A child by a system call of the program's own ends by `exit`, which is its parent's too as far as the C library knows.
static void copy_that_exits(void) {
  pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) exit(0);
  waitpid(child, NULL, 0);
  allocate(5000, 1003);
}

static void *forks(void *none) {
  while (!is_over) {
    pid_t child = fork();
    if (child == 0) syscall(SYS_exit_group, 0);
    waitpid(child, NULL, 0);
  }
  return none;
}

// Children by a system call of the program's own, while other threads fork.
static void copied_beside_forks(void) {
  pthread_t threads[2];
  // From this thread's cache: a lock that another thread has is never released in a copy.
  allocate(1, 1003);
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, forks, NULL);
  for (int i = 0; i < 100; i++) {
    pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
      allocate(7, 1003);
      syscall(SYS_exit_group, 0);
    }
    waitpid(child, NULL, 0);
  }
  is_over = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

static void frees(void *block) { free(block); }

static pthread_key_t key;

static void *keeps(void *none) {
  pthread_setspecific(key, malloc(1003));
  return none;
}

// What threads keep is freed when they end, by a key that is younger than the recorder's.
static void threads_that_keep(void) {
  pthread_key_create(&key, frees);
  for (int i = 0; i < 100; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, keeps, NULL);
    pthread_join(thread, NULL);
  }
}

// A child by a system call of the program's own frees its copies of its parent's blocks.
static void copied(void) {
  enum { BLOCKS = 20000 };
  static void *blocks[BLOCKS];
  for (int i = 0; i < BLOCKS; i++) blocks[i] = malloc(1003);
  pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    syscall(SYS_exit_group, 0);
  }
  waitpid(child, NULL, 0);
}

// No clock without a system call.
static void timeless(void) {
  prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
  allocate(1000, 1003);
  prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
}

// The ring's memory, as profiler_common::ring has it.
static char *ring(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512];
  unsigned long at = 0;
  while (maps && fgets(line, sizeof line, maps)) {
    if (strstr(line, "fragscope-ring")) sscanf(line, "%lx", &at);
  }
  if (maps) fclose(maps);
  return (char *)at;
}

// One event is claimed by nobody, and then the ring goes round often.
static void abandoned(void) {
  char *at = ring();
  volatile uint64_t *head = (void *)(at + 64);
  uint64_t number = *head;
  volatile uint64_t *turn = (void *)(at + 4096 + number % (1 << 20) * 48);
  *turn = number >> 20 << 24 | (uint64_t)4000000 << 2 | 1;
  allocate(2 << 20, 40);
}

// For a moment it looks again and again as if the reader had been given up, while another program allocates.
static void given_up(void) {
  volatile uint32_t *given_up = (void *)(ring() + 8);
  pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 400; i++) {
      allocate(1000, 1003);
      usleep(1000);
    }
    _exit(0);
  }
  int status;
  while (waitpid(child, &status, WNOHANG) == 0) {
    for (int i = 0; i < 100; i++) {
      *given_up = 2;
      *given_up = 0;
    }
    usleep(1000);
  }
}

// Processes that left the recording, if one believes it.
static void left(void) {
  volatile uint32_t *left = (void *)(ring() + 12);
  for (int i = 0; i < 5; i++) left[i] = UINT32_MAX;
}

// All calls but the C library's are the program's own to answer, as under Wine, which ends it here.
static void dispatched(void) {
  unsigned long from = 0, to = 0;
  char line[512];
  FILE *maps = fopen("/proc/self/maps", "r");
  while (fgets(line, sizeof line, maps))
    if (strstr(line, "libc.so.6") && strstr(line, "r-xp")) sscanf(line, "%lx-%lx", &from, &to);
  fclose(maps);
  static volatile char blocks;
  // PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON
  if (prctl(59, 1, from, to - from, &blocks)) return;
  blocks = 1;
  // More than the ring holds while it is read.
  allocate(5 << 20, 1003);
  blocks = 0;
}

// A signal's handler forks wherever it comes, in the midst of events, too: each child goes on there for a while.
static volatile sig_atomic_t forked_here, is_child;

static void fork_here(int signal) {
  (void)signal;
  if (is_child) return;
  if (fork() == 0) {
    is_child = 1;
    return;
  }
  forked_here++;
}

static void forks_in_handlers(void) {
  // The process's first fork has what it needs.
  if (fork() == 0) _exit(0);
  struct sigaction action = {.sa_handler = fork_here, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval often = {{0, 1500}, {0, 1500}};
  setitimer(ITIMER_REAL, &often, NULL);
  long blocks = 0, of_child = 0;
  while (forked_here < 300 && of_child < 2000) {
    void *volatile block = malloc(is_child ? 1001 : 1003);
    free(block);
    blocks++;
    of_child += is_child;
  }
  if (is_child) _exit(0);
  struct itimerval never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &never, NULL);
  while (wait(NULL) > 0) {}
  printf("%ld blocks\n", blocks);
}

// Executes itself with one descriptor to open anything with, or with few addresses.
static void limited(const char *self, int limit, rlim_t to, const char *what) {
  struct rlimit both = {to, to};
  if (setrlimit(limit, &both)) _exit(25);
  execl(self, self, what, NULL);
  _exit(26);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  alarm(100);
  setvbuf(stdout, NULL, _IONBF, 0);
  is_exit = !strcmp(what, "quiet exit");
  if (!strcmp(what, "sandboxed")) sandboxed();
  if (!strncmp(what, "quiet", 5)) quiet();
  if (!strcmp(what, "filled")) filled();
  if (!strcmp(what, "many_groups")) many_groups(argv[0]);
  if (!strcmp(what, "fills")) fills();
  if (!strcmp(what, "copy_that_exits")) copy_that_exits();
  if (!strcmp(what, "copied_beside_forks")) copied_beside_forks();
  if (!strcmp(what, "threads_that_keep")) threads_that_keep();
  if (!strcmp(what, "copied")) copied();
  if (!strcmp(what, "timeless")) timeless();
  if (!strcmp(what, "dispatched")) dispatched();
  if (!strcmp(what, "one_descriptor")) limited(argv[0], RLIMIT_NOFILE, 4, "few");
  if (!strcmp(what, "few_addresses")) limited(argv[0], RLIMIT_AS, 20 << 20, "few");
  if (!strcmp(what, "forks_in_handlers")) forks_in_handlers();
  if (!strcmp(what, "few")) allocate(5000, 1003);
  if (!strcmp(what, "abandoned")) abandoned();
  if (!strcmp(what, "given_up")) given_up();
  if (!strcmp(what, "left")) left();
  puts("done");
  return 0;
}
