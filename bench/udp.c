/*
 * udp.c: datagrams over loopback, both ends in one run with one worker.
 *
 * udp_pingpong: a datagram of 64 bytes there and back; each end waits in wh_udp_recv(). Beside it
 * the same with wh_udp_recv_many(), which asks first and then waits.
 *
 * udp_flood: datagrams of 1200 bytes one way, 64 sent and then received, so that none is lost:
 * nanoseconds each, one at a time; 64 at a time (sendmmsg, recvmmsg); cut by the kernel, and
 * received one at a time, or 64; and cut by the kernel and received in one piece (GRO).
 */
#include "bench/bench.h"

#include <whorl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PING_BYTES = 64, PINGS = 20000, BYTES = 1200, BURST = 64, BURSTS = 500 };

static void fail(const char *what, ssize_t rc)
{
    fprintf(stderr, "whorl-bench: udp: %s failed: %zd\n", what, rc);
    exit(1);
}

/* Two sockets that are connected to each other. */
static void sockets(wh_fd *ret_one, wh_fd *ret_two, int gro)
{
    const wh_udp_options options = {.gro = gro, .recv_buffer_bytes = 4 << 20};
    char text[WH_ADDR_TEXT];
    wh_addr addr;
    *ret_two = wh_listen_udp("127.0.0.1:0", &options);
    if (*ret_two < 0 || wh_addr_local(*ret_two, &addr) < 0)
        fail("wh_listen_udp", *ret_two);
    wh_addr_format(&addr, text, sizeof text);
    *ret_one = wh_dial_udp(text, &options);
    if (*ret_one < 0 || wh_addr_local(*ret_one, &addr) < 0 ||
        connect(*ret_two, &addr.any, addr.len) < 0)
        fail("wh_dial_udp", *ret_one);
}

/* ---- Ping-pong ---- */

static ssize_t one_of_many(wh_fd fd, char *buf)
{
    wh_datagram datagram = {.bytes = buf, .size = PING_BYTES};
    int n = wh_udp_recv_many(fd, &datagram, 1);
    return n < 0 ? n : (ssize_t)datagram.len;
}

static ssize_t receive(wh_fd fd, char *buf, bool many)
{
    return many ? one_of_many(fd, buf) : wh_udp_recv(fd, buf, PING_BYTES, NULL);
}

static void answer(wh_fd fd, bool many)
{
    char buf[PING_BYTES];
    ssize_t n;
    while ((n = receive(fd, buf, many)) == PING_BYTES)
        wh_udp_send(fd, buf, (size_t)n, NULL);
}

static int pingpong_root(void *arg)
{
    double *ns = arg;
    char buf[PING_BYTES] = {0};
    for (int many = 0; many < 2; many++) {
        wh_fd near, far;
        wh_coro *coro;
        sockets(&near, &far, 0);
        if (wh_spawn(&coro, NULL, answer, far, many) < 0)
            fail("wh_spawn", 0);
        int64_t start_ns = 0;
        for (int i = -PINGS / 10; i < PINGS; i++) {
            if (i == 0)
                start_ns = bench_now();
            if (wh_udp_send(near, buf, sizeof buf, NULL) < 0 ||
                receive(near, buf, many) != PING_BYTES)
                fail("a round", 0);
        }
        ns[many] = (double)(bench_now() - start_ns) / PINGS;
        wh_cancel(coro);
        wh_join(coro, NULL);
        wh_close(near);
        wh_close(far);
    }
    return 0;
}

static struct result run_pingpong(void)
{
    double ns[2];
    bench_in_run(pingpong_root, ns);
    struct result result = {.unit = "ns", .value = ns[0]};
    result.more[0].bench = "udp_pingpong_many";
    result.more[0].unit = "ns";
    result.more[0].value = ns[1];
    return result;
}

const struct bench udp_pingpong = {"udp_pingpong", 15, run_pingpong};

/* ---- Flood ---- */

enum { SEND_ONE, SEND_MANY, SEND_GSO };
enum { RECV_ONE, RECV_MANY, RECV_GRO };

static const struct way {
    const char *name;
    int send, recv;
} ways[] = {{"udp_flood", SEND_ONE, RECV_ONE},
            {"udp_flood_many", SEND_MANY, RECV_MANY},
            {"udp_flood_gso", SEND_GSO, RECV_ONE},
            {"udp_flood_gso_many", SEND_GSO, RECV_MANY},
            {"udp_flood_gso_gro", SEND_GSO, RECV_GRO}};

enum { WAYS = sizeof ways / sizeof ways[0] };

static char out[BURST][BYTES];
static char in[BURST][65536];
static wh_datagram to_send[BURST], to_recv[BURST];

static void send_burst(wh_fd fd, int way)
{
    ssize_t rc = 1;
    int sent = 0;
    if (way == SEND_GSO) {
        rc = wh_udp_send_segments(fd, out, sizeof out, BYTES, NULL);
        sent = rc == (ssize_t)sizeof out ? BURST : 0;
    } else if (way == SEND_MANY) {
        for (; sent < BURST && rc > 0; sent += (int)rc)
            rc = wh_udp_send_many(fd, to_send + sent, (unsigned)(BURST - sent));
    } else {
        for (; sent < BURST && rc > 0; sent++)
            rc = wh_udp_send(fd, out[sent], BYTES, NULL);
    }
    if (sent != BURST || rc <= 0)
        fail("sending", rc);
}

static void recv_burst(wh_fd fd, int way)
{
    for (int received = 0; received < BURST;) {
        if (way == RECV_ONE) {
            ssize_t n = wh_udp_recv(fd, in[0], sizeof in[0], NULL);
            if (n != BYTES)
                fail("wh_udp_recv", n);
            received++;
            continue;
        }
        int n = wh_udp_recv_many(fd, to_recv, BURST);
        if (n <= 0)
            fail("wh_udp_recv_many", n);
        for (int i = 0; i < n; i++)
            received += (int)(to_recv[i].len / BYTES);
    }
}

static int flood_root(void *arg)
{
    double *ns = arg;
    for (int i = 0; i < BURST; i++) {
        to_send[i] = (wh_datagram){.bytes = out[i], .len = BYTES};
        to_recv[i] = (wh_datagram){.bytes = in[i], .size = sizeof in[i]};
    }
    for (int way = 0; way < WAYS; way++) {
        wh_fd from, to;
        sockets(&from, &to, ways[way].recv == RECV_GRO);
        int64_t start_ns = 0;
        for (int i = -BURSTS / 10; i < BURSTS; i++) {
            if (i == 0)
                start_ns = bench_now();
            send_burst(from, ways[way].send);
            recv_burst(to, ways[way].recv);
        }
        ns[way] = (double)(bench_now() - start_ns) / BURSTS / BURST;
        wh_close(from);
        wh_close(to);
    }
    return 0;
}

static struct result run_flood(void)
{
    double ns[WAYS];
    bench_in_run(flood_root, ns);
    struct result result = {.unit = "ns", .value = ns[0]};
    for (int way = 1; way < WAYS; way++) {
        result.more[way - 1].bench = ways[way].name;
        result.more[way - 1].unit = "ns";
        result.more[way - 1].value = ns[way];
    }
    return result;
}

const struct bench udp_flood = {"udp_flood", 15, run_flood};
