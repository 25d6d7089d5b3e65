/*
 * hog.hpp: keeping a worker to oneself.
 */
#ifndef TESTS_SCHED_HOG_HPP
#define TESTS_SCHED_HOG_HPP

#include <cstdint>
#include <ctime>

/* The time, without a call into whorl. */
inline int64_t thread_now()
{
    timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return static_cast<int64_t>(ts.tv_sec) * 1000000000 + ts.tv_nsec;
}

/* Computes for as long, without a call into whorl. */
__attribute__((noinline)) inline intptr_t hog_for(int64_t ns)
{
    int64_t end_ns = thread_now() + ns;
    while (thread_now() < end_ns)
        ;
    return 0;
}

#endif
