/*
 * inbox.h: what others want of a worker.
 *
 * Three lists, each pushed to by anyone and taken as a whole by the worker:
 *
 *      woken   coroutines of this worker whose wait has been ended: to be queued
 *      asked   coroutines that are to be interrupted (coro_ask()): their worker does it
 *      posts   anything else: a function that is called on the worker's thread, between coroutines
 *
 *      push (any)      node->next = first; first = node      compare-and-swap, seq_cst, again if it
 *                                                            had changed
 *      take (worker)   all = exchange(first, NULL)           acquire; then turned around
 *
 * There is no popping of single nodes, hence no ABA. A push is sequentially consistent because it
 * is one half of the protocol of sleeping (worker.c): push, then look whether the worker sleeps.
 */
#ifndef SCHED_INBOX_H
#define SCHED_INBOX_H

#include "base/base.h"

#include <whorl/types.h>

struct worker;

/* The sender's until it has been delivered, the receiver's from then on. */
struct post {
    struct post *next;
    void (*deliver)(struct post *post, struct worker *w);
};

struct inbox {
    wh_coro *woken;
    wh_coro *asked;
    struct post *posts;
} __attribute__((aligned(64)));

static inline bool inbox_empty(const struct inbox *inbox)
{
    return !__atomic_load_n(&inbox->woken, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&inbox->asked, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&inbox->posts, __ATOMIC_RELAXED);
}

/* The same, by a worker that has just said that it sleeps. */
static inline bool inbox_empty_after(const struct inbox *inbox)
{
    /* seq_cst: pairs with the push: that one, then a look at `sleep`; here the other way round */
    return !__atomic_load_n(&inbox->woken, __ATOMIC_SEQ_CST) &&
           !__atomic_load_n(&inbox->asked, __ATOMIC_SEQ_CST) &&
           !__atomic_load_n(&inbox->posts, __ATOMIC_SEQ_CST);
}

/* Pushes node, which is linked by the member `next`, to a list whose first is *first. */
#define INBOX_PUSH(first, node, next)                                                           \
    do {                                                                                        \
        (node)->next = __atomic_load_n((first), __ATOMIC_RELAXED);                              \
        /* seq_cst: pairs with the acquire in INBOX_TAKE and the look in inbox_empty_after() */ \
        while (!__atomic_compare_exchange_n((first), &(node)->next, (node), true,               \
                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))                \
            ;                                                                                   \
    } while (0)

/* Takes all of the list, in the order of pushing. */
#define INBOX_TAKE(first, next)                                           \
    __extension__({                                                       \
        __typeof__(*(first)) taken_ = NULL, node_ = NULL;                 \
        if (__atomic_load_n((first), __ATOMIC_RELAXED)) {                 \
            /* acquire: pairs with the seq_cst in INBOX_PUSH */           \
            node_ = __atomic_exchange_n((first), NULL, __ATOMIC_ACQUIRE); \
        }                                                                 \
        while (node_) {                                                   \
            __typeof__(*(first)) after_ = node_->next;                    \
            node_->next = taken_;                                         \
            taken_ = node_;                                               \
            node_ = after_;                                               \
        }                                                                 \
        taken_;                                                           \
    })

#endif
