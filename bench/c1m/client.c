/*
 * client.c: the other ends of c1m's connections, bare: no memory but the kernel's.
 *
 *     c1m_client PORT CONNECTIONS EXCHANGES_PER_S END_NS SHARED_FILE...
 *
 * Each connection is a slot in the table of a ring (direct descriptors), so one process holds them
 * all. It connects, pacing itself by what the servers say they have accepted; then it exchanges a
 * message on connections chosen by chance, until END_NS (CLOCK_MONOTONIC), and prints how that went
 * as JSON. At last it looks whether each connection has come to its end. Before each of these steps
 * it waits for a line on its input, and it lets go of the connections at the end of that.
 */
#include "bench/c1m/shared.h"
#include "bench/echo/histogram.h"

#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
    BATCH = 64,       /* sockets that are descriptors at the same time */
    AHEAD_MAX = 1500, /* connections that no server has accepted yet */
    /* Local ports of each address: below those that the kernel chooses from, which takes it the
     * longer the more are taken. */
    PORT_FIRST = 10000,
    PER_ADDRESS = 20000,
    ENTRIES = 256,
    MESSAGE_BYTES = 64,
    SERVERS_MAX = 64,
    UNDER_WAY_MAX = 4096,
};

/* An exchange: a message and its answer. */
struct exchange {
    int64_t begun_ns;
    unsigned got;
    unsigned ring, slot;
    struct exchange *next_free;
    char bytes[MESSAGE_BYTES];
};

static struct io_uring *rings;
static unsigned rings_count, per_ring, connections;
static struct shared *servers[SERVERS_MAX];
static int servers_count;
static struct histogram latency;
static struct exchange exchanges[UNDER_WAY_MAX], *exchange_free;
static const char message[MESSAGE_BYTES + 1] =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
static uint64_t wrong;

static void die(const char *what)
{
    fprintf(stderr, "c1m_client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t accepted(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < servers_count; i++)
        sum += get(&servers[i]->begun);
    return sum;
}

static void pause_us(long us)
{
    const struct timespec ts = {.tv_nsec = us * 1000};
    nanosleep(&ts, NULL);
}

/* ---- Connecting ---- */

static void rings_make(int event_fd)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    per_ring = (unsigned)(limit.rlim_cur < 1000000 ? limit.rlim_cur : 1000000);
    if (per_ring > connections)
        per_ring = connections;
    rings_count = (connections + per_ring - 1) / per_ring;
    rings = calloc(rings_count, sizeof *rings);
    if (!rings)
        die("rings");
    for (unsigned i = 0; i < rings_count; i++) {
        errno = -io_uring_queue_init(ENTRIES, &rings[i], 0);
        if (!errno)
            errno = -io_uring_register_files_sparse(&rings[i], per_ring);
        if (!errno)
            errno = -io_uring_register_eventfd(&rings[i], event_fd);
        if (errno)
            die("io_uring");
    }
}

static int connect_one(int port, unsigned nth)
{
    const struct sockaddr_in server = {.sin_family = AF_INET,
                                       .sin_port = htons((uint16_t)port),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_in own = {.sin_family = AF_INET,
                                    .sin_port = htons((uint16_t)(PORT_FIRST + nth % PER_ADDRESS)),
                                    .sin_addr.s_addr =
                                        htonl(0x7f010001 + nth / PER_ADDRESS)}; /* 127.1.0.1... */
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (const struct sockaddr *)&own, sizeof own) < 0)
        die("bind");
    if (connect(fd, (const struct sockaddr *)&server, sizeof server) < 0)
        die("connect");
    return fd;
}

static void connect_all(int port)
{
    int fds[BATCH];
    for (unsigned done = 0; done < connections;) {
        unsigned slot = done % per_ring, count = 0;
        while (done >= accepted() + AHEAD_MAX)
            pause_us(200);
        while (count < BATCH && slot + count < per_ring && done + count < connections) {
            fds[count] = connect_one(port, done + count);
            count++;
        }
        int rc = io_uring_register_files_update(&rings[done / per_ring], slot, fds, count);
        if (rc != (int)count) {
            errno = -rc;
            die("io_uring_register_files_update");
        }
        for (unsigned i = 0; i < count; i++)
            close(fds[i]);
        done += count;
        __atomic_store_n(&servers[0]->connected, done, __ATOMIC_RELAXED);
    }
}

/* ---- Exchanging ---- */

static struct io_uring_sqe *sqe_of(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (sqe)
        return sqe;
    io_uring_submit(ring);
    return io_uring_get_sqe(ring);
}

static void receive(struct exchange *x)
{
    struct io_uring_sqe *sqe = sqe_of(&rings[x->ring]);
    io_uring_prep_recv(sqe, (int)x->slot, x->bytes + x->got, MESSAGE_BYTES - x->got, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, x);
}

/* Begins one, unless too many are under way. */
static bool exchange_begin(unsigned connection)
{
    struct exchange *x = exchange_free;
    if (!x)
        return false;
    exchange_free = x->next_free;
    x->begun_ns = now_ns();
    x->got = 0;
    x->ring = connection / per_ring;
    x->slot = connection % per_ring;
    struct io_uring_sqe *sqe = sqe_of(&rings[x->ring]);
    io_uring_prep_send(sqe, (int)x->slot, message, MESSAGE_BYTES, MSG_NOSIGNAL);
    sqe->flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data(sqe, NULL);
    receive(x);
    io_uring_submit(&rings[x->ring]);
    return true;
}

static void received(struct exchange *x, int res)
{
    if (res > 0 && x->got + (unsigned)res < MESSAGE_BYTES) {
        x->got += (unsigned)res;
        receive(x);
        io_uring_submit(&rings[x->ring]);
        return;
    }
    if (res > 0 && !memcmp(x->bytes, message, MESSAGE_BYTES)) {
        histogram_add(&latency, (uint64_t)(now_ns() - x->begun_ns));
        add(&servers[0]->exchanged, 1);
    } else {
        wrong++;
    }
    x->next_free = exchange_free;
    exchange_free = x;
}

static unsigned reap_all(void)
{
    unsigned count = 0;
    for (unsigned i = 0; i < rings_count; i++) {
        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(&rings[i], &cqe) == 0) {
            struct exchange *x = io_uring_cqe_get_data(cqe);
            int res = cqe->res;
            io_uring_cqe_seen(&rings[i], cqe);
            if (x)
                received(x, res);
            else
                wrong++; /* a send that failed */
            count++;
        }
    }
    return count;
}

static unsigned random_below(unsigned below)
{
    static uint64_t x = UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    return (unsigned)(((x * UINT64_C(2685821657736338717) >> 32) * below) >> 32);
}

static void exchange_all(double per_s, int64_t end_ns, int event_fd)
{
    int64_t begin_ns = now_ns();
    uint64_t begun = 0;
    for (int64_t now = begin_ns; now < end_ns; now = now_ns()) {
        uint64_t due = (uint64_t)((double)(now - begin_ns) * per_s / 1e9);
        while (begun < due && exchange_begin(random_below(connections)))
            begun++;
        struct pollfd event = {.fd = event_fd, .events = POLLIN};
        uint64_t count;
        if (poll(&event, 1, 1) > 0 && read(event_fd, &count, sizeof count) < 0)
            die("eventfd");
        reap_all();
    }
    for (int tries = 0; latency.total + wrong < begun && tries < 1000; tries++) {
        pause_us(1000); /* the last answers */
        reap_all();
    }
    wrong = begun - latency.total; /* those that were never answered, too */
}

/* ---- The end ---- */

/* Of some connections of one ring: how many have come to their end. */
static unsigned count_ended(struct io_uring *ring, unsigned slot, unsigned count)
{
    static char byte;
    unsigned ended = 0;
    for (unsigned i = 0; i < count; i++) {
        struct io_uring_sqe *sqe = sqe_of(ring);
        io_uring_prep_recv(sqe, (int)(slot + i), &byte, 1, 0);
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    io_uring_submit(ring);
    for (unsigned i = 0; i < count; i++) {
        struct io_uring_cqe *cqe;
        struct __kernel_timespec limit = {.tv_sec = 5};
        if (io_uring_wait_cqe_timeout(ring, &cqe, &limit) < 0)
            break; /* the script sees how many are missing */
        ended += cqe->res == 0;
        io_uring_cqe_seen(ring, cqe);
    }
    return ended;
}

/* Each connection must have been closed by its server. */
static void look_for_ends(void)
{
    for (unsigned done = 0, count; done < connections; done += count) {
        unsigned slot = done % per_ring;
        count = connections - done;
        if (count > BATCH)
            count = BATCH;
        if (count > per_ring - slot)
            count = per_ring - slot;
        add(&servers[0]->seen_end, count_ended(&rings[done / per_ring], slot, count));
    }
}

int main(int argc, char **argv)
{
    if (argc < 6 || argc > 5 + SERVERS_MAX) {
        fprintf(stderr, "usage: c1m_client PORT CONNECTIONS PER_S END_NS SHARED_FILE...\n");
        return 2;
    }
    connections = (unsigned)atoi(argv[2]);
    for (int i = 5; i < argc; i++) {
        servers[servers_count] = shared_map(argv[i]);
        if (!servers[servers_count++])
            die(argv[i]);
    }
    for (int i = 0; i < UNDER_WAY_MAX; i++) {
        exchanges[i].next_free = exchange_free;
        exchange_free = &exchanges[i];
    }
    int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd < 0)
        die("eventfd");
    rings_make(event_fd);
    connect_all(atoi(argv[1]));
    puts("connected");
    fflush(stdout);

    char line[64];
    if (!fgets(line, sizeof line, stdin)) /* the script has measured the idle */
        return 1;
    exchange_all(atof(argv[3]), atoll(argv[4]), event_fd);
    printf("{\"exchanges\": %llu, \"wrong\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)latency.total, (unsigned long long)wrong,
           histogram_quantile_ns(&latency, 0.5) / 1e3, histogram_quantile_ns(&latency, 0.99) / 1e3,
           histogram_quantile_ns(&latency, 0.999) / 1e3, (double)latency.max_ns / 1e3);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) /* all have fired */
        return 1;
    look_for_ends();
    puts("looked");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) ? 0 : 1;
}
