/*
 * race.hpp: one coroutine waits in a call, and several things happen to it, in every order.
 *
 * The waiter is parked in a call of a Wait, and the events of an order happen (order.hpp). In one
 * turn of the loop the kernel hears of several in one entry.
 *
 * So the contract of whorl/io.h becomes checkable without knowing the kernel's timing:
 *   - the call returns exactly one outcome, and one that an event of the first group explains;
 *   - a single event in the first group decides alone; data beats a deadline;
 *   - nothing is lost: what was sent and not returned is still in the descriptor, unless closed;
 *   - the buffer is not written to after the call has returned;
 *   - the next call fails as documented: -ECANCELED, else -ETIMEDOUT, else -EBADF;
 *   - a close succeeds, once, and the peer sees it.
 */
#ifndef TESTS_SCHED_RACE_HPP
#define TESTS_SCHED_RACE_HPP

#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <memory>

namespace race
{

using orders::Order;
using orders::pass_deadline;

enum Event { DATA, FIN, DEADLINE, CANCEL, CLOSE, EVENTS };

inline const char *const event_names[EVENTS] = {"data", "fin", "deadline", "cancel", "close"};

/* What a Wait says its call may return when an event ended it. */
struct Results {
    ssize_t at_least;
    ssize_t at_most;
    bool holds(ssize_t n) const
    {
        return n >= at_least && n <= at_most;
    }
};

inline Results exactly(ssize_t n)
{
    return {n, n};
}

/* One call, its descriptors, and the events that it knows. Destroyed after each order. */
class Wait
{
  public:
    virtual ~Wait() = default;
    virtual ssize_t call() = 0;
    virtual void data()
    {
    }
    virtual void fin()
    {
    }
    /* What data() and fin() make the call return. */
    virtual Results data_result() const
    {
        return exactly(0);
    }
    virtual Results fin_result() const
    {
        return exactly(0);
    }
    /* The descriptor that a close is about; the Wait does not close it then. */
    virtual int take_fd()
    {
        return -1;
    }
    /* After all: whether what was sent is accounted for, given what the calls returned. */
    virtual bool conserved(ssize_t first, ssize_t next, bool was_closed)
    {
        (void)first;
        (void)next;
        (void)was_closed;
        return true;
    }
    /* After a close: whether the other side has noticed, at most a while later. */
    virtual bool peer_sees_end()
    {
        return true;
    }
    /* Called when the first call has returned. */
    virtual void returned(ssize_t first)
    {
        (void)first;
    }
    /* Whether nothing has been written to the buffer since returned(). */
    virtual bool buffer_untouched()
    {
        return true;
    }
    /* Whether data() makes the result there before the next look at the timers. */
    virtual bool data_at_once() const
    {
        return true;
    }
    /* A sleep puts the ambient deadline back when it ends, and with it our intervention. */
    virtual bool deadline_lasts() const
    {
        return true;
    }
};

struct Outcome {
    ssize_t first = INT32_MIN; /* of the call that was under way */
    ssize_t next = INT32_MIN;  /* of the one after it */
    bool asked_next = false;
    int close_rc = INT32_MIN;
    int closed_fd = -1;
    bool returned = false;
    bool all_happened = false;
};

inline void happen(Event event, Wait &wait, wh_coro *waiter, Outcome &outcome)
{
    switch (event) {
    case DATA: wait.data(); break;
    case FIN: wait.fin(); break;
    case DEADLINE: pass_deadline(waiter); break;
    case CANCEL: wh_cancel(waiter); break;
    case CLOSE:
        outcome.closed_fd = wait.take_fd();
        outcome.close_rc = wh_close(outcome.closed_fd);
        break;
    case EVENTS: break;
    }
}

/* Whether the next call's result is documented; without any of these it would wait. */
inline bool expects_failure(const Order &order, const Wait &wait)
{
    unsigned all = order.all();
    return all & (1u << CANCEL | 1u << CLOSE) || (all & 1u << DEADLINE && wait.deadline_lasts());
}

inline ssize_t expected_failure(const Order &order, const Wait &wait)
{
    if (order.all() & 1u << CANCEL)
        return -ECANCELED;
    return order.all() & 1u << DEADLINE && wait.deadline_lasts() ? -ETIMEDOUT : -EBADF;
}

/* Lets turns pass until the waiter has returned. */
inline void pause(Turns &turn, const Outcome &outcome)
{
    orders::pause_until(turn, [&] { return outcome.returned; });
}

inline Outcome drive(const Order &order, Wait &wait, Turns &turn)
{
    Outcome outcome;
    wh_coro *waiter = spawn([&] {
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            outcome.first = wait.call();
            wait.returned(outcome.first);
            outcome.returned = true;
            while (!outcome.all_happened)
                wh_yield();
            if (expects_failure(order, wait)) {
                outcome.next = wait.call();
                outcome.asked_next = true;
            }
        }
    });
    turn(2);
    wh_assert(waiter->state == CORO_PARKED);

    std::vector<wh_coro *> events;
    for (size_t i = 0; i < order.events.size(); i++) {
        Event event = static_cast<Event>(order.events[i]);
        events.push_back(spawn([&, event] { happen(event, wait, waiter, outcome); }));
        if (order.pauses >> i & 1)
            pause(turn, outcome);
    }
    pause(turn, outcome);
    if (!outcome.returned) {
        wh_cancel(waiter); /* it is lost: the check will say so */
        outcome.returned = true;
        outcome.first = INT32_MIN;
    }
    for (wh_coro *event : events)
        join(event);
    outcome.all_happened = true;
    join(waiter);
    turn(2);
    return outcome;
}

/* What is wrong with an outcome, or nothing. */
inline std::string judge(const Order &order, const Outcome &outcome, Wait &wait)
{
    const unsigned group = order.first_group();
    const ssize_t first = outcome.first;
    const bool closed = order.all() & 1u << CLOSE;
    const Results results[EVENTS] = {wait.data_result(), wait.fin_result(), exactly(-ETIMEDOUT),
                                     exactly(-ECANCELED), exactly(-EBADF)};
    bool explained = false;
    for (int event = 0; event < EVENTS; event++)
        explained |= (group >> event & 1) && results[event].holds(first);
    if (first == INT32_MIN)
        return "the call did not return";
    if (!explained)
        return "no event explains the result";
    if (group == (1u << DATA | 1u << DEADLINE) && wait.data_at_once() &&
        !results[DATA].holds(first))
        return "data arrived and the deadline won";
    if (outcome.asked_next && outcome.next != expected_failure(order, wait))
        return "the next call returned " + std::to_string(outcome.next);
    if (!wait.buffer_untouched())
        return "the buffer was written to after the call had returned";
    if (!wait.conserved(first, outcome.next, closed))
        return "something that was sent is lost";
    if (closed && outcome.close_rc != 0)
        return "the close returned " + std::to_string(outcome.close_rc);
    if (closed && fcntl(outcome.closed_fd, F_GETFD) != -1)
        return "the descriptor is still open";
    if (closed && !wait.peer_sees_end())
        return "the peer does not see the close";
    return "";
}

/* Runs every order of the events against waits of the kind W, and complains of each that is wrong;
 * returns how many orders there were. */
template <typename W, typename... A> int all(const std::vector<int> &events, A... arguments)
{
    int count = 0, wrong = 0;
    const int fds_before = fds_open();
    in_run([&] {
        Turns turn;
        for (const Order &order : orders::all_orders(events)) {
            auto wait = std::make_unique<W>(arguments...);
            Outcome outcome = drive(order, *wait, turn);
            std::string what = judge(order, outcome, *wait);
            count++;
            if (!what.empty() && wrong++ < 20) {
                INFO(order.text(event_names) << ": returned " << outcome.first);
                FAIL_CHECK(what);
            }
        }
        worker_validate(worker_tls);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.ops_in_flight == 0);
        CHECK(stats.coros_live == 1);
    });
    CHECK(wrong == 0);
    CHECK(fds_open() == fds_before);
    return count;
}

} // namespace race

#endif
