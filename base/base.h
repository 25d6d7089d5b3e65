/*
 * base.h: what every room uses and no room owns: assertions, container_of, memory.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define container_of(ptr, type, member) ((type *)((uintptr_t)(ptr) - offsetof(type, member)))
#define array_count(a)                  (sizeof(a) / sizeof((a)[0]))

/* Keeps a rarely taken path out of its caller. */
#define COLD __attribute__((cold, noinline))

/*
 * Prints one line "whorl: ..." on standard error. Async-signal-safe for the conversions that
 * libc's vsnprintf does without allocating: integers and strings.
 */
COLD void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, then abort(): for a programmer's error, which no return value can mend. */
COLD void panic(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

COLD void assert_failed(const char *condition, const char *file, int line)
    __attribute__((noreturn));

/* On in every build: O(1) checks of what must hold. */
#define wh_assert(condition) \
    (likely(condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))

/* On in debug and sanitizer builds. */
#ifdef WHORL_DEBUG
#define wh_assert_slow(condition) wh_assert(condition)
#else
#define wh_assert_slow(condition) ((void)sizeof(condition))
#endif

/* Memory from jemalloc (from libc under a sanitizer). NULL when there is none. Not zeroed. */
void *mem_alloc(size_t bytes);
void *mem_alloc_aligned(size_t bytes, size_t align);
void *mem_zalloc(size_t bytes);
void mem_free(void *memory);

/* How many cores the calling thread may use: those of its affinity, and no more than the quota of
 * its control groups. At least 1. (cpus.c) */
unsigned cpus_usable(void);

/* The quota alone, in cores: proc_file as /proc/self/cgroup, mount as /sys/fs/cgroup. A large
 * number when there is none. */
unsigned cpus_of_cgroups(const char *proc_file, const char *mount);

/* What the calling thread allocates from now on comes from the arena of this number, where the
 * allocator has such: threads with different numbers, below MEM_ARENAS, do not meet. Arenas are the
 * process's and are used again. Returns what mem_arena_leave() takes to put it back to where it
 * was. */
enum { MEM_ARENAS = 64 };
unsigned mem_arena_enter(unsigned number);
void mem_arena_leave(unsigned before);

/* The value of an environment variable as a number; fallback when unset. A value that is not a
 * number is reported and ignored. */
int64_t env_number(const char *name, int64_t fallback);

#endif
