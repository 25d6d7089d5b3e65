/*
 * base.c: reporting, memory, numbers from the environment (base.h), and waiting for a lock
 * (lock.h).
 */
#include "base/base.h"
#include "base/lock.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef WHORL_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#define MEM_ARENA_NONE UINT32_MAX

enum { LOOKS_MAX = 40 }; /* of about 25 ns */

void lock_await(const uint8_t *lock)
{
    for (int looks = 0; __atomic_load_n(lock, __ATOMIC_RELAXED);) {
        if (looks < LOOKS_MAX) {
            looks++;
            cpu_relax();
        } else {
            sched_yield();
        }
    }
}

static void report_line(const char *format, va_list args)
{
    char line[512];
    int n = snprintf(line, sizeof line, "whorl: ");
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    size_t len = strlen(line);
    (void)m;
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere left to say it */
}

void report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_line(format, args);
    va_end(args);
}

void panic(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_line(format, args);
    va_end(args);
    abort();
}

void assert_failed(const char *condition, const char *file, int line)
{
    panic("%s:%d: this must hold and does not: %s", file, line, condition);
}

#ifdef WHORL_JEMALLOC

void *mem_alloc(size_t bytes)
{
    return mallocx(bytes, 0);
}

void *mem_alloc_aligned(size_t bytes, size_t align)
{
    return mallocx(bytes, MALLOCX_ALIGN(align));
}

void *mem_zalloc(size_t bytes)
{
    return mallocx(bytes, MALLOCX_ZERO);
}

void mem_free(void *memory)
{
    if (memory)
        dallocx(memory, 0);
}

/* Plus one; 0: not made yet. Any thread, atomic. */
static unsigned arenas[MEM_ARENAS];

static unsigned arena_of(unsigned number)
{
    unsigned made = __atomic_load_n(&arenas[number], __ATOMIC_RELAXED);
    if (made)
        return made - 1;
    unsigned arena;
    size_t bytes = sizeof arena;
    if (mallctl("arenas.create", &arena, &bytes, NULL, 0) != 0)
        return MEM_ARENA_NONE;
    /* Of two that make one at the same time one is used. */
    if (!__atomic_compare_exchange_n(&arenas[number], &made, arena + 1, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return made - 1;
    return arena;
}

unsigned mem_arena_enter(unsigned number)
{
    unsigned arena = arena_of(number), before;
    size_t bytes = sizeof before;
    if (arena == MEM_ARENA_NONE ||
        mallctl("thread.arena", &before, &bytes, &arena, sizeof arena) != 0)
        return MEM_ARENA_NONE;
    return before;
}

void mem_arena_leave(unsigned before)
{
    if (before != MEM_ARENA_NONE)
        (void)mallctl("thread.arena", NULL, NULL, &before, sizeof before);
}

#else

unsigned mem_arena_enter(unsigned number)
{
    (void)number;
    return MEM_ARENA_NONE;
}

void mem_arena_leave(unsigned before)
{
    (void)before;
}

void *mem_alloc(size_t bytes)
{
    return malloc(bytes);
}

void *mem_alloc_aligned(size_t bytes, size_t align)
{
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

void *mem_zalloc(size_t bytes)
{
    return calloc(1, bytes);
}

void mem_free(void *memory)
{
    free(memory);
}

#endif

int64_t env_number(const char *name, int64_t fallback)
{
    const char *text = secure_getenv(name);
    if (!text || !*text)
        return fallback;

    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end) {
        report("%s=%s is not a number (digits alone: 65536, not 64K); the variable is ignored",
               name, text);
        return fallback;
    }
    return value;
}
