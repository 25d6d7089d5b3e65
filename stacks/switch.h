/*
 * switch.h: leaving one stack and continuing on another.
 *
 * A suspended context is three words: where to go on, the stack pointer, the frame pointer. The
 * switch is inlined: it names every other register as clobbered, so the compiler saves just those
 * that hold something at that place, and it jumps to the other side's label instead of returning to
 * it. whorl-bench's switch_raw compares it with switch_call, the usual routine that saves the six
 * registers of the ABI and returns; the inlined one is what the runtime uses because it is faster.
 *
 *   from: { ip: label 1 below, sp, fp }          to: { ip, sp, fp }
 *                 ^ saved                                 | loaded, jump
 *
 * Unwinding: at label 1 the stack pointer is what it was before the switch, so the call-frame
 * information the compiler wrote for the enclosing function holds for a suspended context too, and
 * a walk from { ip, sp, fp } finds every caller up to coro_entry, whose information says
 * "outermost".
 *
 * Not saved: the floating-point control words (a coroutine that changes its rounding mode restores
 * it before it parks) and the red zone (nothing is pushed, and no one writes below a parked stack's
 * red zone but who drops it).
 *
 * The code must not claim shadow-stack compatibility (the build passes -fcf-protection=none).
 */
#ifndef STACKS_SWITCH_H
#define STACKS_SWITCH_H

#include "base/base.h"

struct context {
    void *ip;
    void *sp;
    void *fp;
};

static_assert(offsetof(struct context, ip) == 0, "the switch below counts on it");
static_assert(offsetof(struct context, sp) == 8, "the switch below counts on it");
static_assert(offsetof(struct context, fp) == 16, "the switch below counts on it");

/* The first instructions of a new context (switch_*.S): calls context_main with the address of the
 * context that was switched to, on an empty stack, as the outermost frame. */
void context_entry(void);

/* Calls fn(arg) on the empty stack that ends at top (16-byte aligned), as its outermost frame, and
 * returns when fn does. An exception that leaves fn ends the process. */
void context_call(void *top, void (*fn)(void *arg), void *arg);

/* What context_entry calls; supplied by the room above. Never returns. */
void context_main(struct context *context) __attribute__((noreturn));

/* A context that will start at context_entry on an empty stack that ends at top (16-byte aligned).
 */
static inline void context_init(struct context *context, void *top)
{
    context->ip = (void *)context_entry;
    context->sp = top;
    context->fp = NULL;
}

#if defined(__x86_64__)

#ifdef __AVX512F__
#define CONTEXT_CLOBBER_WIDE                                                                      \
    , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",   \
        "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k0", "k1", "k2", "k3", "k4", "k5", \
        "k6", "k7"
#else
#define CONTEXT_CLOBBER_WIDE
#endif

__attribute__((always_inline)) static inline void context_switch(struct context *from,
                                                                 struct context *to)
{
    __asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
                     "movq %%rax, 0(%0)\n\t"
                     "movq %%rsp, 8(%0)\n\t"
                     "movq %%rbp, 16(%0)\n\t"
                     "movq 8(%1), %%rsp\n\t"
                     "movq 16(%1), %%rbp\n\t"
                     "jmpq *0(%1)\n"
                     "1:"
                     : "+D"(from), "+S"(to)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                       "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "st",
                       "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)",
                       "st(7)" CONTEXT_CLOBBER_WIDE, "cc", "memory");
}

#elif defined(__aarch64__)

#ifdef __ARM_FEATURE_SVE
#define CONTEXT_CLOBBER_WIDE                                                                  \
    , "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13", \
        "p14", "p15"
#else
#define CONTEXT_CLOBBER_WIDE
#endif

__attribute__((always_inline)) static inline void context_switch(struct context *from,
                                                                 struct context *to)
{
    register struct context *x0 __asm__("x0") = from;
    register struct context *x1 __asm__("x1") = to;
    __asm__ volatile("adr x9, 1f\n\t"
                     "mov x10, sp\n\t"
                     "stp x9, x10, [x0]\n\t"
                     "str x29, [x0, #16]\n\t"
                     "ldp x16, x10, [x1]\n\t"
                     "ldr x29, [x1, #16]\n\t"
                     "mov sp, x10\n\t"
                     "br x16\n"
                     "1:\n\t"
                     "hint #38" /* bti jc: a landing pad where branch protection is on */
                     : "+r"(x0), "+r"(x1)
                     :
                     : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
                       "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24",
                       "x25", "x26", "x27", "x28", "x30", "v0", "v1", "v2", "v3", "v4", "v5", "v6",
                       "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17",
                       "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28",
                       "v29", "v30", "v31" CONTEXT_CLOBBER_WIDE, "cc", "memory");
}

#else
#error "whorl knows x86-64 and aarch64"
#endif

#endif
