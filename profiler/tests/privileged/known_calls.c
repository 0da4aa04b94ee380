// Executes itself behind a filter that knows no system calls but those that it makes alone.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 1024 };
static char is_made[CALLS];

static int works(void) {
  for (int i = 0; i < 5000; i++) {
    void *volatile block = malloc(1003);
    free(block);
  }
  puts("worked");
  return 0;
}

// What it calls without the recorder, as a tracer sees it.
static void learn(const char *self) {
  pid_t child = fork();
  if (child == 0) {
    unsetenv("LD_PRELOAD");
    if (!freopen("/dev/null", "w", stdout)) _exit(30);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execl(self, self, "works", NULL);
    _exit(31);
  }
  int status;
  waitpid(child, &status, 0);
  if (ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) _exit(35);
  for (int has_executed = 0;;) {
    if (ptrace(PTRACE_SYSCALL, child, 0, 0) || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return;
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info) <= 0) continue;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr < CALLS) {
      has_executed |= info.entry.nr == SYS_execve;
      if (has_executed) is_made[info.entry.nr] = 1;
    }
  }
}

static void filter(void) {
  static struct sock_filter code[2 * CALLS + 2] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
  unsigned short used = 1;
  for (unsigned call = 0; call < CALLS; call++)
    if (is_made[call]) {
      code[used++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1);
      code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
  code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  struct sock_fprog program = {used, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) _exit(32);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) _exit(33);
}

int main(int argc, char **argv) {
  if (argc > 1) return works();
  learn(argv[0]);
  filter();
  execl(argv[0], argv[0], "works", NULL);
  return 34;
}
