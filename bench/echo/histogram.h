/*
 * histogram.h: a log-linear latency histogram (the idea of HdrHistogram).
 *
 * Every power of two is cut into HISTOGRAM_SUB equal buckets, so a recorded value is known to
 * within 1/128 (0.8 %) from nanoseconds to minutes, in a fixed 37 KiB and with no division.
 *
 *     value      0 .. 127 | 128 .. 255 | 256 .. 511 | 512 .. 1023 | ...
 *     a bucket          1 |          1 |          2 |           4 | ...   ns wide
 *     buckets         128 |        128 |        128 |         128 | ...
 *
 * Invariant: total == the sum of counts[]; max is the largest recorded value, exactly.
 * One thread. All-zero is an empty histogram.
 */
#ifndef BENCH_ECHO_HISTOGRAM_H
#define BENCH_ECHO_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_SUB_BITS = 7,
    HISTOGRAM_SUB = 1 << HISTOGRAM_SUB_BITS,
    HISTOGRAM_VALUE_BITS = 43, /* values of 2.4 hours and more share the last bucket */
    HISTOGRAM_BUCKETS = (HISTOGRAM_VALUE_BITS - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB,
};

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t total;
    uint64_t sum_ns;
    uint64_t max_ns;
};

static inline unsigned histogram_bucket(uint64_t value_ns)
{
    if (value_ns < HISTOGRAM_SUB)
        return (unsigned)value_ns;
    if (value_ns >> HISTOGRAM_VALUE_BITS)
        return HISTOGRAM_BUCKETS - 1;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value_ns) - HISTOGRAM_SUB_BITS;
    return (shift << HISTOGRAM_SUB_BITS) + (unsigned)(value_ns >> shift);
}

static inline void histogram_add(struct histogram *h, uint64_t value_ns)
{
    h->counts[histogram_bucket(value_ns)]++;
    h->total++;
    h->sum_ns += value_ns;
    if (value_ns > h->max_ns)
        h->max_ns = value_ns;
}

/* The middle of a bucket: what a value in it is reported as. */
static inline double histogram_middle(unsigned bucket)
{
    if (bucket < 2 * HISTOGRAM_SUB)
        return bucket;
    unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t first = (uint64_t)(bucket - (shift << HISTOGRAM_SUB_BITS)) << shift;
    return (double)first + (double)(1ull << shift) / 2.0;
}

/* The value that the share `quantile` (0..1) of all values does not exceed; 0 when empty. */
static inline double histogram_quantile_ns(const struct histogram *h, double quantile)
{
    double wanted = quantile * (double)h->total;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->counts[i];
        if (h->counts[i] && (double)seen >= wanted) {
            double middle = histogram_middle(i);
            return middle < (double)h->max_ns ? middle : (double)h->max_ns;
        }
    }
    return 0;
}

static inline double histogram_mean_ns(const struct histogram *h)
{
    return h->total ? (double)h->sum_ns / (double)h->total : 0;
}

#endif
