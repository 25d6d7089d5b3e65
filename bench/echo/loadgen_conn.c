/*
 * loadgen_conn.c: one connection's messages: the pattern, what is owed, what came back.
 *
 * The idea: the bytes of a connection are a function of its number and the position in its stream,
 * so nothing has to be kept to check an answer, however it is cut up on the way. Word w of message
 * s of connection i is (i:s + 1) * K + w * L, with K and L odd: different for all (i, s).
 *
 * The invariants stand in loadgen.h.
 */
#include "loadgen.h"

enum {
    CHECK_BYTES = 4096, /* checked at once: the expected bytes stay in the cache */
    COMPLAINTS_MAX = 5,
};

/* A think time that runs: the connection may send `count` more at due_ns. A constant delay makes
 * first come first due, so a ring is enough. */
struct thought {
    uint64_t due_ns;
    uint32_t conn;
    uint32_t count;
};

static struct thought *thoughts;
static size_t thoughts_first, thoughts_count, thoughts_max;

int conns_make(void)
{
    size_t conns = (size_t)opt.connections;
    thoughts_max = opt.think_us ? conns * (size_t)opt.depth + 1 : 1;
    thoughts = calloc(thoughts_max, sizeof *thoughts);
    load.conns = calloc(conns + 1, sizeof *load.conns);
    load.stamps = calloc(conns * (size_t)opt.depth + 1, sizeof *load.stamps);
    load.idle_fds = calloc((size_t)opt.idle + 1, sizeof *load.idle_fds);
    if (!thoughts || !load.conns || !load.stamps || !load.idle_fds) {
        fprintf(stderr, "loadgen: no memory for %ld connections of depth %ld\n", opt.connections,
                opt.depth);
        return -1;
    }
    for (size_t i = 0; i < conns; i++)
        load.conns[i].fd = -1;
    for (long i = 0; i < opt.idle; i++)
        load.idle_fds[i] = -1;
    return 0;
}

void conns_free(void)
{
    free(load.idle_fds);
    free(load.stamps);
    free(load.conns);
    free(thoughts);
}

/* ---- the pattern ---- */

/* Bytes [from, to) of message `seq` of connection `id`; `from` is at a word's start and the last
 * word is written whole. Returns where byte `to` is in `out`. */
static unsigned char *pattern_write(unsigned char *out, uint32_t id, uint32_t seq, uint32_t from,
                                    uint32_t to)
{
    const uint64_t message_step = 0x9e3779b97f4a7c15ull, word_step = 0xbf58476d1ce4e5b9ull;
    uint64_t word = (((uint64_t)id << 32 | seq) + 1) * message_step + from / 8 * word_step;
    for (uint32_t i = from; i < to; i += 8) {
        memcpy(out + (i - from), &word, 8);
        word += word_step;
    }
    return out + (to - from);
}

static uint32_t conn_id(const struct conn *c)
{
    return (uint32_t)(c - load.conns);
}

static uint64_t *conn_stamp(const struct conn *c, uint32_t seq)
{
    return &load.stamps[(size_t)conn_id(c) * (size_t)opt.depth + seq % (uint32_t)opt.depth];
}

/* ---- ends ---- */

static bool complain(void)
{
    return load.errors + load.bad <= COMPLAINTS_MAX;
}

static void conn_close(struct conn *c)
{
    load.lost += conn_begun(c) - c->rx_seq;
    load.on_way -= conn_begun(c) - c->rx_seq;
    opt.engine->forget(c);
    close(c->fd);
    c->fd = -1;
    c->owed = 0;
    load.alive--;
}

void conn_fail(struct conn *c, const char *what, int error)
{
    load.errors++;
    if (complain())
        fprintf(stderr, "loadgen: connection %u after %u answers: %s%s%s\n", conn_id(c), c->rx_seq,
                what, error ? ": " : "", error ? strerror(error) : "");
    conn_close(c);
}

/* The answer is wrong somewhere in `len` bytes. */
static void conn_bad(struct conn *c, const unsigned char *got, const unsigned char *expected,
                     uint32_t len)
{
    uint32_t at = 0;
    while (at + 1 < len && got[at] == expected[at])
        at++;
    load.bad++;
    if (complain())
        fprintf(stderr,
                "loadgen: connection %u, message %u, byte %u: 0x%02x came, 0x%02x was "
                "sent\n",
                conn_id(c), c->rx_seq, c->rx_off + at, got[at], expected[at]);
    conn_close(c);
}

void idle_fail(long index)
{
    load.errors++;
    if (complain())
        fprintf(stderr, "loadgen: idle connection %ld: the server closed it or sent something\n",
                index);
    close(load.idle_fds[index]);
    load.idle_fds[index] = -1;
}

/* ---- sending ---- */

size_t conn_fill(const struct conn *c, unsigned char *to, size_t max, uint64_t time_ns,
                 unsigned char **ret_first)
{
    uint32_t size = (uint32_t)opt.size;
    unsigned char *at = to, *limit = to + max;
    uint32_t from = c->tx_off & ~7u;
    for (uint32_t seq = c->tx_seq; seq != c->tx_seq + c->owed && at < limit; seq++) {
        size_t room = (size_t)(limit - at);
        if (seq != c->tx_seq || !c->tx_off)
            *conn_stamp(c, seq) = time_ns;
        at = pattern_write(at, conn_id(c), seq, from,
                           size - from < room ? size : from + (uint32_t)room);
        from = 0;
    }
    *ret_first = to + c->tx_off % 8;
    return (size_t)(at - *ret_first);
}

void conn_sent(struct conn *c, size_t bytes)
{
    uint64_t begun = conn_begun(c);
    size_t whole = (bytes + c->tx_off) / (size_t)opt.size;
    c->tx_off = (uint32_t)((bytes + c->tx_off) % (size_t)opt.size);
    c->tx_seq += (uint32_t)whole;
    c->owed -= (uint32_t)whole;
    load.on_way += conn_begun(c) - begun;
}

/* `count` answers came: the next may go, now or after the think time. */
static void conn_owe(struct conn *c, uint32_t count, uint64_t time_ns)
{
    if (load.phase >= DRAINING)
        return;
    if (!opt.think_us) {
        c->owed += count;
        opt.engine->send(c, time_ns);
        return;
    }
    size_t slot = (thoughts_first + thoughts_count++) % thoughts_max;
    thoughts[slot] = (struct thought){
        .due_ns = time_ns + 1000u * (uint64_t)opt.think_us, .conn = conn_id(c), .count = count};
}

uint64_t thoughts_run(void)
{
    uint64_t time_ns = thoughts_count ? now_ns() : 0;
    while (thoughts_count) {
        struct thought t = thoughts[thoughts_first];
        if (t.due_ns > time_ns)
            return t.due_ns;
        thoughts_first = (thoughts_first + 1) % thoughts_max;
        thoughts_count--;
        struct conn *c = &load.conns[t.conn];
        if (c->fd < 0 || load.phase >= DRAINING)
            continue;
        c->owed += t.count;
        opt.engine->send(c, now_ns());
    }
    return UINT64_MAX;
}

/* ---- receiving ---- */

static void message_count(struct conn *c, uint64_t stamp_ns, uint64_t time_ns)
{
    load.messages_total++;
    load.on_way--;
    if (load.phase != MEASURING)
        return;
    uint64_t took_ns = time_ns - stamp_ns;
    uint64_t took_us = took_ns / 1000;
    histogram_add(&load.latency, took_ns);
    c->messages++;
    if (took_us > c->max_us)
        c->max_us = took_us > UINT32_MAX ? UINT32_MAX : (uint32_t)took_us;
}

void conn_receive(struct conn *c, const unsigned char *data, size_t len)
{
    unsigned char expected[CHECK_BYTES + 16];
    uint64_t time_ns = now_ns();
    uint32_t answers = 0;
    while (len) {
        uint32_t part = (uint32_t)opt.size - c->rx_off;
        part = part < CHECK_BYTES ? part : CHECK_BYTES;
        part = part < len ? part : (uint32_t)len;
        if (c->rx_seq >= conn_begun(c)) {
            conn_fail(c, "more bytes came back than were sent", 0);
            return;
        }
        pattern_write(expected, conn_id(c), c->rx_seq, c->rx_off & ~7u, c->rx_off + part);
        if (memcmp(data, expected + c->rx_off % 8, part) != 0) {
            conn_bad(c, data, expected + c->rx_off % 8, part);
            return;
        }
        data += part;
        len -= part;
        c->rx_off += part;
        if (c->rx_off == (uint32_t)opt.size) {
            message_count(c, *conn_stamp(c, c->rx_seq), time_ns);
            c->rx_seq++;
            c->rx_off = 0;
            answers++;
        }
    }
    if (answers)
        conn_owe(c, answers, time_ns);
}
