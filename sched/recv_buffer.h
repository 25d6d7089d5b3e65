/*
 * recv_buffer.h: buffers that the kernel picks when a receive has something to put into one.
 *
 * Each worker has a pool, made when it is first wanted: RECV_BUFFERS of RECV_BUFFER_BYTES, whose
 * pages cost nothing until they are used. A buffer is the kernel's, until an operation completes
 * with it (OP_RECV_BUFFER); then whoever took it has it until it is returned. One that has migrated
 * meanwhile returns it by a post to the worker whose ring it is of; the post is the buffer's own.
 */
#ifndef SCHED_RECV_BUFFER_H
#define SCHED_RECV_BUFFER_H

#include "base/base.h"

struct op;
struct worker;

enum { RECV_BUFFERS = 256, RECV_BUFFER_BYTES = 4096 };

/* bytes is NULL: it is none. */
struct recv_buffer {
    char *bytes;
    uint8_t worker;
    uint16_t number;
};

static inline bool recv_buffer_is(const struct recv_buffer *buffer)
{
    return buffer->bytes;
}

/* Makes the worker's buffers if it has none. Whether it has. */
bool recv_buffers_have(struct worker *w);

/* Frees them, at the end of the run. */
void recv_buffers_finish(struct worker *w);

/* What the worker of the operation notes in it when it completes. */
void recv_buffer_completed(struct worker *w, struct op *op);

/* The buffer that the operation has completed with. Returns false if there is none. */
bool recv_buffer_take(const struct worker *w, const struct op *op, struct recv_buffer *ret_buffer);

/* Gives it back, if it is one; it is none then. */
void recv_buffer_return(struct worker *w, struct recv_buffer *buffer);

#endif
