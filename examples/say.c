/*
 * say.c: two speakers at once, as in A Tour of Go: starting a coroutine and waiting for its end.
 *
 *     say
 *
 * Look at say(): a plain function with a plain loop. wh_sleep() parks the coroutine that calls it
 * and never the thread, so the two speak in turn, though each is written as if it were alone. One
 * is started with wh_spawn(), the other is the root itself.
 *
 * In the Tour the program ends with its first speaker, and the last word of the other may be lost.
 * A run ends with its root, too; wh_join() is what makes this one wait.
 */
#include <whorl.h>

#include <stdio.h>
#include <string.h>

enum { TIMES = 5 };

/* What was said, in order. Both speakers write here, and need no lock: see bank.c. */
struct talk {
    const char *words[2 * TIMES];
    int count;
};

static int say(const char *word, struct talk *talk)
{
    for (int i = 0; i < TIMES; i++) {
        int rc = wh_sleep(50 * WH_MILLISECOND);
        if (rc < 0)
            return rc;
        puts(word);
        talk->words[talk->count++] = word;
    }
    return 0;
}

/* Each word was said five times, and neither speaker was through before the other began. */
static bool both_spoke_in_turn(const struct talk *talk)
{
    int hello = 0, hello_early = 0;
    for (int i = 0; i < talk->count; i++) {
        bool is_hello = strcmp(talk->words[i], "hello") == 0;
        hello += is_hello;
        hello_early += is_hello && i < TIMES;
    }
    return talk->count == 2 * TIMES && hello == TIMES && hello_early > 0 && hello_early < TIMES;
}

static int app(void *arg)
{
    (void)arg;
    struct talk talk = {0};
    wh_coro *other;
    int rc = wh_spawn(&other, NULL, say, "world", &talk);
    if (rc < 0)
        return rc;
    rc = say("hello", &talk);
    if (rc == 0)
        rc = wh_join(other, NULL);
    if (rc < 0)
        return rc;
    return both_spoke_in_turn(&talk) ? 0 : 1;
}

int main(void)
{
    /* One worker: they take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, NULL, &one_worker) != 0;
}
