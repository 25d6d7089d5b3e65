/*
 * ctx_tree.c: the tree of contexts: cancel, cause, deadline, values, and the shield.
 *
 *     ctx_tree
 *
 *     background --> server --> request 1
 *                           \-> request 2
 *
 * A context ends when it is cancelled, when its deadline passes, or when the one above it ends.
 * Nothing is passed on by hand: a coroutine is in the context in which it was started, and each of
 * its calls obeys that.
 *
 * Look at wait_for_end(), which knows nothing of contexts until its sleep fails; at the two
 * cancels, one for a leaf and one for the root of the tree; and at clean_up(), which still has to
 * wait for something after it was cancelled.
 */
#include <whorl.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* How a coroutine's wait ended. */
struct end {
    int error; /* what the call said */
    int cause; /* why */
};

static void wait_for_end(struct end *end)
{
    end->error = wh_sleep(WH_HOUR);
    end->cause = wh_ctx_cause(NULL); /* NULL: the context one is in */
}

/* Starts wait_for_end() in the context. Returns its handle, or NULL. */
static wh_coro *start_in(wh_ctx *ctx, struct end *end)
{
    wh_coro *coro = NULL;
    WH_WITH_CTX(ctx)
    if (wh_spawn(&coro, NULL, wait_for_end, end) < 0)
        coro = NULL;
    return coro;
}

static bool report(const char *who, struct end end, int error, int cause)
{
    printf("%s: %s ", who, strerror(-end.error));
    printf("(cause: %s)\n", strerror(-end.cause));
    return end.error == error && end.cause == cause;
}

/* Cancelling a leaf leaves the rest alone; cancelling the root ends all below it. */
static bool show_cancel(wh_ctx *server, wh_ctx *first, wh_ctx *second)
{
    struct end ends[2] = {{0, 0}, {0, 0}};
    wh_coro *coros[2] = {start_in(first, &ends[0]), start_in(second, &ends[1])};
    bool ok = coros[0] && coros[1];

    wh_ctx_cancel(first, -EDQUOT);
    ok = coros[0] && wh_join(coros[0], NULL) == 0 && ok;
    ok &= report("request 1", ends[0], -ECANCELED, -EDQUOT);
    printf("request 2: %s\n", wh_ctx_err(second) ? "ended" : "goes on");
    ok &= wh_ctx_err(second) == 0;

    wh_ctx_cancel(server, -ESHUTDOWN);
    ok = coros[1] && wh_join(coros[1], NULL) == 0 && ok;
    ok &= report("request 2", ends[1], -ECANCELED, -ESHUTDOWN);
    return ok;
}

static bool cancel_a_tree(void)
{
    wh_ctx *server = wh_ctx_create(NULL);
    wh_ctx *first = wh_ctx_create(server);
    wh_ctx *second = wh_ctx_create(server);
    bool ok = server && first && second && show_cancel(server, first, second);
    wh_ctx_destroy(first);
    wh_ctx_destroy(second);
    wh_ctx_destroy(server);
    return ok;
}

/* A child may ask for less time than its parent has, and never gets more. */
static bool inherit_a_deadline(void)
{
    struct end end = {0, 0};
    bool no_later = false;
    int64_t start = wh_now();
    WH_WITH_TIMEOUT(20 * WH_MILLISECOND)
    {
        int64_t parent = wh_deadline();
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            no_later = wh_deadline() == parent;
            wait_for_end(&end);
        }
    }
    printf("an hour in a block of 20 ms: %s\n", no_later ? "20 ms" : "an hour");
    return report("the sleep", end, -ETIMEDOUT, -ETIMEDOUT) && no_later &&
           wh_now() - start >= 20 * WH_MILLISECOND;
}

/* The address is the key, so no other module can have the same. */
static const char user_key;

static const char *user(void)
{
    const char *name = wh_ctx_value(NULL, &user_key);
    return name ? name : "nobody";
}

static const char *user_in_a_coroutine(void)
{
    return user();
}

static bool pass_a_value(void)
{
    static char ada[] = "ada", grace[] = "grace";
    const char *outer = NULL;
    intptr_t inner = 0;
    WH_WITH_VALUE(&user_key, ada)
    {
        outer = user();
        WH_WITH_VALUE(&user_key, grace)
        {
            wh_coro *coro;
            if (wh_spawn(&coro, NULL, user_in_a_coroutine) == 0)
                wh_join(coro, &inner);
        }
    }
    printf("the user is %s, further in %s, outside %s\n", outer, (const char *)inner, user());
    return outer == ada && (const char *)inner == grace && strcmp(user(), "nobody") == 0;
}

/* What was begun has to be undone, and that takes a wait of its own. */
static void clean_up(struct end *end, int *unshielded, int *shielded)
{
    wait_for_end(end);
    *unshielded = wh_sleep(WH_MILLISECOND); /* fails at once: the context has ended */
    WH_SHIELD
    WH_WITH_TIMEOUT(10 * WH_SECOND) /* a shield has a limit of its own, or none */
    *shielded = wh_sleep(WH_MILLISECOND);
}

static bool shield_the_clean_up(void)
{
    struct end end = {0, 0};
    int unshielded = 0, shielded = -EPROTO;
    wh_coro *coro = NULL;
    int rc = -ECANCELED;
    WH_WITH_CANCEL(ctx)
    {
        rc = wh_spawn(&coro, NULL, clean_up, &end, &unshielded, &shielded);
        wh_yield(); /* until it sleeps */
    } /* the end of the block cancels ctx */
    if (rc < 0 || wh_join(coro, NULL) < 0)
        return false;
    bool ok = report("the work", end, -ECANCELED, -ECANCELED);
    printf("the clean-up, unshielded: %s\n", strerror(-unshielded));
    printf("the clean-up, shielded: %s\n", strerror(-shielded));
    return ok && unshielded == -ECANCELED && shielded == 0;
}

static int app(void *arg)
{
    (void)arg;
    bool ok = cancel_a_tree();
    ok &= inherit_a_deadline();
    ok &= pass_a_value();
    ok &= shield_the_clean_up();
    return ok ? 0 : 1;
}

int main(void)
{
    return wh_run(app, NULL, NULL) != 0;
}
