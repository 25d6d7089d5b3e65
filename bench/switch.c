/*
 * switch.c: what does it cost to leave one stack for another, and to yield through the scheduler?
 *
 * switch_raw is the runtime's own inlined switch between two stacks, without a scheduler;
 * switch_call is the usual routine beside it: six registers pushed, the stack pointer exchanged,
 * six popped, ret.
 *
 * yield_switch yields between two coroutines of one function, yield_mixed between two functions.
 */
#include "bench/bench.h"
#include "stacks/switch.h"

#include <whorl.h>

#include <stdlib.h>

enum { SWITCHES = 20000000, YIELDS = 10000000, STACK_BYTES = 64 * 1024 };

/* ---- The runtime's switch ---- */

static struct context here, there;

/* A second user of the switch beside the runtime, so the other side starts in C on its own stack.
 */
__attribute__((noinline)) static void other_side(void)
{
    for (;;)
        context_switch(&there, &here);
}

static void *stack_top(char *stack)
{
    return stack + STACK_BYTES - 64;
}

static struct result run_switch_raw(void)
{
    char *stack = aligned_alloc(4096, STACK_BYTES);
    there.ip = (void *)other_side;
    there.sp = (char *)stack_top(stack) - 8; /* as after a call */
    there.fp = NULL;
    int64_t start = bench_now();
    for (int i = 0; i < SWITCHES / 2; i++)
        context_switch(&here, &there);
    int64_t took = bench_now() - start;
    free(stack);
    return (struct result){.unit = "ns", .value = (double)took / SWITCHES};
}

const struct bench switch_raw = {"switch_raw", 15, run_switch_raw};

/* ---- The usual one ---- */

void call_switch(void **from_sp, void *to_sp);

#if defined(__x86_64__)
__asm__(".text\n"
        ".p2align 4\n"
        ".type call_switch, @function\n"
        "call_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size call_switch, . - call_switch\n");
enum { SAVED_WORDS = 6 };
#else
/* x19 to x30 and d8 to d15. */
__asm__(".text\n"
        ".p2align 4\n"
        ".type call_switch, %function\n"
        "call_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n"
        "  ret\n"
        ".size call_switch, . - call_switch\n");
enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
#endif

static void *call_here, *call_there;

static void call_other_side(void)
{
    for (;;)
        call_switch(&call_there, call_here);
}

static struct result run_switch_call(void)
{
    char *stack = aligned_alloc(4096, STACK_BYTES);
#if defined(__x86_64__)
    void **sp = (void **)stack_top(stack) - 2;
    *sp = (void *)call_other_side;
    call_there = sp - SAVED_WORDS;
#else
    void **sp = (void **)stack_top(stack) - SAVED_WORDS;
    sp[RETURN_WORD] = (void *)call_other_side;
    call_there = sp;
#endif
    int64_t start = bench_now();
    for (int i = 0; i < SWITCHES / 2; i++)
        call_switch(&call_here, call_there);
    int64_t took = bench_now() - start;
    free(stack);
    return (struct result){.unit = "ns", .value = (double)took / SWITCHES};
}

const struct bench switch_call = {"switch_call", 15, run_switch_call};

/* ---- Through the scheduler ---- */

static void yielder(int count)
{
    for (int i = 0; i < count; i++)
        wh_yield();
}

/* The same in another place: the processor predicts where a return goes from the latest call, which
 * after a switch was the other coroutine's. */
static void yielder_elsewhere(int count)
{
    for (int i = 0; i < count; i++) {
        wh_yield();
        __asm__ volatile("");
    }
}

static int64_t yield_pair(void (*first)(int), void (*second)(int))
{
    wh_coro *a, *b;
    if (wh_spawn(&a, NULL, first, YIELDS / 2) < 0 || wh_spawn(&b, NULL, second, YIELDS / 2) < 0)
        return -1;
    int64_t start = bench_now();
    wh_join(a, NULL);
    wh_join(b, NULL);
    return bench_now() - start;
}

static int same_root(void *arg)
{
    *(int64_t *)arg = yield_pair(yielder, yielder);
    return 0;
}

static int mixed_root(void *arg)
{
    *(int64_t *)arg = yield_pair(yielder, yielder_elsewhere);
    return 0;
}

static struct result run_yield_switch(void)
{
    int64_t took;
    bench_in_run(same_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / YIELDS};
}

static struct result run_yield_mixed(void)
{
    int64_t took;
    bench_in_run(mixed_root, &took);
    return (struct result){.unit = "ns", .value = (double)took / YIELDS};
}

const struct bench yield_switch = {"yield_switch", 15, run_yield_switch};
const struct bench yield_mixed = {"yield_mixed", 15, run_yield_mixed};
