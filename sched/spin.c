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
 *      REST            MEASURE           TRIAL                 REST
 *      64 to 1024 ---> 64 idle times --> 4, the other way ---> ...
 *
 * Few, because one connection that is served by looking sees what a trial does to its latency: four
 * in a thousand. What holds a turn in which coroutines ran for long is not counted: it would say
 * more of them than of the way. When idle times are longer than the looking would be, nothing is
 * tried, and there is none.
 */
#include "sched/spin.h"

#include <time.h>

enum { REST, MEASURE, TRIAL };

enum {
    REST_MIN = 64,
    REST_MAX = 1024,
    MEASURED = 64,
    TRIED = 4,
    TRIALS_MIN = 6, /* before anything follows from them */
};

void spin_init(struct spin *spin, int64_t limit_ns)
{
    *spin = (struct spin){.limit_ns = limit_ns, .pays = true, .left = REST_MIN, .rest = REST_MIN};
}

void spin_learn(struct spin *spin, int64_t idle_ns)
{
    /* One long sleep must not outweigh many short ones. */
    int64_t most = 4 * spin->limit_ns;
    spin->idle_ns += ((idle_ns < most ? idle_ns : most) - spin->idle_ns) / 8;
}

static int64_t thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* What has been measured was with looking, or without. Returns whether it says anything. */
static bool trial_learn(struct spin *spin, bool with, int64_t idle_times, uint64_t switches)
{
    int64_t now_ns = thread_cpu_ns();
    int64_t count = (int64_t)(switches - spin->switches);
    struct spin_sum *sum = &spin->sum[with];
    bool learns = count > 0 && !spin->spoiled;
    if (learns) {
        sum->cpu_ns += now_ns - spin->cpu_ns - sum->cpu_ns / 8;
        sum->switches += count - sum->switches / 8;
        sum->idle_times += idle_times - sum->idle_times / 8;
    }
    spin->spoiled = false;
    spin->cpu_ns = now_ns;
    spin->switches = switches;
    return learns;
}

/* Where the answers to one or two peers are all the work there is, nothing gathers, and looking is
 * worth a quarter. Otherwise it has to be cheaper by a sixteenth, or dearer, for a change. */
static bool pays(const struct spin *spin)
{
    const struct spin_sum *without = &spin->sum[false], *with = &spin->sum[true];
    if (!without->switches || !with->switches)
        return spin->pays;
    int64_t asleep_ns = without->cpu_ns / without->switches;
    int64_t looking_ns = with->cpu_ns / with->switches;
    if (with->switches < 2 * with->idle_times)
        return looking_ns < asleep_ns + asleep_ns / 4;
    return spin->pays ? looking_ns < asleep_ns + asleep_ns / 16
                      : looking_ns + looking_ns / 16 < asleep_ns;
}

static void rest(struct spin *spin)
{
    spin->phase = REST;
    spin->left = spin->rest;
}

static void trial_over(struct spin *spin, bool learned)
{
    spin->trials += learned;
    if (spin->trials >= TRIALS_MIN && pays(spin) != spin->pays) {
        spin->pays = !spin->pays;
        spin->trials = 0;
        spin->rest = REST_MIN;
    } else if (spin->rest < REST_MAX) {
        spin->rest *= 2;
    }
    rest(spin);
}

static void next_phase(struct spin *spin, uint64_t switches)
{
    switch (spin->phase) {
    case REST:
        spin->cpu_ns = thread_cpu_ns();
        spin->switches = switches;
        spin->spoiled = false;
        spin->phase = MEASURE;
        spin->left = MEASURED;
        break;
    case MEASURE:
        (void)trial_learn(spin, spin->pays, MEASURED, switches);
        spin->phase = TRIAL;
        spin->left = TRIED;
        break;
    default: trial_over(spin, trial_learn(spin, !spin->pays, TRIED, switches)); break;
    }
}

bool spin_now(struct spin *spin, bool possible, uint64_t switches)
{
    if (!possible || spin->idle_ns >= spin->limit_ns) {
        if (spin->phase != REST)
            rest(spin); /* what came in between is no measure */
        return false;
    }
    if (!spin->left)
        next_phase(spin, switches);
    spin->left--;
    return spin->pays != (spin->phase == TRIAL);
}
