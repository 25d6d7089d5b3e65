/*
 * local.c: coroutine-local storage. Keys are the process's; values are a coroutine's, in storage
 * that it gets with its first one.
 */
#include "sched/sched.h"

#include <errno.h>
#include <stdio.h>

enum { DESTROY_ROUNDS = 4 };

static unsigned keys_used; /* any thread, atomic */
static void (*key_destroy[WH_KEYS_MAX])(
    void *); /* written once, before its key is known to anyone */

/* Made when first needed; NULL without memory. It stays where it is: others may read the name. */
static struct coro_extra *extra_get(wh_coro *self)
{
    if (!self->stack->extra)
        self->stack->extra = mem_zalloc(sizeof(struct coro_extra));
    return self->stack->extra;
}

static void **locals_get(wh_coro *self)
{
    struct coro_extra *extra = extra_get(self);
    if (extra && !extra->local)
        extra->local = (void **)mem_zalloc(WH_KEYS_MAX * sizeof *extra->local);
    return extra ? extra->local : NULL;
}

static void **locals_of(const wh_coro *self)
{
    const struct coro_extra *extra = self->stack->extra;
    return extra ? extra->local : NULL;
}

void coro_extra_free(struct coro_extra *extra)
{
    if (!extra)
        return;
    mem_free((void *)extra->local);
    mem_free(extra);
}

int wh_key_create(wh_key *ret_key, void (*destroy)(void *value))
{
    unsigned key = __atomic_load_n(&keys_used, __ATOMIC_RELAXED);
    do {
        if (key == WH_KEYS_MAX)
            return -EAGAIN;
    } while (!__atomic_compare_exchange_n(&keys_used, &key, key + 1, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    key_destroy[key] = destroy;
    *ret_key = key;
    return 0;
}

int wh_local_set(wh_key key, void *value)
{
    wh_coro *self = self_or_panic("wh_local_set");
    wh_assert(key < __atomic_load_n(&keys_used, __ATOMIC_RELAXED));
    if (!value && !locals_of(self))
        return 0;
    void **local = locals_get(self);
    if (!local)
        return -ENOMEM;
    local[key] = value;
    return 0;
}

void *wh_local_get(wh_key key)
{
    wh_coro *self = self_or_panic("wh_local_get");
    wh_assert(key < __atomic_load_n(&keys_used, __ATOMIC_RELAXED));
    void **local = locals_of(self);
    return local ? local[key] : NULL;
}

/* Whether there was anything to destroy. */
static bool destroy_round(wh_coro *self)
{
    bool any = false;
    void **local = locals_of(self);
    if (!local)
        return false;
    unsigned keys = __atomic_load_n(&keys_used, __ATOMIC_RELAXED);
    for (unsigned key = 0; key < keys; key++) {
        void *value = local[key];
        local[key] = NULL;
        if (value && key_destroy[key]) {
            key_destroy[key](value);
            any = true;
        }
    }
    return any;
}

void locals_destroy(wh_coro *self)
{
    /* A destructor may set values anew, as with pthread_key_create(3), but not forever. */
    for (int round = 0; round < DESTROY_ROUNDS && destroy_round(self); round++)
        ;
}

int wh_name_set(const char *name)
{
    struct coro_extra *extra = extra_get(self_or_panic("wh_name_set"));
    if (!extra)
        return -ENOMEM;
    snprintf(extra->name, sizeof extra->name, "%s", name);
    return 0;
}
