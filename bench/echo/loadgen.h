/*
 * loadgen.h: the parts of the load generator and what passes between them.
 *
 *     loadgen.c        options, phases, report
 *     loadgen_open.c   makes the connections, in batches
 *     loadgen_conn.c   a connection: what it sends, whether what comes back is right
 *     loadgen_epoll.c  an engine: moves the bytes with epoll, recv and send
 *     loadgen_uring.c  an engine: moves them with io_uring
 *
 *        engine ---- bytes that came ----> conn_receive --> conn_owe --+
 *           ^                                                          |
 *           +------------- engine->send: what is owed <----------------+
 *
 * Invariants, for each connection
 *   - rx_seq <= tx_seq + (tx_off > 0), and at most `depth` messages are on the way, so `depth`
 *     stamps (when a message was first offered) are enough.
 *   - Message number s of connection i is bytes that only (i, s) has: an answer that is lost,
 *     doubled, torn, or another connection's cannot pass.
 *   - A message counts in the window when its answer comes in the window. What is still on the way
 *     at the window's end counts with its age so far in the maximum: a starved connection shows.
 *
 * One thread, one load: the state is global.
 */
#ifndef BENCH_ECHO_LOADGEN_H
#define BENCH_ECHO_LOADGEN_H

#include "echo_common.h"
#include "histogram.h"

#include <stdbool.h>

enum phase { WARMING, MEASURING, DRAINING, OVER };

struct conn {
    int fd;            /* -1: closed */
    uint32_t tx_seq;   /* first message not wholly handed to the engine's send */
    uint32_t tx_off;   /* bytes of it that are */
    uint32_t owed;     /* messages to send now, tx_seq the first of them */
    uint32_t rx_seq;   /* first message not wholly received */
    uint32_t rx_off;   /* bytes of it that are received and right */
    uint32_t messages; /* answers in the window */
    uint32_t max_us;   /* slowest of them */
    /* the engine's own */
    uint32_t flight;      /* io_uring: bytes the kernel still has to send, 0 when none */
    uint32_t flight_done; /* and those it has sent of the same send */
};

struct engine {
    const char *name;
    int (*start)(void);                             /* all connections are open: watch them */
    void (*send)(struct conn *c, uint64_t time_ns); /* sends what is owed, as far as it goes */
    void (*forget)(struct conn *c);                 /* c->fd is about to be closed */
    int (*turn)(uint64_t timeout_ns);               /* waits (UINT64_MAX: for ever), handles once */
    void (*finish)(void);                           /* may be called without start */
};

struct options {
    const char *host;
    const char *port;
    const struct engine *engine;
    long connections, idle, size, depth, think_us;
    double warmup_s, seconds;
    bool reset, json;
};

struct load {
    enum phase phase;
    struct conn *conns;
    int *idle_fds;    /* -1: closed */
    uint64_t *stamps; /* depth a connection */
    long opened, idle_opened;
    long alive;              /* connections not closed */
    uint64_t on_way;         /* messages begun and not answered */
    uint64_t messages_total; /* answers, those of the warm-up and the drain included */
    uint64_t lost, bad, errors;
    int timer; /* timerfd: readable when the phase is over */
    struct histogram latency;
};

extern struct options opt;
extern struct load load;
extern const struct engine engine_epoll, engine_uring;

/* loadgen.c */

void next_phase(void); /* load.timer is readable */

/* loadgen_open.c */

/* Makes all connections and idle ones. 0, or -1 with a message. */
int open_everything(void);

/* loadgen_conn.c */

int conns_make(void);
void conns_free(void);

/* Writes owed bytes to `to` from where the connection stands, at most `max` (and up to 14 more, to
 * whole words), and stamps the messages that begin there. Returns how many; the first of them is
 * *ret_first. */
size_t conn_fill(const struct conn *c, unsigned char *to, size_t max, uint64_t time_ns,
                 unsigned char **ret_first);

/* `bytes` of what conn_fill wrote are sent, or are certain to be sent in order. */
void conn_sent(struct conn *c, size_t bytes);

/* Bytes came: checks them, counts the answers, sends the next. May close the connection. */
void conn_receive(struct conn *c, const unsigned char *data, size_t len);

/* Counts an error, tells the first few, closes the connection. `error` 0: none to name. */
void conn_fail(struct conn *c, const char *what, int error);

/* An idle connection was closed by the server, or got data. */
void idle_fail(long index);

/* Sends for all whose think time is over; returns when the next is due, UINT64_MAX if none. */
uint64_t thoughts_run(void);

static inline uint64_t conn_begun(const struct conn *c)
{
    return (uint64_t)c->tx_seq + (c->tx_off > 0);
}

#endif
