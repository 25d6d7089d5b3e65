/*
 * select_wait_test.cpp: selects that wait for times, ticks, ends of contexts and coroutines, and
 * descriptors (whorl/select.h). A deadline passes by intervention (tests/sched/order.hpp) where
 * real time would not do.
 */
#include "tests/sync/select_tools.hpp"

using namespace select_tools;

namespace
{

/* A select in a coroutine of its own that has parked. */
template <typename F> wh_coro *parked(F &&body)
{
    wh_coro *coro = spawn(std::forward<F>(body));
    Turns turn;
    turn(3);
    CHECK(coro->state == CORO_PARKED);
    return coro;
}

bool in_flight()
{
    return worker_tls->ops_in_flight != 0;
}

} // namespace

/* ---- Times ---- */

TEST_CASE("select: a duration of 0 or less, and a time that has come, are ready at once")
{
    in_run([] {
        for (int64_t duration_ns : {int64_t(0), int64_t(-1), INT64_MIN}) {
            int n = wh_select(WH_AFTER(WH_HOUR), WH_AFTER(duration_ns), WH_DEFAULT);
            CHECK(n == 1);
        }
        for (int64_t time_ns : {wh_now(), wh_now() - 1, int64_t(0), int64_t(-1), INT64_MIN}) {
            int n = wh_select(WH_AT(time_ns), WH_AT(WH_NEVER), WH_DEFAULT);
            CHECK(n == 0);
        }
        int n =
            wh_select(WH_AT(wh_now() + WH_HOUR), WH_AT(WH_NEVER), WH_AFTER(WH_NEVER), WH_DEFAULT);
        CHECK(n == 3);
        /* The turn's time is old when coroutines have computed since. */
        int64_t soon_ns = wh_now() + 100 * WH_MICROSECOND;
        busy_until(soon_ns);
        n = wh_select(WH_AT(soon_ns), WH_DEFAULT);
        CHECK(n == 0);
    });
}

TEST_CASE("select: the earliest time is the case that happens, and not before it has come")
{
    in_run([] {
        for (int64_t ns : {1 * WH_MICROSECOND, 50 * WH_MICROSECOND, 2 * WH_MILLISECOND}) {
            int64_t before_ns = wh_now();
            int n = wh_select(WH_AFTER(WH_HOUR), WH_AFTER(ns), WH_AT(before_ns + WH_HOUR));
            CHECK(n == 1);
            CHECK(wh_now() >= before_ns + ns);
            int64_t at_ns = wh_now() + ns;
            n = wh_select(WH_AFTER(WH_HOUR), WH_AT(WH_NEVER), WH_AT(at_ns));
            CHECK(n == 2);
            CHECK(wh_now() >= at_ns);
            CHECK(wh_deadline() == WH_NEVER);
        }
    });
}

TEST_CASE("select: the same time in several cases is the one or the other, each as likely")
{
    std::vector<int> chosen(2);
    in_run([&] {
        for (int i = 0; i < 1000; i++) {
            int64_t time_ns = wh_now() + 20 * WH_MICROSECOND;
            int n = wh_select(WH_AT(time_ns), WH_AT(WH_NEVER), WH_AT(time_ns));
            chosen[n == 2]++;
            chosen[0] += n == 1 ? 10000 : 0;
        }
    });
    CHECK(uniform(chosen));
}

TEST_CASE("select: an ambient deadline before the times ends it, one after them does not")
{
    in_run([] {
        WH_WITH_TIMEOUT(50 * WH_MICROSECOND)
        {
            int n = wh_select(WH_AFTER(WH_HOUR), WH_AT(WH_NEVER));
            CHECK(n == -ETIMEDOUT);
        }
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            int64_t deadline_ns = wh_deadline();
            int n = wh_select(WH_AFTER(50 * WH_MICROSECOND));
            CHECK(n == 0);
            CHECK(wh_deadline() == deadline_ns);
        }
    });
}

TEST_CASE("select: a time that lost ends no later wait")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0), later = wh_chan_create(int, 0);
        int64_t time_ns = wh_now() + 2 * WH_MILLISECOND;
        wh_coro *waiter = spawn([&] {
            int n = wh_select(WH_RECV(ch, nullptr), WH_AT(time_ns));
            return n == 0 ? wh_chan_recv(later, nullptr) : -1;
        });
        wh_yield();
        int rc = wh_chan_try_send(ch, 1);
        CHECK((rc == 0 || wh_now() >= time_ns));
        Turns turn;
        while (wh_now() < time_ns + WH_MILLISECOND)
            turn();
        if (rc == 0) {
            CHECK(waiter->state == CORO_PARKED);
            CHECK(wh_chan_try_send(later, 1) == 0);
            CHECK(join(waiter) == 1);
        } else {
            join(waiter);
        }
        CHECK(quiet(ch));
        unref(ch, later);
    });
}

/* ---- Ticks ---- */

TEST_CASE("select: a tick that comes or has come is taken by the case that happens")
{
    in_run([] {
        Turns turn;
        wh_timer *timer = wh_timer_create(0, 0);
        wh_coro *waiter = spawn([&] { return wh_select(WH_AFTER(WH_HOUR), WH_TICK(timer)); });
        CHECK(join(waiter) == 1);
        CHECK(!timer->pending);
        wh_timer_reset(timer, 0, 0);
        while (!timer->pending)
            turn();
        int n = wh_select(WH_AFTER(WH_HOUR), WH_TICK(timer));
        CHECK(n == 1);
        n = wh_select(WH_TICK(timer), WH_DEFAULT);
        CHECK(n == 1);
        CHECK(list_empty(&timer->waiters));
        wh_timer_destroy(timer);
    });
}

TEST_CASE("select: a tick case that loses takes no tick")
{
    in_run([] {
        Turns turn;
        Ints ch = wh_chan_create(int, 1);
        wh_timer *timer = wh_timer_create(WH_HOUR, 0);
        wh_coro *waiter = parked([&] { return wh_select(WH_TICK(timer), WH_RECV(ch, nullptr)); });
        (void)wh_chan_try_send(ch, 1);
        wh_timer_reset(timer, 0, 0);
        CHECK(join(waiter) == 1);
        CHECK(list_empty(&timer->waiters));
        int rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        wh_timer_destroy(timer);
        unref(ch);
    });
}

/* ---- Events ---- */

TEST_CASE("select: an event that is set, or becomes so, is a case, and stays set")
{
    in_run([] {
        wh_event event = {};
        int n = wh_select(WH_EVENT_SET(&event), WH_EVENT_SET(nullptr), WH_DEFAULT);
        CHECK(n == 2);
        wh_coro *first = parked([&] { return wh_select(WH_EVENT_SET(&event), WH_AFTER(WH_HOUR)); });
        wh_coro *second = parked([&] { return wh_event_wait(&event); });
        wh_event_set(&event);
        CHECK(join(first) == 0);
        CHECK(join(second) == 0);
        n = wh_select(WH_EVENT_SET(&event), WH_AFTER(WH_HOUR));
        CHECK(n == 0);
        CHECK(wh_event_is_set(&event));
    });
}

TEST_CASE("select: an event case that loses leaves nothing with the event")
{
    in_run([] {
        wh_event event = {};
        Ints ch = wh_chan_create(int, 1);
        wh_coro *waiter =
            parked([&] { return wh_select(WH_EVENT_SET(&event), WH_RECV(ch, nullptr)); });
        (void)wh_chan_try_send(ch, 1);
        wh_event_set(&event); /* too late, and in the same turn */
        CHECK(join(waiter) == 1);
        CHECK(event.waiters.next == &event.waiters);
        unref(ch);
    });
}

/* ---- Contexts ---- */

TEST_CASE("select: the end of a context is a case, by cancel, from above, by giving it back")
{
    enum { CANCEL, PARENT, DESTROY, WAYS };
    for (bool waits : {false, true})
        for (int way = 0; way < WAYS; way++)
            in_run([&] {
                wh_ctx *parent = wh_ctx_create(wh_ctx_background());
                wh_ctx *ctx = wh_ctx_create(parent), *other = wh_ctx_create(parent);
                auto end = [&] {
                    if (way == CANCEL)
                        wh_ctx_cancel(ctx, -EDQUOT);
                    else if (way == PARENT)
                        wh_ctx_cancel(parent, 0);
                    else if (waits)
                        wh_ctx_destroy(ctx);
                    else
                        wh_ctx_cancel(ctx, 0);
                };
                auto call = [&] { return wh_select(WH_AFTER(WH_HOUR), WH_DONE(ctx)); };
                wh_coro *waiter = nullptr;
                if (waits)
                    waiter = parked(call);
                else
                    end();
                if (waits)
                    end();
                else
                    waiter = spawn(call);
                CHECK(join(waiter) == 1);
                if (!(waits && way == DESTROY))
                    wh_ctx_destroy(ctx);
                wh_ctx_destroy(other);
                wh_ctx_destroy(parent);
            });
}

TEST_CASE("select: a context's deadline is a case")
{
    in_run([] {
        wh_ctx *ctx = wh_ctx_create_timeout(nullptr, 100 * WH_MICROSECOND);
        int64_t deadline_ns = wh_ctx_deadline(ctx);
        int n = wh_select(WH_AFTER(WH_HOUR), WH_DONE(ctx));
        CHECK(n == 1);
        CHECK(wh_now() >= deadline_ns);
        CHECK(wh_ctx_err(ctx) == -ETIMEDOUT);
        n = wh_select(WH_DONE(ctx), WH_DEFAULT);
        CHECK(n == 0);
        CHECK(list_empty(ctx_waiters(ctx)));
        wh_ctx_destroy(ctx);

        ctx = wh_ctx_create_timeout(nullptr, -1);
        n = wh_select(WH_DEFAULT, WH_DONE(ctx));
        CHECK(n == 1);
        wh_ctx_destroy(ctx);
        n = wh_select(WH_DONE(wh_ctx_background()), WH_DEFAULT);
        CHECK(n == 1);
    });
}

TEST_CASE("select: a DONE case that loses leaves nothing with the context")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        wh_ctx *ctx = wh_ctx_create_timeout(nullptr, WH_HOUR);
        wh_coro *waiter = parked([&] { return wh_select(WH_DONE(ctx), WH_RECV(ch, nullptr)); });
        CHECK(!list_empty(ctx_waiters(ctx)));
        (void)wh_chan_try_send(ch, 1);
        CHECK(join(waiter) == 1);
        CHECK(list_empty(ctx_waiters(ctx)));
        wh_ctx_destroy(ctx);
        unref(ch);
    });
}

TEST_CASE("select: the end of the ambient context ends it with none of its cases")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        int x = 77;
        wh_coro *waiter = nullptr;
        Turns turn;
        WH_WITH_CANCEL(ctx)
        {
            waiter = spawn([&] { return wh_select(WH_RECV(ch, &x), WH_AFTER(WH_HOUR)); });
            turn(2);
            wh_ctx_cancel(ctx, 0);
            CHECK(wh_chan_try_send(ch, 1) == -EAGAIN);
        }
        CHECK(join(waiter) == -ECANCELED);
        CHECK(x == 77);
        CHECK(quiet(ch));
        unref(ch);
    });
}

/* ---- Coroutines ---- */

TEST_CASE("select: the end of a coroutine is a case, and a join returns at once then")
{
    for (bool waits : {false, true})
        in_run([waits] {
            Ints gate = wh_chan_create(int, 0);
            wh_coro *target = spawn([&] {
                (void)!wh_chan_recv(gate, nullptr);
                return 42;
            });
            Turns turn;
            turn(2);
            auto call = [&] { return wh_select(WH_AFTER(WH_HOUR), WH_JOINABLE(target)); };
            int n = wh_select(WH_JOINABLE(target), WH_DEFAULT);
            CHECK(n == 1);
            wh_coro *waiter = waits ? parked(call) : nullptr;
            (void)wh_chan_try_send(gate, 1);
            if (!waits) {
                turn(2);
                waiter = spawn(call);
            }
            CHECK(join(waiter) == 1);
            n = wh_select(WH_JOINABLE(target)); /* and again */
            CHECK(n == 0);
            bool others_ran = false;
            start([&] { others_ran = true; });
            CHECK(join(target) == 42);
            CHECK(!others_ran);
            wh_yield(); /* it runs while the variable is there */
            CHECK(others_ran);
            unref(gate);
        });
}

TEST_CASE("select: while another waits for the same coroutine it is -EBUSY and no case happens")
{
    for (bool other_selects : {false, true})
        in_run([&] {
            Ints gate = wh_chan_create(int, 0), ch = wh_chan_create(int, 0);
            FdPair pipe = pipe_pair();
            wh_coro *target = spawn([&] { return wh_chan_recv(gate, nullptr); });
            wh_coro *other = parked([&]() -> intptr_t {
                if (other_selects)
                    return wh_select(WH_JOINABLE(target));
                return wh_join(target, nullptr);
            });
            int n = wh_select(WH_RECV(ch, nullptr), WH_READABLE(pipe.a), WH_JOINABLE(target),
                              WH_RECV(ch, nullptr));
            CHECK(n == -EBUSY);
            CHECK(quiet(ch));
            CHECK(!in_flight());
            n = wh_select(WH_AFTER(0), WH_JOINABLE(target)); /* one that is ready happens */
            CHECK(n == 0);
            (void)wh_chan_try_send(gate, 1);
            CHECK(join(other) == 0);
            if (other_selects)
                join(target);
            unref(gate, ch);
        });
}

TEST_CASE("select: while it waits for a coroutine another's join is -EBUSY, and not afterwards")
{
    in_run([] {
        Ints gate = wh_chan_create(int, 0), ch = wh_chan_create(int, 0);
        wh_coro *target = spawn([&] { return wh_chan_recv(gate, nullptr); });
        wh_coro *waiter =
            parked([&] { return wh_select(WH_JOINABLE(target), WH_RECV(ch, nullptr)); });
        int rc = wh_join(target, nullptr);
        CHECK(rc == -EBUSY);
        (void)wh_chan_try_send(ch, 1);
        /* Served, though it has not run: it waits for the coroutine no more. */
        wh_coro *other = spawn([&] { return wh_join(target, nullptr); });
        CHECK(join(waiter) == 1);
        CHECK(quiet(ch));
        Turns turn;
        turn(2);
        CHECK(other->state == CORO_PARKED);
        (void)wh_chan_try_send(gate, 1);
        CHECK(join(other) == 0);
        unref(gate, ch);
    });
}

TEST_CASE("select: a JOINABLE case that loses leaves no joiner, and the coroutine may be detached")
{
    in_run([] {
        Ints gate = wh_chan_create(int, 0), ch = wh_chan_create(int, 0);
        wh_coro *target = spawn([&] { return wh_chan_recv(gate, nullptr); });
        wh_coro *waiter = parked([&] {
            return wh_select(WH_JOINABLE(target), WH_RECV(ch, nullptr), WH_JOINABLE(target));
        });
        (void)wh_chan_try_send(ch, 1);
        CHECK(join(waiter) == 1);
        CHECK(target->joiner == nullptr);
        wh_detach(target);
        (void)wh_chan_try_send(gate, 1);
        Turns turn;
        turn(2);
        unref(gate, ch);
    });
}

/* ---- Descriptors ---- */

TEST_CASE("select: a descriptor that is readable, writable or hung up is ready at once")
{
    in_run([] {
        FdPair pipe = pipe_pair(), sockets = socket_pair();
        int n = wh_select(WH_READABLE(pipe.a), WH_READABLE(sockets.a), WH_DEFAULT);
        CHECK(n == 2);
        n = wh_select(WH_READABLE(pipe.a), WH_WRITABLE(pipe.b));
        CHECK(n == 1);
        n = wh_select(WH_READABLE(sockets.a), WH_WRITABLE(sockets.a));
        CHECK(n == 1);
        CHECK(write(sockets.b, "x", 1) == 1);
        n = wh_select(WH_READABLE(pipe.a), WH_READABLE(sockets.a));
        CHECK(n == 1);
        pipe.b.reset();
        n = wh_select(WH_READABLE(pipe.a), WH_AFTER(WH_HOUR));
        CHECK(n == 0);
        FdPair broken = pipe_pair();
        broken.a.reset();
        n = wh_select(WH_WRITABLE(broken.b), WH_AFTER(WH_HOUR));
        CHECK(n == 0);
        Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
        n = wh_select(WH_READABLE(null), WH_AFTER(WH_HOUR));
        CHECK(n == 0);
        CHECK(!in_flight());
    });
}

TEST_CASE("select: what is no descriptor is ready at once, as a call on it would fail")
{
    in_run([] {
        FdPair pipe = pipe_pair();
        const int closed = dup(pipe.a);
        ::close(closed);
        for (int fd : {-1, INT_MIN, INT_MAX, closed}) {
            int n = wh_select(WH_READABLE(pipe.a), WH_READABLE(fd));
            CHECK(n == 1);
            n = wh_select(WH_DEFAULT, WH_WRITABLE(fd));
            CHECK(n == 1);
        }
        CHECK(!in_flight());
    });
}

TEST_CASE("select: waits for descriptors, and the losing ones are in flight no more")
{
    for (size_t count : {1, 2, 7, 40})
        in_run([count] {
            Ints ch = wh_chan_create(int, 0);
            std::vector<FdPair> pairs;
            for (size_t i = 0; i < count; i++)
                pairs.push_back(i % 2 ? pipe_pair() : socket_pair());
            std::vector<wh_case> cases = {WH_RECV(ch, nullptr)};
            for (const FdPair &pair : pairs)
                cases.push_back(WH_READABLE(pair.a));
            auto call = [&] { return wh_select_n(cases.data(), static_cast<int>(cases.size())); };
            Turns turn;
            for (size_t i = 0; i < count; i += 1 + count / 5) {
                wh_coro *waiter = parked(call);
                CHECK(worker_tls->ops_in_flight == count);
                CHECK(write(pairs[i].b, "x", 1) == 1);
                CHECK(join(waiter) == static_cast<intptr_t>(i + 1));
                CHECK(!in_flight());
                char byte = 0;
                CHECK(read(pairs[i].a, &byte, 1) == 1); /* it was not taken */
                CHECK(quiet(ch));
            }
            wh_coro *waiter = parked(call);
            CHECK(wh_chan_try_send(ch, 1) == 0);
            CHECK(join(waiter) == 0);
            CHECK(!in_flight());
            waiter = parked(call);
            wh_cancel(waiter);
            CHECK(join(waiter) == -ECANCELED);
            CHECK(!in_flight());
            waiter = parked([&] {
                int n = 1;
                WH_WITH_TIMEOUT(WH_HOUR)
                {
                    n = call();
                }
                return n;
            });
            orders::pass_deadline(waiter);
            CHECK(join(waiter) == -ETIMEDOUT);
            CHECK(!in_flight());
            unref(ch);
        });
}

TEST_CASE("select: waits for a descriptor to become writable or to hang up")
{
    in_run([] {
        FdPair pipe = pipe_pair(O_NONBLOCK), sockets = socket_pair();
        std::vector<char> page(4096);
        while (write(pipe.b, page.data(), page.size()) > 0)
            ;
        auto call = [&] { return wh_select(WH_READABLE(sockets.a), WH_WRITABLE(pipe.b)); };
        wh_coro *waiter = parked(call);
        while (read(pipe.a, page.data(), page.size()) > 0)
            ;
        CHECK(join(waiter) == 1);
        while (write(pipe.b, page.data(), page.size()) > 0)
            ;
        waiter = parked(call);
        sockets.b.reset();
        CHECK(join(waiter) == 0);
        sockets = socket_pair();
        waiter = parked(call);
        pipe.a.reset();
        CHECK(join(waiter) == 1);
        CHECK(!in_flight());
    });
}

TEST_CASE("select: a descriptor that another coroutine closes meanwhile is a case")
{
    for (bool twice : {false, true})
        in_run([twice] {
            FdPair sockets = socket_pair(), pipe = pipe_pair();
            const int fd = sockets.a.release();
            wh_coro *waiter = parked([&] {
                return wh_select(WH_READABLE(pipe.a), WH_READABLE(fd),
                                 WH_READABLE(twice ? fd : static_cast<int>(pipe.a)));
            });
            int rc = wh_close(fd);
            CHECK(rc == 0);
            CHECK(fcntl(fd, F_GETFD) == -1);
            intptr_t n = join(waiter);
            CHECK((n == 1 || (twice && n == 2)));
            CHECK(!in_flight());
            char byte;
            CHECK(recv(sockets.b, &byte, 1, MSG_DONTWAIT) == 0); /* the peer sees it */
        });
}

TEST_CASE("select: a descriptor that is being closed is ready, and its close goes on")
{
    in_run([] {
        FdPair sockets = socket_pair();
        Ints ch = wh_chan_create(int, 0);
        const int fd = sockets.a.release();
        wh_coro *reader = parked([&] {
            char byte;
            return wh_recv(fd, &byte, 1, 0);
        });
        wh_coro *closer = spawn([&] { return wh_close(fd); });
        wh_coro *late = spawn([&] { return wh_select(WH_RECV(ch, nullptr), WH_READABLE(fd)); });
        CHECK(join(late) == 1);
        CHECK(join(closer) == 0);
        CHECK(join(reader) == -EBADF);
        CHECK(quiet(ch));
        CHECK(!in_flight());
        unref(ch);
    });
}

TEST_CASE("select: several may wait for one descriptor, and each is told")
{
    in_run([] {
        FdPair sockets = socket_pair();
        std::vector<wh_coro *> waiters;
        for (int i = 0; i < 4; i++)
            waiters.push_back(
                parked([&] { return wh_select(WH_AFTER(WH_HOUR), WH_READABLE(sockets.a)); }));
        CHECK(write(sockets.b, "x", 1) == 1);
        for (wh_coro *waiter : waiters)
            CHECK(join(waiter) == 1);
        CHECK(!in_flight());
    });
}

TEST_CASE("select: a run that ends while one waits for everything ends it first")
{
    const int fds_before = fds_open();
    FdPair sockets = socket_pair();
    Ints ch = nullptr;
    wh_timer *timer = nullptr;
    int n = 0;
    in_run([&] {
        ch = wh_chan_create(int, 0);
        timer = wh_timer_create(WH_HOUR, 0);
        start([&] {
            const int one = 1;
            n = wh_select(WH_RECV(ch, nullptr), WH_SEND(ch, &one), WH_TICK(timer),
                          WH_READABLE(sockets.a), WH_READABLE(sockets.b), WH_AFTER(WH_HOUR));
            CHECK(quiet(ch));
            CHECK(list_empty(&timer->waiters));
            CHECK(!in_flight());
            wh_timer_destroy(timer);
            unref(ch);
        });
        Turns turn;
        turn(2);
    });
    CHECK(n == -ECANCELED);
    sockets = FdPair();
    CHECK(fds_open() == fds_before);
}
