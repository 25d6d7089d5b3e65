/*
 * select_test.cpp: a select of channels: which case happens, and that the others do not
 * (whorl/select.h). The other kinds of cases are in select_wait_test.cpp, what happens at once in
 * select_race_test.cpp.
 */
#include "tests/sync/select_tools.hpp"

#include "tests/base/child.hpp"

#include <numeric>

using namespace select_tools;

TEST_CASE("select: returns the number of the case that happens, in the order written")
{
    in_run([] {
        Ints a = wh_chan_create(int, 1), b = wh_chan_create(int, 1), full = wh_chan_create(int, 1);
        (void)wh_chan_try_send(full, 9);
        int x = 0, y = 0;
        const int seven = 7;
        int n = wh_select(WH_RECV(a, &x), WH_SEND(full, &seven), WH_SEND(b, &seven));
        CHECK(n == 2);
        CHECK(wh_chan_try_recv(b, &y) == 1);
        CHECK(y == 7);
        (void)wh_chan_try_send(a, 3);
        n = wh_select(WH_RECV(a, &x), WH_SEND(full, &seven), WH_RECV(b, &y));
        CHECK(n == 0);
        CHECK(x == 3);
        CHECK(wh_chan_len(full) == 1);
        CHECK(quiet(a));
        CHECK(quiet(b));
        CHECK(quiet(full));
        unref(a, b, full);
    });
}

TEST_CASE("select: receiving from a closed and empty channel happens at once with zeroes")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 2);
        (void)wh_chan_try_send(ch, 5);
        wh_chan_close(ch);
        int x = 77;
        bool ok = false;
        int n = wh_select(WH_RECV_OK(ch, &x, &ok));
        CHECK(n == 0);
        CHECK(ok);
        CHECK(x == 5);
        n = wh_select(WH_RECV_OK(ch, &x, &ok));
        CHECK(n == 0);
        CHECK(!ok);
        CHECK(x == 0);
        x = 77;
        n = wh_select(WH_RECV(ch, &x));
        CHECK(n == 0);
        CHECK(x == 0);
        n = wh_select(WH_RECV(ch, nullptr));
        CHECK(n == 0);
        n = wh_select(WH_RECV_OK(ch, nullptr, &ok));
        CHECK(n == 0);
        CHECK(!ok);
        unref(ch);
    });
}

TEST_CASE("select: waits, and the first case that becomes ready is the one")
{
    enum { RECV, RECV_DROPPED, SEND, CLOSE, CLOSE_DROPPED, WAYS };
    for (int way = 0; way < WAYS; way++)
        in_run([way] {
            INFO("way " << way);
            Ints a = wh_chan_create(int, 0), b = wh_chan_create(int, 0), c = wh_chan_create(int, 0);
            int x = 77, y = 77, taken = 0;
            bool ok = way >= CLOSE, other_ok = true;
            int *into = way == RECV_DROPPED || way == CLOSE_DROPPED ? nullptr : &x;
            const int seven = 7;
            wh_coro *waiter = spawn([&] {
                return wh_select(WH_RECV_OK(a, into, &ok), WH_SEND(b, &seven),
                                 WH_RECV_OK(c, &y, &other_ok));
            });
            Turns turn;
            turn(3);
            CHECK(waiter->state == CORO_PARKED);
            if (way == SEND)
                CHECK(wh_chan_try_recv(b, &taken) == 1);
            else if (way >= CLOSE)
                wh_chan_close(a);
            else
                CHECK(wh_chan_try_send(a, 6) == 0);
            /* It has been served: nobody meets it any more. */
            CHECK(wh_chan_try_send(c, 1) == -EAGAIN);
            CHECK(wh_chan_try_recv(b, nullptr) == -EAGAIN);
            CHECK(join(waiter) == (way == SEND ? 1 : 0));
            CHECK(y == 77);
            CHECK(other_ok);
            CHECK(x == (way == RECV ? 6 : way == CLOSE ? 0 : 77));
            CHECK(taken == (way == SEND ? 7 : 0));
            CHECK(ok == (way == RECV || way == RECV_DROPPED));
            CHECK(quiet(a));
            CHECK(quiet(b));
            CHECK(quiet(c));
            unref(a, b, c);
        });
}

TEST_CASE("select: woken by a close, it does not need the channel any more")
{
    in_run([] {
        WH_CHAN(long) ch = wh_chan_create(long, 0);
        long x = 77;
        bool ok = true;
        wh_coro *waiter = spawn([&] { return wh_select(WH_RECV_OK(ch, &x, &ok)); });
        Turns turn;
        turn(2);
        wh_chan_close(ch);
        CHECK(x == 0);
        wh_chan_unref(ch);
        CHECK(join(waiter) == 0);
        CHECK(!ok);
    });
}

TEST_CASE("select: a case on a NULL object is never ready")
{
    in_run([] {
        Ints nil = nullptr;
        int x = 77;
        bool ok = true;
        wh_timer *no_timer = nullptr;
        wh_ctx *no_ctx = nullptr;
        wh_coro *no_coro = nullptr;
        auto call = [&](bool otherwise) {
            const wh_case cases[] = {
                WH_RECV(nil, &x),  WH_RECV_OK(nil, &x, &ok), WH_SEND(nil, &x),
                WH_TICK(no_timer), WH_DONE(no_ctx),          WH_JOINABLE(no_coro),
                WH_AT(WH_NEVER),   WH_AFTER(INT64_MAX),      WH_DONE(wh_ctx_background()),
                WH_DEFAULT};
            return wh_select_n(cases, otherwise ? 10 : 9);
        };
        int n = call(true);
        CHECK(n == 9);
        Turns turn;
        wh_coro *waiter = spawn([&] { return call(false); });
        turn(3);
        CHECK(waiter->state == CORO_PARKED);
        wh_cancel(waiter);
        CHECK(join(waiter) == -ECANCELED);
        CHECK(x == 77);
        CHECK(ok);
    });
}

TEST_CASE("select: without any case it waits for the context to end")
{
    in_run([] {
        Turns turn;
        wh_coro *waiter = spawn([] { return wh_select_n(nullptr, 0); });
        turn(3);
        CHECK(waiter->state == CORO_PARKED);
        wh_cancel(waiter);
        CHECK(join(waiter) == -ECANCELED);
        WH_WITH_CANCEL(ctx)
        {
            waiter = spawn([] { return wh_select_n(nullptr, 0); });
            turn(3);
            CHECK(waiter->state == CORO_PARKED);
        }
        CHECK(join(waiter) == -ECANCELED);
        int rc = 1;
        WH_WITH_TIMEOUT(WH_MICROSECOND)
        {
            rc = wh_select_n(nullptr, 0);
        }
        CHECK(rc == -ETIMEDOUT);
    });
}

TEST_CASE("select: any of 1 to 20, 100 and 65535 cases happens, at once and after waiting")
{
    std::vector<int> counts = {100, 65535};
    for (int count = 1; count <= 20; count++)
        counts.push_back(count);
    for (int count : counts)
        in_run([count] {
            INFO(count << " cases");
            std::vector<Ints> channels(static_cast<size_t>(std::min(count, 100)));
            for (Ints &ch : channels)
                ch = wh_chan_create(int, 1);
            std::vector<int> got(channels.size(), 77);
            std::vector<wh_case> cases;
            for (int i = 0; i < count; i++)
                cases.push_back(static_cast<size_t>(i) < channels.size()
                                    ? WH_RECV(channels[i], &got[i])
                                    : WH_AFTER(WH_HOUR));
            Turns turn;
            for (size_t i = 0; i < channels.size(); i++) {
                (void)wh_chan_try_send(channels[i], static_cast<int>(i));
                int n = wh_select_n(cases.data(), count);
                CHECK(n == static_cast<int>(i));
                CHECK(got[i] == static_cast<int>(i));
                wh_coro *waiter = spawn([&] { return wh_select_n(cases.data(), count); });
                turn();
                CHECK(waiter->state == CORO_PARKED);
                CHECK(wh_chan_try_send(channels[i], 1000) == 0);
                CHECK(join(waiter) == static_cast<intptr_t>(i));
                CHECK(got[i] == 1000);
                CHECK(wh_chan_len(channels[i]) == 0);
            }
            for (Ints ch : channels) {
                CHECK(quiet(ch));
                wh_chan_unref(ch);
            }
        });
}

TEST_CASE("select: of several cases that are ready each is as likely as the others")
{
    for (int count : {2, 4, 16, 30}) {
        std::vector<int> chosen(static_cast<size_t>(count));
        int strays = 0;
        in_run([&] {
            Ints empty = wh_chan_create(int, 1), closed = wh_chan_create(int, 1);
            wh_chan_close(closed);
            /* two that are not ready about each that is */
            std::vector<wh_case> cases;
            for (int i = 0; i < count; i++) {
                cases.push_back(WH_RECV(empty, nullptr));
                cases.push_back(WH_RECV(closed, nullptr));
                cases.push_back(WH_AFTER(WH_HOUR));
            }
            for (int i = 0; i < 30000; i++) {
                int n = wh_select_n(cases.data(), static_cast<int>(cases.size()));
                strays += n < 0 || n % 3 != 1;
                chosen[static_cast<size_t>(n / 3)]++;
            }
            unref(empty, closed);
        });
        CHECK(strays == 0);
        CHECK(uniform(chosen));
    }
}

TEST_CASE("select: each kind of case is as likely as the others when all are ready")
{
    std::vector<int> chosen(9);
    in_run([&] {
        Ints ch = wh_chan_create(int, 2), out = wh_chan_create(int, 1);
        wh_timer *timer = wh_timer_create(0, 0);
        wh_ctx *ended = wh_ctx_create(nullptr);
        wh_ctx_cancel(ended, 0);
        wh_coro *dead = spawn([] {});
        FdPair pipe = pipe_pair();
        CHECK(write(pipe.b, "x", 1) == 1);
        Turns turn;
        const int one = 1;
        for (int i = 0; i < 30000; i++) {
            (void)wh_chan_try_send(ch, 1);
            (void)wh_chan_try_recv(out, nullptr);
            if (!timer->pending) {
                wh_timer_reset(timer, 0, 0);
                while (!timer->pending)
                    turn();
            }
            int n = wh_select(WH_RECV(ch, nullptr), WH_SEND(out, &one), WH_AFTER(0), WH_AT(1),
                              WH_TICK(timer), WH_DONE(ended), WH_JOINABLE(dead),
                              WH_READABLE(pipe.a), WH_WRITABLE(pipe.b));
            chosen[static_cast<size_t>(n)]++;
        }
        join(dead);
        wh_timer_destroy(timer);
        wh_ctx_destroy(ended);
        unref(ch, out);
    });
    CHECK(uniform(chosen));
}

TEST_CASE("select: default happens when nothing else is ready, and only then")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        FdPair pipe = pipe_pair();
        int x = 0, wrong = 0;
        for (int i = 0; i < 200; i++) {
            wrong += wh_select(WH_DEFAULT, WH_RECV(ch, &x)) != 0;
            wrong += wh_select(WH_RECV(ch, &x), WH_READABLE(pipe.a), WH_DEFAULT) != 2;
            (void)wh_chan_try_send(ch, i);
            wrong += wh_select(WH_DEFAULT, WH_RECV(ch, &x)) != 1 || x != i;
            wrong += wh_select(WH_DEFAULT, WH_READABLE(pipe.a), WH_WRITABLE(pipe.b)) != 2;
        }
        CHECK(wrong == 0);
        CHECK(quiet(ch));
        CHECK(worker_tls->ops_in_flight == 0);
        unref(ch);
    });
}

TEST_CASE("select: a loop around a default lets the others run")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        FdPair pipe = pipe_pair();
        for (bool with_fd : {false, true}) {
            bool ran = false;
            start([&] { ran = true; });
            int64_t limit_ns = wh_now() + 20 * WH_SECOND;
            int fd = with_fd ? static_cast<int>(pipe.a) : -2;
            while (!ran && wh_now() < limit_ns) {
                const wh_case cases[] = {WH_RECV(ch, nullptr), WH_DEFAULT, WH_READABLE(fd)};
                wh_select_n(cases, with_fd ? 3 : 2);
            }
            CHECK(ran);
        }
        unref(ch);
    });
}

TEST_CASE("select: the cases are evaluated in the order written, whether they happen or not")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        std::string order;
        auto note = [&](char name, Ints which) {
            order += name;
            return which;
        };
        const int one = 1;
        int n = wh_select(WH_RECV(note('a', ch), nullptr), WH_SEND(note('b', ch), &one),
                          WH_RECV(note('c', ch), nullptr), WH_DONE((order += 'd', nullptr)));
        CHECK(n == 1);
        CHECK(order == "abcd");
        unref(ch);
    });
}

TEST_CASE("select: in a context that has ended no case happens, not even default")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 2);
        (void)wh_chan_try_send(ch, 1);
        int x = 77, n = 0;
        const int two = 2;
        WH_WITH_TIMEOUT(0)
        {
            n = wh_select(WH_RECV(ch, &x), WH_SEND(ch, &two), WH_AFTER(0), WH_DEFAULT);
            CHECK(n == -ETIMEDOUT);
        }
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, -EDQUOT);
            n = wh_select(WH_RECV(ch, &x), WH_SEND(ch, &two), WH_DONE(ctx));
            CHECK(n == -ECANCELED);
            n = wh_select(WH_DEFAULT);
            CHECK(n == -ECANCELED);
        }
        CHECK(x == 77);
        CHECK(wh_chan_len(ch) == 1);
        unref(ch);
    });
}

TEST_CASE("select: sending on a closed channel aborts, at once and while it waits")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            const wh_spawn_options options = {"culprit", 0};
            join(spawn(
                [] {
                    Ints ch = wh_chan_create(int, 1);
                    wh_chan_close(ch);
                    const int one = 1;
                    wh_select(WH_SEND(ch, &one), WH_AFTER(WH_HOUR));
                },
                &options));
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("culprit") != std::string::npos);

    end = in_child([] {
        return in_run([] {
            Ints ch = wh_chan_create(int, 0);
            const wh_spawn_options options = {"culprit", 0};
            wh_coro *waiter = spawn(
                [ch] {
                    const int one = 1;
                    wh_select(WH_SEND(ch, &one), WH_AFTER(WH_HOUR));
                },
                &options);
            wh_yield();
            wh_chan_close(ch);
            join(waiter);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("culprit") != std::string::npos);
}

TEST_CASE("select: with both ends of one channel it does not meet itself")
{
    for (bool peer_sends : {false, true})
        in_run([&] {
            Ints ch = wh_chan_create(int, 0);
            int x = 77, y = 77;
            const int mine = 1;
            wh_coro *waiter = spawn([&] { return wh_select(WH_SEND(ch, &mine), WH_RECV(ch, &x)); });
            Turns turn;
            turn(3);
            CHECK(waiter->state == CORO_PARKED);
            chan_validate(whorl::chan_of(ch));
            int rc = peer_sends ? wh_chan_send(ch, 2) : wh_chan_recv(ch, &y);
            CHECK(rc == (peer_sends ? 0 : 1));
            CHECK(join(waiter) == (peer_sends ? 1 : 0));
            CHECK(x == (peer_sends ? 2 : 77));
            CHECK(y == (peer_sends ? 77 : 1));
            CHECK(quiet(ch));
            unref(ch);
        });
}

TEST_CASE("select: two selects meet, in exactly one case of each")
{
    in_run([] {
        Ints a = wh_chan_create(int, 0), b = wh_chan_create(int, 0);
        const int one = 1, two = 2;
        int wrong = 0;
        std::vector<int> ways(2);
        for (int i = 0; i < 2000; i++) {
            int x = 0, y = 0;
            wh_coro *left = spawn([&] { return wh_select(WH_SEND(a, &one), WH_RECV(b, &x)); });
            wh_coro *right = spawn([&] { return wh_select(WH_RECV(a, &y), WH_SEND(b, &two)); });
            intptr_t l = join(left), r = join(right);
            wrong += l != r || (l == 0 ? y != 1 || x : x != 2 || y);
            ways[static_cast<size_t>(l)]++;
        }
        CHECK(wrong == 0);
        CHECK(uniform(ways)); /* both cases are ready for the second */
        CHECK(quiet(a));
        CHECK(quiet(b));
        unref(a, b);
    });
}

TEST_CASE("select: many selects on the same channels, both ways, lose and double nothing")
{
    in_run([] {
        std::vector<Ints> channels;
        for (size_t capacity : {0, 0, 1, 2})
            channels.push_back(wh_chan_create(int, capacity));
        std::vector<int> sent, got;
        std::vector<wh_coro *> all;
        int next = 0, strays = 0;
        for (int who = 0; who < 16; who++)
            all.push_back(spawn([&] {
                for (int i = 0; i < times(500); i++) {
                    const int mine = next++;
                    int theirs[4] = {-1, -1, -1, -1};
                    const int n =
                        wh_select(WH_SEND(channels[0], &mine), WH_RECV(channels[0], &theirs[0]),
                                  WH_SEND(channels[1], &mine), WH_RECV(channels[1], &theirs[1]),
                                  WH_SEND(channels[2], &mine), WH_RECV(channels[2], &theirs[2]),
                                  WH_SEND(channels[3], &mine), WH_RECV(channels[3], &theirs[3]),
                                  WH_AFTER(WH_MILLISECOND));
                    for (int c = 0; c < 4; c++)
                        strays += (theirs[c] != -1) != (n == 2 * c + 1);
                    if (n >= 0 && n < 8 && n % 2 == 0)
                        sent.push_back(mine);
                    else if (n >= 0 && n < 8)
                        got.push_back(theirs[n / 2]);
                    if (i % 7 == 0)
                        wh_yield();
                }
            }));
        for (wh_coro *coro : all)
            join(coro);
        for (Ints ch : channels) {
            int x;
            while (wh_chan_try_recv(ch, &x) > 0)
                got.push_back(x);
            CHECK(quiet(ch));
            wh_chan_unref(ch);
        }
        std::sort(sent.begin(), sent.end());
        std::sort(got.begin(), got.end());
        CHECK(got == sent);
        CHECK(strays == 0);
        CHECK(sent.size() > 100);
    });
}

TEST_CASE("select: one channel in several cases gives one element to one of them")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        int x = 77, y = 77;
        wh_coro *waiter = spawn([&] { return wh_select(WH_RECV(ch, &x), WH_RECV(ch, &y)); });
        Turns turn;
        turn(2);
        CHECK(wh_chan_try_send(ch, 1) == 0);
        CHECK(wh_chan_try_send(ch, 2) == -EAGAIN);
        intptr_t n = join(waiter);
        CHECK((n == 0 || n == 1));
        CHECK(x == (n == 0 ? 1 : 77));
        CHECK(y == (n == 1 ? 1 : 77));
        CHECK(quiet(ch));
        unref(ch);
    });
}

TEST_CASE("select: stands in a channel's queue where it began to wait, and leaves without a gap")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0), other = wh_chan_create(int, 0);
        std::vector<int> got(5, -1);
        std::vector<wh_coro *> all;
        for (int i = 0; i < 5; i++)
            all.push_back(spawn([&, i]() -> int {
                if (i % 2)
                    return wh_select(WH_RECV(other, &got[i]), WH_RECV(ch, &got[i]));
                return wh_chan_recv(ch, &got[i]);
            }));
        Turns turn;
        turn(2);
        CHECK(wh_chan_try_send(other, 100) == 0); /* the first select; it is stale in ch now */
        for (int i = 0; i < 4; i++)
            CHECK(wh_chan_try_send(ch, i) == 0);
        CHECK(wh_chan_try_send(ch, 9) == -EAGAIN);
        for (wh_coro *coro : all)
            join(coro);
        CHECK(got == std::vector<int>{0, 100, 1, 2, 3});
        CHECK(quiet(ch));
        unref(ch, other);
    });
}

#ifdef WHORL_JEMALLOC

TEST_CASE("select: up to 16 cases nothing is allocated, and beyond all is given back")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1), never = wh_chan_create(int, 0);
        FdPair pipe = pipe_pair();
        Turns turn;
        auto allocates = [&](int count, bool waits, bool fds) {
            std::vector<wh_case> cases(static_cast<size_t>(count), WH_RECV(never, nullptr));
            cases[0] = WH_RECV(ch, nullptr);
            for (int i = 1; fds && i < count; i += 2)
                cases[static_cast<size_t>(i)] = WH_READABLE(pipe.a);
            if (!waits)
                (void)wh_chan_try_send(ch, 1);
            uint64_t bytes = 0, kept = 0;
            wh_coro *waiter = spawn([&] {
                const uint64_t before = allocated(), left_before = before - deallocated();
                wh_select_n(cases.data(), count);
                bytes = allocated() - before;
                kept = allocated() - deallocated() - left_before;
            });
            if (waits) {
                wh_yield();
                (void)wh_chan_try_send(ch, 1);
            }
            join(waiter);
            CHECK(kept == 0);
            return bytes > 0;
        };
        allocates(16, true, true);
        for (bool waits : {false, true})
            for (bool fds : {false, true})
                for (int count : {1, 2, 15, 16})
                    CHECK_FALSE(allocates(count, waits, fds));
        CHECK(allocates(17, true, false)); /* or the counting is broken */
        unref(ch, never);
    });
}

TEST_CASE("select: without memory for more than 16 cases it fails and no case happens")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            FdPair pipe = pipe_pair();
            std::vector<wh_case> cases(65535, WH_READABLE(pipe.a));
            Ints ch = wh_chan_create(int, 1);
            (void)wh_chan_try_send(ch, 1);
            cases.back() = WH_RECV(ch, nullptr);
            const struct rlimit none = {0, 0};
            CHILD_REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
            int n = wh_select_n(cases.data(), 65535);
            CHILD_REQUIRE(n == -ENOMEM);
            CHILD_REQUIRE(wh_chan_len(ch) == 1);
        });
    });
    INFO(end.how());
    CHECK(end.exited(0));
}

#endif
