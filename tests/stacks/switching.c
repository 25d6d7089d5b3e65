/*
 * switching.c: checks of the raw switch (see switching.h).
 *
 * In each, two contexts run the same code on different values, so that whatever the compiler keeps
 * in a register on one side is overwritten by the other.
 */
#include "tests/stacks/switching.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unwind.h>

/* Neither inlined nor cloned: the function that stands in the source is the one that runs. */
#if __has_attribute(noipa)
#define AS_WRITTEN __attribute__((noipa))
#else
#define AS_WRITTEN __attribute__((noinline))
#endif

enum { SIDE_STACK_BYTES = 256 * 1024, VALUES = 24, ROUNDS = 100 };

void context_main(struct context *context)
{
    struct side *self = (struct side *)context;
    sanitizer_arrive(&self->sanitizer);
    self->run(self);
    abort();
}

/* The stack that the context runs on, for the sanitizer. */
static void side_bounds(struct side *self, void *bottom, size_t bytes)
{
#ifdef WHORL_ASAN
    self->sanitizer.bottom = bottom;
    self->sanitizer.bytes = bytes;
#else
    (void)self;
    (void)bottom;
    (void)bytes;
#endif
}

void side_init(struct side *self, struct side *other, void (*run)(struct side *self), void *arg)
{
    memset(self, 0, sizeof *self);
    self->stack_bytes = SIDE_STACK_BYTES;
    self->stack =
        mmap(NULL, self->stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (self->stack == MAP_FAILED)
        abort();
    self->run = run;
    self->other = other;
    self->arg = arg;
    context_init(&self->context, self->stack + self->stack_bytes);
    side_bounds(self, self->stack, self->stack_bytes);
}

void side_finish(struct side *self)
{
#ifdef WHORL_ASAN
    /* Its frames are abandoned: what they poisoned must not haunt the next mapping here. */
    ASAN_UNPOISON_MEMORY_REGION(self->stack, self->stack_bytes);
#endif
    munmap(self->stack, self->stack_bytes);
}

void side_init_thread(struct side *self)
{
    memset(self, 0, sizeof *self);
    sanitizer_thread_set(&self->sanitizer);
}

/* ---- Values ---- */

/* Something the compiler knows nothing about. */
static uint64_t opaque(uint64_t value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

typedef double pair __attribute__((vector_size(16)));

/* Keeps as many values as there are registers alive across a switch. Returns whether all are still
 * what they were. */
AS_WRITTEN static bool keeps_values(struct side *from, struct side *to, uint64_t seed)
{
    uint64_t a = opaque(seed * 3), b = opaque(seed * 5), c = opaque(seed * 7),
             d = opaque(seed * 11);
    uint64_t e = opaque(seed ^ 1), f = opaque(seed ^ 2), g = opaque(seed ^ 4), h = opaque(seed ^ 8);
    uint64_t i = opaque(seed + 1), j = opaque(seed + 2), k = opaque(seed + 3), l = opaque(seed + 4);
    double r = (double)opaque(seed % 1000), s = r * 2, t = r * 3, u = r * 4, v = r * 5, w = r * 6;
    double x = r / 3, y = r / 5, z = r / 7;
    long double wide = (long double)opaque(seed % 777) / 3;
    unsigned __int128 big = (unsigned __int128)opaque(seed) * opaque(~seed);
    pair p = {(double)opaque(seed % 31), (double)opaque(seed % 37)};
    pair q = p * p;

    side_switch(from, to);

    bool ints = a == seed * 3 && b == seed * 5 && c == seed * 7 && d == seed * 11 &&
                e == (seed ^ 1) && f == (seed ^ 2) && g == (seed ^ 4) && h == (seed ^ 8) &&
                i == seed + 1 && j == seed + 2 && k == seed + 3 && l == seed + 4;
    double again = (double)opaque(seed % 1000);
    bool reals = r == again && s == again * 2 && t == again * 3 && u == again * 4 &&
                 v == again * 5 && w == again * 6 && x == again / 3 && y == again / 5 &&
                 z == again / 7;
    bool wides = wide == (long double)opaque(seed % 777) / 3 &&
                 big == (unsigned __int128)opaque(seed) * opaque(~seed);
    double p0 = (double)opaque(seed % 31), p1 = (double)opaque(seed % 37);
    bool pairs = p[0] == p0 && p[1] == p1 && q[0] == p0 * p0 && q[1] == p1 * p1;
    return ints && reals && wides && pairs;
}

/* An array worked on before and after, for loops that are vectorised with the widest registers. */
AS_WRITTEN static bool keeps_arrays(struct side *from, struct side *to, uint64_t seed)
{
    float n[64], sum_before = 0, sum_after = 0;
    uint32_t odd = 0, odd_after = 0;
    for (int i = 0; i < 64; i++)
        n[i] = (float)(opaque(seed + (uint64_t)i) % 1024);
    for (int i = 0; i < 64; i++) {
        odd += (unsigned)n[i] & 1;
        sum_before += n[i] > 512 ? n[i] : 1;
    }
    side_switch(from, to);
    for (int i = 0; i < 64; i++) {
        odd_after += (unsigned)n[i] & 1;
        sum_after += n[i] > 512 ? n[i] : 1;
    }
    return odd == odd_after && sum_before == sum_after;
}

struct tally {
    uint64_t seed;
    unsigned rounds;
    unsigned failed;
};

static void values_forever(struct side *self)
{
    struct tally *tally = self->arg;
    for (;; tally->rounds++) {
        tally->failed += !keeps_values(self, self->other, tally->seed + tally->rounds);
        tally->failed += !keeps_arrays(self, self->other, tally->seed + tally->rounds);
    }
}

static const char *check_values(void)
{
    struct side self, other;
    struct tally theirs = {.seed = 0x9e3779b97f4a7c15};
    side_init_thread(&self);
    side_init(&other, &self, values_forever, &theirs);
    unsigned failed = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        failed += !keeps_values(&self, &other, 0x123456789abcdef * (i + 1));
        failed += !keeps_arrays(&self, &other, i * 77);
    }
    side_finish(&other);
    if (failed)
        return "a value changed on the thread's stack";
    if (theirs.failed)
        return "a value changed on the new stack";
    return theirs.rounds < ROUNDS - 1 ? "the other side did not run as often" : NULL;
}

/* ---- Registers ---- */

struct both {
    struct side *from;
    struct side *to;
};

static void switch_once(void *arg)
{
    struct both *both = arg;
    side_switch(both->from, both->to);
}

static bool keeps_registers(struct side *from, struct side *to, uint64_t seed)
{
    uint64_t in[REGISTERS], out[REGISTERS];
    struct both both = {from, to};
    for (unsigned i = 0; i < REGISTERS; i++)
        in[i] = seed * (i + 1);
    memset(out, 0, sizeof out);
    registers_around(switch_once, &both, in, out);
    return !memcmp(in, out, sizeof in);
}

static void registers_forever(struct side *self)
{
    struct tally *tally = self->arg;
    for (;; tally->rounds++)
        tally->failed += !keeps_registers(self, self->other, tally->seed + tally->rounds);
}

static const char *check_registers(void)
{
    struct side self, other;
    struct tally theirs = {.seed = 0xfedcba9876543211};
    side_init_thread(&self);
    side_init(&other, &self, registers_forever, &theirs);
    unsigned failed = 0;
    for (uint64_t i = 0; i < ROUNDS; i++)
        failed += !keeps_registers(&self, &other, 0x0101010101010101 * (i + 3));
    side_finish(&other);
    if (failed)
        return "a register that a call must preserve changed on the thread's stack";
    return theirs.failed ? "a register that a call must preserve changed on the new stack" : NULL;
}

/* ---- The beginning ---- */

struct beginning {
    uintptr_t frame;
    uintptr_t local;
};

AS_WRITTEN static void note_beginning(struct side *self)
{
    struct beginning *b = self->arg;
    /* Asks for more than the ABI grants only if the stack pointer came in aligned. */
    double aligned[2] __attribute__((aligned(16))) = {1, 2};
    double *volatile here = aligned;
    b->local = (uintptr_t)here;
    b->frame = (uintptr_t)__builtin_frame_address(0);
    for (;;)
        side_switch(self, self->other);
}

static const char *check_beginning(void)
{
    struct side self, other;
    struct beginning b = {0, 0};
    side_init_thread(&self);
    side_init(&other, &self, note_beginning, &b);
    side_switch(&self, &other);
    uintptr_t low = (uintptr_t)other.stack, high = low + other.stack_bytes;
    side_finish(&other);
    if (b.frame % 16)
        return "the stack is not aligned to 16 bytes at a call";
    if (b.frame < low || b.frame >= high || high - b.frame > 8192)
        return "the context does not run at the top of its stack";
#ifndef WHORL_ASAN /* which may keep locals elsewhere */
    if (b.local < low || b.local >= high)
        return "a local is not on the context's stack";
#endif
    return b.local % 16 ? "a local is not aligned" : NULL;
}

/* ---- Depth ---- */

/* Switches away at every level of a recursion, down and up. */
AS_WRITTEN static uint64_t recurse(struct side *self, unsigned depth, uint64_t seed)
{
    volatile uint64_t mine = seed * (depth + 1);
    side_switch(self, self->other);
    uint64_t below = depth ? recurse(self, depth - 1, seed) : 0;
    side_switch(self, self->other);
    return mine + below;
}

enum { DEPTH = 200, SIDES = 8 };

struct deep {
    struct side side;
    uint64_t seed;
    uint64_t sum;
    bool done;
};

static void recurse_once(struct side *self)
{
    struct deep *deep = self->arg;
    deep->sum = recurse(self, DEPTH, deep->seed);
    deep->done = true;
    for (;;)
        side_switch(self, self->other);
}

static const char *check_depth(void)
{
    static struct deep deep[SIDES];
    struct side self;
    side_init_thread(&self);
    for (unsigned i = 0; i < SIDES; i++) {
        deep[i].seed = i + 1;
        deep[i].done = false;
        side_init(&deep[i].side, &self, recurse_once, &deep[i]);
    }
    for (unsigned turn = 0; turn < 2 * DEPTH + 3; turn++)
        for (unsigned i = 0; i < SIDES; i++)
            side_switch(&self, &deep[i].side);
    const char *wrong = NULL;
    for (unsigned i = 0; i < SIDES; i++) {
        uint64_t expected = deep[i].seed * (DEPTH + 1) * (DEPTH + 2) / 2;
        if (!deep[i].done || deep[i].sum != expected)
            wrong = "eight interleaved recursions did not keep their stacks apart";
        side_finish(&deep[i].side);
    }
    return wrong;
}

static void count_forever(struct side *self)
{
    uint64_t *count = self->arg;
    for (;; ++*count)
        side_switch(self, self->other);
}

static const char *check_many(void)
{
    struct side self, other;
    uint64_t count = 0;
    side_init_thread(&self);
    side_init(&other, &self, count_forever, &count);
    for (unsigned i = 0; i < 300000; i++)
        side_switch(&self, &other);
    side_finish(&other);
    return count == 299999 ? NULL : "a switch was lost";
}

/* ---- Unwinding ---- */

enum { CHAIN = 5, FRAMES_MAX = 64 };

struct walk {
    uintptr_t function[FRAMES_MAX];
    unsigned frames;
    bool too_long;
};

static _Unwind_Reason_Code walk_frame(struct _Unwind_Context *unwind, void *arg)
{
    struct walk *walk = arg;
    uintptr_t ip = _Unwind_GetIP(unwind);
    if (!ip)
        return _URC_NO_REASON;
    if (walk->frames == FRAMES_MAX) {
        walk->too_long = true;
        return _URC_NORMAL_STOP;
    }
    walk->function[walk->frames++] = (uintptr_t)_Unwind_FindEnclosingFunction((void *)(ip - 1));
    return _URC_NO_REASON;
}

AS_WRITTEN static void chain(struct walk *walk, unsigned depth)
{
    if (depth)
        chain(walk, depth - 1);
    else
        _Unwind_Backtrace(walk_frame, walk);
    __asm__ volatile("" ::: "memory"); /* no tail call */
}

AS_WRITTEN static void walk_and_stop(struct side *self)
{
    chain(self->arg, CHAIN - 1);
    for (;;) {
        side_switch(self, self->other);
        /* Once more after having been away. */
        ((struct walk *)self->arg)->frames = 0;
        chain(self->arg, CHAIN - 1);
    }
}

/* CHAIN times chain, walk_and_stop, context_main, context_entry, and that is all. */
static const char *walk_wrong(const struct walk *walk)
{
    uintptr_t expected[CHAIN + 3];
    for (unsigned i = 0; i < CHAIN; i++)
        expected[i] = (uintptr_t)chain;
    expected[CHAIN] = (uintptr_t)walk_and_stop;
    expected[CHAIN + 1] = (uintptr_t)context_main;
    expected[CHAIN + 2] = (uintptr_t)context_entry;
    if (walk->too_long)
        return "unwinding does not end";
    if (walk->frames > CHAIN + 3)
        return "unwinding goes on beyond context_entry";
    if (walk->frames < CHAIN + 3)
        return "unwinding ends before context_entry";
    return memcmp(walk->function, expected, sizeof expected) ? "unwinding finds other functions"
                                                             : NULL;
}

static const char *check_unwinding(void)
{
    struct side self, other;
    struct walk walk = {.frames = 0};
    side_init_thread(&self);
    side_init(&other, &self, walk_and_stop, &walk);
    side_switch(&self, &other);
    const char *wrong = walk_wrong(&walk);
    side_switch(&self, &other);
    if (!wrong)
        wrong = walk_wrong(&walk);
    side_finish(&other);
    return wrong;
}

const struct switch_check switch_checks[] = {
    {"values live across a switch are what they were", check_values},
    {"the registers that a call preserves are preserved", check_registers},
    {"a new context begins aligned at the top of its stack", check_beginning},
    {"interleaved recursions keep their stacks apart", check_depth},
    {"three hundred thousand switches", check_many},
    {"unwinding from a context ends at context_entry", check_unwinding},
};

const size_t switch_checks_count = array_count(switch_checks);
