/*
 * shell.c: other programs: a pipeline, what it says, and what happens when it takes too long.
 *
 *     shell
 *     shell SECONDS PROGRAM ARGUMENT... '|' PROGRAM... '|' ...
 *
 *     shell 5 du -a . '|' sort -n '|' tail -n 3
 *
 * Each program's standard output is a pipe whose other end is the next one's standard input; the
 * last one's is read here.
 *
 * Look at pipeline(): it says nowhere what is to be done when the time is over. A process belongs
 * to the block in which it was spawned and is stopped when that one's time is over; the read
 * returns -ETIMEDOUT, and the function gives back what it has, as it always does.
 */
#include <whorl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STAGES_MAX = 16 };

typedef const char *const *words;

/* Starts the stages, each reading from the one before. Returns how many, or -errno with *count of
 * them started; *out is the last one's output, or -1. */
static int start(const words *stages, wh_process **processes, int *count, wh_fd *out)
{
    int rc = 0;
    *out = -1;
    for (*count = 0; rc == 0 && stages[*count]; *count += rc == 0) {
        wh_process_options options = {.out = WH_STDIO_PIPE};
        if (*count)
            options.in = WH_STDIO_FD(*out);
        rc = wh_process_spawn(&processes[*count], stages[*count], &options);
        if (rc < 0)
            fprintf(stderr, "%s: %s\n", stages[*count][0], strerror(-rc));
        if (*out >= 0)
            wh_close(*out); /* it is the process's */
        *out = rc < 0 ? -1 : wh_process_take(processes[*count], STDOUT_FILENO);
    }
    return rc < 0 ? rc : *count;
}

static int copy(wh_fd from, FILE *to)
{
    char buf[4096];
    ssize_t n;
    while ((n = wh_read(from, buf, sizeof buf)) > 0)
        fwrite(buf, 1, (size_t)n, to);
    return (int)n;
}

/* Returns the last one's status, or -errno. */
static int pipeline(const words *stages, FILE *to)
{
    wh_process *processes[STAGES_MAX];
    wh_fd out;
    int count, status = 0;
    int rc = start(stages, processes, &count, &out);
    if (rc > 0)
        rc = copy(out, to);
    if (rc == 0)
        rc = wh_process_wait(processes[count - 1], &status);
    if (out >= 0)
        wh_close(out);
    while (count > 0)
        wh_process_destroy(processes[--count]);
    return rc < 0 ? rc : status;
}

/* ---- The two ways to run it ---- */

/* Cuts the arguments at each "|". Returns whether there is a program everywhere. */
static bool cut(char **args, words *stages)
{
    int count = 0;
    bool begins = true; /* a program's name is next */
    for (; *args; args++) {
        bool bar = !strcmp(*args, "|");
        if (begins && (bar || count == STAGES_MAX - 1))
            return false;
        if (begins)
            stages[count++] = (words)(void *)args;
        if (bar)
            *args = NULL;
        begins = bar;
    }
    stages[count] = NULL;
    return !begins;
}

static int given(int argc, char **argv)
{
    words stages[STAGES_MAX];
    int rc = 0;
    if (argc < 3 || !cut(argv + 2, stages)) {
        fprintf(stderr, "usage: shell SECONDS PROGRAM ARGUMENT... '|' PROGRAM...\n");
        return 2;
    }
    WH_WITH_TIMEOUT(strtol(argv[1], NULL, 10) * WH_SECOND)
    {
        rc = pipeline(stages, stdout);
    }
    if (rc == -ETIMEDOUT)
        fprintf(stderr, "shell: not done after %s s, stopped\n", argv[1]);
    return rc < 0 ? 1 : WIFEXITED(rc) ? WEXITSTATUS(rc) : 128 + WTERMSIG(rc);
}

/* Shows both ends, and checks them. */
static int shown(void)
{
    const words counted[] = {
        (const char *[]){"printf", "%s\\n", "plum", "apple", "plum", "fig", "apple", "plum", NULL},
        (const char *[]){"sort", NULL},
        (const char *[]){"uniq", "-c", NULL},
        (const char *[]){"sort", "-r", NULL},
        (const char *[]){"head", "-n", "2", NULL},
        NULL,
    };
    int good = pipeline(counted, stdout);
    printf("the pipeline: %s\n", good < 0 ? strerror(-good) : good ? "failed" : "done");

    const words endless[] = {
        (const char *[]){"yes", NULL},
        (const char *[]){"grep", "no", NULL},
        NULL,
    };
    int late = 0;
    WH_WITH_TIMEOUT(100 * WH_MILLISECOND)
    {
        late = pipeline(endless, stdout);
    }
    printf("the endless one: %s\n", late < 0 ? strerror(-late) : "ended");
    siginfo_t info;
    bool left = waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0;
    printf("processes left: %s\n", left ? "yes" : "none");
    return good == 0 && late == -ETIMEDOUT && !left ? 0 : 1;
}

struct args {
    int argc;
    char **argv;
};

static int app(void *arg)
{
    const struct args *args = arg;
    return args->argc > 1 ? given(args->argc, args->argv) : shown();
}

int main(int argc, char **argv)
{
    struct args args = {argc, argv};
    int rc = wh_run(app, &args, NULL);
    return rc < 0 ? 1 : rc;
}
