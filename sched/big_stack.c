/*
 * big_stack.c: a call on a borrowed stack (whorl/blocking.h).
 *
 *      coro->stack           |  ... wh_on_big_stack_ | context_call |
 *                                                          |  ^
 *      the borrowed one      |                          fn | <'  `- returns there
 *
 * The coroutine stays what it is, with its own descriptor, locals, context and deadline; only its
 * stack pointer is elsewhere until the call returns. So fn may park, and where it may migrate it
 * may come back on another worker: the borrowed stack then returns to its owner as an ended
 * coroutine's does (stack_return()), but with no ceremony, because we have left it already.
 *
 * Whoever looks at a coroutine's stack must ask whether its stack pointer is in it (tidy_stack() in
 * loop.c), and a fault may be on the guard of any stack whose owner it is (fault.c).
 *
 * Rejected: a coroutine with a large stack that the caller joins. It would have locals, a deadline
 * and a name of its own, and cost two switches through the queue.
 */
#include "sched/sched.h"

#include <whorl/blocking.h>

#include <string.h>

struct call {
    wh_coro *self;
    struct wh_site *site;
    void (*fn)(void);
    uintptr_t words[6];
    intptr_t value;
    struct sanitizer outer;
};

/* On the borrowed stack. */
static void call_there(void *arg)
{
    struct call *call = arg;
    sanitizer_borrowed(&call->self->sanitizer);
    where_set(call->self->worker, IN_USER);
    call->value = call_with_words(call->fn, call->words, site_ret_size(call->site));
    where_set(call->self->worker, IN_RUNTIME);
    sanitizer_give_back(&call->outer);
}

int wh_on_big_stack_(struct wh_site *site, intptr_t *ret_value, const void *none, void (*fn)(void),
                     const uintptr_t *words)
{
    INSIDE(self, "wh_on_big_stack");
    (void)none;
    struct worker *w = self->worker;
    int size_class = STACK_CLASSES - 1;
    int rc = stack_reserve(&w->stacks, size_class);
    if (unlikely(rc < 0))
        return rc;
    struct stack *stack = stack_take(&w->stacks, size_class, self);
    struct call call = {.self = self, .site = site, .fn = fn};
    memcpy(call.words, words, site_args(site) * sizeof *words);
    stack->scan_mark = (uint8_t)(w->epoch - 1); /* not looked at since this one runs on it */
    sanitizer_borrow(&self->sanitizer, &call.outer, &w->stacks, stack);
    context_call(stack->top, call_there, &call);
    sanitizer_back(&self->sanitizer, &call.outer);

    w = self->worker;
    if (likely(stack->home == w->index))
        stack_give(&w->stacks, stack);
    else
        stack_give_home(w, stack);
    if (ret_value)
        *ret_value = call.value;
    return 0;
}
