/*
 * echo_common.h: what the echo servers and the load generator share.
 *
 * The idea: every program here counts its own system calls, one counter increment at each call
 * site, so that "system calls a message" is exact and costs the measured program nothing.
 * Nothing here sits on the path of a message.
 *
 * Errors: a helper that cannot do its work prints one line with the cause and the cure and
 * returns -1; the caller leaves through its ladder.
 */
#ifndef BENCH_ECHO_COMMON_H
#define BENCH_ECHO_COMMON_H

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    LISTEN_BACKLOG = 4096, /* the kernel cuts it to net.core.somaxconn */
    RESERVED_FDS = 32,     /* descriptors kept for everything that is no connection */
};

/* What a server prints when it ends. */
struct counters {
    uint64_t messages;    /* receives that brought data; each is answered as one piece */
    uint64_t bytes;       /* echoed */
    uint64_t syscalls;    /* all of them, from listening to the end, accept and close included */
    uint64_t connections; /* accepted */
    uint64_t resets;      /* connections that ended in an error */
    uint64_t peak;        /* most connections open at once */
};

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* the vDSO: no system call */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* User and system time of the whole process. */
static inline double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Prints the counters as one JSON object on a line; `extra` is "" or more members, each
 * beginning with a comma. */
static inline void counters_print(const char *server, const struct counters *c, const char *extra)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("{\"server\":\"%s\",\"messages\":%llu,\"bytes\":%llu,\"syscalls\":%llu,"
           "\"cpu_s\":%.6f,\"connections\":%llu,\"resets\":%llu,\"peak\":%llu,"
           "\"max_rss_kib\":%ld%s}\n",
           server, (unsigned long long)c->messages, (unsigned long long)c->bytes,
           (unsigned long long)c->syscalls, cpu_seconds(), (unsigned long long)c->connections,
           (unsigned long long)c->resets, (unsigned long long)c->peak, u.ru_maxrss, extra);
    fflush(stdout);
}

static inline int pin_to_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) {
        fprintf(stderr, "cannot run on CPU %d: %s (give --cpu a CPU that 'nproc' counts)\n", cpu,
                strerror(errno));
        return -1;
    }
    return 0;
}

/* Raises the soft limit of descriptors to the hard one; returns what is then allowed. */
static inline long raise_fd_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return 1024;
    l.rlim_cur = l.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &l) < 0)
        getrlimit(RLIMIT_NOFILE, &l);
    return l.rlim_cur > 1000000 ? 1000000 : (long)l.rlim_cur;
}

/* A whole number in [low, high] from the command line, or a message and exit. */
static inline long parse_number(const char *option, const char *text, long low, long high)
{
    char *end = NULL;
    errno = 0;
    long value = text ? strtol(text, &end, 10) : 0;
    if (!text || errno || end == text || *end || value < low || value > high) {
        fprintf(stderr, "%s wants a whole number from %ld to %ld, not '%s'\n", option, low, high,
                text ? text : "");
        exit(2);
    }
    return value;
}

static inline int parse_address(const char *host, const char *port, struct sockaddr_storage *ret,
                                socklen_t *ret_len)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        fprintf(stderr, "'%s' port '%s' is no address: %s (give numbers, as in 127.0.0.1:7000)\n",
                host, port, gai_strerror(rc));
        return -1;
    }
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    *ret_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* "127.0.0.1:7000" or "[::1]:7000". */
static inline int parse_host_port(const char *text, struct sockaddr_storage *ret,
                                  socklen_t *ret_len)
{
    char host[128];
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t len = colon ? (size_t)(colon - text) : 0;
    if (!colon || len == 0 || len >= sizeof host) {
        fprintf(stderr, "'%s' is no HOST:PORT (as in 127.0.0.1:7000)\n", text ? text : "");
        return -1;
    }
    const char *start = text;
    if (text[0] == '[' && colon[-1] == ']') {
        start++;
        len -= 2;
    }
    memcpy(host, start, len);
    host[len] = '\0';
    return parse_address(host, colon + 1, ret, ret_len);
}

/* A listening socket, or -1 with a message. The accepted sockets inherit TCP_NODELAY from it, which
 * saves a system call a connection. */
static inline int listen_on(const char *host_port, int extra_type)
{
    struct sockaddr_storage address;
    socklen_t len;
    int one = 1;
    if (parse_host_port(host_port, &address, &len) < 0)
        return -1;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | extra_type, 0);
    if (fd < 0)
        goto failed;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        goto failed;
    return fd;
failed:
    fprintf(stderr, "cannot listen on %s: %s (is another server on this port?)\n", host_port,
            strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* SIGTERM and SIGINT as a descriptor, so that the end is an event as any other and no system call
 * has to be checked for EINTR on its account. */
static inline int stop_signal_fd(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -1;
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        fprintf(stderr, "no signalfd: %s\n", strerror(errno));
    return fd;
}

#endif
