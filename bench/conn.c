/*
 * conn.c: streams over a socket pair, both ends in one run with one worker.
 *
 * conn_pingpong: a message of 64 bytes there and back, both ends read with wh_conn_peek() and
 * consume: the kernel picks a buffer for each. Beside it wh_conn_read() into the caller's memory,
 * and wh_recv() and wh_send() without a stream.
 *
 * conn_idle: memory that a stream takes (resident and page tables) with a coroutine parked in a
 * peek of it, before and after one message.
 */
#include "bench/bench.h"

#include <whorl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MESSAGE_BYTES = 64, ROUNDS = 20000, IDLE = 5000 };

static void fail(const char *what)
{
    fprintf(stderr, "whorl-bench: conn: %s failed\n", what);
    exit(1);
}

static void socket_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        fail("socketpair");
}

static wh_conn *conn_of(int fd)
{
    wh_conn *conn;
    if (wh_conn_create(&conn, fd) < 0)
        fail("wh_conn_create");
    return conn;
}

/* ---- Ping-pong ---- */

enum { BY_PEEK, BY_READ, BARE, WAYS };

struct end {
    int way;
    int fd;
    wh_conn *conn;
};

static bool receive(const struct end *end)
{
    char buf[MESSAGE_BYTES];
    const char *bytes;
    switch (end->way) {
    case BY_PEEK:
        if (wh_conn_peek(end->conn, MESSAGE_BYTES, &bytes) < MESSAGE_BYTES)
            return false;
        wh_conn_consume(end->conn, MESSAGE_BYTES);
        return true;
    case BY_READ: return wh_conn_read_full(end->conn, buf, sizeof buf) == MESSAGE_BYTES;
    default: return wh_recv(end->fd, buf, sizeof buf, 0) == MESSAGE_BYTES;
    }
}

static bool transmit(const struct end *end)
{
    static const char message[MESSAGE_BYTES];
    if (end->way == BARE)
        return wh_send_all(end->fd, message, sizeof message) == MESSAGE_BYTES;
    return wh_conn_write(end->conn, message, sizeof message) == MESSAGE_BYTES &&
           wh_conn_flush(end->conn) == 0;
}

static void answer(const struct end *end)
{
    while (receive(end) && transmit(end))
        ;
}

static int pingpong_root(void *arg)
{
    double *ns = arg;
    for (int way = 0; way < WAYS; way++) {
        int fds[2];
        socket_pair(fds);
        struct end near = {way, fds[0], way == BARE ? NULL : conn_of(fds[0])};
        struct end far = {way, fds[1], way == BARE ? NULL : conn_of(fds[1])};
        wh_coro *coro;
        if (wh_spawn(&coro, NULL, answer, &far) < 0)
            fail("wh_spawn");
        int64_t start_ns = 0;
        for (int i = -ROUNDS / 10; i < ROUNDS; i++) {
            if (i == 0)
                start_ns = bench_now();
            if (!transmit(&near) || !receive(&near))
                fail("a round");
        }
        ns[way] = (double)(bench_now() - start_ns) / ROUNDS;
        if (way == BARE)
            wh_close(near.fd);
        else
            wh_conn_close(near.conn);
        wh_join(coro, NULL);
        if (way == BARE)
            wh_close(far.fd);
        else
            wh_conn_close(far.conn);
    }
    return 0;
}

static struct result run_pingpong(void)
{
    double ns[WAYS];
    bench_in_run(pingpong_root, ns);
    struct result result = {.unit = "ns", .value = ns[BY_PEEK]};
    result.more[0].bench = "conn_pingpong_read";
    result.more[0].unit = "ns";
    result.more[0].value = ns[BY_READ];
    result.more[1].bench = "conn_pingpong_bare";
    result.more[1].unit = "ns";
    result.more[1].value = ns[BARE];
    return result;
}

const struct bench conn_pingpong = {"conn_pingpong", 15, run_pingpong};

/* ---- Idle ---- */

struct idle {
    int waiting, answered;
    double fresh, after;
};

static void wait_for_messages(struct idle *idle, wh_conn *conn)
{
    const char *bytes;
    for (;;) {
        idle->waiting++;
        if (wh_conn_peek(conn, 1, &bytes) <= 0)
            break;
        wh_conn_consume(conn, wh_conn_buffered(conn));
        idle->answered++;
    }
    wh_conn_close(conn);
}

static int idle_root(void *arg)
{
    struct idle *idle = arg;
    static int fds[IDLE][2];
    for (int i = 0; i < IDLE; i++)
        socket_pair(fds[i]);
    double before = bench_memory_bytes();
    for (int i = 0; i < IDLE; i++)
        if (wh_go(wait_for_messages, idle, conn_of(fds[i][0])) < 0)
            fail("wh_go");
    while (idle->waiting < IDLE)
        wh_yield();
    wh_sleep(WH_MILLISECOND); /* all that was submitted is the kernel's */
    idle->fresh = (bench_memory_bytes() - before) / IDLE;
    for (int i = 0; i < IDLE; i++)
        if (wh_send_all(fds[i][1], "x", 1) != 1)
            fail("wh_send_all");
    while (idle->answered < IDLE || idle->waiting < 2 * IDLE)
        wh_yield();
    wh_sleep(WH_MILLISECOND);
    idle->after = (bench_memory_bytes() - before) / IDLE;
    for (int i = 0; i < IDLE; i++)
        wh_close(fds[i][1]);
    return 0;
}

static struct result run_idle(void)
{
    struct idle idle = {0};
    bench_in_run(idle_root, &idle);
    struct result result = {.unit = "bytes", .value = idle.fresh};
    result.more[0].bench = "conn_idle_after";
    result.more[0].unit = "bytes";
    result.more[0].value = idle.after;
    return result;
}

const struct bench conn_idle = {"conn_idle", 3, run_idle};
