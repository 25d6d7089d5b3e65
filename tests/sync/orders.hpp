/*
 * orders.hpp: a call that waits for peers, against everything that can end the wait, in every order
 * that one worker can produce (tests/sched/order.hpp).
 *
 * A Scene is what one order is played on: the call, and the events, each with the results that it
 * explains. An event says when it happened whether it could end the call: a send that nobody was
 * there to take cannot. Most decide at once, in the coroutine that makes them happen; a deadline, a
 * tick, a descriptor are noticed by the loop at its next turn. So what the call must return is
 * known exactly, but for which of several that the loop notices comes first:
 *
 *      order  deadline readable send cancel | close
 *             `------- or -----' decides;
 *                                `---------------- too late
 *
 * The candidates are the events of the first group in which any could end the call, up to the first
 * that decides at once. The call returned what one of them explains; nothing else that was
 * offered is lost, as the Scene says; and the next call fails as whorl/ctx.h says.
 */
#ifndef TESTS_SYNC_ORDERS_HPP
#define TESTS_SYNC_ORDERS_HPP

#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <string>

extern "C" {
#include "sync/sync.h"
}

namespace orders
{

struct Event {
    const char *name;
    /* Makes it happen; returns whether it could end the call. */
    std::function<bool(wh_coro *waiter)> happen;
    /* Whether the call may return this because of it. */
    std::function<bool(int result)> explains;
    bool at_next_turn = false;
};

/* Destroyed after each order. */
class Scene
{
  public:
    Scene() : ctx(wh_ctx_create(nullptr))
    {
    }
    Scene(const Scene &) = delete;
    Scene &operator=(const Scene &) = delete;
    virtual ~Scene()
    {
        wh_ctx_destroy(ctx);
    }
    virtual int call() = 0;
    /* After the call has returned: lets those go that still wait. */
    virtual void finish()
    {
    }
    /* After all: what is wrong, or nothing. */
    virtual std::string wrong(int result) = 0;

    wh_ctx *const ctx; /* the waiter's */
    std::vector<Event> events;
    int64_t timeout_ns = WH_HOUR; /* the waiter's; never to pass by itself */
    bool deadline_lasts = true;   /* a select puts the ambient deadline back when it ends */
};

inline std::function<bool(int)> is(int result)
{
    return [result](int n) { return n == result; };
}

inline Event deadline()
{
    return {"deadline",
            [](wh_coro *waiter) {
                pass_deadline(waiter);
                return true;
            },
            is(-ETIMEDOUT), true};
}

inline Event cancel()
{
    return {"cancel",
            [](wh_coro *waiter) {
                wh_cancel(waiter);
                return true;
            },
            is(-ECANCELED)};
}

inline Event ctx_cancel(wh_ctx *ctx)
{
    return {"ctx-cancel",
            [ctx](wh_coro *) {
                wh_ctx_cancel(ctx, -EDQUOT);
                return true;
            },
            is(-ECANCELED)};
}

struct Outcome {
    int result = INT_MIN;
    int next = 1; /* what the call after it returned, if it was made */
    bool returned = false;
    bool lost = false; /* it did not return by itself */
    bool all_happened = false;
    unsigned could_end = 0; /* the events that said so */
};

/* Those of which one must explain the result. */
inline std::vector<int> candidates(const Order &order, const Outcome &outcome, const Scene &scene)
{
    std::vector<int> found;
    for (size_t i = 0; i < order.events.size(); i++) {
        const int event = order.events[i];
        if (outcome.could_end >> event & 1) {
            found.push_back(event);
            if (!scene.events[event].at_next_turn)
                break;
        }
        if (order.pauses >> i & 1 && !found.empty())
            break;
    }
    return found;
}

inline bool happened(const Order &order, const Scene &scene, const char *name)
{
    return std::any_of(order.events.begin(), order.events.end(),
                       [&](int event) { return std::string(scene.events[event].name) == name; });
}

/* What the next call must return; 0: it is not made, because it would wait. */
inline int expected_next(const Order &order, const Scene &scene)
{
    if (happened(order, scene, "cancel") || happened(order, scene, "ctx-cancel"))
        return -ECANCELED;
    return scene.deadline_lasts && happened(order, scene, "deadline") ? -ETIMEDOUT : 0;
}

inline wh_coro *start_waiter(const Order &order, Scene &scene, Outcome &outcome)
{
    wh_coro *waiter = nullptr;
    WH_WITH_CTX(scene.ctx)
    {
        waiter = spawn([&] {
            WH_WITH_TIMEOUT(scene.timeout_ns)
            {
                outcome.result = scene.call();
                outcome.returned = true;
                while (!outcome.all_happened)
                    wh_yield();
                if (!outcome.lost && expected_next(order, scene))
                    outcome.next = scene.call();
            }
        });
    }
    return waiter;
}

inline Outcome play(const Order &order, Scene &scene, Turns &turn)
{
    Outcome outcome;
    wh_coro *waiter = start_waiter(order, scene, outcome);
    turn(2);
    wh_assert(waiter->state == CORO_PARKED);

    auto settle = [&] {
        turn(4); /* all have happened now that do not wait */
        if (outcome.could_end)
            pause_until(turn, [&] { return outcome.returned; });
    };
    std::vector<wh_coro *> events;
    for (size_t i = 0; i < order.events.size(); i++) {
        const int event = order.events[i];
        events.push_back(spawn([&, event] {
            if (scene.events[event].happen(waiter))
                outcome.could_end |= 1u << event;
        }));
        if (order.pauses >> i & 1)
            settle();
    }
    settle();
    if (!outcome.returned) {
        outcome.lost = true;
        wh_cancel(waiter);
        turn(2);
    }
    scene.finish();
    for (wh_coro *event : events)
        join(event);
    outcome.all_happened = true;
    join(waiter);
    return outcome;
}

inline std::string judge(const Order &order, const Outcome &outcome, Scene &scene)
{
    const std::vector<int> by = candidates(order, outcome, scene);
    if (outcome.lost)
        return by.empty() ? scene.wrong(outcome.result) : "the call did not return";
    const bool explained = std::any_of(by.begin(), by.end(), [&](int event) {
        return scene.events[event].explains(outcome.result);
    });
    if (!explained)
        return "no event that could decide explains the result";
    const int next = expected_next(order, scene);
    if (next && outcome.next != next)
        return "the next call returned " + std::to_string(outcome.next);
    return scene.wrong(outcome.result);
}

/* Plays every order of the events of the scenes that make() makes, pauses in those of at most
 * paused_max events only; complains of each that is wrong. Returns how many there were. */
inline int all(const std::function<std::unique_ptr<Scene>()> &make, size_t paused_max = SIZE_MAX)
{
    int count = 0, wrong = 0;
    const int fds_before = fds_open();
    in_run([&] {
        Turns turn;
        std::vector<int> numbers;
        std::vector<const char *> names;
        auto first = make();
        for (const Event &event : first->events) {
            numbers.push_back(static_cast<int>(numbers.size()));
            names.push_back(event.name);
        }
        first.reset();
        for (const Order &order : all_orders(numbers, paused_max)) {
            auto scene = make();
            const Outcome outcome = play(order, *scene, turn);
            const std::string what = judge(order, outcome, *scene);
            count++;
            if (!what.empty() && wrong++ < 20) {
                INFO(order.text(names) << ": returned " << outcome.result);
                FAIL_CHECK(what);
            }
            scene.reset();
        }
        turn(2);
        worker_validate(worker_tls);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.ops_in_flight == 0);
        CHECK(stats.coros_live == 1);
        CHECK(worker_tls->alarms.armed == 0);
    });
    CHECK(wrong == 0);
    CHECK(fds_open() == fds_before);
    return count;
}

} // namespace orders

#endif
