/* A malloc that, once it serves a program, tries what a hostile allocator would, prints what was
 * allowed, and aborts. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char memory[1 << 24];
static size_t used;
static int calls;
static char said[1024] = "allowed:";

static void note(const char *what, int allowed) {
    if (allowed) {
        strcat(said, " ");
        strcat(said, what);
    }
}

/* Whether /proc says this of the player. */
static int status_has(const char *line) {
    static char text[8192];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t n = read(file, text, sizeof text - 1);
    return n > 0 && strstr(text, line) != NULL;
}

static void attack(void) {
    char *const no_arguments[] = {(char *)"true", NULL}, *const no_variables[] = {NULL};
    struct rlimit limit = {64 << 20, 64 << 20};
    note("writing", open(FILE_OF_ROOT, O_WRONLY) >= 0);
    note("truncating", truncate(FILE_OF_ROOT, 0) == 0);
    note("device", open("/dev/null", O_RDWR) >= 0);
    note("making", open(FOLDER "/made", O_CREAT | O_RDWR, 0600) >= 0);
    note("unnamed", open(FOLDER, O_TMPFILE | O_RDWR, 0600) >= 0);
    note("openat2", syscall(SYS_openat2, AT_FDCWD, "/", (unsigned long[3]){0}, 24) >= 0);
    note("program", open(PROGRAM_OF_PLAYER, O_RDWR) >= 0);
    note("folder", mkdir(FOLDER "/folder", 0700) == 0);
    note("removing", unlink(FILE_OF_ROOT) == 0);
    note("renaming", rename(FILE_OF_ROOT, FOLDER "/renamed") == 0);
    note("mode", chmod(FILE_OF_ROOT, 0777) == 0);
    note("network", socket(AF_INET, SOCK_STREAM, 0) >= 0);
    note("netlink", socket(AF_NETLINK, SOCK_RAW, 0) >= 0);
    note("socket", socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
    note("exec", execve("/bin/true", no_arguments, no_variables) == 0);
    note("execveat", syscall(SYS_execveat, AT_FDCWD, "/bin/true", no_arguments, no_variables, 0) == 0);
    note("ptrace", ptrace(PTRACE_SEIZE, getppid(), 0, 0) == 0);
    note("reading", syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0) >= 0);
    note("signal", kill(getppid(), 0) == 0);
    note("thread's signal", syscall(SYS_tgkill, getppid(), getppid(), 0) == 0);
    note("mount", mount("none", "/mnt", "tmpfs", 0, 0) == 0);
    note("namespace", unshare(CLONE_NEWUSER) == 0);
    note("clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) >= 0);
    note("fragscope's child", syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) >= 0);
    note("traced child", syscall(SYS_clone, CLONE_PTRACE | SIGCHLD, 0, 0, 0, 0) >= 0);
    note("bpf", syscall(SYS_bpf, 0, 0, 0) >= 0 || (errno != EPERM && errno != ENOSYS));
    note("perf", syscall(SYS_perf_event_open, &(struct perf_event_attr){0}, 0, -1, -1, 0) >= 0);
    note("io_uring", syscall(SYS_io_uring_setup, 1, 0) >= 0 || (errno != EPERM && errno != ENOSYS));
    note("keys", syscall(SYS_keyctl, 0, -1, 0) >= 0);
    note("root", setuid(0) == 0 && BECOMES_OTHER_USER);
    note("dumps", setrlimit(RLIMIT_CORE, &limit) == 0);
    note("outliving", prctl(PR_SET_PDEATHSIG, 0) == 0 || prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
    note("group", setsid() >= 0 || setpgid(0, getppid()) == 0);
    note("priority of others", setpriority(PRIO_PROCESS, getppid(), 19) == 0);
    note("staying root", BECOMES_OTHER_USER && (getuid() == 0 || geteuid() == 0 || getgid() == 0));
    note("new privileges", !status_has("NoNewPrivs:\t1\n"));
    note("capabilities", !status_has("CapEff:\t0000000000000000\n"));
    strcat(said, " end\n");
    write(2, said, strlen(said));
    abort();
}

void *malloc(size_t n) {
    if (++calls > 100) attack();
    size_t at = used;
    used += (n + 15) & ~15ul;
    return memory + at;
}
void free(void *p) { (void)p; }
