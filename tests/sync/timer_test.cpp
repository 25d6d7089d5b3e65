/*
 * timer_test.cpp: timers that tick: each sentence of whorl/timer.h. Where time itself is tested, a
 * test only asks that nothing comes early.
 */
#include "tests/base/child.hpp"
#include "tests/sync/orders.hpp"

using namespace orders;

namespace
{

/* Turns the loop until a tick is there to be taken. */
void until_pending(const wh_timer *timer)
{
    Turns turn;
    pause_until(turn, [timer] { return timer->pending; });
    CHECK(timer->pending);
}

bool armed(const wh_timer *timer)
{
    return timer_armed(&timer->alarm.timer);
}

/* A wait for a tick. */
class Tick : public Scene
{
  public:
    explicit Tick(int64_t period_ns)
    {
        events = {{"tick",
                   [this, period_ns](wh_coro *) {
                       ticks_++;
                       wh_timer_reset(timer_, 0, period_ns);
                       return true;
                   },
                   is(0), true},
                  orders::cancel(),
                  orders::deadline(),
                  ctx_cancel(ctx)};
    }
    ~Tick() override
    {
        wh_timer_destroy(timer_);
    }
    int call() override
    {
        return wh_timer_wait(timer_);
    }
    std::string wrong(int result) override
    {
        if (!list_empty(&timer_->waiters))
            return "it is still in the queue";
        if (result == 0 && timer_->pending)
            return "the tick was not taken";
        if (result != 0 && ticks_ && !timer_->pending && !armed(timer_))
            return "a tick was taken";
        return "";
    }

  private:
    wh_timer *timer_ = wh_timer_create(WH_HOUR, 0);
    int ticks_ = 0;
};

} // namespace

TEST_CASE("timer: the first tick comes after the delay, and without a period no more")
{
    in_run([] {
        for (int64_t delay_ns : {int64_t(1), 30 * WH_MICROSECOND, 2 * WH_MILLISECOND}) {
            int64_t start_ns = wh_now();
            wh_timer *timer = wh_timer_create(delay_ns, 0);
            int rc = wh_timer_wait(timer);
            CHECK(rc == 0);
            CHECK(wh_now() >= start_ns + delay_ns);
            CHECK(!timer->pending);
            CHECK(!armed(timer));
            wh_timer_destroy(timer);
        }
    });
}

TEST_CASE("timer: with a delay of 0 or less the first tick comes at the loop's next turn")
{
    in_run([] {
        Turns turn;
        int late = 0;
        for (int64_t delay_ns : {int64_t(0), int64_t(-1), INT64_MIN})
            for (int i = 0; i < 100; i++) {
                wh_timer *timer = wh_timer_create(delay_ns, 0);
                CHECK(!timer->pending);
                turn(1);
                late += !timer->pending;
                wh_timer_reset(timer, delay_ns, WH_HOUR);
                CHECK(!timer->pending);
                turn(1);
                late += !timer->pending;
                wh_timer_destroy(timer);
            }
        CHECK(late == 0);
    });
}

TEST_CASE("timer: a period is nothing or at least a microsecond")
{
    in_run([] {
        for (int64_t period_ns : {int64_t(1), int64_t(999), int64_t(-1), INT64_MIN})
            CHECK(wh_timer_create(0, period_ns) == nullptr);
        wh_timer *timer = wh_timer_create(0, 1000);
        CHECK(timer);
        for (int i = 0; i < 5; i++) {
            int rc = wh_timer_wait(timer);
            CHECK(rc == 0);
        }
        CHECK(wh_timer_reset(timer, WH_HOUR, WH_HOUR) == 0);
        int64_t next_ns = timer->next_ns;
        for (int64_t period_ns : {int64_t(1), int64_t(999), int64_t(-1), INT64_MIN})
            CHECK(wh_timer_reset(timer, 0, period_ns) == -EINVAL);
        CHECK(timer->next_ns == next_ns); /* it goes on as it was */
        CHECK(armed(timer));
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: ticks come at the start plus whole periods, however late they are taken")
{
    in_run([] {
        const int64_t period_ns = 60 * WH_MICROSECOND;
        int64_t start_ns = wh_now() + period_ns;
        wh_timer *timer = wh_timer_create(period_ns, period_ns);
        const int64_t first_ns = timer->next_ns;
        CHECK(first_ns >= start_ns);
        int64_t due_ns = first_ns;
        int early = 0, off = 0, again = 0;
        for (int i = 0; i < 200; i++) {
            if (i % 5 == 0)
                busy_until(wh_now() + period_ns * (i % 4));
            due_ns = timer->next_ns;
            int rc = wh_timer_wait(timer);
            CHECK(rc == 0);
            early += wh_now() < due_ns;
            off += (timer->next_ns - first_ns) % period_ns != 0;
            again += timer->next_ns <= due_ns;
        }
        CHECK(early == 0);
        CHECK(off == 0);
        CHECK(again == 0);
        CHECK(wh_now() >= first_ns + 199 * period_ns); /* no more ticks than periods */
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: a tick that nobody takes waits, and further ones are dropped until then")
{
    for (bool turns : {false, true})
        in_run([turns] {
            const int64_t period_ns = 200 * WH_MICROSECOND;
            wh_timer *timer = wh_timer_create(0, period_ns);
            until_pending(timer);
            Turns turn;
            const int64_t until_ns = wh_now() + 10 * period_ns;
            if (turns)
                while (wh_now() < until_ns)
                    turn();
            else
                busy_until(until_ns); /* the loop's time is old then */
            bool others_ran = false;
            start([&] { others_ran = true; });
            const int64_t taken_ns = wh_now();
            int rc = wh_timer_wait(timer); /* the one that waits: at once */
            CHECK(rc == 0);
            CHECK(!others_ran);
            CHECK(timer->next_ns >= taken_ns); /* those meanwhile are dropped */
            rc = wh_timer_wait(timer);
            CHECK(rc == 0);
            CHECK(wh_now() >= taken_ns);
            CHECK(others_ran);
            wh_timer_destroy(timer);
        });
}

TEST_CASE("timer: stop drops what is to come or to be taken, and says whether there was any")
{
    in_run([] {
        Turns turn;
        wh_timer *timer = wh_timer_create(WH_HOUR, 0);
        CHECK(wh_timer_stop(timer));
        CHECK(!wh_timer_stop(timer));
        CHECK(wh_timer_reset(timer, 0, 0) == 0);
        CHECK(wh_timer_stop(timer)); /* due, but the loop has not noticed */
        turn(3);
        CHECK(!timer->pending);

        for (int64_t period_ns : {int64_t(0), WH_HOUR}) {
            wh_timer_reset(timer, 0, period_ns);
            until_pending(timer);
            CHECK(wh_timer_stop(timer));
            CHECK(!timer->pending);
            CHECK(!armed(timer));
            CHECK(!wh_timer_stop(timer));
        }
        wh_timer_reset(timer, 0, 0);
        int rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        CHECK(!wh_timer_stop(timer)); /* it has ticked, once */
        wh_timer_reset(timer, 0, WH_HOUR);
        rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        CHECK(wh_timer_stop(timer)); /* the next was to come */
        wh_timer_reset(timer, INT64_MAX, 0);
        CHECK(!wh_timer_stop(timer)); /* never */
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: who waits goes on waiting when it is stopped, and is served after a reset")
{
    in_run([] {
        Turns turn;
        wh_timer *timer = wh_timer_create(WH_HOUR, 0);
        wh_coro *waiter = spawn([&] { return wh_timer_wait(timer); });
        turn(2);
        wh_timer_reset(timer, 0, 0);
        wh_timer_stop(timer);
        turn(4);
        CHECK(waiter->state == CORO_PARKED);
        wh_timer_reset(timer, 0, 0);
        CHECK(join(waiter) == 0);
        CHECK(!timer->pending);
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: a reset starts anew, as if just created")
{
    in_run([] {
        wh_timer *timer = wh_timer_create(0, WH_MICROSECOND);
        until_pending(timer);
        int64_t before_ns = wh_now();
        CHECK(wh_timer_reset(timer, 300 * WH_MICROSECOND, 0) == 0);
        CHECK(!timer->pending); /* the tick that was not taken is gone, and the period */
        int rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        CHECK(wh_now() >= before_ns + 300 * WH_MICROSECOND);
        CHECK(!armed(timer));
        wh_timer_reset(timer, WH_HOUR, 0);
        wh_timer_reset(timer, 0, 0); /* earlier */
        rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: several that wait are served in their order, one a tick")
{
    in_run([] {
        Turns turn;
        wh_timer *timer = wh_timer_create(WH_HOUR, 0);
        std::vector<int> order;
        std::vector<wh_coro *> waiters;
        for (int i = 0; i < 6; i++)
            waiters.push_back(spawn([&, i] {
                int rc = i % 2 ? wh_select(WH_TICK(timer)) : wh_timer_wait(timer);
                if (rc == 0)
                    order.push_back(i);
                return rc;
            }));
        turn(2);
        wh_cancel(waiters[2]);
        wh_cancel(waiters[3]);
        turn(2);
        for (size_t served = 1; served <= 4; served++) {
            wh_timer_reset(timer, 0, 0);
            pause_until(turn, [&] { return order.size() >= served; });
            turn(2);
            CHECK(order.size() == served);
        }
        CHECK(order == std::vector<int>{0, 1, 4, 5});
        for (int i = 0; i < 6; i++)
            CHECK(join(waiters[i]) == (i == 2 || i == 3 ? -ECANCELED : 0));
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: a periodic one serves all that wait, period by period")
{
    in_run([] {
        const int64_t period_ns = 50 * WH_MICROSECOND;
        int64_t start_ns = wh_now();
        wh_timer *timer = wh_timer_create(period_ns, period_ns);
        std::vector<int> order;
        std::vector<wh_coro *> waiters;
        for (int i = 0; i < 8; i++)
            waiters.push_back(spawn([&, i] {
                int rc = wh_timer_wait(timer);
                order.push_back(i);
                return rc;
            }));
        for (wh_coro *waiter : waiters)
            CHECK(join(waiter) == 0);
        CHECK(wh_now() >= start_ns + 8 * period_ns);
        CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: a wait in a context that has ended fails and takes no tick")
{
    in_run([] {
        wh_timer *timer = wh_timer_create(0, 0);
        until_pending(timer);
        int rc = 0;
        WH_WITH_TIMEOUT(0)
        {
            rc = wh_timer_wait(timer);
        }
        CHECK(rc == -ETIMEDOUT);
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            rc = wh_timer_wait(timer);
        }
        CHECK(rc == -ECANCELED);
        CHECK(timer->pending);
        rc = wh_timer_wait(timer);
        CHECK(rc == 0);
        wh_timer_destroy(timer);
    });
}

TEST_CASE("timer: a wait against tick, cancel, deadline and context in every order")
{
    for (int64_t period_ns : {int64_t(0), WH_HOUR})
        all([period_ns] { return std::make_unique<Tick>(period_ns); });
}

TEST_CASE("timer: destroying it stops it, and NULL does nothing")
{
    in_run([] {
        wh_timer_destroy(nullptr);
        for (int64_t delay_ns : {int64_t(0), 20 * WH_MICROSECOND, WH_HOUR})
            wh_timer_destroy(wh_timer_create(delay_ns, 20 * WH_MICROSECOND));
        CHECK(worker_tls->alarms.armed == 0);
        wh_timer *timer = wh_timer_create(0, 0);
        until_pending(timer);
        wh_timer_destroy(timer);
        Turns turn;
        turn(3);
    });
}

TEST_CASE("timer: destroying one that others wait for aborts with the coroutine's name")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            const wh_spawn_options options = {"culprit", 0};
            join(spawn(
                [] {
                    wh_timer *timer = wh_timer_create(WH_HOUR, 0);
                    start([timer] { (void)!wh_timer_wait(timer); });
                    wh_yield();
                    wh_timer_destroy(timer);
                },
                &options));
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("wh_timer_destroy") != std::string::npos);
    CHECK(end.said.find("culprit") != std::string::npos);
}
