/* Shares its memory with other processes that are not stopped with it. For each line `one` it creates
 * such a process and prints its number; for `headless` one whose first thread ends (it has no memory
 * then, as a zombie), and prints the number of its other thread; for `end` it ends all of them. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 8
#define STACK (1 << 16)

static _Alignas(16) char stacks[2 * MOST][STACK];
static int used;
static volatile int thread;

static void *top(void)
{
	return stacks[used++] + STACK;
}

/* Without the C library's functions: they would change what is the first program's. */
static int waits(void *nothing)
{
	(void)nothing;
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (;;)
		syscall(SYS_pause);
	return 0;
}

static int leaves_a_thread(void *stack)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	thread = clone(waits, stack, flags, NULL);
	syscall(SYS_exit, 0);
	return 0;
}

int main(void)
{
	char line[100];
	pid_t all[MOST];
	int count = 0;
	puts("READY");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "end\n")) {
			while (count > 0) {
				kill(all[--count], SIGKILL);
				waitpid(all[count], NULL, 0);
			}
			puts("alone");
		} else if (count < MOST && !strcmp(line, "headless\n")) {
			thread = 0;
			void *other = top();
			all[count++] = clone(leaves_a_thread, top(), CLONE_VM | SIGCHLD, other);
			while (thread == 0)
				usleep(1000);
			char path[64], state = 0;
			snprintf(path, sizeof(path), "/proc/%d/stat", all[count - 1]);
			while (state != 'Z') {
				FILE *stat = fopen(path, "r");
				if (!stat || fscanf(stat, "%*d (%*[^)]) %c", &state) != 1)
					return 1;
				fclose(stat);
			}
			printf("%d\n", thread);
		} else if (count < MOST) {
			all[count] = clone(waits, top(), CLONE_VM | SIGCHLD, NULL);
			printf("%d\n", all[count++]);
		}
		fflush(stdout);
	}
	for (; count > 0; count--)
		kill(all[count - 1], SIGKILL);
	return 0;
}
