// Its parent half waits uninterruptibly, as every vfork(2) does, for as long as the child half holds
// back; the child half writes the line, and ends when it is told one.
#define _GNU_SOURCE
#include <unistd.h>

static int line_came(void) {
    char byte = 0;
    while (byte != '\n')
        if (read(0, &byte, 1) != 1) return 0;
    return 1;
}

int main(void) {
    if (vfork() == 0) {
        if (write(1, "ready\n", 6) != 6) _exit(1);
        _exit(!line_came());
    }
    if (write(1, "over\n", 5) != 5) return 1;
    return !line_came();
}
