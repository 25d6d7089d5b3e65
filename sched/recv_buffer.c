/*
 * recv_buffer.c: buffers for receiving (recv_buffer.h).
 *
 * Owners: a pool and its ring are the worker's; a slot is whoever's has its buffer, and once posted
 * the worker's again.
 */
#include "sched/recv_buffer.h"

#include "sched/sched.h"

#include <string.h>

struct recv_slot {
    struct post post;
    uint16_t number;
};

struct recv_buffers {
    struct recv_slot slots[RECV_BUFFERS];
};

bool recv_buffers_have(struct worker *w)
{
    if (likely(w->recv_buffers))
        return true;
    if (w->no_recv_buffers)
        return false;
    struct recv_buffers *buffers = mem_zalloc(sizeof *buffers);
    if (!buffers ||
        w->engine->type->buffers_create(w->engine, RECV_BUFFERS, RECV_BUFFER_BYTES) < 0) {
        mem_free(buffers);
        w->no_recv_buffers = true; /* it goes without, and does not ask again */
        return false;
    }
    for (unsigned i = 0; i < RECV_BUFFERS; i++)
        buffers->slots[i].number = (uint16_t)i;
    w->recv_buffers = buffers;
    return true;
}

void recv_buffers_finish(struct worker *w)
{
    mem_free(w->recv_buffers);
    w->recv_buffers = NULL;
}

void recv_buffer_completed(struct worker *w, struct op *op)
{
    w->recv_buffers_in_use += op->res_flags & OP_HAS_BUFFER;
    op->res_flags |= (uint32_t)w->index << OP_WORKER_SHIFT;
}

bool recv_buffer_take(const struct worker *w, const struct op *op, struct recv_buffer *ret_buffer)
{
    if (!(op->res_flags & OP_HAS_BUFFER)) {
        ret_buffer->bytes = NULL;
        return false;
    }
    ret_buffer->worker = (uint8_t)(op->res_flags >> OP_WORKER_SHIFT);
    ret_buffer->number = (uint16_t)(op->res_flags >> OP_BUFFER_SHIFT);
    const struct worker *owner = w->run->worker[ret_buffer->worker];
    ret_buffer->bytes = owner->engine->type->buffer(owner->engine, ret_buffer->number);
    return true;
}

static void come_home(struct worker *w, unsigned number)
{
    wh_assert(w->recv_buffers_in_use > 0);
    w->recv_buffers_in_use--;
    w->engine->type->buffer_return(w->engine, number);
}

static void come_back(struct post *post, struct worker *w)
{
    come_home(w, container_of(post, struct recv_slot, post)->number);
}

void recv_buffer_return(struct worker *w, struct recv_buffer *buffer)
{
    if (!buffer->bytes)
        return;
    buffer->bytes = NULL;
    if (likely(buffer->worker == w->index)) {
        come_home(w, buffer->number);
        return;
    }
    struct worker *owner = w->run->worker[buffer->worker];
    struct post *post = &owner->recv_buffers->slots[buffer->number].post;
    post->deliver = come_back;
    worker_post(owner, post);
}
