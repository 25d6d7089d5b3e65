/*
 * chan_test.cpp: channels by themselves: each sentence of whorl/chan.h. What happens at once, in
 * every order, is in chan_race_test.cpp.
 */
#include "tests/base/child.hpp"
#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <numeric>
#include <vector>

extern "C" {
#include "sync/sync.h"
}

namespace
{

using Ints = WH_CHAN(int);

/* An element of any size between two guards. */
class Elem
{
  public:
    explicit Elem(size_t bytes, int seed = -1) : bytes_(bytes), memory_(bytes + 32, '\x5a')
    {
        for (size_t i = 0; i < bytes; i++)
            memory_[16 + i] =
                static_cast<char>(seed < 0 ? 0xee : i * 7 + static_cast<size_t>(seed));
    }
    char *at()
    {
        return memory_.data() + 16;
    }
    bool operator==(const Elem &other) const
    {
        return memory_ == other.memory_;
    }
    static Elem zero(size_t bytes)
    {
        Elem zero(bytes);
        memset(zero.at(), 0, bytes);
        return zero;
    }

  private:
    size_t bytes_;
    std::vector<char> memory_;
};

const size_t SIZES[] = {0, 1, 4, 8, 12, 4096};

/* Runs body as a coroutine with this name, and joins it. */
template <typename F> void as(const char *name, F &&body)
{
    const wh_spawn_options options = {name, 0};
    join(spawn(std::forward<F>(body), &options));
}

/* What a child says when a coroutine named culprit does this. */
template <typename F> ChildEnd culprit_in_child(F &&body)
{
    return in_child([&] { return in_run([&] { as("culprit", body); }); });
}

bool aborted_by_culprit(const ChildEnd &end, const std::string &call)
{
    return end.killed_by(SIGABRT) && end.said.find(call) != std::string::npos &&
           end.said.find("culprit") != std::string::npos;
}

} // namespace

TEST_CASE("chan: an unbuffered send returns when the element has been taken, not before")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        bool returned = false;
        wh_coro *sender = spawn([&] {
            int rc = wh_chan_send(ch, 5);
            returned = true;
            return rc;
        });
        Turns turn;
        turn(3);
        CHECK(!returned);
        CHECK(wh_chan_len(ch) == 0);
        CHECK(wh_chan_cap(ch) == 0);
        int x = 0;
        int rc = wh_chan_recv(ch, &x);
        CHECK(rc == 1);
        CHECK(x == 5);
        CHECK(join(sender) == 0);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: an unbuffered receive waits for a sender, which then does not wait")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        int x = 0;
        wh_coro *receiver = spawn([&] { return wh_chan_recv(ch, &x); });
        Turns turn;
        turn(2);
        CHECK(receiver->state == CORO_PARKED);
        bool others_ran = false;
        start([&] { others_ran = true; });
        int rc = wh_chan_send(ch, 6);
        CHECK(rc == 0);
        CHECK(!others_ran);
        CHECK(x == 6); /* directly into its memory, before it runs */
        CHECK(join(receiver) == 1);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: a send waits only while the buffer is full")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 3);
        bool others_ran = false;
        start([&] { others_ran = true; });
        for (int i = 0; i < 3; i++) {
            CHECK(wh_chan_len(ch) == static_cast<size_t>(i));
            int rc = wh_chan_send(ch, i);
            CHECK(rc == 0);
        }
        CHECK(!others_ran);
        CHECK(wh_chan_len(ch) == 3);
        CHECK(wh_chan_cap(ch) == 3);
        wh_coro *fourth = spawn([&] { return wh_chan_send(ch, 3); });
        Turns turn;
        turn(2);
        CHECK(fourth->state == CORO_PARKED);
        int x = -1;
        int rc = wh_chan_recv(ch, &x);
        CHECK(rc == 1);
        CHECK(x == 0);
        CHECK(wh_chan_len(ch) == 3); /* the fourth's has taken the place */
        CHECK(join(fourth) == 0);
        for (int i = 1; i < 4; i++) {
            rc = wh_chan_recv(ch, &x);
            CHECK(rc == 1);
            CHECK(x == i);
        }
        CHECK(wh_chan_len(ch) == 0);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: elements arrive in the order of sending, whatever the capacity")
{
    for (size_t capacity : {0, 1, 2, 7, 1000})
        for (bool sender_first : {false, true})
            in_run([&] {
                Ints ch = wh_chan_create(int, capacity);
                std::vector<int> got;
                auto receive = [&] {
                    int x;
                    while (wh_chan_recv(ch, &x) > 0) {
                        got.push_back(x);
                        if (x % 3 == 0)
                            wh_yield();
                    }
                };
                auto send = [&] {
                    for (int i = 0; i < 500; i++)
                        if (wh_chan_send(ch, i) == 0 && i % 5 == 0)
                            wh_yield();
                    wh_chan_close(ch);
                };
                wh_coro *one = sender_first ? spawn(send) : spawn(receive);
                wh_coro *other = sender_first ? spawn(receive) : spawn(send);
                join(one);
                join(other);
                std::vector<int> all(500);
                std::iota(all.begin(), all.end(), 0);
                CHECK(got == all);
                wh_chan_unref(ch);
            });
}

TEST_CASE("chan: receivers are served in the order in which they began to wait")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 0);
        std::vector<int> got(6, -1);
        std::vector<wh_coro *> receivers;
        for (int i = 0; i < 6; i++)
            receivers.push_back(spawn([&, i] { return wh_chan_recv(ch, &got[i]); }));
        Turns turn;
        turn(2);
        wh_cancel(receivers[2]); /* leaves the queue; the others keep their places */
        for (int i = 0; i < 5; i++) {
            int rc = wh_chan_send(ch, i);
            CHECK(rc == 0);
        }
        for (int i = 0; i < 6; i++)
            CHECK(join(receivers[i]) == (i == 2 ? -ECANCELED : 1));
        CHECK(got == std::vector<int>{0, 1, -1, 2, 3, 4});
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: senders are served in the order in which they began to wait")
{
    for (size_t capacity : {0, 2})
        in_run([&] {
            Ints ch = wh_chan_create(int, capacity);
            for (size_t i = 0; i < capacity; i++)
                (void)wh_chan_try_send(ch, -1);
            std::vector<wh_coro *> senders;
            for (int i = 0; i < 6; i++)
                senders.push_back(spawn([&, i] { return wh_chan_send(ch, i); }));
            Turns turn;
            turn(2);
            wh_cancel(senders[2]);
            std::vector<int> got;
            for (size_t i = 0; i < 5 + capacity; i++) {
                int x = -2;
                int rc = wh_chan_recv(ch, &x);
                CHECK(rc == 1);
                if (x != -1)
                    got.push_back(x);
            }
            for (int i = 0; i < 6; i++)
                CHECK(join(senders[i]) == (i == 2 ? -ECANCELED : 0));
            CHECK(got == std::vector<int>{0, 1, 3, 4, 5});
            CHECK(wh_chan_len(ch) == 0);
            wh_chan_unref(ch);
        });
}

TEST_CASE("chan: an element of any size is copied whole, and nothing beside it")
{
    for (size_t bytes : SIZES)
        in_run([bytes] {
            INFO("elements of " << bytes << " bytes");
            Elem a(bytes, 1), b(bytes, 2), c(bytes, 3), x(bytes), y(bytes), z(bytes);
            /* from a sender that waits, through the buffer, to a receiver that waits */
            wh_chan *direct = wh_chan_create_(bytes, 0), *buffered = wh_chan_create_(bytes, 2);
            wh_coro *sender = spawn([&] { return wh_chan_send_(direct, a.at()); });
            wh_yield();
            int rc = wh_chan_recv_(direct, x.at());
            CHECK(rc == 1);
            CHECK(join(sender) == 0);
            CHECK(x == a);

            for (int round = 0; round < 3; round++) { /* the ring goes around */
                CHECK(wh_chan_try_send_(buffered, b.at()) == 0);
                CHECK(wh_chan_try_send_(buffered, c.at()) == 0);
                wh_coro *third = spawn([&] { return wh_chan_send_(buffered, a.at()); });
                wh_yield();
                x = y = z = Elem(bytes);
                CHECK(wh_chan_try_recv_(buffered, x.at()) == 1);
                CHECK(wh_chan_try_recv_(buffered, y.at()) == 1);
                CHECK(wh_chan_try_recv_(buffered, z.at()) == 1);
                CHECK(join(third) == 0);
                CHECK(x == b);
                CHECK(y == c);
                CHECK(z == a);
            }

            x = Elem(bytes);
            wh_coro *receiver = spawn([&] { return wh_chan_recv_(buffered, x.at()); });
            wh_yield();
            CHECK(wh_chan_try_send_(buffered, c.at()) == 0);
            CHECK(join(receiver) == 1);
            CHECK(x == c);
            wh_chan_unref_(direct);
            wh_chan_unref_(buffered);
        });
}

TEST_CASE("chan: elements of no size are counted like others")
{
    in_run([] {
        wh_chan *ch = wh_chan_create_(0, SIZE_MAX);
        CHECK(ch);
        CHECK(wh_chan_cap_(ch) == SIZE_MAX);
        const struct {
        } nothing = {};
        for (int i = 0; i < 100; i++)
            CHECK(wh_chan_try_send_(ch, &nothing) == 0);
        CHECK(wh_chan_len_(ch) == 100);
        for (int i = 0; i < 100; i++)
            CHECK(wh_chan_try_recv_(ch, nullptr) == 1);
        CHECK(wh_chan_try_recv_(ch, nullptr) == -EAGAIN);
        wh_chan_unref_(ch);
    });
}

TEST_CASE("chan: send_from reads the element where it is until the call returns")
{
    struct Large {
        char bytes[4096];
    };
    in_run([] {
        WH_CHAN(Large) ch = wh_chan_create(Large, 0);
        Large large = {}, got = {};
        wh_coro *sender = spawn([&] { return wh_chan_send_from(ch, &large); });
        wh_yield();
        memset(large.bytes, 'x', sizeof large.bytes); /* no copy was made when it began to wait */
        int rc = wh_chan_recv(ch, &got);
        CHECK(rc == 1);
        CHECK(memcmp(large.bytes, got.bytes, sizeof got.bytes) == 0);
        CHECK(join(sender) == 0);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: a receive into NULL drops one element")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 1);
        (void)wh_chan_try_send(ch, 1);
        wh_coro *sender = spawn([&] { return wh_chan_send(ch, 2); });
        wh_yield();
        int rc = wh_chan_recv(ch, nullptr); /* from the buffer */
        CHECK(rc == 1);
        CHECK(join(sender) == 0);
        int x = 0;
        CHECK(wh_chan_try_recv(ch, &x) == 1);
        CHECK(x == 2);
        CHECK(wh_chan_try_recv(ch, nullptr) == -EAGAIN);

        wh_coro *receiver = spawn([&] { return wh_chan_recv(ch, nullptr); });
        wh_yield();
        rc = wh_chan_send(ch, 3); /* to one that waits */
        CHECK(rc == 0);
        CHECK(join(receiver) == 1);
        CHECK(wh_chan_len(ch) == 0);

        receiver = spawn([&] { return wh_chan_recv(ch, nullptr); });
        wh_yield();
        wh_chan_close(ch);
        CHECK(join(receiver) == 0);
        rc = wh_chan_recv(ch, nullptr);
        CHECK(rc == 0);
        wh_chan_unref(ch);

        ch = wh_chan_create(int, 0);
        sender = spawn([&] { return wh_chan_send(ch, 4); });
        wh_yield();
        rc = wh_chan_recv(ch, nullptr); /* from one that waits */
        CHECK(rc == 1);
        CHECK(join(sender) == 0);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: what was in the buffer at the close is still received, then 0 with zero bytes")
{
    for (size_t bytes : SIZES)
        in_run([bytes] {
            wh_chan *ch = wh_chan_create_(bytes, 4);
            Elem a(bytes, 1), b(bytes, 2), x(bytes), zero = Elem::zero(bytes);
            (void)wh_chan_try_send_(ch, a.at());
            (void)wh_chan_try_send_(ch, b.at());
            wh_chan_close_(ch);
            CHECK(wh_chan_len_(ch) == 2);
            CHECK(wh_chan_cap_(ch) == 4);
            int rc = wh_chan_recv_(ch, x.at());
            CHECK(rc == 1);
            CHECK(x == a);
            CHECK(wh_chan_try_recv_(ch, x.at()) == 1);
            CHECK(x == b);
            for (int i = 0; i < 3; i++) {
                x = Elem(bytes, 9);
                rc = wh_chan_recv_(ch, x.at());
                CHECK(rc == 0);
                CHECK(x == zero);
                x = Elem(bytes, 9);
                CHECK(wh_chan_try_recv_(ch, x.at()) == 0);
                CHECK(x == zero);
            }
            wh_chan_unref_(ch);
        });
}

TEST_CASE("chan: close wakes every blocked receiver, whose element is then all zero bytes")
{
    for (size_t bytes : SIZES)
        in_run([bytes] {
            wh_chan *ch = wh_chan_create_(bytes, 1);
            std::vector<Elem> got(5, Elem(bytes, 9));
            std::vector<wh_coro *> receivers;
            for (Elem &x : got)
                receivers.push_back(spawn([&] { return wh_chan_recv_(ch, x.at()); }));
            Turns turn;
            turn(2);
            wh_chan_close_(ch);
            for (size_t i = 0; i < got.size(); i++) {
                CHECK(join(receivers[i]) == 0);
                CHECK(got[i] == Elem::zero(bytes));
            }
            wh_chan_unref_(ch);
        });
}

TEST_CASE("chan: who closes it may give it back at once, before those that it woke have run")
{
    in_run([] {
        WH_CHAN(long) ch = wh_chan_create(long, 0);
        long x = 9;
        wh_coro *receiver = spawn([&] { return wh_chan_recv(ch, &x); });
        Turns turn;
        turn(2);
        wh_chan_close(ch);
        CHECK(x == 0); /* all is done for it already */
        wh_chan_unref(ch);
        CHECK(join(receiver) == 0);
        CHECK(x == 0);
    });
}

TEST_CASE("chan: sending to and receiving from a NULL channel wait until the context ends")
{
    in_run([] {
        Ints nil = nullptr;
        int x = 77;
        for (bool sends : {false, true}) {
            auto call = [&] { return sends ? wh_chan_send(nil, 1) : wh_chan_recv(nil, &x); };
            Turns turn;
            wh_coro *waiter = spawn(call);
            turn(3);
            CHECK(waiter->state == CORO_PARKED);
            wh_cancel(waiter);
            CHECK(join(waiter) == -ECANCELED);

            WH_WITH_CANCEL(ctx)
            {
                waiter = spawn(call);
                turn(3);
                CHECK(waiter->state == CORO_PARKED);
                wh_ctx_cancel(ctx, 0);
            }
            CHECK(join(waiter) == -ECANCELED);

            waiter = spawn([&] {
                int rc = 1;
                WH_WITH_TIMEOUT(WH_HOUR)
                {
                    rc = call();
                }
                return rc;
            });
            turn(3);
            CHECK(waiter->state == CORO_PARKED);
            orders::pass_deadline(waiter);
            CHECK(join(waiter) == -ETIMEDOUT);
        }
        CHECK(x == 77);
    });
}

TEST_CASE("chan: of a NULL channel try says -EAGAIN, length and capacity are 0, giving back is ok")
{
    in_run([] {
        Ints nil = nullptr;
        int x = 77;
        CHECK(wh_chan_try_send(nil, 1) == -EAGAIN);
        CHECK(wh_chan_try_recv(nil, &x) == -EAGAIN);
        CHECK(x == 77);
        CHECK(wh_chan_len(nil) == 0);
        CHECK(wh_chan_cap(nil) == 0);
        CHECK(wh_chan_ref(nil) == nullptr);
        wh_chan_unref(nil);
    });
}

TEST_CASE("chan: try sends and receives like the calls, and says -EAGAIN where they would wait")
{
    in_run([] {
        bool others_ran = false;
        start([&] { others_ran = true; });
        int x = 77;
        Ints ch = wh_chan_create(int, 0), buffered = wh_chan_create(int, 1);
        CHECK(wh_chan_try_send(ch, 1) == -EAGAIN);
        CHECK(wh_chan_try_recv(ch, &x) == -EAGAIN);
        CHECK(wh_chan_try_recv(buffered, &x) == -EAGAIN);
        CHECK(x == 77);
        CHECK(wh_chan_try_send(buffered, 1) == 0);
        CHECK(wh_chan_try_send(buffered, 2) == -EAGAIN);
        CHECK(wh_chan_try_recv(buffered, &x) == 1);
        CHECK(x == 1);
        CHECK(!others_ran); /* none of them parks */

        wh_coro *receiver = spawn([&] { return wh_chan_recv(ch, &x); });
        wh_yield();
        CHECK(wh_chan_try_send(ch, 3) == 0);
        CHECK(wh_chan_try_send(ch, 4) == -EAGAIN); /* it has been served */
        CHECK(join(receiver) == 1);
        CHECK(x == 3);
        wh_coro *sender = spawn([&] { return wh_chan_send(ch, 5); });
        wh_yield();
        CHECK(wh_chan_try_recv(ch, &x) == 1);
        CHECK(wh_chan_try_recv(ch, &x) == -EAGAIN);
        CHECK(x == 5);
        CHECK(join(sender) == 0);
        wh_chan_unref(ch);
        wh_chan_unref(buffered);
    });
}

TEST_CASE("chan: in a context that has ended calls do nothing and fail, and try does not look")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4), closed = wh_chan_create(int, 0);
        wh_chan_close(closed);
        (void)wh_chan_try_send(ch, 1);
        int x = 77, rc = 0;
        auto check = [&](int why) {
            rc = wh_chan_send(ch, 2);
            CHECK(rc == why);
            rc = wh_chan_recv(ch, &x);
            CHECK(rc == why);
            rc = wh_chan_recv(closed, &x);
            CHECK(rc == why);
            rc = wh_chan_send(closed, 2); /* where it would abort */
            CHECK(rc == why);
            rc = wh_chan_send(static_cast<Ints>(nullptr), 2);
            CHECK(rc == why);
            CHECK(x == 77);
            CHECK(wh_chan_len(ch) == 1);
            CHECK(wh_chan_try_send(ch, 3) == 0);
            CHECK(wh_chan_try_recv(ch, &x) == 1);
            x = 77;
        };
        WH_WITH_TIMEOUT(0)
        {
            check(-ETIMEDOUT);
        }
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            check(-ECANCELED);
        }
        WH_WITH_TIMEOUT(0)
        {
            WH_WITH_CANCEL(ctx)
            {
                wh_ctx_cancel(ctx, 0); /* too late: its deadline was first */
                check(-ETIMEDOUT);
            }
        }
        join(spawn([&] {
            wh_cancel(wh_self());
            check(-ECANCELED);
        }));
        wh_chan_unref(ch);
        wh_chan_unref(closed);
    });
}

TEST_CASE("chan: the last holder's giving back frees it, with what is in its buffer")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 2);
        Ints held = wh_chan_ref(ch);
        CHECK(held == ch);
        CHECK(whorl::chan_of(ch)->refs == 2);
        (void)wh_chan_try_send(ch, 1);
        wh_chan_unref(ch);
        int x = 0;
        CHECK(wh_chan_try_recv(held, &x) == 1); /* it is still there */
        CHECK(x == 1);
        (void)wh_chan_try_send(held, 2);
        wh_chan_unref(held); /* what is left goes, as LeakSanitizer sees */
    });
}

TEST_CASE("chan: without memory, or with more elements than memory can be, there is none")
{
    in_run([] {
        CHECK(wh_chan_create(int, SIZE_MAX) == nullptr);
        CHECK(wh_chan_create(int, SIZE_MAX / sizeof(int)) == nullptr);
        CHECK(wh_chan_create(int, SIZE_MAX / sizeof(int) + 2) == nullptr); /* 4 bytes, wrapped */
        CHECK(wh_chan_create(char, PTRDIFF_MAX) == nullptr);
        CHECK(wh_chan_create(char, SIZE_MAX) == nullptr);
        CHECK(wh_chan_create_(SIZE_MAX, 1) == nullptr);
        CHECK(wh_chan_create_(size_t(1) << 32, size_t(1) << 32) == nullptr);
    });
}

TEST_CASE("chan: sending on a closed channel aborts with the coroutine's name")
{
    ChildEnd end = culprit_in_child([] {
        Ints ch = wh_chan_create(int, 1);
        wh_chan_close(ch);
        (void)!wh_chan_send(ch, 1);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_send"));

    end = culprit_in_child([] {
        Ints ch = wh_chan_create(int, 1);
        wh_chan_close(ch);
        (void)wh_chan_try_send(ch, 1);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_try_send"));
}

TEST_CASE("chan: a send that waits when the channel is closed aborts with its coroutine's name")
{
    for (size_t capacity : {0, 1}) {
        ChildEnd end = in_child([capacity] {
            return in_run([capacity] {
                Ints ch = wh_chan_create(int, capacity);
                if (capacity)
                    (void)wh_chan_try_send(ch, 1);
                const wh_spawn_options options = {"culprit", 0};
                wh_coro *sender = spawn([&] { return wh_chan_send(ch, 1); }, &options);
                wh_yield();
                wh_chan_close(ch);
                join(sender);
            });
        });
        INFO(end.how());
        CHECK(aborted_by_culprit(end, "wh_chan_send"));
    }
}

TEST_CASE("chan: closing one twice, or NULL, aborts with the coroutine's name")
{
    ChildEnd end = culprit_in_child([] {
        Ints ch = wh_chan_create(int, 1);
        wh_chan_close(ch);
        wh_chan_close(ch);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_close"));

    end = culprit_in_child([] {
        Ints nil = nullptr;
        wh_chan_close(nil);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_close"));
}

TEST_CASE("chan: a hold that is given back once too often aborts with the coroutine's name")
{
    ChildEnd end = culprit_in_child([] {
        Ints ch = wh_chan_create(int, 1);
        start([ch] { (void)!wh_chan_recv(ch, nullptr); });
        wh_yield(); /* who waits keeps its memory */
        whorl::chan_of(ch)->refs = 0;
        wh_chan_unref(ch);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_unref"));
    CHECK(end.said.find("no hold") != std::string::npos);
}

TEST_CASE("chan: giving back the last hold while others wait aborts with the coroutine's name")
{
    ChildEnd end = culprit_in_child([] {
        Ints ch = wh_chan_create(int, 0);
        start([ch] { (void)!wh_chan_recv(ch, nullptr); });
        wh_yield();
        wh_chan_unref(ch);
    });
    INFO(end.how());
    CHECK(aborted_by_culprit(end, "wh_chan_unref"));
}

namespace
{

/* In a template the type of the channel is not known yet. */
template <typename T> int send_and_receive(WH_CHAN(T) ch, T value, T *into)
{
    (void)wh_chan_try_send(ch, value);
    const int sent = wh_chan_send(ch, value);
    return sent < 0 ? sent : wh_chan_recv(ch, into);
}

} // namespace

TEST_CASE("chan: the macros evaluate a channel once, and work in templates of C++")
{
    in_run([] {
        Ints ch = wh_chan_create(int, 4);
        int x = 0, evaluated = 0, rc = 0;
        auto counted = [&] {
            evaluated++;
            return ch;
        };
        rc = wh_chan_send(counted(), 1);
        CHECK(rc == 0);
        CHECK(evaluated == 1);
        rc = wh_chan_send_from(counted(), &x);
        CHECK(rc == 0);
        CHECK(evaluated == 2);
        rc = wh_chan_recv(counted(), &x);
        CHECK(rc == 1);
        CHECK(evaluated == 3);
        rc = wh_chan_try_recv(counted(), &x);
        CHECK(rc == 1);
        CHECK(evaluated == 4);
        rc = wh_chan_try_send(counted(), 1);
        CHECK(rc == 0);
        CHECK(evaluated == 5);
        wh_chan_unref(wh_chan_ref(counted()));
        CHECK(evaluated == 6);
        CHECK(wh_chan_len(counted()) + wh_chan_cap(counted()) == 5);
        CHECK(evaluated == 8);
        rc = send_and_receive(ch, 3, &x);
        CHECK(rc == 1);
        CHECK(wh_chan_len(ch) == 2);
        wh_chan_close(counted());
        CHECK(evaluated == 9);
        wh_chan_unref(ch);
    });
}

TEST_CASE("chan: many senders and receivers under cancels and deadlines lose and double nothing")
{
    for (size_t capacity : {0, 1, 5})
        in_run([capacity] {
            Ints ch = wh_chan_create(int, capacity);
            std::vector<int> sent, got;
            std::vector<wh_coro *> all;
            int next = 0;
            for (int who = 0; who < 20; who++) {
                all.push_back(spawn([&] {
                    for (int i = 0; i < times(200); i++) {
                        const int x = next++;
                        int rc = 0;
                        WH_WITH_TIMEOUT(x % 7 ? WH_HOUR : 20 * WH_MICROSECOND)
                        {
                            rc = wh_chan_send(ch, x);
                        }
                        if (rc == 0)
                            sent.push_back(x);
                        else if (rc == -ECANCELED)
                            return;
                    }
                }));
                all.push_back(spawn([&] {
                    int x, rc = 1;
                    while (rc > 0 || rc == -ETIMEDOUT) {
                        WH_WITH_TIMEOUT(next % 5 ? WH_HOUR : 10 * WH_MICROSECOND)
                        {
                            rc = wh_chan_recv(ch, &x);
                        }
                        if (rc > 0)
                            got.push_back(x);
                    }
                }));
            }
            Turns turn;
            for (size_t i = 0; i < all.size(); i += 3) {
                turn(2);
                wh_cancel(all[i]);
            }
            for (size_t i = 0; i < all.size(); i += 2)
                if (i % 3) /* what senders are left may wait for receivers that were cancelled */
                    wh_cancel(all[i]);
            for (size_t i = 0; i < all.size(); i += 2)
                join(all[i]);
            wh_chan_close(ch);
            for (size_t i = 1; i < all.size(); i += 2)
                join(all[i]);
            int x;
            while (wh_chan_try_recv(ch, &x) > 0)
                got.push_back(x);
            std::sort(sent.begin(), sent.end());
            std::sort(got.begin(), got.end());
            CHECK(got == sent);
            CHECK(!got.empty());
            chan_validate(whorl::chan_of(ch));
            wh_chan_unref(ch);
        });
}
