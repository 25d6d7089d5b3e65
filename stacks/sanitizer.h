/*
 * sanitizer.h: telling AddressSanitizer which stack we are on, and ThreadSanitizer which coroutine.
 * (Valgrind is told of every slot once, by the pool.)
 *
 * Each context carries a `struct sanitizer`, empty in a plain build. Around a switch:
 *
 *     sanitizer_leave(&from, &to, dying);  context_switch(...);  sanitizer_arrive(&from)
 *
 * and sanitizer_arrive(&to) first thing on a new context. Around a call on a borrowed stack, during
 * which the context's struct is that stack's and `outer` what it was:
 *
 *     sanitizer_borrow(&self, &outer, pool, stack); context_call(...); sanitizer_back(&self,
 * &outer)
 *
 * and on the borrowed stack, at the call's begin and end, sanitizer_borrowed(&self) and
 * sanitizer_give_back(&outer). ThreadSanitizer's fiber stays the same.
 */
#ifndef STACKS_SANITIZER_H
#define STACKS_SANITIZER_H

#include "stacks/stacks.h"

#if defined(__SANITIZE_ADDRESS__)
#define WHORL_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define WHORL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WHORL_ASAN 1
#elif __has_feature(thread_sanitizer)
#define WHORL_TSAN 1
#endif
#endif

struct sanitizer {
#ifdef WHORL_ASAN
    void *fake_stack;
    const void *bottom;
    size_t bytes;
#endif
#ifdef WHORL_TSAN
    void *fiber;
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

static inline void sanitizer_finish(struct sanitizer *s)
{
    (void)s;
}

static inline void sanitizer_borrow(struct sanitizer *self, struct sanitizer *outer,
                                    const struct stack_pool *pool, const struct stack *stack)
{
    *outer = *self;
    sanitizer_stack_set(self, pool, stack);
    __sanitizer_start_switch_fiber(&outer->fake_stack, self->bottom, self->bytes);
}

static inline void sanitizer_borrowed(struct sanitizer *self)
{
    __sanitizer_finish_switch_fiber(self->fake_stack, NULL, NULL);
}

static inline void sanitizer_give_back(const struct sanitizer *outer)
{
    __sanitizer_start_switch_fiber(NULL, outer->bottom, outer->bytes);
}

static inline void sanitizer_back(struct sanitizer *self, const struct sanitizer *outer)
{
    *self = *outer;
    __sanitizer_finish_switch_fiber(self->fake_stack, NULL, NULL);
}

#elif defined(WHORL_TSAN)

#include <sanitizer/tsan_interface.h>

/*
 * A fiber a coroutine, from its first run to its end. A switch is a synchronisation: coroutines of
 * one worker do not race, and what is looked for is races between threads. Fibers are dear (a
 * megabyte of address space, mapped and unmapped), so each thread keeps some for the next
 * coroutines. What a fiber has of calls that never returned would stay with it: context_main(),
 * which ends a coroutine, is not instrumented.
 *
 * A signal is kept back until the fiber that runs makes a call that is intercepted. During the
 * switch it would stay with the fiber that is left, for as long as that is parked: so signals are
 * blocked meanwhile, and the call that does it delivers what has come before.
 */
#define SANITIZER_UNWATCHED __attribute__((no_sanitize("thread")))

void *sanitizer_fiber_take(void);
void sanitizer_fiber_give(void *fiber);
void sanitizer_thread_set(struct sanitizer *s);
void sanitizer_signals_hold(void);
void sanitizer_signals_release(void);
void sanitizer_fibers_finish(void);

static inline void sanitizer_stack_set(struct sanitizer *s, const struct stack_pool *pool,
                                       const struct stack *stack)
{
    (void)pool;
    (void)stack;
    s->fiber = sanitizer_fiber_take();
}

/* Nothing that is instrumented stands between this and the switch. */
__attribute__((always_inline)) static inline void
sanitizer_leave(struct sanitizer *from, const struct sanitizer *to, bool dying)
{
    if (dying)
        sanitizer_fiber_give(from->fiber); /* nobody takes it before the switch */
    sanitizer_signals_hold();
    __tsan_switch_to_fiber(to->fiber, 0);
}

static inline void sanitizer_arrive(struct sanitizer *self)
{
    (void)self;
    sanitizer_signals_release();
}

/* Of a coroutine that was abandoned. */
static inline void sanitizer_finish(struct sanitizer *s)
{
    sanitizer_fiber_give(s->fiber);
}

#else

static inline void sanitizer_finish(struct sanitizer *s)
{
    (void)s;
}

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

#ifndef WHORL_ASAN

static inline void sanitizer_borrow(struct sanitizer *self, struct sanitizer *outer,
                                    const struct stack_pool *pool, const struct stack *stack)
{
    (void)self;
    (void)outer;
    (void)pool;
    (void)stack;
}

static inline void sanitizer_borrowed(const struct sanitizer *self)
{
    (void)self;
}

static inline void sanitizer_give_back(const struct sanitizer *outer)
{
    (void)outer;
}

static inline void sanitizer_back(const struct sanitizer *self, const struct sanitizer *outer)
{
    (void)self;
    (void)outer;
}

#endif

#ifndef WHORL_TSAN
#define SANITIZER_UNWATCHED

static inline void sanitizer_fibers_finish(void)
{
}
#endif

#endif
