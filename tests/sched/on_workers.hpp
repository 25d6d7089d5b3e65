/*
 * on_workers.hpp: what the tests of runs with several workers share: coroutines that are bound to a
 * worker, and waiting for what happens on another one.
 *
 * Only the root checks: Catch2 keeps one assertion at a time. Coroutines on other workers leave
 * what they have found in atomics, or in memory that nobody reads before they were joined.
 */
#ifndef TESTS_SCHED_ON_WORKERS_HPP
#define TESTS_SCHED_ON_WORKERS_HPP

#include "tests/sched/in_run.hpp"

#include <atomic>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

/* The worker for the i-th of several: round and round. */
inline unsigned worker_for(unsigned i)
{
    return 1 + i % wh_workers();
}

/* Starts a copy of body on that worker. */
template <typename F> wh_coro *on(unsigned worker, F &&body, const char *name = nullptr)
{
    wh_spawn_options options = {};
    options.name = name;
    options.worker = worker;
    return spawn(std::forward<F>(body), &options);
}

/* Starts body(i) for each i below count, on all workers in turn, and joins them. Returns the sum of
 * what they return. */
template <typename F> intptr_t on_all(unsigned count, const F &body)
{
    std::vector<wh_coro *> coros;
    for (unsigned i = 0; i < count; i++)
        coros.push_back(on(worker_for(i), [&body, i] { return static_cast<intptr_t>(body(i)); }));
    intptr_t sum = 0;
    for (wh_coro *coro : coros)
        sum += coro ? join(coro) : -1000000;
    return sum;
}

/* Lets others run until it holds. */
template <typename F> void until(const F &holds)
{
    while (!holds())
        wh_yield();
}

/* Until the coroutine is in that state; its handle must not have been given back. */
inline void until_state(const wh_coro *coro, int state)
{
    /* acquire: pairs with the release in the change of the state by its worker */
    until([&] { return __atomic_load_n(&coro->state, __ATOMIC_ACQUIRE) == state; });
}

/* Until it waits for something, or has ended; the same. */
inline void until_parked(const wh_coro *coro)
{
    until([=] {
        /* acquire: pairs with the release in the change of the state by its worker */
        const int state = __atomic_load_n(&coro->state, __ATOMIC_ACQUIRE);
        return state == CORO_PARKED || state == CORO_DEAD;
    });
}

inline void until_ended(const wh_coro *coro)
{
    until_state(coro, CORO_DEAD);
}

#endif
