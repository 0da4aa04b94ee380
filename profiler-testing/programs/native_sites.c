/* A library, and a program, whose sites of malloc are known: `inner` below `known_site` below what calls that.
 * None keeps a frame pointer, as the options of its compilation say. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Nothing is called last in a function, so that each is on the stack. */
#define STAY __asm__ volatile("" ::: "memory")
#define SITE __attribute__((noinline, noclone))

/* No symbol of a stripped library names it. */
static SITE void *inner(size_t bytes) {
    void *block = malloc(bytes);
    STAY;
    return block;
}

SITE void *known_site(size_t bytes) {
    void *block = inner(bytes);
    STAY;
    return block;
}

SITE void *of_cpp(size_t bytes) __asm__("_ZN4test3Box4growEm");
SITE void *of_cpp(size_t bytes) {
    void *block = known_site(bytes);
    STAY;
    return block;
}

/* Python's own way to malloc and what calls it are what they are in any library. */
SITE void allocate(int times, size_t bytes) {
    for (int at = 0; at < times; at++) {
        free(of_cpp(bytes));
        STAY;
    }
}

/* Each call takes more than a KiB of the stack. */
SITE int deep(int calls, int times, size_t bytes) {
    volatile char room[1024];
    room[0] = (char)calls;
    if (calls == 0)
        allocate(times, bytes);
    else
        deep(calls - 1, times, bytes);
    STAY;
    return room[0];
}

struct work {
    int times;
    size_t bytes;
};

static void *thread_body(void *given) {
    struct work *work = given;
    allocate(work->times, work->bytes);
    STAY;
    return NULL;
}

/* A thread that Python knows nothing of. */
void in_thread(int times, size_t bytes) {
    struct work work = {times, bytes};
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_body, &work) == 0)
        pthread_join(thread, NULL);
}

/* Code of no file, that calls `allocate`: it is given a place for what it calls. */
void by_made_code(int times, size_t bytes) {
    /* sub rsp, 8; call rdx; add rsp, 8; ret */
    static const unsigned char code[] = {0x48, 0x83, 0xec, 0x08, 0xff, 0xd2, 0x48, 0x83, 0xc4, 0x08, 0xc3};
    void *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED)
        return;
    memcpy(place, code, sizeof code);
    ((void (*)(int, size_t, void (*)(int, size_t)))place)(times, bytes, allocate);
    munmap(place, 4096);
}

static size_t bytes_of_handler;

/* Goes on behind what was interrupted, which has two bytes. */
SITE void handler(int number, siginfo_t *about, void *context) {
    (void)number, (void)about;
    allocate(1, bytes_of_handler);
    ((ucontext_t *)context)->uc_mcontext.gregs[16]++;
    ((ucontext_t *)context)->uc_mcontext.gregs[16]++;
    STAY;
}

/* A signal comes at its very first instruction: what is before it is another function. */
void interrupted(void);
__asm__(".text\n.globl interrupted\n.type interrupted, @function\ninterrupted:\n.cfi_startproc\nud2\nret\n"
        ".cfi_endproc\n.size interrupted, . - interrupted\n");

SITE static void interrupt(int times) {
    for (int at = 0; at < times; at++) {
        interrupted();
        STAY;
    }
}

void in_handler(int times, size_t bytes) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    bytes_of_handler = bytes;
    sigaction(SIGILL, &action, &before);
    interrupt(times);
    sigaction(SIGILL, &before, NULL);
    STAY;
}

/* The same on a stack of the handler's own. */
void in_handler_aside(int times, size_t bytes) {
    static char room[1 << 16];
    stack_t aside = {room, 0, sizeof room}, before_aside;
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    bytes_of_handler = bytes;
    sigaltstack(&aside, &before_aside);
    sigaction(SIGILL, &action, &before);
    interrupt(times);
    sigaction(SIGILL, &before, NULL);
    sigaltstack(&before_aside, NULL);
    STAY;
}

/* The same with a way back from the handler that no table describes, as musl has it. */
void bare_return(void);
__asm__(".text\nbare_return:\nmov $15, %rax\nsyscall\n");

void in_bare_handler(int times, size_t bytes) {
    struct {
        void (*handler)(int, siginfo_t *, void *);
        unsigned long flags;
        void (*restorer)(void);
        unsigned long mask;
    } action = {handler, SA_SIGINFO | 0x04000000, bare_return, 0}, before;
    bytes_of_handler = bytes;
    syscall(SYS_rt_sigaction, SIGILL, &action, &before, 8);
    interrupt(times);
    syscall(SYS_rt_sigaction, SIGILL, &before, NULL, 8);
    STAY;
}

/* A block with a mapping of its own, which realloc makes larger. */
void enlarge(int times) {
    for (int at = 0; at < times; at++) {
        void *block = malloc(1 << 20);
        STAY;
        block = realloc(block, 40 << 20);
        STAY;
        free(block);
    }
}

int main(void) {
    char what[32];
    int times;
    size_t bytes;
    puts("ready");
    fflush(stdout);
    while (scanf("%31s %d %zu", what, &times, &bytes) == 3) {
        in_thread(times, bytes);
        puts("done");
        fflush(stdout);
    }
    return 0;
}
