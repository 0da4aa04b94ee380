/* Is traced by a child of its own of the name given, says so, and waits for its input to close. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int count, char **arguments) {
    char line[16];
    int traced[2];
    pid_t self = getpid();
    if (count < 2 || pipe(traced))
        return 1;
    /* Where Yama lets only ancestors trace. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, arguments[1]);
        if (ptrace(PTRACE_SEIZE, self, 0, 0) || write(traced[1], "", 1) != 1)
            return 1;
        for (;;)
            pause();
    }
    if (read(traced[0], line, 1) != 1)
        return 1;
    puts("ready");
    fflush(stdout);
    return read(0, line, sizeof line) < 0;
}
