/*
 * select_tools.hpp: what the tests of select share: whether nothing is left behind, and whether
 * draws are uniform.
 */
#ifndef TESTS_SYNC_SELECT_TOOLS_HPP
#define TESTS_SYNC_SELECT_TOOLS_HPP

#include "tests/sched/order.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

#ifdef WHORL_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

extern "C" {
#include "sync/sync.h"
}

namespace select_tools
{

using Ints = WH_CHAN(int);

/* Whether nobody is in the channel's queues, not even one that waits no more. */
template <typename C> bool quiet(C ch)
{
    const wh_chan *raw = whorl::chan_of(ch);
    return list_empty(&raw->receivers) && list_empty(&raw->senders);
}

template <typename... C> void unref(C... channels)
{
    (wh_chan_unref(channels), ...);
}

/* Pearson's chi-square test. The bound is passed by chance once in some 10^7 times. */
inline bool uniform(const std::vector<int> &counts)
{
    double sum = 0, chi = 0;
    for (int count : counts)
        sum += count;
    const double expected = sum / static_cast<double>(counts.size());
    for (int count : counts)
        chi += (count - expected) * (count - expected) / expected;
    const double freedom = static_cast<double>(counts.size()) - 1;
    UNSCOPED_INFO("chi-square " << chi << " of " << freedom << " degrees of freedom");
    return chi < 2 * freedom + 32;
}

#ifdef WHORL_JEMALLOC

inline uint64_t thread_counter(const char *name)
{
    uint64_t value = 0;
    size_t size = sizeof value;
    mallctl(name, &value, &size, nullptr, 0);
    return value;
}

/* Bytes this thread has allocated, and given back, since it began. */
inline uint64_t allocated()
{
    return thread_counter("thread.allocated");
}
inline uint64_t deallocated()
{
    return thread_counter("thread.deallocated");
}

#endif

} // namespace select_tools

#endif
