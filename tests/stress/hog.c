/*
 * hog.c: coroutines that keep their worker to themselves, computing, in malloc() and in system
 * calls: the others' accounts must be right whatever the watchdog does meanwhile. With WHORL_HOG_NS
 * at a millisecond most of these are hogs to it.
 */
#include "stress.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCK_MS = 3, CHUNKS = 16 };

static void keep_allocating(struct rng *rng, int64_t end_ns)
{
    void *chunk[CHUNKS] = {NULL};
    while (now_ns() < end_ns) {
        int i = rng_below(rng, CHUNKS);
        free(chunk[i]);
        chunk[i] = malloc((size_t)rng_from_to(rng, 1, 4096));
        CHECK(chunk[i], "malloc() has no memory");
    }
    for (int i = 0; i < CHUNKS; i++)
        free(chunk[i]);
}

static void block(struct actor *a)
{
    int fds[2];
    char byte = 0;
    if (pipe(fds) < 0)
        return; /* others have all descriptors */
    struct pollfd never = {.fd = fds[0], .events = POLLIN};
    int rc = poll(&never, 1, rng_from_to(&a->rng, 1, BLOCK_MS)); /* not restarted */
    CHECK(rc == 0 || (rc < 0 && errno == EINTR), "poll() returned %d", rc);
    CHECK(write(fds[1], "x", 1) == 1, "a write to an empty pipe failed");
    CHECK(read(fds[0], &byte, 1) == 1 && byte == 'x', "a read of a byte failed");
    close(fds[0]);
    close(fds[1]);
}

static void hog_step(struct actor *a)
{
    int64_t end_ns = now_ns() + rng_time_ns(&a->rng, 13);
    int rc = 0;
    switch (rng_below(&a->rng, 4)) {
    case 0:
        doing(a, "computes");
        while (now_ns() < end_ns)
            ;
        break;
    case 1:
        doing(a, "allocates");
        keep_allocating(&a->rng, end_ns);
        break;
    case 2:
        doing(a, "blocks its thread");
        block(a);
        break;
    default:
        doing(a, "computes, with checkpoints");
        while (now_ns() < end_ns && (rc = wh_checkpoint()) == 0)
            ;
        CHECK(rc == 0 || ended_early(rc), "a checkpoint returned %d", rc);
    }
    doing(a, "lets others run");
    rc = wh_sleep(rng_time_ns(&a->rng, 15));
    CHECK(rc == 0 || ended_early(rc), "a sleep returned %d", rc);
}

const struct kind hog_kind = {
    .name = "hog",
    .step = hog_step,
    .closed = true,
};
