/*
 * group.c: coroutines that are started, waited for and failed together (whorl/group.h).
 *
 * A member is a detached coroutine with the group's end hook. `members` counts them, and those that
 * have been given a slot and are about to start one: with a limit a slot is handed to the first
 * that waits for one, and the count stays as it is.
 *
 * The group is the heap's and the block's: nothing in it is used after the block's end, because the
 * last member's hook runs before the owner does.
 */
#include "sync/sync.h"

#include <whorl/group.h>

#include <errno.h>
#include <limits.h>

struct wh_group {
    wh_ctx *ctx; /* the block's scope owns it */
    wh_coro *owner;
    struct end_hook hook;
    size_t members;
    unsigned limit; /* 0: none */
    int error;      /* the first; 0: none */
    bool waited;    /* the owner is parked for the last member's end */
    struct list starters;
};

/* What a block has without memory: in it nothing can be started. */
static wh_group no_group = {.error = -ENOMEM};

static void fail(wh_group *group, int error)
{
    if (group->error)
        return;
    group->error = error;
    wh_ctx_cancel(group->ctx, error);
    queue_wake_all(&group->starters, -ECANCELED);
}

/* The owner is cancelled while it waits: that is for its members. A deadline, or the end of a
 * context around the group, reaches them by itself, and one inside of the block does not concern
 * them. */
static bool members_withdraw(wh_coro *coro)
{
    wh_group *group = coro->waiter.data;
    if (coro->flags & CORO_CANCELLED)
        ctx_end(coro->worker, group->ctx, -ECANCELED);
    return false;
}

static const struct wait_kind wait_members = {.reason = "group", .withdraw = members_withdraw};
static const struct wait_kind wait_slot = {.reason = "group's limit", .withdraw = queue_withdraw};

static void slot_give(wh_group *group)
{
    wh_assert(group->members > 0);
    struct waiter *starter = queue_take(&group->starters);
    if (starter) {
        waiter_wake(starter, 0);
        return;
    }
    if (--group->members == 0 && group->waited) {
        group->waited = false;
        wake(group->owner, 0);
    }
}

static void member_ended(struct end_hook *hook, wh_coro *coro, intptr_t value)
{
    (void)coro;
    wh_group *group = container_of(hook, wh_group, hook);
    if (value < 0)
        fail(group, value < INT_MIN ? INT_MIN : (int)value);
    slot_give(group);
}

/* ---- The block ---- */

struct wh_group_scope wh_group_enter_(const wh_group_options *options)
{
    wh_coro *self = self_or_panic("WH_WITH_GROUP");
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
    scope.ctx = wh_ctx_enter_owned_(ctx);
    return scope;
}

static void await_members(wh_group *group)
{
    if (!group->members)
        return;
    group->waited = true;
    group->owner->waiter.data = group;
    if (group->owner->flags & CORO_CANCELLED)
        ctx_end(group->owner->worker, group->ctx, -ECANCELED);
    park(group->owner, &wait_members);
    wh_assert(!group->members);
}

void wh_group_leave_(struct wh_group_scope *scope)
{
    wh_group *group = scope->group;
    int error = group->error;
    if (likely(group != &no_group)) {
        if (!scope->off_end)
            wh_group_cancel(group, 0);
        await_members(group);
        error = group->error;
    }
    if (scope->ret_error)
        *scope->ret_error = error;
    wh_ctx_leave_(&scope->ctx);
    if (likely(group != &no_group))
        mem_free(group);
}

int wh_group_wait(wh_group *group)
{
    wh_coro *self = self_or_panic("wh_group_wait");
    if (likely(group != &no_group)) {
        if (unlikely(self != group->owner))
            coro_misuse(self, "wh_group_wait", "waits for a group that is another coroutine's");
        await_members(group);
    }
    return group->error;
}

void wh_group_cancel(wh_group *group, int cause)
{
    if (group != &no_group)
        fail(group, cause < 0 ? cause : -ECANCELED);
}

wh_ctx *wh_group_ctx(wh_group *group)
{
    return likely(group != &no_group) ? group->ctx : self_or_panic("wh_group_ctx")->ctx;
}

size_t wh_group_members(const wh_group *group)
{
    return group->members;
}

/* ---- Members ---- */

/* Gets a slot, waiting for one if allowed to. */
static int slot_take(wh_coro *self, wh_group *group, bool may_park)
{
    if (likely(!group->limit || group->members < group->limit)) {
        group->members++;
        return 0;
    }
    if (!may_park)
        return -EAGAIN;
    return queue_park(self, &group->starters, &wait_slot);
}

/* In the group's context: the starter is usually within it, and its own then goes for the member,
 * as with wh_go(). The starter has its slot: what has ended its own context since does not count.
 */
static int start(wh_coro *self, wh_group *group, struct wh_site *site, void (*fn)(void),
                 const uintptr_t *words)
{
    int rc = -ECANCELED;
    if (likely(ctx_within(self->ctx, group->ctx)))
        return coro_start_hooked(self, site, fn, words, &group->hook);
    WH_WITH_CTX(group->ctx)
    {
        rc = ctx_ended(group->ctx);
        if (unlikely(!ctx_within(self->ctx, group->ctx)))
            rc = -ENOMEM; /* the block could not be entered */
        else if (likely(rc == 0))
            rc = coro_start_hooked(self, site, fn, words, &group->hook);
    }
    return rc;
}

int wh_group_go_(struct wh_site *site, wh_group *group, bool may_park, void (*fn)(void),
                 const uintptr_t *words)
{
    wh_coro *self = self_or_panic("wh_group_go");
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
    rc = unlikely(group->error) ? -ECANCELED : start(self, group, site, fn, words);
    if (unlikely(rc < 0)) {
        if (rc == -ENOMEM)
            fail(group, rc); /* a member is missing, which nobody may overlook */
        slot_give(group);
    }
    return rc;
}
