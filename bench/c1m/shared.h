/*
 * shared.h: a page that a server process, the clients and the script that runs them have in common:
 * each writes its own figures, the others look.
 */
#ifndef BENCH_C1M_SHARED_H
#define BENCH_C1M_SHARED_H

#include <whorl/serve.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* All atomic, written by the one process that it belongs to. Times are CLOCK_MONOTONIC. */
struct shared {
    /* a server's */
    wh_serve_stats stats;
    uint64_t ready;    /* it listens */
    uint64_t begun;    /* connections whose handler runs, ever */
    uint64_t fired;    /* ended by their deadline */
    uint64_t messages; /* answered */
    uint64_t direct;   /* connections that are direct descriptors */
    /* the clients' */
    uint64_t connected;
    uint64_t exchanged;
    uint64_t seen_end; /* connections that the server has closed, as the clients found at the end */
};

enum { SHARED_BYTES = 4096 };

static inline uint64_t get(const uint64_t *figure)
{
    return __atomic_load_n(figure, __ATOMIC_RELAXED);
}

static inline void add(uint64_t *figure, uint64_t by)
{
    __atomic_fetch_add(figure, by, __ATOMIC_RELAXED);
}

/* The page in the file with that name, which is there; NULL when it is not. */
static inline struct shared *shared_map(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *map = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

static inline int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

#endif
