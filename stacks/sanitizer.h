/*
 * sanitizer.h: telling AddressSanitizer which stack we are on. (Valgrind is told of every slot
 * once, by the pool.)
 *
 * Each context carries a `struct sanitizer`, empty in a plain build. Around a switch:
 *
 *     sanitizer_leave(&from, &to, dying);  context_switch(...);  sanitizer_arrive(&from)
 *
 * and sanitizer_arrive(&to) first thing on a new context.
 */
#ifndef STACKS_SANITIZER_H
#define STACKS_SANITIZER_H

#include "stacks/stacks.h"

#if defined(__SANITIZE_ADDRESS__)
#define WHORL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WHORL_ASAN 1
#endif
#endif

struct sanitizer {
#ifdef WHORL_ASAN
    void *fake_stack;
    const void *bottom;
    size_t bytes;
#endif
    char none[0];
};

#ifdef WHORL_ASAN

#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

static inline void sanitizer_stack_set(struct sanitizer *s, const struct stack_pool *pool,
                                       const struct stack *stack)
{
    s->bottom = stack_bottom(pool, stack);
    s->bytes = (size_t)(stack->top - (const char *)s->bottom);
    s->fake_stack = NULL;
    ASAN_UNPOISON_MEMORY_REGION(s->bottom, s->bytes);
}

/* For the context of a thread itself: its own stack. Without it a thread that has come back there
 * would have none for the sanitizer, and the next exception would be an error. */
static inline void sanitizer_thread_set(struct sanitizer *s)
{
    pthread_attr_t attr;
    void *bottom;
    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    if (pthread_attr_getstack(&attr, &bottom, &s->bytes) == 0)
        s->bottom = bottom;
    pthread_attr_destroy(&attr);
}

static inline void sanitizer_leave(struct sanitizer *from, const struct sanitizer *to, bool dying)
{
    __sanitizer_start_switch_fiber(dying ? NULL : &from->fake_stack, to->bottom, to->bytes);
}

static inline void sanitizer_arrive(struct sanitizer *self)
{
    __sanitizer_finish_switch_fiber(self->fake_stack, NULL, NULL);
}

#else

static inline void sanitizer_stack_set(struct sanitizer *s, const struct stack_pool *pool,
                                       const struct stack *stack)
{
    (void)s;
    (void)pool;
    (void)stack;
}

static inline void sanitizer_thread_set(struct sanitizer *s)
{
    (void)s;
}

static inline void sanitizer_leave(struct sanitizer *from, const struct sanitizer *to, bool dying)
{
    (void)from;
    (void)to;
    (void)dying;
}

static inline void sanitizer_arrive(struct sanitizer *self)
{
    (void)self;
}

#endif

#endif
