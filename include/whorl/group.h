/*
 * whorl/group.h: groups: coroutines that are started together, waited for together, and of which
 * the first that fails ends the others.
 *
 *     WH_WITH_GROUP(g, NULL) {
 *         for (int i = 0; i < n; i++)
 *             wh_group_go(g, fetch, urls[i], &results[i]);
 *         rc = wh_group_wait(g);               // 0, or the first error of a fetch
 *     }
 *
 * A function started in a group fails by returning a negative number (an int, long or ssize_t).
 * The first failure cancels the group's context with that error as its cause, so that every parking
 * call of the other members, and of the block, returns -ECANCELED; later errors are dropped.
 *
 * However the block is left, its end waits for all members: none outlives it, so they may use the
 * variables around it. Left off its end it just waits; left by `break`, `return` or `goto` it
 * cancels them first. The wait is not cut short by deadline or cancel: these reach the members,
 * through the group's context, and it is for the members to end. So does wh_cancel() of the owner
 * once it waits.
 *
 * After Go's errgroup and Trio's nurseries.
 */
#ifndef WHORL_GROUP_H
#define WHORL_GROUP_H

#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/* A group; it lives as long as its block. */
typedef struct wh_group wh_group;

/* Zero in a field means its default. */
typedef struct wh_group_options {
    unsigned limit; /* most members at once; default: no limit */
    int *ret_error; /* receives at the block's end what wh_group_wait() would return */
} wh_group_options;

/* The block with a group: declares `wh_group *name`. options may be NULL. The block, and what is
 * started in it, is in the group's context, a child of the ambient one. Without memory the block is
 * run with a group in which nothing can be started: wh_group_go() and wh_group_wait() say -ENOMEM.
 */
#define WH_WITH_GROUP(name, options) WH_GROUP_BLOCK_(name, options, __COUNTER__)

/*
 * wh_group_go(group, fn, args...): starts fn(args...) in the group, checked as wh_go() does. While
 * the group has as many members as its limit it waits for one to end: may park then. Returns 0, or
 * with nothing started
 *   -ECANCELED, -ETIMEDOUT   the group's context, or the caller's, has ended
 *   -ENOMEM                  as wh_go(): this fails the group, as a member's error would, so that
 *                            wh_group_wait() never says 0 of a group that lacks one
 * wh_group_try_go() never parks and says -EAGAIN at the limit. Members may start members. In a loop
 * that starts many the result may be ignored: the group remembers what matters.
 */
#define wh_group_go(group, ...)     WH_START_(wh_group_go_, (group), true, __VA_ARGS__)
#define wh_group_try_go(group, ...) WH_START_(wh_group_go_, (group), false, __VA_ARGS__)

/*
 * Waits until the group has no members. Returns 0, or the first error. May park, and obeys neither
 * deadline nor cancel (see above). To be called by the coroutine whose block it is. More members
 * may be started afterwards, if none has failed.
 */
WH_API int wh_group_wait(wh_group *group) WH_MUST_CHECK;

/* Ends the members with this cause (0: -ECANCELED), which becomes the group's error. */
WH_API void wh_group_cancel(wh_group *group, int cause);

/* The group's context, borrowed; how many members there are now. */
WH_API wh_ctx *wh_group_ctx(wh_group *group);
WH_API size_t wh_group_members(const wh_group *group);

/* ---- What the macros above stand on; not for direct use. ---- */

struct wh_group_scope {
    wh_group *group;
    bool off_end;
    int *ret_error;
    struct wh_ctx_scope ctx;
};

WH_API struct wh_group_scope wh_group_enter_(const wh_group_options *options);
WH_API void wh_group_leave_(struct wh_group_scope *scope);
WH_API int wh_group_go_(struct wh_site *site, wh_group *group, bool may_park, void (*fn)(void),
                        const uintptr_t *words);

#define WH_GROUP_BLOCK_(name, options, n) WH_GROUP_BLOCK_N_(name, options, n)
/* The second loop only declares the name. */
#define WH_GROUP_BLOCK_N_(name, options, n)                                             \
    for (struct wh_group_scope wh_scope_##n                                             \
         __attribute__((cleanup(wh_group_leave_))) = wh_group_enter_(options),          \
         *wh_once_##n = &wh_scope_##n;                                                  \
         wh_once_##n; wh_once_##n = NULL)                                               \
        for (wh_group * name __attribute__((unused)) = wh_scope_##n.group; wh_once_##n; \
             wh_once_##n = NULL, wh_scope_##n.off_end = true)

WH_END_DECLS

#endif
