/*
 * proxy.c: a TCP proxy: who connects is connected on, and bytes go both ways until both have ended.
 *
 *     proxy --listen HOST:PORT --to HOST:PORT [--workers N] [...]     --help lists all options
 *
 * What to look at: serve(), which is all that a connection needs. Its deadlines are blocks around
 * the calls; wh_copy_both() passes on the end of each side while the other one goes on, and gives
 * up when nothing moves in either direction.
 *
 * What ends a connection other than the ends of both sides (an error, a timeout, nobody to connect
 * to) is passed on as a reset, so that nobody takes a part for the whole.
 *
 * SIGTERM or SIGINT ends it in good order: newcomers are refused, those who are connected may go on
 * for a while. A second signal ends it at once.
 */
#include <whorl.h>

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
    WORKERS_MAX = 60,
    /* Descriptors that are no connection's: of the program, and of each worker, which has pipes,
     * and newcomers that wait for a place. */
    FDS_PROGRAM = 16,
    FDS_WORKER = 24,
    /* Both sides, and a pipe for each direction while its bytes wait for a slow receiver. */
    FDS_CONNECTION = 6,
};

struct proxy {
    const char *listen, *to;
    int64_t workers, connections_max;
    int64_t connect_ns, idle_ns, total_ns, grace_ns; /* 0: without limit */
    bool stats;
    /* any worker, atomic */
    uint64_t unreached, broken, timeouts;
    uint64_t bytes_up, bytes_down;
    bool said;
    /* the root's */
    wh_serve_stats served;
    wh_stats run;
};

/* ---- One connection ---- */

static void count(uint64_t *figure, uint64_t by)
{
    __atomic_fetch_add(figure, by, __ATOMIC_RELAXED);
}

static int64_t limit(int64_t ns)
{
    return ns ? ns : WH_NEVER;
}

/* Its close will be a reset. */
static void reset_at_close(wh_conn *conn)
{
    const struct linger at_once = {.l_onoff = 1};
    setsockopt(wh_conn_fd(conn), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

static void say_unreached(struct proxy *proxy, int error)
{
    count(&proxy->unreached, 1);
    if (!__atomic_exchange_n(&proxy->said, true, __ATOMIC_RELAXED))
        fprintf(stderr, "proxy: cannot connect to %s: %s (said once)\n", proxy->to,
                strerror(-error));
}

/* Returns 0, or -errno and has said so. */
static int connect_on(struct proxy *proxy, wh_conn **ret_conn)
{
    wh_fd fd = -1;
    WH_WITH_TIMEOUT(limit(proxy->connect_ns))
    {
        fd = wh_dial_tcp(proxy->to);
    }
    int rc = fd < 0 ? fd : wh_conn_create(ret_conn, fd);
    if (fd >= 0 && rc < 0)
        wh_close(fd);
    if (rc < 0)
        say_unreached(proxy, rc);
    return rc;
}

static void serve(const wh_client *client)
{
    struct proxy *proxy = client->arg;
    wh_conn *up;
    int rc = -ETIMEDOUT;
    WH_WITH_TIMEOUT(limit(proxy->total_ns))
    {
        if (connect_on(proxy, &up) < 0) {
            reset_at_close(client->conn);
            return;
        }
        wh_copied copied;
        rc = wh_copy_both(client->conn, up, limit(proxy->idle_ns), &copied);
        count(&proxy->bytes_up, copied.a_to_b);
        count(&proxy->bytes_down, copied.b_to_a);
    }
    if (rc < 0) {
        count(rc == -ETIMEDOUT ? &proxy->timeouts : &proxy->broken, 1);
        reset_at_close(client->conn);
        reset_at_close(up);
    }
    (void)wh_conn_close(up);
}

/* ---- All of them ---- */

static int print_address(wh_fd listener)
{
    wh_addr address;
    char text[WH_ADDR_TEXT];
    int rc = wh_addr_local(listener, &address);
    if (rc == 0)
        rc = wh_addr_format(&address, text, sizeof text);
    if (rc < 0)
        return rc;
    printf("listening on %s\n", text);
    fflush(stdout);
    return 0;
}

/* As many descriptors as may be had, and enough of them for each connection. */
static void set_limits(struct proxy *proxy)
{
    struct rlimit fds;
    if (getrlimit(RLIMIT_NOFILE, &fds) < 0)
        return;
    fds.rlim_cur = fds.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &fds);
    getrlimit(RLIMIT_NOFILE, &fds);
    int64_t others = FDS_PROGRAM + FDS_WORKER * (int64_t)wh_workers(); /* WHORL_WORKERS may say */
    if (!proxy->connections_max && fds.rlim_cur != RLIM_INFINITY)
        proxy->connections_max = (int64_t)fds.rlim_cur > others + FDS_CONNECTION
                                     ? ((int64_t)fds.rlim_cur - others) / FDS_CONNECTION
                                     : 1;
}

/* Serves until a signal has come, and those who are connected have ended, or a second one. */
static int serve_all(struct proxy *proxy, WH_CHAN(int) signals)
{
    const wh_serve_options options = {.connections_max = (uint64_t)proxy->connections_max,
                                      .drain_ns = proxy->grace_ns ? proxy->grace_ns : -1,
                                      .stats = &proxy->served,
                                      .stop = signals};
    wh_fd listener =
        wh_listen_tcp(proxy->listen, &(wh_listen_options){.reuseport = wh_workers() > 1});
    int rc = listener < 0 ? listener : print_address(listener);
    if (rc < 0) {
        fprintf(stderr, "proxy: cannot listen on %s: %s\n", proxy->listen, strerror(-rc));
        if (listener >= 0)
            wh_close(listener);
        return rc;
    }
    return wh_serve(listener, serve, proxy, &options);
}

static int app(void *arg)
{
    struct proxy *proxy = arg;
    set_limits(proxy);
    WH_CHAN(int) signals = wh_chan_create(int, 2);
    if (!signals)
        return -ENOMEM;
    int rc = wh_signal_notify(signals, SIGINT, SIGTERM);
    if (rc == 0)
        rc = serve_all(proxy, signals);
    wh_stats_get(&proxy->run);
    wh_signal_stop(signals);
    wh_chan_unref(signals);
    return rc;
}

/* ---- Options ---- */

static const char help[] =
    "usage: proxy --listen HOST:PORT --to HOST:PORT [OPTION...]\n"
    "\n"
    "  --listen HOST:PORT     where to listen; port 0 is any free one\n"
    "  --to HOST:PORT         where to connect to\n"
    "  --workers N            threads, each with a ring of its own (1; at most 60)\n"
    "  --max-connections N    further ones wait (a sixth of 'ulimit -n')\n"
    "  --connect-timeout-ms N for connecting on (5000)\n"
    "  --idle-timeout-ms N    nothing moves in either direction (300000)\n"
    "  --total-timeout-ms N   the whole connection (0)\n"
    "  --grace-ms N           after SIGTERM or SIGINT: how long connections may go on (10000)\n"
    "  --stats                at the end, one line of figures as JSON\n"
    "  --help                 this list\n"
    "\n"
    "A timeout of 0 is none. A second signal ends it at once.\n";

static const struct option options[] = {
    {"listen", required_argument, NULL, 'l'},
    {"to", required_argument, NULL, 't'},
    {"workers", required_argument, NULL, 'w'},
    {"max-connections", required_argument, NULL, 'm'},
    {"connect-timeout-ms", required_argument, NULL, 'c'},
    {"idle-timeout-ms", required_argument, NULL, 'i'},
    {"total-timeout-ms", required_argument, NULL, 'o'},
    {"grace-ms", required_argument, NULL, 'g'},
    {"stats", no_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* Reads a number times `unit`; false, and has said why. */
static bool number(int64_t max, int64_t unit, int64_t *ret)
{
    char *end;
    errno = 0;
    long long n = strtoll(optarg, &end, 10);
    if (errno || end == optarg || *end || n < 0 || n > max) {
        fprintf(stderr, "proxy: '%s': must be a number from 0 to %lld\n", optarg, (long long)max);
        return false;
    }
    *ret = n * unit;
    return true;
}

static bool milliseconds(int64_t *ret_ns)
{
    return number(86400000, WH_MILLISECOND, ret_ns);
}

/* Returns -1 to go on, or the exit status. */
static int read_options(int argc, char **argv, struct proxy *proxy)
{
    for (;;) {
        bool right = true;
        switch (getopt_long(argc, argv, "", options, NULL)) {
        case -1:
            if (optind == argc && proxy->listen && proxy->to && proxy->workers)
                return -1;
            fputs("proxy: wants --listen HOST:PORT and --to HOST:PORT; see --help\n", stderr);
            return 2;
        case 'l': proxy->listen = optarg; break;
        case 't': proxy->to = optarg; break;
        case 'w': right = number(WORKERS_MAX, 1, &proxy->workers); break;
        case 'm': right = number(1 << 24, 1, &proxy->connections_max); break;
        case 'c': right = milliseconds(&proxy->connect_ns); break;
        case 'i': right = milliseconds(&proxy->idle_ns); break;
        case 'o': right = milliseconds(&proxy->total_ns); break;
        case 'g': right = milliseconds(&proxy->grace_ns); break;
        case 's': proxy->stats = true; break;
        case 'h': fputs(help, stdout); return 0;
        default: right = false;
        }
        if (!right)
            return 2;
    }
}

static void print_figures(const struct proxy *proxy)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"connections\":%llu,\"shed\":%llu,\"cut\":%llu,\"unreached\":%llu,\"broken\":%llu,"
           "\"timeouts\":%llu,\"bytes_up\":%llu,\"bytes_down\":%llu,\"cpu_s\":%.6f,"
           "\"ring_enters\":%llu,\"max_rss_kb\":%ld}\n",
           (unsigned long long)proxy->served.accepted, (unsigned long long)proxy->served.shed,
           (unsigned long long)proxy->served.cut, (unsigned long long)proxy->unreached,
           (unsigned long long)proxy->broken, (unsigned long long)proxy->timeouts,
           (unsigned long long)proxy->bytes_up, (unsigned long long)proxy->bytes_down, cpu_s,
           (unsigned long long)proxy->run.ring_enters, usage.ru_maxrss);
}

int main(int argc, char **argv)
{
    static struct proxy proxy = {.workers = 1,
                                 .connect_ns = 5 * WH_SECOND,
                                 .idle_ns = 300 * WH_SECOND,
                                 .grace_ns = 10 * WH_SECOND};
    int rc = read_options(argc, argv, &proxy);
    if (rc >= 0)
        return rc;
    rc = wh_run(app, &proxy, &(wh_options){.workers = (unsigned)proxy.workers});
    if (rc == 0 && proxy.stats)
        print_figures(&proxy);
    return rc < 0;
}
