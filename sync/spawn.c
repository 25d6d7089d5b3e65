/*
 * spawn.c: starting a program with the descriptors and signals that it is to have: posix_spawn(3),
 * which says why it cannot be run, and a descriptor for the process (pidfd_open(2)).
 *
 * All goes wrong before the program starts, or not at all: what it has begun cannot be undone. So a
 * descriptor for the process is set aside first. It stays available but in a race with another
 * thread, which is made up for by killing (undo()).
 *
 * What the child gets as 0, 1 and 2 is put there one after the other, from descriptors that are
 * none of these, so that no step destroys what a later one needs:
 *
 *      this program:    0 1 2    ours, theirs, given...      theirs and given are moved above 2
 *      child, in turn:  dup2(, 0) dup2(, 1) dup2(, 2)        or /dev/null opened there
 *                       chdir, close_range(3, all)           so nothing of ours is left open
 *
 * Nothing here knows of coroutines. Closing on exec alone would not do: the program may have
 * descriptors that are not ours to mark.
 */
#include "sync/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

static int pidfd_of(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd;
}

static void close_all(const int fds[STREAMS])
{
    for (int i = 0; i < STREAMS; i++)
        fd_close(fds[i]);
}

/* Whether ends can be waited for. */
static bool children_stay(void)
{
    struct sigaction action;
    return sigaction(SIGCHLD, NULL, &action) < 0 ||
           (action.sa_handler != SIG_IGN && !(action.sa_flags & SA_NOCLDWAIT));
}

/* A duplicate that is not 0, 1 or 2: what the child gets under these numbers is put there one after
 * the other, and must not be in the way. */
static int out_of_the_way(int fd)
{
    int dup = fcntl(fd, F_DUPFD_CLOEXEC, STREAMS);
    return dup < 0 ? -errno : dup;
}

static int pipe_for(int number, int *ret_ours, int *ret_theirs)
{
    int fds[2];
    if (syscall(SYS_pipe2, fds, O_CLOEXEC) < 0) /* see fd_close() */
        return -errno;
    int theirs = number == STDIN_FILENO ? 0 : 1;
    *ret_ours = fds[1 - theirs];
    *ret_theirs = fds[theirs];
    if (likely(fds[theirs] >= STREAMS))
        return 0;
    *ret_theirs = out_of_the_way(fds[theirs]); /* this program has closed one of its own */
    fd_close(fds[theirs]);
    return *ret_theirs < 0 ? *ret_theirs : 0;
}

/* Says what the child is to have as its descriptor `number`. *theirs and *ours are closed by the
 * caller. */
static int stream_add(posix_spawn_file_actions_t *actions, int number, int what, int *ours,
                      int *theirs)
{
    int fd = -EBADF, rc = 0;
    switch (what) {
    case WH_STDIO_INHERIT: return 0;
    case WH_STDIO_NULL:
        return -posix_spawn_file_actions_addopen(actions, number, "/dev/null",
                                                 number == STDIN_FILENO ? O_RDONLY : O_WRONLY, 0);
    case WH_STDIO_STDOUT:
        return -posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, STDERR_FILENO);
    case WH_STDIO_PIPE:
        rc = pipe_for(number, ours, theirs);
        fd = *theirs;
        break;
    default:
        if (what < WH_STDIO_FD(0))
            return -EBADF;
        fd = what - WH_STDIO_FD(0);
        if (fd < STREAMS) {
            fd = *theirs = out_of_the_way(fd);
            rc = fd < 0 ? fd : 0;
        }
    }
    return rc < 0 ? rc : -posix_spawn_file_actions_adddup2(actions, fd, number);
}

static int actions_fill(posix_spawn_file_actions_t *actions, const wh_process_options *o,
                        int ours[STREAMS], int theirs[STREAMS])
{
    const int what[STREAMS] = {o->in, o->out, o->err};
    int rc = 0;
    for (int i = 0; i < STREAMS && rc == 0; i++)
        rc = stream_add(actions, i, what[i], &ours[i], &theirs[i]);
    if (rc == 0 && o->dir)
        rc = -posix_spawn_file_actions_addchdir_np(actions, o->dir);
    return rc < 0 ? rc : -posix_spawn_file_actions_addclosefrom_np(actions, STREAMS);
}

static int signals_fill(posix_spawnattr_t *attr)
{
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    const int kept[] = {SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGSTOP};
    for (size_t i = 0; i < array_count(kept); i++)
        sigdelset(&defaults, kept[i]);
    int rc = -posix_spawnattr_setsigmask(attr, &none);
    if (rc == 0)
        rc = -posix_spawnattr_setsigdefault(attr, &defaults);
    if (rc == 0)
        rc = -posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    return rc;
}

/* The child is there and has no descriptor: another thread has taken the one that was set aside. */
COLD static int undo(pid_t pid, int rc)
{
    if (rc == -ESRCH)
        return -ECHILD; /* somebody waited for any child, and its number may be another's */
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return rc;
}

/* Starts it, with a descriptor in hand for the process. */
static int start(const char *const *argv, const wh_process_options *o,
                 const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
                 pid_t *ret_pid, int *ret_pidfd)
{
    /* Neither is written to: the prototypes are older than const. */
    char *const *args = (char *const *)(uintptr_t)argv;
    char *const *env = o->env ? (char *const *)(uintptr_t)o->env : environ;
    int spare = pidfd_of(getpid());
    if (spare < 0)
        return spare;
    pid_t pid;
    int rc = -posix_spawnp(&pid, argv[0], actions, attr, args, env);
    fd_close(spare);
    if (rc < 0)
        return rc;
    int pidfd = pidfd_of(pid);
    if (unlikely(pidfd < 0))
        return undo(pid, pidfd);
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

int program_start(const char *const *argv, const wh_process_options *o, int ret_ours[STREAMS],
                  pid_t *ret_pid, int *ret_pidfd)
{
    wh_assert(argv[0]);
    if (!children_stay())
        return -ECHILD;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int ours[STREAMS] = {-1, -1, -1}, theirs[STREAMS] = {-1, -1, -1};
    int rc = -posix_spawn_file_actions_init(&actions);
    if (rc < 0)
        return rc;
    rc = -posix_spawnattr_init(&attr);
    if (rc < 0)
        goto destroy_actions;
    rc = actions_fill(&actions, o, ours, theirs);
    if (rc == 0)
        rc = signals_fill(&attr);
    if (rc == 0)
        rc = start(argv, o, &actions, &attr, ret_pid, ret_pidfd);
    close_all(theirs);
    if (rc < 0)
        close_all(ours);
    else
        memcpy(ret_ours, ours, sizeof ours);
    posix_spawnattr_destroy(&attr);
destroy_actions:
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}
