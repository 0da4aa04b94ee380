/* Preloaded: a file system without files that have no name (O_TMPFILE), as NFS is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static int at(int folder, const char *path, int flags, unsigned mode) {
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(mode, last) \
    va_list rest;        \
    va_start(rest, last); \
    unsigned mode = va_arg(rest, unsigned); \
    va_end(rest)

int open(const char *path, int flags, ...) {
    MODE(mode, flags);
    return at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(mode, flags);
    return at(AT_FDCWD, path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(mode, flags);
    return at(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(mode, flags);
    return at(folder, path, flags, mode);
}
