/*
 * splice.c: splice(2) through pipes that are kept (splice.h).
 *
 * The calls are made on the worker's thread and never wait: pipes are non-blocking, sockets the
 * caller has made so. The ring's splice is not used. It has no way to wait for a descriptor: each
 * one goes to a thread of the kernel's, there and back, and blocks it there.
 *
 * A splice to a socket raises SIGPIPE when its peer has gone, and knows no MSG_NOSIGNAL. So the
 * signal is blocked around it, and one that was raised meanwhile is taken back: it goes to the
 * thread that made the call.
 *
 * The pipes of a worker are its thread's, thread-local, so nobody else looks at them. They are
 * closed by a hook at the end of the run, when no thread runs a coroutine any more.
 */
#include "net/splice.h"

#include "sched/sched.h"
#include "uring/caps.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct pipes {
    struct run_hook hook; /* of the run that they are of; hook.run is NULL: of none */
    bool masked;
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
        pipes->masked = caps_masked("splice");
        pipes->hook.over = pipes_over;
        run_hook_add(self->worker->run, &pipes->hook);
    }
    wh_assert(pipes->hook.run == self->worker->run);
    return pipes;
}

bool splice_masked(void)
{
    return pipes_here()->masked;
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

/* What a kernel, or what watches over a container, says when it will not splice this, or anything.
 */
static ssize_t result(ssize_t n)
{
    if (likely(n >= 0))
        return n;
    return errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP ? -EINVAL : -errno;
}

/* Somebody else who has the same open file may have made it block again: another copy that ended,
 * or another process. A look is 50 ns, a splice microseconds. */
static void stay_non_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (unlikely(flags >= 0 && !(flags & O_NONBLOCK)))
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

ssize_t splice_in(int fd, const struct pipe *pipe, size_t len)
{
    INSIDE(self, "wh_copy"); /* the kernel's work, and no hog's */
    (void)self;
    ssize_t n;
    stay_non_blocking(fd);
    do
        n = splice(fd, NULL, pipe->in, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
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

ssize_t splice_out(const struct pipe *pipe, int fd, size_t len)
{
    INSIDE(self, "wh_copy");
    (void)self;
    ssize_t n;
    stay_non_blocking(fd);
    const struct quiet quiet = quiet_begin();
    do
        n = splice(pipe->out, NULL, fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
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
