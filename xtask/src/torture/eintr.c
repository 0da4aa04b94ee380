/*
 * Every call that waits, each in a thread of its own, and how often it returned EINTR.
 *
 * eintr: prints "ready"; when a line comes on stdin, prints a line for each call: its name, and the
 * number. No thread handles a signal, so that what interrupts a call is a stop.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <time.h>
#include <unistd.h>

static const struct timespec LONG = {1000, 0};

static int quiet_pipe(void) {
    int ends[2];
    return pipe(ends) == 0 ? ends[0] : -1;
}

static int quiet_socket(int timeout) {
    int ends[2];
    struct timeval limit = {1000, 0};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return -1;
    if (timeout) setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return ends[0];
}

static long wait_epoll(int fd) {
    struct epoll_event event;
    return epoll_wait(fd, &event, 1, 1000000);
}
static int make_epoll(void) { return epoll_create1(0); }

static long wait_sigtimedwait(int fd) {
    (void)fd;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    return sigtimedwait(&set, NULL, &LONG);
}
static long wait_sigwaitinfo(int fd) {
    (void)fd;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 6);
    return sigwaitinfo(&set, NULL);
}
static long wait_semop(int id) {
    struct sembuf take = {0, -1, 0};
    return semop(id, &take, 1);
}
static long wait_io_getevents(int fd) {
    (void)fd;
    static aio_context_t context;
    struct io_event event;
    if (context == 0 && syscall(SYS_io_setup, 1, &context) != 0) return -1;
    return syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
}
static long wait_clock_nanosleep(int fd) {
    (void)fd;
    errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &LONG, NULL);
    return errno == 0 ? 0 : -1;
}
static long wait_waitpid(int pid) { return waitpid(pid, NULL, 0); }
static int make_child(void) {
    int pid = fork();
    if (pid == 0) {
        /* It ends with its parent's first thread. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
    return pid;
}
static sem_t semaphore; /* of 0 */
static long wait_sem_wait(int fd) { (void)fd; return sem_wait(&semaphore); }
static int locked_file(void) {
    char path[] = "/tmp/eintr-XXXXXX";
    int held = mkstemp(path), waiting = open(path, O_RDWR);
    unlink(path);
    return held >= 0 && flock(held, LOCK_EX) == 0 ? waiting : -1;
}
static long wait_flock(int fd) { return flock(fd, LOCK_EX); }
static long wait_semtimedop(int id) {
    struct sembuf take = {0, -1, 0};
    return semtimedop(id, &take, 1, &LONG);
}
static int make_semaphore(void) { return semget(IPC_PRIVATE, 1, 0600); }

static long wait_msgrcv(int id) {
    struct { long kind; char text[8]; } message;
    return msgrcv(id, &message, sizeof message.text, 1, 0);
}
static int make_queue(void) { return msgget(IPC_PRIVATE, 0600); }

static long wait_recv(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0);
}
static int make_socket(void) { return quiet_socket(0); }
static int make_timed_socket(void) { return quiet_socket(1); }
static long wait_recvmsg(int fd) {
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return recvmsg(fd, &message, 0);
}
static long wait_send(int fd) {
    static const char some[4096];
    long sent;
    do sent = send(fd, some, sizeof some, 0); while (sent > 0);
    return sent;
}
static int make_full_socket(int timeout) {
    int fd = quiet_socket(0);
    struct timeval limit = {1000, 0};
    char some[4096] = {0};
    while (send(fd, some, sizeof some, MSG_DONTWAIT) > 0) {}
    if (timeout) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return fd;
}
static int make_untimed_full_socket(void) { return make_full_socket(0); }
static int make_timed_full_socket(void) { return make_full_socket(1); }

static long wait_accept(int fd) { return accept(fd, NULL, NULL); }
static int make_listener(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sa_family_t family = AF_UNIX;
    if (bind(fd, (struct sockaddr *)&family, sizeof family) != 0) return -1;
    return listen(fd, 1) == 0 ? fd : -1;
}
static int make_timed_listener(void) {
    int fd = make_listener();
    struct timeval limit = {1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static long wait_poll(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, 1000000);
}
static long wait_select(int fd) {
    fd_set set;
    struct timeval limit = {1000, 0};
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return select(fd + 1, &set, NULL, NULL, &limit);
}
static long wait_read(int fd) {
    char byte;
    return read(fd, &byte, 1);
}
static long wait_nanosleep(int fd) {
    (void)fd;
    return nanosleep(&LONG, NULL);
}
static long wait_futex(int fd) {
    (void)fd;
    static int word;
    return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
}
static long wait_timed_futex(int fd) {
    (void)fd;
    static int word;
    return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &LONG, NULL, 0);
}
static int nothing(void) { return 0; }

static struct call {
    const char *name;
    int (*make)(void);
    long (*wait)(int);
    atomic_long interrupted;
} calls[] = {
    {"read", quiet_pipe, wait_read, 0},
    {"futex", nothing, wait_futex, 0},
    {"futex with a timeout", nothing, wait_timed_futex, 0},
    {"nanosleep", nothing, wait_nanosleep, 0},
    {"poll", quiet_pipe, wait_poll, 0},
    {"select", quiet_pipe, wait_select, 0},
    {"accept", make_listener, wait_accept, 0},
    {"recv", make_socket, wait_recv, 0},
    {"recv with SO_RCVTIMEO", make_timed_socket, wait_recv, 0},
    {"recvmsg with SO_RCVTIMEO", make_timed_socket, wait_recvmsg, 0},
    {"read with SO_RCVTIMEO", make_timed_socket, wait_read, 0},
    {"accept with SO_RCVTIMEO", make_timed_listener, wait_accept, 0},
    {"send", make_untimed_full_socket, wait_send, 0},
    {"send with SO_SNDTIMEO", make_timed_full_socket, wait_send, 0},
    {"sigwaitinfo", nothing, wait_sigwaitinfo, 0},
    {"semop", make_semaphore, wait_semop, 0},
    {"io_getevents", nothing, wait_io_getevents, 0},
    {"clock_nanosleep", nothing, wait_clock_nanosleep, 0},
    {"waitpid", make_child, wait_waitpid, 0},
    {"sem_wait", nothing, wait_sem_wait, 0},
    {"flock", locked_file, wait_flock, 0},
    {"epoll_wait", make_epoll, wait_epoll, 0},
    {"sigtimedwait", nothing, wait_sigtimedwait, 0},
    {"semtimedop", make_semaphore, wait_semtimedop, 0},
    {"msgrcv", make_queue, wait_msgrcv, 0},
};
enum { CALLS = sizeof calls / sizeof calls[0] };
static int objects[CALLS];
static atomic_int ending;

static void *wait_for_ever(void *argument) {
    struct call *call = argument;
    for (;;) {
        long result = call->wait(objects[call - calls]);
        if (atomic_load(&ending)) return NULL;
        if (result >= 0 || errno != EINTR) {
            fprintf(stderr, "%s: %s\n", call->name, strerror(errno));
            exit(1);
        }
        atomic_fetch_add(&call->interrupted, 1);
    }
}

int main(void) {
    char line[16];
    for (int i = 0; i < CALLS; i++) {
        pthread_t thread;
        objects[i] = calls[i].make();
        if (objects[i] < 0 || pthread_create(&thread, NULL, wait_for_ever, &calls[i]) != 0) {
            perror(calls[i].name);
            return 1;
        }
    }
    printf("ready\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) line[0] = 0;
    for (int i = 0; i < CALLS; i++) printf("%s\t%ld\n", calls[i].name, atomic_load(&calls[i].interrupted));
    atomic_store(&ending, 1);
    for (int i = 0; i < CALLS; i++) {
        if (calls[i].make == make_semaphore) semctl(objects[i], 0, IPC_RMID);
        if (calls[i].make == make_queue) msgctl(objects[i], IPC_RMID, NULL);
    }
    fflush(stdout);
    _exit(0);
}
