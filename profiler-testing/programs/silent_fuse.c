/* A file system of one file, `file`, that stops answering: SOURCE FLAG FOLDER COMMAND...
 * mounts it at FOLDER, where nobody else sees it, and executes the command. The file holds what SOURCE holds.
 * Once there is a file FLAG, requests are taken and never answered, as by a server that lost its network. It
 * ends with the command, and the mount with both. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NODE 2

static _Alignas(8) char request[1 << 20];
static _Alignas(8) char answer[1 << 20];
static struct stat about;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct fuse_attr attributes(unsigned long long node)
{
	struct fuse_attr attr = {.ino = node, .nlink = 1, .mode = S_IFDIR | 0755};
	if (node == NODE) {
		attr.mode = S_IFREG | 0755;
		attr.size = about.st_size;
		attr.mtime = attr.ctime = about.st_mtime;
		attr.blksize = 4096;
	}
	return attr;
}

/* Bytes of the answer, an error as a negative number. */
static int serve(const struct fuse_in_header *head, const void *asked, int source)
{
	switch (head->opcode) {
	case FUSE_INIT: {
		struct fuse_init_out out = {.major = 7, .minor = 31, .max_readahead = 4096, .max_write = 4096};
		memcpy(answer, &out, sizeof(out));
		return sizeof(out);
	}
	case FUSE_LOOKUP: {
		struct fuse_entry_out out = {.nodeid = NODE, .attr = attributes(NODE)};
		if (strcmp(asked, "file"))
			return -ENOENT;
		memcpy(answer, &out, sizeof(out));
		return sizeof(out);
	}
	case FUSE_GETATTR: {
		struct fuse_attr_out out = {.attr = attributes(head->nodeid)};
		memcpy(answer, &out, sizeof(out));
		return sizeof(out);
	}
	case FUSE_OPEN:
	case FUSE_OPENDIR: {
		struct fuse_open_out out = {.fh = 1};
		memcpy(answer, &out, sizeof(out));
		return sizeof(out);
	}
	case FUSE_READ: {
		const struct fuse_read_in *in = asked;
		int got = pread(source, answer, in->size, in->offset);
		return got < 0 ? -errno : got;
	}
	case FUSE_STATFS: {
		/* What an overlay wants to know of what is below it. */
		struct fuse_statfs_out out = { .st = { .bsize = 4096, .frsize = 4096, .namelen = 255 } };
		memcpy(answer, &out, sizeof(out));
		return sizeof(out);
	}
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
		return 0;
	/* FUSE_FLUSH too: the kernel does not ask again, so that the command can end. */
	default:
		return -ENOSYS;
	}
}

static void answer_all(int fuse, int source, const char *flag)
{
	for (;;) {
		ssize_t got = read(fuse, request, sizeof(request));
		if (got < 0 && errno == ENODEV)
			exit(0);
		if (got < (ssize_t)sizeof(struct fuse_in_header))
			continue;
		const struct fuse_in_header *head = (const void *)request;
		if (head->opcode == FUSE_FORGET || head->opcode == FUSE_BATCH_FORGET ||
		    head->opcode == FUSE_INTERRUPT || access(flag, F_OK) == 0)
			continue;
		int bytes = serve(head, head + 1, source);
		struct fuse_out_header out = {.unique = head->unique, .error = bytes < 0 ? bytes : 0};
		out.len = sizeof(out) + (bytes > 0 ? bytes : 0);
		struct iovec parts[] = {{&out, sizeof(out)}, {answer, out.len - sizeof(out)}};
		if (writev(fuse, parts, 2) < 0 && errno == ENODEV)
			exit(0);
	}
}

int main(int count, char **args)
{
	char options[200];
	if (count < 5)
		return 2;
	int source = open(args[1], O_RDONLY | O_CLOEXEC);
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (source < 0 || fstat(source, &about) || fuse < 0)
		die("open");
	if (unshare(CLONE_NEWNS) || mount("", "/", "", MS_REC | MS_PRIVATE, 0))
		die("a mount namespace");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
	if (mount("silent", args[3], "fuse", 0, options))
		die("mount");
	pid_t command = getpid();
	switch (fork()) {
	case -1:
		die("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Whatever becomes of the command, nobody waits for it without end. */
		alarm(600);
		if (getppid() != command)
			exit(0);
		/* The test waits for the end of what is piped. */
		close(0), close(1);
		answer_all(fuse, source, args[2]);
	}
	close(fuse);
	execvp(args[4], args + 4);
	die("exec");
}
