/*
 * splice.c: splice(2) through pipes that are kept (splice.h).
 *
 * The calls are made on the worker's thread and never wait: SPLICE_F_NONBLOCK sees to that between
 * pipes, but a socket must be non-blocking itself. The ring's splice is not used. It has no way to
 * wait for a descriptor: each one goes to a thread of the kernel's, there and back, and blocks it
 * there.
 *
 * O_NONBLOCK is of the open file, which several descriptors, streams and processes may share. All
 * who splice in this process are in a table, found by the socket (SO_COOKIE): the first sets the
 * flag and the last takes it back. Another process may take it back at any time. So each splice
 * looks first: a system call of 50 ns, where a splice is microseconds.
 *
 * A splice to a socket raises SIGPIPE when its peer has gone, and knows no MSG_NOSIGNAL. So the
 * signal is blocked around it, and one that was raised meanwhile is taken back: it goes to the
 * thread that made the call.
 *
 * The pipes of a worker are its thread's, thread-local, so nobody else looks at them. They are
 * closed by a hook at the end of the run, when no thread runs a coroutine any more.
 */
#include "net/splice.h"

#include "base/lock.h"
#include "sched/sched.h"
#include "uring/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct pipes {
    struct run_hook hook; /* of the run that they are of; hook.run is NULL: of none */
    unsigned count;
    struct pipe kept[PIPES_KEPT_MAX];
};

static __thread struct pipes pipes_tls __attribute__((tls_model("initial-exec")));

void pipe_drop(const struct pipe *pipe)
{
    close(pipe->out);
    close(pipe->in);
}

static void pipes_over(struct run_hook *hook)
{
    struct pipes *pipes = container_of(hook, struct pipes, hook);
    while (pipes->count)
        pipe_drop(&pipes->kept[--pipes->count]);
    hook->run = NULL;
}

/* Those of the worker of the calling coroutine; not to be kept across a call that parks. */
__attribute__((noinline)) static struct pipes *pipes_here(void)
{
    INSIDE(self, "wh_copy");
    struct pipes *pipes = &pipes_tls;
    if (unlikely(!pipes->hook.run)) {
        pipes->hook.over = pipes_over;
        run_hook_add(self->worker->run, &pipes->hook);
    }
    wh_assert(pipes->hook.run == self->worker->run);
    return pipes;
}

bool splice_masked(void)
{
    struct caps caps;
    INSIDE(self, "wh_copy");
    ring_caps(self->worker->engine, &caps);
    return !caps.splice;
}

/* Without privileges a user's pipes hold less once there are many of them (pipe(7)). */
static bool pipe_open(struct pipe *ret_pipe)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return false;
    struct pipe pipe = {fds[0], fds[1]};
    if (fcntl(pipe.in, F_SETPIPE_SZ, PIPE_BYTES) < 0 &&
        fcntl(pipe.in, F_GETPIPE_SZ) < PIPE_BYTES_MIN) {
        pipe_drop(&pipe);
        return false;
    }
    *ret_pipe = pipe;
    return true;
}

bool pipe_take(struct pipe *ret_pipe)
{
    struct pipes *pipes = pipes_here();
    if (unlikely(!pipes->count))
        return pipe_open(ret_pipe);
    *ret_pipe = pipes->kept[--pipes->count];
    return true;
}

void pipe_give(const struct pipe *pipe)
{
    struct pipes *pipes = pipes_here();
    if (likely(pipes->count < PIPES_KEPT_MAX))
        pipes->kept[pipes->count++] = *pipe;
    else
        pipe_drop(pipe);
}

/* ---- Non-blocking meanwhile ---- */

enum { SPLICERS_BITS = 6 };

/* A cache line each. */
static struct splicers {
    uint8_t lock;
    struct splicer *first; /* under lock */
} __attribute__((aligned(64))) splicers[1 << SPLICERS_BITS];

static struct splicers *splicers_of(const struct splicer *splicer)
{
    return &splicers[(splicer->file * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - SPLICERS_BITS)];
}

static const struct splicer *with_same_file(const struct splicers *list, uint64_t file)
{
    const struct splicer *other = list->first;
    while (other && other->file != file)
        other = other->next;
    return other;
}

static bool is_pipe(int fd)
{
    struct stat stat;
    return fstat(fd, &stat) == 0 && S_ISFIFO(stat.st_mode);
}

bool splice_begin(struct splicer *splicer, int fd)
{
    int type;
    socklen_t type_len = sizeof type, file_len = sizeof splicer->file;
    *splicer = (struct splicer){.fd = fd};
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0)
        return is_pipe(fd);
    if (type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_COOKIE, &splicer->file, &file_len) < 0 || !splicer->file)
        return false;

    INSIDE_ANYWHERE(self, "wh_copy"); /* nothing interrupts who has the lock */
    (void)self;
    struct splicers *list = splicers_of(splicer);
    assert_inside();
    lock_take(&list->lock);
    const struct splicer *other = with_same_file(list, splicer->file);
    int flags = fcntl(fd, F_GETFL);
    splicer->blocks = other ? other->blocks : !(flags & O_NONBLOCK);
    bool done = flags >= 0 && (flags & O_NONBLOCK || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
    if (done) {
        splicer->next = list->first;
        list->first = splicer;
    }
    lock_give(&list->lock);
    return done;
}

void splice_end(struct splicer *splicer)
{
    if (!splicer->file)
        return;
    INSIDE_ANYWHERE(self, "wh_copy"); /* nothing interrupts who has the lock */
    (void)self;
    struct splicers *list = splicers_of(splicer);
    assert_inside();
    lock_take(&list->lock);
    struct splicer **at = &list->first;
    while (*at != splicer)
        at = &(*at)->next;
    *at = splicer->next;
    if (splicer->blocks && !with_same_file(list, splicer->file)) {
        int flags = fcntl(splicer->fd, F_GETFL);
        if (flags >= 0)
            (void)fcntl(splicer->fd, F_SETFL, flags & ~O_NONBLOCK);
    }
    lock_give(&list->lock);
}

static void stay_non_blocking(const struct splicer *splicer)
{
    if (!splicer->file)
        return;
    int flags = fcntl(splicer->fd, F_GETFL);
    if (unlikely(flags >= 0 && !(flags & O_NONBLOCK)))
        (void)fcntl(splicer->fd, F_SETFL, flags | O_NONBLOCK);
}

/* ---- Moving ---- */

/* What a kernel, or what watches over a container, says when it will not splice this, or anything.
 */
static ssize_t result(ssize_t n)
{
    if (likely(n >= 0))
        return n;
    return errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP ? -EINVAL : -errno;
}

ssize_t splice_in(const struct splicer *from, const struct pipe *pipe, size_t len)
{
    INSIDE(self, "wh_copy"); /* the kernel's work, and no hog's */
    (void)self;
    ssize_t n;
    stay_non_blocking(from);
    do
        n = splice(from->fd, NULL, pipe->in, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    return result(n);
}

/* ---- No SIGPIPE ---- */

struct quiet {
    bool blocked; /* it was already */
    bool pending; /* the same */
};

static sigset_t only_sigpipe(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    return set;
}

static struct quiet quiet_begin(void)
{
    const sigset_t set = only_sigpipe();
    sigset_t before, pending;
    pthread_sigmask(SIG_BLOCK, &set, &before);
    struct quiet quiet = {.blocked = sigismember(&before, SIGPIPE)};
    if (unlikely(quiet.blocked))
        quiet.pending = sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE);
    return quiet;
}

static void quiet_end(const struct quiet *quiet, bool raised)
{
    const sigset_t set = only_sigpipe();
    const struct timespec now = {0, 0};
    if (unlikely(raised && !quiet->pending))
        while (sigtimedwait(&set, NULL, &now) < 0 && errno == EINTR)
            ;
    if (likely(!quiet->blocked))
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

ssize_t splice_out(const struct pipe *pipe, const struct splicer *to, size_t len)
{
    INSIDE(self, "wh_copy");
    (void)self;
    ssize_t n;
    stay_non_blocking(to);
    const struct quiet quiet = quiet_begin();
    do
        n = splice(pipe->out, NULL, to->fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (n < 0 && errno == EINTR);
    n = result(n);
    quiet_end(&quiet, n == -EPIPE || (n > 0 && (size_t)n < len)); /* a part may have gone first */
    return n;
}

bool pipe_read(const struct pipe *pipe, char *buf, size_t len)
{
    while (len) {
        ssize_t n = read(pipe->out, buf, len);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return false;
        if (n > 0) {
            buf += n;
            len -= (size_t)n;
        }
    }
    return true;
}
