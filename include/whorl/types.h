/*
 * whorl/types.h: the words every other header uses.
 *
 * Errors: every call of whorl returns a value >= 0, or -errno (<errno.h>). The variable `errno`
 * tells nothing of them.
 * Time: absolute times are nanoseconds of CLOCK_MONOTONIC; durations are nanoseconds.
 * "May park" in a comment: the call may let other coroutines run before it returns. What does not
 * say so never does.
 */
#ifndef WHORL_TYPES_H
#define WHORL_TYPES_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if !defined(__GNUC__)
#error "whorl needs GCC 12 or Clang 14 (statement expressions and the cleanup attribute)"
#endif

#if !defined(__cplusplus) && (!defined(__STDC_VERSION__) || __STDC_VERSION__ < 201112L)
#error "whorl needs C11: compile with -std=gnu11 or newer"
#endif

#ifdef __cplusplus
#define WH_BEGIN_DECLS extern "C" {
#define WH_END_DECLS   }
#else
#define WH_BEGIN_DECLS
#define WH_END_DECLS
#endif

#define WH_API        __attribute__((visibility("default")))
#define WH_MUST_CHECK __attribute__((warn_unused_result))

#ifndef __cplusplus
/* p, which does not compile unless it is NULL or a pointer (class 5) to the type; a mere warning
 * would be lost where headers count as the system's. */
#define WH_POINTER_(type, p, complaint)                                                            \
    ((void)sizeof(struct {                                                                         \
         _Static_assert(__builtin_classify_type(p) == 5 &&                                         \
                            __builtin_types_compatible_p(__typeof__(1 ? (p) : (type *)0), type *), \
                        complaint);                                                                \
         int none;                                                                                 \
     }),                                                                                           \
     (1 ? (p) : (type *)0))
#endif

/* A descriptor: the plain int that the kernel gave. (wh_accept_direct() has others.) */
typedef int wh_fd;

/* A coroutine. Opaque; see whorl/coro.h for who owns one. */
typedef struct wh_coro wh_coro;

/* A context. Opaque; see whorl/ctx.h. */
typedef struct wh_ctx wh_ctx;

#define WH_NANOSECOND  INT64_C(1)
#define WH_MICROSECOND INT64_C(1000)
#define WH_MILLISECOND INT64_C(1000000)
#define WH_SECOND      INT64_C(1000000000)
#define WH_MINUTE      (60 * WH_SECOND)
#define WH_HOUR        (60 * WH_MINUTE)

/* The absolute time that never comes: no deadline. */
#define WH_NEVER INT64_MAX

#endif
