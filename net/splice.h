/*
 * splice.h: splice(2) through pipes that are kept, and descriptors that do not block meanwhile.
 *
 * A pipe is taken when there is something to move and given back when it is empty again: while all
 * streams wait, no more are open than PIPES_KEPT_MAX a worker. Nothing here parks.
 */
#ifndef NET_SPLICE_H
#define NET_SPLICE_H

#include "base/base.h"

#include <sys/types.h>

enum {
    PIPES_KEPT_MAX = 4, /* empty ones, a worker */
    /* What a pipe is to hold. With 64 KiB, the kernel's default, a proxy moves 10 to 20 % less in a
     * CPU second; with a megabyte 8 % more, and the other coroutines wait four times as long. */
    PIPE_BYTES = 256 << 10,
    PIPE_BYTES_MIN = 64 << 10,
};

struct pipe {
    int out; /* is read from */
    int in;
};

/* Whether WHORL_MASK (uring/caps.h) hides "splice" from the run. */
bool splice_masked(void);

/* Takes an empty pipe. False: there is none to be had, or only one that holds so little that
 * copying is faster. */
bool pipe_take(struct pipe *ret_pipe);

/* Gives it back, empty. */
void pipe_give(const struct pipe *pipe);

/* Closes it, with what is in it. */
void pipe_drop(const struct pipe *pipe);

/* One who splices from or to a descriptor, on which it must not wait meanwhile. */
struct splicer {
    struct splicer *next; /* in splice.c's table, under its lock: */
    uint64_t file; /* the same for all descriptors of a socket; 0: a pipe, not in the table */
    int fd;
    bool blocks; /* it did before, and is to again when the last of them has ended */
};

/* The descriptor is a stream socket, and non-blocking until splice_end(), for everyone who has the
 * same open file; or it is a pipe and stays as it is. False: neither can be said of it. */
bool splice_begin(struct splicer *splicer, int fd);
void splice_end(struct splicer *splicer);

/* Moves some bytes into the empty pipe: as recv(2) with MSG_DONTWAIT; -EINVAL when that cannot be
 * spliced from. */
ssize_t splice_in(const struct splicer *from, const struct pipe *pipe, size_t len);

/* Moves some of the `len` bytes in the pipe on: as send(2) with MSG_DONTWAIT and MSG_NOSIGNAL;
 * -EINVAL as well. */
ssize_t splice_out(const struct pipe *pipe, const struct splicer *to, size_t len);

/* Reads the `len` bytes in the pipe, which is empty then. False when they could not be read. */
bool pipe_read(const struct pipe *pipe, char *buf, size_t len);

#endif
