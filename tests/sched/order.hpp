/*
 * order.hpp: the orders in which several events can happen to one coroutine that waits in a call.
 *
 * Each event is made to happen by a coroutine of its own, started by a driver. Between two events
 * there is either nothing, so that both happen in the same turn of the loop; or a pause that lasts
 * until all has settled, so that the later one finds the call done.
 *
 *      order  data cancel | close       "|": a pause
 *             \_________/
 *              the first group: decides what the call returns
 *
 * The deadline passes by an intervention in the waiter's timer: real time would decide the order.
 */
#ifndef TESTS_SCHED_ORDER_HPP
#define TESTS_SCHED_ORDER_HPP

#include "tests/sched/in_run.hpp"

#include <algorithm>
#include <climits>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace orders
{

/* Events by their numbers. */
struct Order {
    std::vector<int> events;
    unsigned pauses; /* bit i: one after event i */

    template <typename N> std::string text(const N &names) const
    {
        std::string text;
        for (size_t i = 0; i < events.size(); i++) {
            text += names[events[i]];
            text += pauses >> i & 1 ? " | " : " ";
        }
        return text;
    }
    /* The events that happen before the first pause. */
    unsigned first_group() const
    {
        unsigned group = 0;
        for (size_t i = 0; i < events.size(); i++) {
            group |= 1u << events[i];
            if (pauses >> i & 1)
                break;
        }
        return group;
    }
    unsigned all() const
    {
        unsigned all = 0;
        for (int event : events)
            all |= 1u << event;
        return all;
    }
};

/* Every order of every subset of the events, with every set of pauses; none in subsets of more than
 * paused_max events. */
inline std::vector<Order> all_orders(const std::vector<int> &events, size_t paused_max = SIZE_MAX)
{
    std::vector<Order> orders;
    for (unsigned subset = 1; subset < 1u << events.size(); subset++) {
        std::vector<int> chosen;
        for (size_t i = 0; i < events.size(); i++)
            if (subset >> i & 1)
                chosen.push_back(events[i]);
        std::sort(chosen.begin(), chosen.end());
        const unsigned pauses_end = chosen.size() > paused_max ? 1 : 1u << (chosen.size() - 1);
        do {
            for (unsigned pauses = 0; pauses < pauses_end; pauses++)
                orders.push_back({chosen, pauses});
        } while (std::next_permutation(chosen.begin(), chosen.end()));
    }
    return sampled(orders);
}

/* Makes the waiter's deadline one that has passed, as if time had. */
inline void pass_deadline(wh_coro *waiter)
{
    struct wheel *wheel = &waiter->worker->wheel;
    waiter->deadline_ns = 0;
    if (timer_armed(&waiter->timer))
        wheel_cancel(wheel, &waiter->timer);
    wheel_arm(wheel, &waiter->timer, 0);
}

/* Lets turns pass until the condition holds; a test that waits for what never comes goes on. */
template <typename C> void pause_until(Turns &turn, C condition)
{
    int64_t limit_ns = wh_now() + 20 * WH_SECOND;
    do
        turn(2);
    while (!condition() && wh_now() < limit_ns);
}

} // namespace orders

#endif
