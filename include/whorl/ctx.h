/*
 * whorl/ctx.h: contexts: cancelling many waits at once, with a cause, deadlines and values.
 *
 *     WH_WITH_CANCEL(ctx) {                  // a context for the block and what it starts
 *         wh_go(fetch, a);                   // inherits it
 *         wh_go(fetch, b);
 *         if (enough())
 *             wh_ctx_cancel(ctx, -EDQUOT);   // both fetches' waits end with -ECANCELED
 *     }                                         the end of the block cancels it, too
 *
 * Contexts form a tree. One ends when it is cancelled, when its deadline passes, or when its parent
 * ends. A coroutine has an ambient context: that of the innermost block around the code it runs,
 * at first the one in which it was started; outside of all it is the background, which never ends.
 * Every parking call of the library obeys it: it returns -ECANCELED once the context is cancelled
 * and -ETIMEDOUT once its deadline has passed. WH_WITH_TIMEOUT and WH_WITH_DEADLINE (whorl/time.h)
 * are the same for deadlines alone, and cost less.
 *
 * The contract of a call whose context ends:
 *   - Exactly one outcome. A result that is there beats the end of the context: what a call has
 *     achieved it returns, and the next call fails. When it returns -ECANCELED or -ETIMEDOUT, it
 *     has done nothing: no element was sent or taken, no lock is held, no byte was moved. The
 *     exceptions are calls that stand for several, and say so: wh_send_all(), wh_write_all() and
 *     wh_connect() (whorl/io.h).
 *   - A call made in a context that has ended does nothing and fails, even if it would not have had
 *     to wait. Only these do not look: calls that never park, locking a mutex or rwlock that is
 *     free, WH_LOCKED, wh_once_do() unless another call is under way, wh_join() of what has ended,
 *     wh_close(), wh_group_wait() and wh_pool_destroy(). So a loop around calls must end when one
 *     fails: a select in a loop needs a `default: return` for it.
 *   - A deadline has passed when the loop has seen it pass; calls that do not wait (channels,
 * locks, select) do not look at the clock themselves.
 *   - A call that is made when cancel and deadline both have come says -ECANCELED. One that was
 *     waiting says what came first.
 *
 * A context belongs to the run whose coroutines use it. Its handle is counted: whoever has one
 * gives it back with wh_ctx_destroy() or wh_ctx_unref(); blocks, coroutines and child contexts hold
 * the context for themselves. A NULL context in the calls below means the ambient one.
 *
 * After package context of Go; the shield after Trio's cancel scopes
 * (https://vorpus.org/blog/timeouts-and-cancellation-for-humans/).
 */
#ifndef WHORL_CTX_H
#define WHORL_CTX_H

#include <whorl/coro.h>
#include <whorl/types.h>

WH_BEGIN_DECLS

/*
 * A new context that is the child of parent: it ends with it. Created from NULL it is the child of
 * the ambient context and has the ambient deadline; from wh_ctx_background() it has neither parent
 * nor deadline. The deadline of a child is never later than its parent's. Does not park. Returns
 * the handle, which is the caller's, or NULL without memory.
 *
 * A value is found by its key's address in the context and all below it; the memory stays the
 * caller's and must last as long as they do.
 */
WH_API wh_ctx *wh_ctx_create(wh_ctx *parent) WH_MUST_CHECK;
WH_API wh_ctx *wh_ctx_create_timeout(wh_ctx *parent, int64_t duration_ns) WH_MUST_CHECK;
WH_API wh_ctx *wh_ctx_create_deadline(wh_ctx *parent, int64_t time_ns) WH_MUST_CHECK;
WH_API wh_ctx *wh_ctx_create_value(wh_ctx *parent, const void *key, void *value) WH_MUST_CHECK;

/* Cancels the context and gives the handle back. NULL does nothing. Does not park. */
WH_API void wh_ctx_destroy(wh_ctx *ctx);

/* One handle more, one handle less: for giving one to somebody who may keep it longer. Giving the
 * last one back does not cancel. wh_ctx_ref returns ctx. Neither parks. */
WH_API wh_ctx *wh_ctx_ref(wh_ctx *ctx);
WH_API void wh_ctx_unref(wh_ctx *ctx);

/* The one that never ends. Not counted: giving it back does nothing. */
WH_API wh_ctx *wh_ctx_background(void);

/*
 * Cancels ctx and its whole tree. cause is a negative errno that says why, or 0 for -ECANCELED; the
 * first cause stays. Does not park, costs time in proportion to the tree: the first few hundred
 * waits are ended before it returns, those of a larger tree by the loop, in slices of less than a
 * millisecond between which other coroutines run. wh_ctx_err() tells the truth from the return on.
 * Cancelling what has ended, or the background, does nothing.
 */
WH_API void wh_ctx_cancel(wh_ctx *ctx, int cause);

/* Why the context has ended: -ECANCELED, -ETIMEDOUT; 0 while it has not. Of the ambient one (NULL):
 * what the next call would say, the deadlines of blocks and wh_cancel() included. */
WH_API int wh_ctx_err(wh_ctx *ctx);

/* The cause that the context, or the nearest one above it that was cancelled, was given; otherwise
 * as wh_ctx_err(). */
WH_API int wh_ctx_cause(wh_ctx *ctx);

/* Its deadline, absolute, or WH_NEVER. */
WH_API int64_t wh_ctx_deadline(wh_ctx *ctx);

/* The value of the key, from the nearest context that has it; NULL when none has. */
WH_API void *wh_ctx_value(wh_ctx *ctx, const void *key);

/*
 * Blocks with a context; each ends however it is left, as WH_WITH_TIMEOUT does.
 *
 * WH_WITH_CTX(ctx) { }: under a context one has a handle of. Blocks around it still count: the
 *     calls in it obey them, too, and see their values where ctx has none; a block that is under
 *     ctx already stays as it is, values and all.
 * WH_WITH_CANCEL(name) { }: declares `wh_ctx *name`, a child of the ambient context, for the block;
 *     its end cancels it. Without memory the block is run in a context that is cancelled already,
 *     with the cause -ENOMEM.
 * WH_WITH_VALUE(key, value) { }: the block, and what is started in it, sees the value. Its end
 *     cancels nothing. Without memory as WH_WITH_CANCEL.
 * WH_SHIELD { }: for clean-up: calls in it, and coroutines started in it, obey neither the contexts
 *     and deadlines around it nor wh_cancel(). Give it a deadline of its own (WH_WITH_TIMEOUT
 *     inside): a shield that waits forever holds up its coroutine's end. At its end what came
 *     meanwhile counts again. Values are seen through it.
 *
 * Entering or leaving any of them does not park.
 */
#define WH_WITH_CTX(ctx) WH_CTX_BLOCK_(wh_ctx_enter_(ctx), __COUNTER__)
#define WH_WITH_CANCEL(name) \
    WH_CTX_NAMED_(name, wh_ctx_enter_owned_(wh_ctx_create(NULL)), __COUNTER__)
#define WH_WITH_VALUE(key, value) WH_CTX_BLOCK_(wh_ctx_enter_value_((key), (value)), __COUNTER__)
#define WH_SHIELD                 WH_CTX_BLOCK_(wh_ctx_enter_shield_(), __COUNTER__)

/*
 * wh_ctx_after(ctx, &after, fn, args...): when ctx ends, starts fn(args...) as a coroutine, as
 * wh_go() would, in the background. ctx must not be NULL. If it has ended already, starts it now.
 * Does not park. Returns 0 or -ENOMEM, and then fn will not be started. Nothing can fail later:
 * what the start needs is set aside now. after receives a handle for wh_ctx_after_stop().
 *
 * wh_ctx_after_stop(after): gives the handle back, and keeps fn from being started if it has not
 * been. Returns whether it was kept from it. Every handle is given back once. Does not park.
 *
 * What waits so is dropped when the run ends, and is not started then.
 */
typedef struct wh_after wh_after;
#define wh_ctx_after(ctx, ret_after, ...) WH_START_(wh_ctx_after_, (ctx), (ret_after), __VA_ARGS__)
WH_API bool wh_ctx_after_stop(wh_after *after);

/* ---- What the macros above stand on; not for direct use. ---- */

struct wh_ctx_scope {
    wh_coro *coro;
    wh_ctx *outer;
    int64_t outer_ns;
    unsigned flags;
    wh_ctx *owned;
};

WH_API struct wh_ctx_scope wh_ctx_enter_(wh_ctx *ctx);
WH_API struct wh_ctx_scope wh_ctx_enter_owned_(wh_ctx *ctx);
WH_API struct wh_ctx_scope wh_ctx_enter_value_(const void *key, void *value);
WH_API struct wh_ctx_scope wh_ctx_enter_shield_(void);
WH_API void wh_ctx_leave_(struct wh_ctx_scope *scope);
WH_API int wh_ctx_after_(struct wh_site *site, wh_ctx *ctx, wh_after **ret_after, void (*fn)(void),
                         const uintptr_t *words);

#define WH_CTX_BLOCK_(enter, n) WH_CTX_BLOCK_N_(enter, n)
#define WH_CTX_BLOCK_N_(enter, n)                                                            \
    for (struct wh_ctx_scope wh_scope_##n __attribute__((cleanup(wh_ctx_leave_))) = (enter), \
                                          *wh_once_##n = &wh_scope_##n;                      \
         wh_once_##n; wh_once_##n = NULL)

/* A second loop, only to declare the name. */
#define WH_CTX_NAMED_(name, enter, n) WH_CTX_NAMED_N_(name, enter, n)
#define WH_CTX_NAMED_N_(name, enter, n)                                           \
    WH_CTX_BLOCK_N_(enter, n)                                                     \
    for (wh_ctx * name __attribute__((unused)) = wh_scope_##n.owned; wh_once_##n; \
         wh_once_##n = NULL)

WH_END_DECLS

#endif
