/*
 * loadgen: many TCP connections that send messages and check what comes back, on one thread.
 *
 *     loadgen --port P [--host H] [--connections N] [--size BYTES] [--depth D] [--warmup S]
 *             [--seconds S] [--cpu K] [--think-us U] [--idle N] [--engine epoll|uring] [--reset]
 *             [--json]
 *
 * The idea: a closed loop. Each connection keeps D messages on the way and sends the next when an
 * answer has come (after U microseconds, if asked).
 *
 *     open -> warm up -> measure -> drain (or reset) -> report
 *                     ^         ^
 *          "measuring"           "done"      lines on stdout, written at the instant, so that a
 *                                            parent can read the server's CPU clock at both
 *
 * Being a closed loop, it does not see the queue that an open one would build up when the server
 * stalls (coordinated omission): compare servers by it, do not promise latencies from it.
 *
 * Exit status: 0 all is well; 1 a connection failed, or an answer was wrong or missing; 2 usage.
 */
#include "loadgen.h"

#include <getopt.h>
#include <sys/timerfd.h>

enum { DRAIN_TIMEOUT_S = 5 };

struct options opt = {.host = "127.0.0.1",
                      .connections = 1,
                      .size = 64,
                      .depth = 1,
                      .warmup_s = 0.5,
                      .seconds = 2,
                      .engine = &engine_epoll};
struct load load = {.timer = -1};

static uint64_t window_start_ns, window_ns, open_ns;
static double window_cpu_s;

/* ---- phases ---- */

static void timer_set(double seconds)
{
    struct itimerspec t = {0};
    uint64_t ns = (uint64_t)(seconds * 1e9);
    ns = ns ? ns : 1; /* zero would stop the timer */
    t.it_value.tv_sec = (time_t)(ns / 1000000000u);
    t.it_value.tv_nsec = (long)(ns % 1000000000u);
    timerfd_settime(load.timer, 0, &t, NULL);
}

static void say(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* What is still on the way has waited this long already: it counts in its connection's maximum. */
static void age_the_unanswered(uint64_t time_ns)
{
    for (long i = 0; i < opt.connections; i++) {
        struct conn *c = &load.conns[i];
        if (c->fd < 0 || c->rx_seq >= conn_begun(c))
            continue;
        size_t slot = (size_t)i * (size_t)opt.depth + c->rx_seq % (uint32_t)opt.depth;
        uint64_t age_us = (time_ns - load.stamps[slot]) / 1000;
        if (age_us > c->max_us)
            c->max_us = age_us > UINT32_MAX ? UINT32_MAX : (uint32_t)age_us;
    }
}

void next_phase(void)
{
    uint64_t fired;
    if (read(load.timer, &fired, sizeof fired) < 0)
        return;
    if (load.phase == WARMING) {
        timer_set(opt.seconds);
        window_cpu_s = cpu_seconds();
        say("measuring");
        window_start_ns = now_ns();
        load.phase = MEASURING;
    } else if (load.phase == MEASURING) {
        uint64_t time_ns = now_ns();
        window_ns = time_ns - window_start_ns;
        load.phase = DRAINING;
        say("done");
        window_cpu_s = cpu_seconds() - window_cpu_s;
        age_the_unanswered(time_ns);
        timer_set(DRAIN_TIMEOUT_S);
    } else {
        load.phase = OVER; /* the drain takes too long: what is missing is lost */
    }
}

static bool finished(void)
{
    if (load.phase == DRAINING)
        return opt.reset || load.on_way == 0;
    return load.phase == OVER || (load.alive == 0 && opt.connections > 0);
}

static int run(void)
{
    if (opt.engine->start() < 0)
        return -1;
    timer_set(opt.warmup_s);
    for (long i = 0; i < opt.connections; i++) {
        load.conns[i].owed = (uint32_t)opt.depth;
        opt.engine->send(&load.conns[i], now_ns());
    }
    while (!finished()) {
        uint64_t due_ns = thoughts_run(), timeout_ns = UINT64_MAX;
        if (due_ns != UINT64_MAX) {
            uint64_t time_ns = now_ns();
            timeout_ns = due_ns > time_ns ? due_ns - time_ns : 0;
        }
        if (opt.engine->turn(timeout_ns) < 0)
            return -1;
    }
    return 0;
}

/* Ends the connections: with a reset and data on the way, if asked, or the usual way. */
static void close_everything(void)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    for (long i = 0; i < load.opened; i++) {
        struct conn *c = &load.conns[i];
        if (c->fd < 0)
            continue;
        if (opt.reset)
            setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        else
            load.lost += conn_begun(c) - c->rx_seq;
        close(c->fd);
    }
    for (long i = 0; i < load.idle_opened; i++)
        if (load.idle_fds[i] >= 0)
            close(load.idle_fds[i]);
}

/* ---- the report ---- */

struct worst {
    long fewest;           /* the connection with the fewest answers */
    uint32_t fewest_count; /* how many */
    double share;          /* of the mean count */
    double mean_us;        /* its mean round trip: the window over its answers, times the depth */
    uint32_t max_us;       /* the slowest answer of any, or the age of one still missing */
    long max_conn;
};

static struct worst find_worst(void)
{
    struct worst w = {.fewest_count = opt.connections ? UINT32_MAX : 0};
    for (long i = 0; i < opt.connections; i++) {
        const struct conn *c = &load.conns[i];
        if (c->messages < w.fewest_count) {
            w.fewest_count = c->messages;
            w.fewest = i;
        }
        if (c->max_us > w.max_us) {
            w.max_us = c->max_us;
            w.max_conn = i;
        }
    }
    double mean = opt.connections ? (double)load.latency.total / (double)opt.connections : 0;
    w.share = mean > 0 ? w.fewest_count / mean : 0;
    w.mean_us = (double)window_ns / 1e3 * (double)opt.depth / (w.fewest_count ? w.fewest_count : 1);
    return w;
}

static void report_json(const struct worst *w, double seconds, const double *q)
{
    const struct histogram *h = &load.latency;
    printf("{\"engine\":\"%s\",\"connections\":%ld,\"idle\":%ld,\"size\":%ld,\"depth\":%ld,"
           "\"think_us\":%ld,\"seconds\":%.6f,\"messages\":%llu,\"messages_total\":%llu,"
           "\"rate\":%.1f,\"mean_us\":%.2f,\"p50_us\":%.2f,\"p90_us\":%.2f,\"p99_us\":%.2f,"
           "\"p999_us\":%.2f,\"max_us\":%.2f,",
           opt.engine->name, opt.connections, opt.idle, opt.size, opt.depth, opt.think_us, seconds,
           (unsigned long long)h->total, (unsigned long long)load.messages_total,
           seconds > 0 ? (double)h->total / seconds : 0, histogram_mean_ns(h) / 1e3, q[0], q[1],
           q[2], q[3], (double)h->max_ns / 1e3);
    printf("\"worst_conn\":%ld,\"worst_messages\":%u,\"worst_share\":%.4f,\"worst_mean_us\":%.2f,"
           "\"worst_max_us\":%u,\"worst_max_conn\":%ld,\"errors\":%llu,\"bad\":%llu,"
           "\"lost\":%llu,\"open_s\":%.4f,\"loadgen_cpu_s\":%.4f}\n",
           w->fewest, w->fewest_count, w->share, w->mean_us, w->max_us, w->max_conn,
           (unsigned long long)load.errors, (unsigned long long)load.bad,
           (unsigned long long)load.lost, (double)open_ns / 1e9, window_cpu_s);
}

static void report_table(const struct worst *w, double seconds, const double *q)
{
    const struct histogram *h = &load.latency;
    printf("%ld connections (and %ld idle), %ld bytes, depth %ld, %.3f s, %s\n", opt.connections,
           opt.idle, opt.size, opt.depth, seconds, opt.engine->name);
    printf("  messages        %12llu   %.0f a second\n", (unsigned long long)h->total,
           seconds > 0 ? (double)h->total / seconds : 0);
    printf("  round trip, us  p50 %.1f   p90 %.1f   p99 %.1f   p99.9 %.1f   max %.1f\n", q[0], q[1],
           q[2], q[3], (double)h->max_ns / 1e3);
    printf("  worst           connection %ld: %u messages, %.0f %% of the mean; slowest or still "
           "missing %u us\n",
           w->fewest, w->fewest_count, 100 * w->share, w->max_us);
    printf("  errors %llu, wrong answers %llu, lost %llu; opened in %.3f s; own CPU %.0f %%\n",
           (unsigned long long)load.errors, (unsigned long long)load.bad,
           (unsigned long long)load.lost, (double)open_ns / 1e9,
           seconds > 0 ? 100 * window_cpu_s / seconds : 0);
}

static void report(void)
{
    static const double quantiles[4] = {0.5, 0.9, 0.99, 0.999};
    struct worst w = find_worst();
    double seconds = (double)window_ns / 1e9;
    double q[4];
    for (int i = 0; i < 4; i++)
        q[i] = histogram_quantile_ns(&load.latency, quantiles[i]) / 1e3;
    (opt.json ? report_json : report_table)(&w, seconds, q);
    fflush(stdout);
}

/* ---- options and start ---- */

static void usage(void)
{
    fprintf(stderr,
            "usage: loadgen --port P [--host H] [--connections N] [--size BYTES] [--depth D]\n"
            "               [--warmup S] [--seconds S] [--cpu K] [--think-us U] [--idle N]\n"
            "               [--engine epoll|uring] [--reset] [--json]\n"
            "  --depth D     messages on the way on each connection\n"
            "  --think-us U  wait U microseconds between an answer and the next message\n"
            "  --idle N      open N more connections that only stay open\n"
            "  --engine E    uring costs a third less CPU, so that the server is the bottleneck\n"
            "  --reset       end with resets and messages on the way\n");
    exit(2);
}

static double parse_seconds(const char *option, const char *text)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value <= 86400)) {
        fprintf(stderr, "%s wants seconds, from 0 to 86400, not '%s'\n", option, text);
        exit(2);
    }
    return value;
}

static const struct engine *parse_engine(const char *name)
{
    if (!strcmp(name, engine_uring.name))
        return &engine_uring;
    if (strcmp(name, engine_epoll.name))
        usage();
    return &engine_epoll;
}

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"host", 1, NULL, 'h'},    {"port", 1, NULL, 'p'},   {"connections", 1, NULL, 'c'},
        {"size", 1, NULL, 's'},    {"depth", 1, NULL, 'd'},  {"warmup", 1, NULL, 'w'},
        {"seconds", 1, NULL, 'n'}, {"cpu", 1, NULL, 'k'},    {"think-us", 1, NULL, 't'},
        {"idle", 1, NULL, 'i'},    {"engine", 1, NULL, 'e'}, {"reset", 0, NULL, 'r'},
        {"json", 0, NULL, 'j'},    {NULL, 0, NULL, 0},
    };
    int o;
    while ((o = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (o) {
        case 'h': opt.host = optarg; break;
        case 'p': opt.port = optarg; break;
        case 'c': opt.connections = parse_number("--connections", optarg, 0, 1000000); break;
        case 's': opt.size = parse_number("--size", optarg, 1, 16 << 20); break;
        case 'd': opt.depth = parse_number("--depth", optarg, 1, 65536); break;
        case 'w': opt.warmup_s = parse_seconds("--warmup", optarg); break;
        case 'n': opt.seconds = parse_seconds("--seconds", optarg); break;
        case 't': opt.think_us = parse_number("--think-us", optarg, 0, 60000000); break;
        case 'i': opt.idle = parse_number("--idle", optarg, 0, 1000000); break;
        case 'e': opt.engine = parse_engine(optarg); break;
        case 'r': opt.reset = true; break;
        case 'j': opt.json = true; break;
        case 'k':
            if (pin_to_cpu((int)parse_number("--cpu", optarg, 0, CPU_SETSIZE - 1)) < 0)
                exit(1);
            break;
        default: usage();
        }
    }
    if (optind != argc || !opt.port)
        usage();
}

static int prepare(void)
{
    long limit = raise_fd_limit();
    long wanted = opt.connections + opt.idle + RESERVED_FDS;
    if (wanted > limit) {
        fprintf(stderr,
                "loadgen: %ld connections need %ld descriptors and %ld are allowed: raise "
                "'ulimit -n', or start several loadgens\n",
                opt.connections + opt.idle, wanted, limit);
        return -1;
    }
    load.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (load.timer < 0) {
        fprintf(stderr, "loadgen: timerfd: %s\n", strerror(errno));
        return -1;
    }
    return conns_make();
}

int main(int argc, char **argv)
{
    int rc = 1;
    parse_options(argc, argv);
    if (prepare() < 0)
        goto out;
    uint64_t start_ns = now_ns();
    if (open_everything() < 0)
        goto out;
    open_ns = now_ns() - start_ns;
    rc = run() < 0 ? 1 : 0;
out:
    close_everything();
    if (rc == 0) {
        report();
        rc = load.errors || load.bad || load.lost ? 1 : 0;
    }
    opt.engine->finish();
    conns_free();
    if (load.timer >= 0)
        close(load.timer);
    return rc;
}
