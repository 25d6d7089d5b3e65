/*
 * switching.h: checks of the raw switch, written once in C: switch_test.cpp runs them natively,
 * switching_main.c runs them compiled in other ways and for other processors.
 *
 * They supply context_main(), so a program with them must not pull in the scheduler.
 */
#ifndef TESTS_STACKS_SWITCHING_H
#define TESTS_STACKS_SWITCHING_H

#include "stacks/sanitizer.h"
#include "stacks/switch.h"

/* A context with a stack of its own and what it is to run. */
struct side {
    struct context context;         /* first: context_main() gets its address */
    void (*run)(struct side *self); /* never returns */
    struct side *other;
    char *stack;
    size_t stack_bytes;
    void *arg;
    struct sanitizer sanitizer; /* last: empty it has another size in C++ for some compilers */
};

/* Makes self a context that runs run(self); `other` is where it switches back to. */
void side_init(struct side *self, struct side *other, void (*run)(struct side *self), void *arg);
void side_finish(struct side *self);

/* For the thread's own stack: so that the sanitizer knows where it is. */
void side_init_thread(struct side *self);

/* Switches from one to the other, and returns when somebody switches back. */
__attribute__((always_inline)) static inline void side_switch(struct side *from, struct side *to)
{
    sanitizer_leave(&from->sanitizer, &to->sanitizer, false);
    context_switch(&from->context, &to->context);
    sanitizer_arrive(&from->sanitizer);
}

/* Calls fn(arg) with in[] in the registers that a call must preserve, and stores what these hold
 * afterwards in out[] (registers_*.S). */
#if defined(__x86_64__)
enum { REGISTERS = 6 };
#else
enum { REGISTERS = 19 };
#endif
void registers_around(void (*fn)(void *arg), void *arg, const uint64_t in[REGISTERS],
                      uint64_t out[REGISTERS]);

struct switch_check {
    const char *name;
    const char *(*run)(void); /* NULL, or what is wrong */
};

extern const struct switch_check switch_checks[];
extern const size_t switch_checks_count;

#endif
