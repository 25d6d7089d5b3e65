/*
 * main.c: whorl-stress: every primitive of whorl at once, by chance, and the accounts afterwards.
 *
 *     whorl-stress [--seed N] [--seconds S] [--actors N] [--only KIND] [--migrate] [--quiet]
 *
 * Prints its seed first: the same seed makes the same choices again, though not in the same order
 * of events. WHORL_WORKERS and the library's other variables count as always. Ends with 0; with 1
 * when something did not hold, after saying what; by SIGABRT when it hangs.
 */
#include "stress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

static int help(FILE *out)
{
    fprintf(out, "whorl-stress [--seed N] [--seconds S] [--actors N] [--only KIND] [--migrate] "
                 "[--quiet]\nKIND is one of:");
    for (int i = 0; i < kinds_count; i++)
        fprintf(out, " %s", kinds[i]->name);
    fprintf(out, "\n");
    return out == stdout ? 0 : 2;
}

static bool number_of(const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
    char *end = NULL;
    errno = 0;
    uint64_t number = text ? strtoull(text, &end, 0) : 0;
    if (!text || errno || end == text || *end || number < least || number > most)
        return false;
    *ret = number;
    return true;
}

static bool kind_exists(const char *name)
{
    for (int i = 0; i < kinds_count; i++)
        if (strcmp(kinds[i]->name, name) == 0)
            return true;
    return false;
}

/* Returns whether the arguments can be understood. */
static bool settings_read(struct settings *s, char **argv)
{
    for (; *argv; argv++) {
        uint64_t number = 0;
        if (strcmp(*argv, "--quiet") == 0) {
            s->quiet = true;
        } else if (strcmp(*argv, "--migrate") == 0) {
            s->migrate = true;
        } else if (strcmp(*argv, "--seed") == 0) {
            if (!number_of(*++argv, 0, UINT64_MAX, &s->seed))
                return false;
        } else if (strcmp(*argv, "--seconds") == 0) {
            if (!number_of(*++argv, 1, 100000, &number))
                return false;
            s->seconds = (int)number;
        } else if (strcmp(*argv, "--actors") == 0) {
            if (!number_of(*++argv, 1, 2000, &number))
                return false;
            s->actors = (int)number;
        } else if (strcmp(*argv, "--only") == 0) {
            s->only = *++argv;
            if (!s->only || !kind_exists(s->only))
                return false;
        } else {
            return false;
        }
    }
    return true;
}

/* Streams and sockets take a few hundred descriptors. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    /* ThreadSanitizer knows at most 8128 coroutines at once, and a step may start dozens. */
    struct settings s = {.seconds = 5, .actors = WITH_TSAN ? 24 : WITH_ASAN ? 48 : 96};
    if (getrandom(&s.seed, sizeof s.seed, 0) != sizeof s.seed)
        s.seed = (uint64_t)now_ns();
    s.seed >>= 32;
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return help(stdout);
    if (argc > 1 && !settings_read(&s, argv + 1))
        return help(stderr);

    const char *workers = getenv("WHORL_WORKERS");
    printf("whorl-stress: seed %llu, %d s, %d actors, WHORL_WORKERS=%s\n",
           (unsigned long long)s.seed, s.seconds, s.actors, workers ? workers : "");
    fflush(stdout);
    allow_descriptors();
    spawn_options_set(&s);
    watch_begin(s.seconds * 4 + 60);

    int64_t end_ns = now_ns() + s.seconds * WH_SECOND;
    int rounds = 0;
    for (int64_t left_ns; (left_ns = end_ns - now_ns()) > 0 && !anything_violated(); rounds++) {
        struct rng rng = rng_of(s.seed, (uint64_t)rounds);
        int64_t length_ns = rng_from_to(&rng, 200, 1400) * WH_MILLISECOND;
        round_make(&s, rounds, length_ns < left_ns ? length_ns : left_ns);
    }
    watch_end();
    if (anything_violated()) {
        fprintf(stderr, "whorl-stress: failed; repeat with --seed %llu --actors %d\n",
                (unsigned long long)s.seed, s.actors);
        return 1;
    }
    if (!s.quiet)
        steps_print();
    printf("whorl-stress: %d rounds, %llu coroutines, all accounts are right\n", rounds,
           (unsigned long long)count_get(&life.started));
    return 0;
}
