/*
 * fault.c: a stack overflow explains itself.
 *
 * A coroutine that grows past its stack touches the guard below it. The handler, on the thread's
 * alternate stack, says who it was, how large the stack is, where the coroutine was started and how
 * it got there, then restores the default action and returns: the instruction faults again and the
 * process dies with SIGSEGV at the right place, as a debugger or a core dump expects. A fault that
 * is not on the running coroutine's guard goes to whatever handler was there before; where there
 * was none, a call of NULL is named: it has no frame that a debugger could show.
 *
 * The handler is the process's, the alternate stack a thread's. Both are installed by the first run
 * and the handler stays: a program that installs its own later replaces it.
 */
#include "sched/sched.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALTERNATE_BYTES = 64 * 1024, FRAMES_MAX = 24 };

static struct sigaction earlier[2]; /* for SIGSEGV, SIGBUS; written once */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int install_error;

static _Thread_local stack_t alternate;         /* ours */
static _Thread_local stack_t alternate_earlier; /* the thread's before */

static void explain(const wh_coro *coro, const struct stack *stack, const void *address)
{
    char who[256];
    coro_describe(coro, who, sizeof who);
    report("stack overflow at %p: coroutine %s", address, who);
    report("its stack is of the %zu KiB class; give it a larger one (wh_spawn_options.stack_bytes, "
           "or wh_options.stack_bytes for all), or keep large arrays on the heap. Its latest calls "
           "(addr2line -f -e PROGRAM ADDRESS says more):",
           stack_class_bytes(stack->size_class) / 1024);
    void *frames[FRAMES_MAX];
    int n = backtrace(frames, FRAMES_MAX);
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
}

/* Started with it, the coroutine's stack shows nothing at all. */
static void explain_null(const wh_coro *coro)
{
    char who[256];
    coro_describe(coro, who, sizeof who);
    report("a function that is NULL was called, or started: coroutine %s", who);
}

/* Passes a fault that is not ours on. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
    const struct sigaction *action = &earlier[signal == SIGBUS];
    if (action->sa_flags & SA_SIGINFO)
        action->sa_sigaction(signal, info, context);
    else if (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN)
        action->sa_handler(signal);
    else if (info->si_code > 0)
        sigaction(signal, action, NULL); /* returning faults again, with the default action */
    else if (action->sa_handler == SIG_DFL) {
        sigaction(signal, action, NULL); /* somebody sent it: nothing would fault again */
        raise(signal);
    }
}

/* The running coroutine's stack, or one that it has borrowed, if the fault is on its guard, else
 * NULL. On another one's it is a wild pointer and no overflow; and a signal that somebody sent has
 * no address. */
static const struct stack *overflown(const struct worker *w, const siginfo_t *info)
{
    if (!w || info->si_code <= 0 || !w->current->stack)
        return NULL;
    /* Of this worker's, or of one that the coroutine came from. */
    for (unsigned i = 0; i < w->run->workers; i++) {
        const struct stack_pool *pool = &w->run->worker[i]->stacks;
        const struct stack *stack = stack_of_guard(pool, info->si_addr);
        if (stack && stack->owner == w->current)
            return stack;
    }
    return NULL;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    const struct worker *w = worker_tls;
    const struct stack *stack = overflown(w, info);
    if (stack) {
        explain(w->current, stack, info->si_addr);
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigaction(signal, &fatal, NULL);
    } else {
        bool is_default = earlier[signal == SIGBUS].sa_handler == SIG_DFL;
        if (w && w->current->stack && is_default && info->si_code > 0 && !interrupted_at(context))
            explain_null(w->current);
        pass_on(signal, info, context);
    }
    errno = saved_errno;
}

static void install(void)
{
    /* The unwinder is loaded at its first use: not in the handler. */
    void *frame;
    (void)backtrace(&frame, 1);

    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, &earlier[0]) < 0 || sigaction(SIGBUS, &action, &earlier[1]) < 0)
        install_error = -errno;
}

int fault_enter(void)
{
    pthread_once(&once, install);
    if (install_error)
        return install_error;

    void *memory =
        mmap(NULL, ALTERNATE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    alternate = (stack_t){.ss_sp = memory, .ss_size = ALTERNATE_BYTES};
    if (sigaltstack(&alternate, &alternate_earlier) < 0) {
        int error = -errno;
        munmap(memory, ALTERNATE_BYTES);
        return error;
    }
    return 0;
}

void fault_leave(void)
{
    if (alternate_earlier.ss_flags & SS_DISABLE)
        alternate_earlier = (stack_t){.ss_flags = SS_DISABLE};
    sigaltstack(&alternate_earlier, NULL);
    munmap(alternate.ss_sp, alternate.ss_size);
}
