/*
 * echo.c: the smallest useful server: sends back what it receives.
 *
 *     echo HOST:PORT [--workers N]
 *
 * One coroutine a connection, written as if it were alone. With several workers each is a thread
 * with a run and a listener of its own; the kernel spreads the connections (SO_REUSEPORT). SIGINT
 * or SIGTERM ends it and prints one line of figures as JSON.
 */
#include <whorl.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { WORKERS_MAX = 64, BUFFER_BYTES = 2048 };

/* One a worker; read by main() after the thread has ended. */
struct worker {
    pthread_t thread;
    const char *address;
    wh_fd stop; /* readable when the server is to end */
    int several;
    int result;
    uint64_t connections;
    uint64_t messages;
    wh_stats stats;
};

static void serve(wh_fd fd, struct worker *me)
{
    char buf[BUFFER_BYTES];
    for (;;) {
        ssize_t n = wh_recv(fd, buf, sizeof buf, 0);
        if (n <= 0)
            break;
        if (wh_send_all(fd, buf, (size_t)n) < 0)
            break;
        me->messages++;
    }
    wh_close(fd);
}

static void accept_all(wh_fd listener, struct worker *me)
{
    for (;;) {
        wh_fd fd = wh_accept(listener);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
            if (wh_sleep(10 * WH_MILLISECOND) < 0) /* until a connection has ended */
                return;
            continue;
        }
        if (fd == -ECONNABORTED)
            continue;
        if (fd < 0)
            return;
        me->connections++;
        if (wh_go(serve, fd, me) < 0)
            wh_close(fd);
    }
}

/* The root: serves until `stop` becomes readable; returning ends everything else. */
static int app(void *arg)
{
    struct worker *me = arg;
    wh_fd listener = wh_listen_tcp(me->address, &(wh_listen_options){.reuseport = me->several});
    if (listener < 0) {
        fprintf(stderr, "echo: cannot listen on %s: %s\n", me->address, strerror(-listener));
        return listener;
    }
    int rc = wh_go(accept_all, listener, me);
    if (rc == 0)
        rc = wh_poll(me->stop, POLLIN);
    wh_close(listener);
    wh_stats_get(&me->stats);
    return rc < 0 ? rc : 0;
}

static void *run(void *arg)
{
    /* A run a thread: what its coroutines share needs no lock. */
    const wh_options one_worker = {.workers = 1};
    struct worker *me = arg;
    me->result = wh_run(app, me, &one_worker);
    return NULL;
}

/* Blocks the ending signals and returns a descriptor that is readable once one has come. */
static wh_fd ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void print_figures(const struct worker *workers, int count)
{
    uint64_t connections = 0, messages = 0, enters = 0;
    for (int i = 0; i < count; i++) {
        connections += workers[i].connections;
        messages += workers[i].messages;
        enters += workers[i].stats.ring_enters;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"server\":\"whorl\",\"messages\":%llu,\"syscalls\":%llu,\"cpu_s\":%.6f,"
           "\"connections\":%llu,\"max_rss_kb\":%ld}\n",
           (unsigned long long)messages, (unsigned long long)enters, cpu_s,
           (unsigned long long)connections, usage.ru_maxrss);
}

static int usage(void)
{
    fprintf(stderr, "usage: echo HOST:PORT [--workers N]    N from 1 to %d\n", WORKERS_MAX);
    return 2;
}

int main(int argc, char **argv)
{
    static struct worker workers[WORKERS_MAX];
    const char *address = NULL;
    int count = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--workers") && i + 1 < argc)
            count = atoi(argv[++i]);
        else if (argv[i][0] != '-' && !address)
            address = argv[i];
        else
            return usage();
    }
    if (!address || count < 1 || count > WORKERS_MAX)
        return usage();

    wh_fd stop = ending_signals();
    if (stop < 0) {
        perror("echo: signalfd");
        return 1;
    }
    for (int i = 0; i < count; i++)
        workers[i] = (struct worker){.address = address, .stop = stop, .several = count > 1};
    int started = 1;
    for (; started < count; started++)
        if (pthread_create(&workers[started].thread, NULL, run, &workers[started]) != 0)
            break;
    run(&workers[0]);
    int result = workers[0].result;
    for (int i = 1; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].result < 0)
            result = workers[i].result;
    }
    print_figures(workers, started);
    return result < 0;
}
