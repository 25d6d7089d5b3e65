/*
 * group.c: coroutines that are started, waited for and failed together (whorl/group.h).
 *
 * A member is a detached coroutine with the group's end hook. `members` counts them, and those that
 * have been given a slot and are about to start one: with a limit a slot is handed to the first
 * that waits for one, and the count stays as it is.
 *
 * The group is the heap's and the block's: nothing in it is used after the block's end, because the
 * last member's hook has given the group's lock before it wakes the owner, and touches it no more.
 */
#include "sync/sync.h"

#include <whorl/group.h>

#include <errno.h>
#include <limits.h>

struct wh_group {
    wh_ctx *ctx; /* the block's scope owns it */
    wh_coro *owner;
    struct end_hook hook;
    unsigned limit; /* 0: none */
    /* under lock */
    uint8_t lock;
    bool waited; /* the owner is parked for the last member's end */
    int error;   /* the first; 0: none */
    size_t members;
    struct list starters;
};

/* What a block has without memory: in it nothing can be started. */
static wh_group no_group = {.error = -ENOMEM};

static int error_of(wh_group *group)
{
    bool shared = shared_here();
    object_lock(shared, &group->lock);
    int error = group->error;
    object_unlock(shared, &group->lock);
    return error;
}

static void fail(struct worker *w, wh_group *group, int error)
{
    bool shared = w->shared;
    struct list woken;
    list_init(&woken);
    object_lock(shared, &group->lock);
    bool first = !group->error;
    if (first) {
        group->error = error;
        queue_take_all(&group->starters, &woken, shared);
    }
    object_unlock(shared, &group->lock);
    if (!first)
        return;
    /* Of a deadline that is the group's, too, the loop may not know yet: it is no cancel. */
    if (error != -ETIMEDOUT || ctx_ended(group->ctx) != -ETIMEDOUT)
        ctx_end(w, group->ctx, error);
    wake_all(&woken, -ECANCELED, shared);
}

/* The owner is cancelled while it waits: that is for its members. A deadline, or the end of a
 * context around the group, reaches them by itself, and one inside of the block does not concern
 * them. */
static bool members_withdraw(wh_coro *coro, int why)
{
    (void)why;
    wh_group *group = coro->waiter.data;
    if (coro->flags & CORO_CANCELLED)
        ctx_end(coro->worker, group->ctx, -ECANCELED);
    return false;
}

static const struct wait_kind wait_members = {.reason = "group", .withdraw = members_withdraw};
static const struct wait_kind wait_slot = {.reason = "group's limit", .withdraw = queue_withdraw};

static void slot_give(wh_group *group)
{
    bool shared = shared_here();
    object_lock(shared, &group->lock);
    wh_assert(group->members > 0);
    struct waiter *starter = queue_take(&group->starters, shared);
    bool last = !starter && --group->members == 0 && group->waited;
    if (last)
        group->waited = false;
    wh_coro *owner = group->owner;
    object_unlock(shared, &group->lock);
    if (starter)
        waiter_wake(starter, 0, shared);
    if (last)
        wake(owner, 0, shared);
}

static void member_ended(struct end_hook *hook, wh_coro *coro, intptr_t value)
{
    wh_group *group = container_of(hook, wh_group, hook);
    if (value < 0)
        fail(coro->worker, group, value < INT_MIN ? INT_MIN : (int)value);
    slot_give(group);
}

/* ---- The block ---- */

struct wh_group_scope wh_group_enter_(const wh_group_options *options)
{
    INSIDE(self, "WH_WITH_GROUP");
    struct wh_group_scope scope = {.group = &no_group,
                                   .ret_error = options ? options->ret_error : NULL};
    wh_group *group = mem_alloc(sizeof *group);
    wh_ctx *ctx = group ? wh_ctx_create(NULL) : NULL;
    if (likely(ctx)) {
        *group = (wh_group){.ctx = ctx,
                            .owner = self,
                            .hook.ended = member_ended,
                            .limit = options ? options->limit : 0};
        list_init(&group->starters);
        scope.group = group;
    } else {
        mem_free(group);
    }
    scope.ctx = ctx_enter_owned(self, ctx);
    return scope;
}

static void await_members(wh_coro *self, wh_group *group)
{
    if (self->flags & CORO_CANCELLED)
        ctx_end(self->worker, group->ctx, -ECANCELED);
    bool shared = self->worker->shared;
    object_lock(shared, &group->lock);
    if (!group->members) {
        object_unlock(shared, &group->lock);
        return;
    }
    group->waited = true;
    self->waiter.data = group;
    park_begin(self, &wait_members);
    object_unlock(shared, &group->lock);
    park_end(self);
}

void wh_group_leave_(struct wh_group_scope *scope)
{
    INSIDE(self, "the end of a group's block");
    wh_group *group = scope->group;
    int error = no_group.error;
    if (likely(group != &no_group)) {
        if (!scope->off_end)
            fail(self->worker, group, -ECANCELED);
        await_members(self, group);
        error = group->error;
    }
    if (scope->ret_error)
        *scope->ret_error = error;
    ctx_leave(&scope->ctx);
    if (likely(group != &no_group))
        mem_free(group);
}

int wh_group_wait(wh_group *group)
{
    INSIDE(self, "wh_group_wait");
    if (unlikely(group == &no_group))
        return no_group.error;
    if (unlikely(self != group->owner))
        coro_misuse(self, "wh_group_wait", "waits for a group that is another coroutine's");
    await_members(self, group);
    return error_of(group);
}

void wh_group_cancel(wh_group *group, int cause)
{
    if (group == &no_group)
        return;
    INSIDE(self, "wh_group_cancel");
    fail(self->worker, group, cause < 0 ? cause : -ECANCELED);
}

wh_ctx *wh_group_ctx(wh_group *group)
{
    return likely(group != &no_group) ? group->ctx : self_or_panic("wh_group_ctx")->ctx;
}

size_t wh_group_members(const wh_group *group)
{
    return __atomic_load_n(&group->members, __ATOMIC_RELAXED);
}

/* ---- Members ---- */

/* Gets a slot, waiting for one if allowed to. */
static int slot_take(wh_coro *self, wh_group *group, bool may_park)
{
    bool shared = self->worker->shared;
    object_lock(shared, &group->lock);
    int rc = unlikely(group->error) ? -ECANCELED : 0;
    bool full = group->limit && group->members >= group->limit;
    if (likely(rc == 0 && !full))
        group->members++;
    else if (rc == 0 && may_park)
        return queue_wait(self, &group->starters, &group->lock, shared, &wait_slot);
    else if (rc == 0)
        rc = -EAGAIN;
    object_unlock(shared, &group->lock);
    return rc;
}

/* In the group's context: the starter is usually within it, and its own then goes for the member,
 * as with wh_go(). The starter has its slot: what has ended its own context since does not count.
 */
static int start(wh_coro *self, wh_group *group, struct wh_site *site, void (*fn)(void),
                 const uintptr_t *words)
{
    if (likely(ctx_within(self->ctx, group->ctx)))
        return coro_start_hooked(self, site, fn, words, &group->hook);
    struct wh_ctx_scope scope = ctx_enter(self, group->ctx);
    int rc = ctx_ended(group->ctx);
    if (unlikely(!ctx_within(self->ctx, group->ctx)))
        rc = -ENOMEM; /* the block could not be entered */
    else if (likely(rc == 0))
        rc = coro_start_hooked(self, site, fn, words, &group->hook);
    ctx_leave(&scope);
    return rc;
}

int wh_group_go_(struct wh_site *site, wh_group *group, bool may_park, void (*fn)(void),
                 const uintptr_t *words)
{
    INSIDE(self, "wh_group_go");
    if (unlikely(group == &no_group))
        return -ENOMEM;
    int rc = ended(self);
    if (likely(rc == 0))
        rc = unlikely(self->ctx != group->ctx) ? ctx_ended(group->ctx) : 0;
    if (unlikely(rc < 0))
        return may_park ? refuse(self, rc) : rc;
    rc = slot_take(self, group, may_park);
    if (unlikely(rc < 0))
        return rc;
    /* It may have been handed over a while ago. */
    rc = unlikely(error_of(group)) ? -ECANCELED : start(self, group, site, fn, words);
    if (unlikely(rc < 0)) {
        if (rc == -ENOMEM)
            fail(self->worker, group, rc); /* a member is missing, which nobody may overlook */
        slot_give(group);
    }
    return rc;
}
