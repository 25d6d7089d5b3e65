/*
 * select.c: one coroutine waits for one thing of each kind at once, another makes them come in any
 * order, with pauses or without. Each must come exactly once, be what it says, and none be missed.
 */
#include "stress.h"

#include <sys/socket.h>

enum source { IN, OUT, TICK, EVENT, DONE, JOINABLE, READABLE, SOURCES };

#define SENT_IN    UINT64_C(0x1111222233334444)
#define SENT_OUT   UINT64_C(0x5555666677778888)
#define DONE_CAUSE (-EDOM)

struct sources {
    WH_CHAN(uint64_t) in;
    WH_CHAN(uint64_t) out;
    wh_timer *timer;
    wh_event event;
    wh_ctx *ctx;
    wh_coro *coro;
    wh_event leave;
    wh_event gone; /* who makes them come had to end early */
    int fds[2];
    uint64_t got; /* the selecting coroutine's */
    struct rng rng;
};

static void wait_to_leave(struct sources *s)
{
    ALIVE;
    wh_event_wait(&s->leave);
}

/* Returns whether it came: the selecting coroutine may have gone. */
static bool make_come(struct sources *s, enum source source)
{
    uint64_t taken = 0;
    int64_t rc = 0;
    switch (source) {
    case IN: rc = wh_chan_send(s->in, SENT_IN); break;
    case OUT:
        rc = wh_chan_recv(s->out, &taken);
        CHECK(rc < 0 || (rc == 1 && taken == SENT_OUT), "a select sent %llx, result %d",
              (unsigned long long)taken, (int)rc);
        break;
    case TICK: rc = wh_timer_reset(s->timer, 2 * WH_MICROSECOND, 0); break;
    case EVENT: wh_event_set(&s->event); break;
    case DONE: wh_ctx_cancel(s->ctx, DONE_CAUSE); break;
    case JOINABLE: wh_event_set(&s->leave); break;
    default: rc = wh_send(s->fds[1], "x", 1, 0); break;
    }
    CHECK(rc >= 0 || ended_early(rc), "making source %d come returned %d", (int)source, (int)rc);
    return rc >= 0;
}

/* Returns whether all came, or will. */
static bool make_all_come(struct sources *s, struct rng *rng)
{
    enum source order[SOURCES];
    for (int i = 0; i < SOURCES; i++) {
        int j = rng_below(rng, i + 1);
        order[i] = order[j];
        order[j] = (enum source)i;
    }
    for (int i = 0; i < SOURCES; i++) {
        if (rng_one_in(rng, 2) && pause_a_while(rng) < 0)
            return false;
        if (!make_come(s, order[i]))
            return false;
    }
    return true;
}

static void maker(struct sources *s, uint64_t seed)
{
    ALIVE;
    struct rng rng = {seed};
    if (!make_all_come(s, &rng))
        wh_event_set(&s->gone);
}

static wh_case case_of(struct sources *s, enum source source)
{
    static const uint64_t sent_out = SENT_OUT;
    switch (source) {
    case IN: return WH_RECV(s->in, &s->got);
    case OUT: return WH_SEND(s->out, &sent_out);
    case TICK: return WH_TICK(s->timer);
    case EVENT: return WH_EVENT_SET(&s->event);
    case DONE: return WH_DONE(s->ctx);
    case JOINABLE: return WH_JOINABLE(s->coro);
    default: return WH_READABLE(s->fds[0]);
    }
}

/* A case happened: is it true? */
static void verify(struct sources *s, enum source source)
{
    char byte = 0;
    int rc = 0;
    switch (source) {
    case IN: CHECK(s->got == SENT_IN, "received %llx", (unsigned long long)s->got); break;
    case EVENT: CHECK(wh_event_is_set(&s->event), "the event is not set"); break;
    case DONE:
        CHECK(wh_ctx_err(s->ctx) == -ECANCELED && wh_ctx_cause(s->ctx) == DONE_CAUSE,
              "the context says %d, cause %d", wh_ctx_err(s->ctx), wh_ctx_cause(s->ctx));
        break;
    case JOINABLE:
        WH_WITH_TIMEOUT(0)
        rc = wh_join(s->coro, NULL);
        CHECK(rc == 0, "what is joinable: the join returned %d", rc);
        s->coro = NULL;
        break;
    case READABLE:
        rc = (int)recv(s->fds[0], &byte, 1, MSG_DONTWAIT);
        CHECK(rc == 1 && byte == 'x', "what is readable: the receive returned %d, byte %d", rc,
              byte);
        break;
    default: break;
    }
}

/* One select over all that have not come. Returns which came, or -errno, or SOURCES: none. */
static int select_left(struct sources *s, const bool *came)
{
    wh_case cases[SOURCES + 3];
    enum source of[SOURCES + 2];
    int count = 0;
    for (int i = 0; i < SOURCES; i++)
        if (!came[i])
            of[count++] = (enum source)i;
    int others = count;
    if (rng_one_in(&s->rng, 4))
        of[count++] = SOURCES;
    for (int i = 0; i < count; i++) {
        int j = i < others ? rng_from_to(&s->rng, i, others - 1) : i;
        enum source source = of[j];
        of[j] = of[i];
        of[i] = source;
        cases[i] = source < SOURCES         ? case_of(s, source)
                   : rng_one_in(&s->rng, 2) ? WH_DEFAULT
                                            : WH_AFTER(rng_time_ns(&s->rng, 8));
    }
    cases[count] = WH_RECV((WH_CHAN(uint64_t))NULL, NULL);
    cases[count + 1] = WH_EVENT_SET(&s->gone);
    int rc = wh_select_n(cases, count + 2);
    if (rc == count + 1)
        return -ECANCELED;
    CHECK((rc >= 0 && rc < count) || ended_early(rc), "a select of %d returned %d", count, rc);
    return rc < 0 ? rc : (int)of[rc];
}

static void select_all(struct sources *s)
{
    bool came[SOURCES] = {false};
    for (int left = SOURCES; left > 0;) {
        int source = select_left(s, came);
        if (source < 0)
            return;
        if (source == SOURCES)
            continue;
        came[source] = true;
        left--;
        verify(s, (enum source)source);
    }
}

static void select_step(struct actor *a)
{
    struct sources s = {.rng = rng_split(&a->rng)};
    if (SPAWN(&s.coro, wait_to_leave, &s) < 0)
        return;
    s.in = wh_chan_create(uint64_t, 0);
    s.out = wh_chan_create(uint64_t, 0);
    s.timer = wh_timer_create(WH_HOUR, 0);
    s.ctx = wh_ctx_create(wh_ctx_background());
    int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.fds);
    CHECK(s.in && s.out && s.timer && s.ctx && rc == 0, "no memory or descriptors: %d", errno);

    struct team makers = {.count = 0};
    doing(a, "selects among all sources");
    if (TEAM_GO(&makers, maker, &s, rng_next(&a->rng)) == 0)
        select_all(&s);
    team_end(&makers);
    if (s.coro) {
        struct team left = {{s.coro}, 1};
        team_end(&left);
    }
    wh_close(s.fds[0]);
    wh_close(s.fds[1]);
    wh_timer_destroy(s.timer);
    wh_ctx_destroy(s.ctx);
    wh_chan_unref(s.in);
    wh_chan_unref(s.out);
}

const struct kind select_kind = {
    .name = "select",
    .step = select_step,
    .closed = true,
};
