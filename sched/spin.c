/*
 * spin.c: whether a worker that has nothing to do looks for work for a while before it sleeps.
 *
 * Looking pays where a sleep is short: whoever waits for the answer has it sooner, and falling
 * asleep and waking up cost about what the wait does. It does not where a sleep gathers: with fifty
 * clients there is always one whose request comes soon, and who takes that alone makes a system
 * call for each. Which it is depends on clients, machine and kernel, so it is tried, once in a
 * while for a few idle times the other way, against what came just before it: how many switches of
 * coroutines there are between two idle times, and the thread's processor time for one.
 *
 *      REST            MEASURE                TRIAL                 REST
 *      64 to 1024 ---> 16 of 4 idle times --> 4, the other way ---> ...
 *
 * Few, because one connection that is served by looking sees what a trial does to its latency: four
 * in a thousand. Four idle times that hold a turn in which coroutines ran for long are not counted:
 * they would say more of them than of the way. Nor is a trial when none before it were.
 *
 * When idle times are longer than the looking would be, there is none. But who sleeps takes the
 * time of waking up for idleness, too, and a peer that would soon have answered for one that is
 * slow. So one of 64 to 1024 of them is begun by looking all the same: if work comes in that time,
 * the other way is tried as above, or looking goes on if it was what paid.
 *
 *      REST <--- idle times are long, or not ---> CLOSED ---> PROBE ---> MEASURE, or CLOSED
 *
 * Where the kernel polls for submissions the worker only goes by how long idle times are (loop.c).
 */
#include "sched/spin.h"

#include <time.h>

enum { REST, MEASURE, TRIAL, CLOSED, PROBE };

enum {
    REST_MIN = 64,
    REST_MAX = 1024,
    WINDOWS = 16,
    WINDOW = 4,
    MEASURE_LESS = 8, /* the part that one takes from what was learned before */
    TRIAL_LESS = 16,
    /* Trials before anything follows from them, by whether it is the dearer mistake: to look among
     * many, or to sleep with one peer alone. */
    TRIALS_MIN = 6,
    TRIALS_SURE = 16,
    REST_ALONE_MAX = 256, /* for who sleeps with one peer alone */
};

void spin_init(struct spin *spin, int64_t limit_ns)
{
    *spin = (struct spin){.limit_ns = limit_ns, .pays = true, .left = REST_MIN, .rest = REST_MIN};
}

void spin_learn(struct spin *spin, int64_t idle_ns)
{
    if (spin->phase == TRIAL && spin->pays)
        return; /* by sleeping, for once */
    /* One long sleep must not outweigh many short ones. */
    int64_t most = 4 * spin->limit_ns;
    spin->idle_ns += ((idle_ns < most ? idle_ns : most) - spin->idle_ns) / 8;
}

void spin_found(struct spin *spin, int64_t idle_ns)
{
    if (spin->phase == PROBE) {
        spin->found = true;
        if (spin->idle_ns > spin->limit_ns)
            spin->idle_ns = spin->limit_ns; /* what it was before is not known */
    }
    spin_learn(spin, idle_ns);
}

static int64_t thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void window_begin(struct spin *spin, uint64_t switches)
{
    spin->cpu_ns = thread_cpu_ns();
    spin->switches = switches;
    spin->spoiled = false;
    spin->left = WINDOW;
}

/* A window is over, in which the worker has looked, or not; what was learned before is worth so
 * much less, unless 0. Returns whether it says anything. */
static bool window_learn(struct spin *spin, bool with, int less, uint64_t switches)
{
    int64_t count = (int64_t)(switches - spin->switches);
    struct spin_sum *sum = &spin->sum[with];
    if (count <= 0 || spin->spoiled)
        return false;
    if (less) {
        sum->cpu_ns -= sum->cpu_ns / less;
        sum->switches -= sum->switches / less;
        sum->idle_times -= sum->idle_times / less;
    }
    sum->cpu_ns += thread_cpu_ns() - spin->cpu_ns;
    sum->switches += count;
    sum->idle_times += WINDOW;
    return true;
}

/* Whether the answers to one or two peers are all the work there is, so that nothing gathers. */
static bool is_alone(const struct spin *spin)
{
    const struct spin_sum *looking = &spin->sum[true];
    return looking->switches < 2 * looking->idle_times;
}

/* With one peer alone looking is worth half as much again. Otherwise it has to be cheaper by a
 * sixteenth, or dearer, for a change. */
static bool pays(const struct spin *spin)
{
    const struct spin_sum *without = &spin->sum[false], *with = &spin->sum[true];
    if (!without->switches || !with->switches)
        return spin->pays;
    int64_t asleep_ns = without->cpu_ns / without->switches;
    int64_t looking_ns = with->cpu_ns / with->switches;
    if (is_alone(spin))
        return looking_ns < asleep_ns + asleep_ns / 2;
    return spin->pays ? looking_ns < asleep_ns + asleep_ns / 16
                      : looking_ns + looking_ns / 16 < asleep_ns;
}

static void rest_longer(struct spin *spin)
{
    uint32_t most = is_alone(spin) && !spin->pays ? REST_ALONE_MAX : REST_MAX;
    spin->rest = spin->rest < most / 2 ? spin->rest * 2 : most;
}

/* As many idle times as a REST has, in one or in CLOSED. */
static void rest(struct spin *spin, uint8_t phase)
{
    spin->phase = phase;
    spin->left = spin->rest;
}

static void measure(struct spin *spin, uint64_t switches)
{
    spin->phase = MEASURE;
    spin->windows = spin->windows_kept = 0;
    window_begin(spin, switches);
}

static void trial_over(struct spin *spin, bool learned)
{
    uint32_t enough = spin->pays == is_alone(spin) ? TRIALS_SURE : TRIALS_MIN;
    spin->trials += learned;
    if (spin->trials >= enough && pays(spin) != spin->pays) {
        spin->pays = !spin->pays;
        spin->trials = 0;
        spin->rest = REST_MIN;
    } else {
        rest_longer(spin);
    }
    rest(spin, REST);
}

static void next_phase(struct spin *spin, uint64_t switches)
{
    switch (spin->phase) {
    case REST: measure(spin, switches); break;
    case MEASURE:
        spin->windows_kept +=
            window_learn(spin, spin->pays, spin->windows_kept ? 0 : MEASURE_LESS, switches);
        if (++spin->windows == WINDOWS && !spin->windows_kept) {
            rest(spin, REST);
            break;
        }
        if (spin->windows == WINDOWS)
            spin->phase = TRIAL;
        window_begin(spin, switches);
        break;
    case TRIAL: trial_over(spin, window_learn(spin, !spin->pays, TRIAL_LESS, switches)); break;
    case CLOSED:
        spin->phase = PROBE;
        spin->left = 1;
        spin->found = false;
        break;
    default:
        if (spin->found) {
            measure(spin, switches);
        } else {
            rest_longer(spin);
            rest(spin, CLOSED);
        }
        break;
    }
}

bool spin_now(struct spin *spin, bool possible, uint64_t switches)
{
    if (!possible || !spin->limit_ns) {
        if (spin->phase == MEASURE || spin->phase == TRIAL)
            rest(spin, REST); /* what comes in between is no measure */
        return false;
    }
    bool seem_long = spin->idle_ns >= spin->limit_ns;
    /* `left` goes on: else one long idle time now and then would keep everything from being tried.
     */
    if (spin->phase == REST && seem_long) {
        spin->phase = CLOSED;
        if (spin->pays) { /* not to be given up for long */
            spin->rest = REST_MIN;
            spin->left = spin->left < REST_MIN ? spin->left : REST_MIN;
        }
    } else if (spin->phase == CLOSED && !seem_long) {
        spin->phase = REST;
    }
    if (!spin->left)
        next_phase(spin, switches);
    spin->left--;
    switch (spin->phase) {
    case TRIAL: return !spin->pays;
    case CLOSED: return false;
    case PROBE: return true;
    default: return spin->pays;
    }
}
