// Writes into the ring of `fragscope record` what no recorder does. The layout is that of
// profiler_common::ring.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define SLOTS (1ull << 20)

// profiler_common::RecordKind
enum { ALLOC = 1, START = 8, FORKING = 9 };

struct header {
  uint64_t magic;
  _Atomic uint32_t given_up;
  uint32_t apart[13];
  _Atomic uint64_t head;
};

// What fragscope alone can write.
struct reader {
  uint64_t magic;
  _Atomic uint32_t closed, heartbeat, awaited[256], answers[256];
};

struct slot {
  _Atomic uint64_t turn, time_ns, addr, size, thread, kind;
};

static struct header *ring;
static struct slot *slots;
static const struct reader *reader;
static char path[256], reader_path[256];

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void open_ring(void) {
  const char *named = getenv("FRAGSCOPE_RECORD_RING");
  if (!named || sscanf(named, "%255s %*s %*s %255s", path, reader_path) != 2) exit(10);
  int fd = open(path, O_RDWR);
  if (fd < 0) exit(11);
  size_t bytes = 4096 + SLOTS * sizeof(struct slot);
  ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (ring == MAP_FAILED) exit(12);
  slots = (struct slot *)((char *)ring + 4096);
  close(fd);
  fd = open(reader_path, O_RDONLY);
  if (fd < 0) exit(13);
  reader = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  if (reader == MAP_FAILED) exit(14);
  close(fd);
}

// A child of another user that keeps the ring full for as long as it lives, while its parent allocates until the
// recording is over: by slots that are never read or filled, for which it takes back that anybody gave the ring
// up, or by an event in each slot as soon as that is free. Says how long its parent was held up in all.
static void hold_up(char how) {
  pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) || setuid(65534)) _exit(9);
    alarm(300);
    uint64_t claimed = getpid() << 2 | 1;
    if (how == 'c') {
      uint64_t me = getpid();
      for (uint64_t n = atomic_load(&ring->head);;) {
        struct slot *slot = &slots[n % SLOTS];
        uint64_t free = n / SLOTS << 24, turn = free;
        if (atomic_compare_exchange_strong(&slot->turn, &turn, free | me << 2 | 1)) {
          slot->thread = me << 32 | me;
          slot->kind = ALLOC;
          slot->addr = 4096;
          slot->size = 8;
          slot->turn = free | 2;
        } else if (turn < free) {
          continue;
        }
        atomic_store(&ring->head, ++n);
      }
    }
    if (how == 't') {
      for (int n = 0; n < 200;) {
        uint64_t number = atomic_load(&ring->head), lap = number / SLOTS << 24, head = number;
        n += atomic_compare_exchange_strong(&slots[number % SLOTS].turn, &lap, lap | claimed);
        atomic_compare_exchange_strong(&ring->head, &head, number + 1);
      }
    } else {
      // In lap 7 every slot says that the event of lap 0 is still to be read.
      for (uint64_t i = 0; i < SLOTS; i++) slots[i].turn = 2;
    }
    for (;;) {
      ring->given_up = 0;
      if (how == 't') continue;
      ring->head = (7ull << 20) + 5;
      for (int i = 5; i < 12; i++) slots[i].turn = 2;
    }
  }
  double held_up = 0;
  // Of two that are as fast neither may ever give up.
  uint64_t end = how == 'c' ? now() + 25000000000 : UINT64_MAX;
  for (int after = 0; after < 1000 && now() < end; after += reader->closed != 0) {
    uint64_t began = now();
    void *volatile block = malloc(100);
    free(block);
    double took = (now() - began) / 1e9;
    if (took > 0.05) held_up += took;
  }
  kill(child, SIGKILL);
  printf("%.1f\n", held_up);
}

// One event in its turn, as a recorder would write it, of whatever process and thread.
static void event(uint32_t process, uint32_t thread, uint64_t kind, uint64_t addr, uint64_t size) {
  for (;;) {
    uint64_t number = atomic_load(&ring->head);
    struct slot *slot = &slots[number % SLOTS];
    uint64_t lap = number / SLOTS, expected = lap << 24;
    if (atomic_compare_exchange_strong(&slot->turn, &expected, lap << 24 | getpid() << 2 | 1)) {
      uint64_t head = number;
      atomic_compare_exchange_strong(&ring->head, &head, number + 1);
      slot->time_ns = now();
      slot->addr = addr;
      slot->size = size;
      slot->thread = (uint64_t)thread << 32 | process;
      slot->kind = kind;
      atomic_store(&slot->turn, lap << 24 | 2);
      return;
    }
    if (reader->closed) return;
    usleep(100);
  }
}

int main(int argc, char **argv) {
  if (argc < 2) return 9;
  open_ring();
  if (!strcmp(argv[1], "head")) {
    // Far ahead, and then behind.
    atomic_fetch_add(&ring->head, 1ull << 40);
    usleep(20000);
    atomic_store(&ring->head, 0);
    usleep(20000);
    atomic_store(&ring->head, UINT64_MAX - 5);
  } else if (!strcmp(argv[1], "foreign")) {
    // A process that is none of ours begins, allocates, and never ends.
    uint32_t foreign = atoi(argv[2]);
    event(foreign, foreign, START, 1, 0);
    for (int i = 0; i < 1000; i++) event(foreign, foreign, ALLOC, 0x10000000 + i * 64, 32);
  } else if (!strcmp(argv[1], "flood")) {
    for (uint32_t i = 1; i < 3000000; i++) event(i, i, i % 2 ? ALLOC : FORKING, (uint64_t)i << 20, 1 << 19);
  } else if (!strcmp(argv[1], "scribble")) {
    srandom(1);
    for (uint64_t i = 0; i < SLOTS; i++) {
      uint64_t *words = (uint64_t *)&slots[i];
      for (int w = 0; w < 6; w++) words[w] = (uint64_t)random() << 33 ^ random();
    }
    ring->head = (uint64_t)random() << 33;
  } else if (!strcmp(argv[1], "damaged")) {
    event(getpid(), getpid(), 77, 1, 1);
    event(getpid(), getpid(), ALLOC | 200 << 8, 1, 1);
    event(getpid(), getpid(), ALLOC, UINT64_MAX, 1);
  } else if (!strcmp(argv[1], "shrink")) {
    int fd = open(path, O_RDWR);
    if (ftruncate(fd, 4096) == 0) return 20;
    printf("%s\n", strerror(errno));
  } else if (!strcmp(argv[1], "reader")) {
    // Neither a new mapping nor the one that is there can be written to.
    int fd = open(reader_path, O_RDWR);
    if (fd < 0) return 20;
    if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED) return 21;
    if (mprotect((void *)reader, 4096, PROT_READ | PROT_WRITE) == 0) return 22;
    if (pwrite(fd, "x", 1, 8) >= 0) return 23;
    printf("%s\n", strerror(errno));
  } else if (!strcmp(argv[1], "full") || !strcmp(argv[1], "taken") || !strcmp(argv[1], "crowd")) {
    hold_up(argv[1][0]);
  } else if (!strcmp(argv[1], "claim")) {
    // Claimed by a living thread, and never filled; what is behind it is as it should be. It does not end
    // when it is asked to.
    signal(SIGTERM, SIG_IGN);
    uint64_t number = atomic_load(&ring->head);
    uint64_t expected = number / SLOTS << 24;
    atomic_compare_exchange_strong(&slots[number % SLOTS].turn, &expected,
                                   expected | getpid() << 2 | 1);
    for (int i = 0; i < 1000; i++) {
      void *volatile block = malloc(77777);
      free(block);
    }
  } else if (!strcmp(argv[1], "claims")) {
    // Every other slot of the whole ring claimed by a living thread, the others filled.
    uint64_t number = atomic_load(&ring->head);
    for (uint64_t i = 0; i < SLOTS; i++, number++) {
      uint64_t lap = number / SLOTS << 24;
      slots[number % SLOTS].turn = i % 2 ? lap | 2 : lap | getpid() << 2 | 1;
    }
    atomic_store(&ring->head, number);
  } else if (!strcmp(argv[1], "page")) {
    // All words of the first page, again and again, while it is looked at for checkpoints.
    for (int i = 0; i < 300; i++) {
      for (_Atomic uint64_t *w = (void *)ring; w < (_Atomic uint64_t *)slots; w++) *w += 1ull << 40;
      free(malloc(100));
      usleep(1000);
    }
  } else if (!strcmp(argv[1], "back")) {
    // The head stays at the beginning, whatever is done to it.
    if (fork() == 0) {
      alarm(100);
      while (!reader->closed) atomic_store(&ring->head, 0);
      _exit(0);
    }
  } else {
    return 9;
  }
  printf("forged\n");
  fflush(stdout);
  if (argc > 2 && !strcmp(argv[argc - 1], "stay")) pause();
  return 0;
}
