/*
 * whorl/signal.h: signals as elements of a channel.
 *
 *     WH_CHAN(int) stop = wh_chan_create(int, 1);
 *     wh_signal_notify(stop, SIGINT, SIGTERM);
 *     wh_chan_recv(stop, &number);
 *
 * A signal that is asked for no longer does what it does by default. It is sent to every channel
 * that asked for it, without waiting: a channel whose buffer is full, or an unbuffered one where
 * nobody waits, does not get it. So give the channel room for what may come at once. Several of the
 * same signal in quick succession may arrive as one, as with the kernel itself (signal(7)).
 *
 * The handler is the process's (sigaction(2), with SA_RESTART); runs on several threads may each
 * ask for signals. A signal that arrives while no run asks for it any more is lost.
 */
#ifndef WHORL_SIGNAL_H
#define WHORL_SIGNAL_H

#include <whorl/chan.h>
#include <whorl/types.h>

#include <signal.h>

WH_BEGIN_DECLS

/*
 * wh_signal_notify(ch, number...): from now on those signals are sent to ch, a WH_CHAN(int), which
 * is held until wh_signal_stop() or the run's end. Asking twice is asking once. While signals are
 * asked for, one coroutine more lives (the one that reads them), and the run never counts as
 * deadlocked. A NULL channel aborts. Does not park. Returns 0; or, with nothing more asked for than
 * before,
 *
 *   -EINVAL   one cannot be caught (SIGKILL, SIGSTOP), or says that a thread has failed (SIGSEGV,
 *             SIGBUS, SIGFPE, SIGILL), or is the wh_options.hog_signal (SIGURG) of any run in the
 *             process, or no signal; or none is named
 *   -ENOMEM, -EMFILE, -ENFILE   memory or descriptors ran out; -EMFILE, too, when 64 runs of the
 *             process ask for signals already
 *   -ECANCELED   the run is ending
 */
#define wh_signal_notify(ch, ...)                                   \
    __extension__({                                                 \
        const int wh_numbers_[] = {__VA_ARGS__};                    \
        wh_signal_notify_(WH_SIGNAL_CHAN_(ch), wh_numbers_,         \
                          (int)(sizeof wh_numbers_ / sizeof(int))); \
    })

/* ch gets no more signals; those that no channel wants do again what they did before. Does not
 * park. */
#define wh_signal_stop(ch) wh_signal_stop_(WH_SIGNAL_CHAN_(ch))

/* ---- What the macros above stand on; not for direct use. ---- */

WH_API int wh_signal_notify_(wh_chan *ch, const int *numbers, int count);
WH_API void wh_signal_stop_(wh_chan *ch);

/* The channel, checked to be one of int. */
#define WH_SIGNAL_CHAN_(ch) ((void)sizeof(WH_CHAN_INTO_(ch, (int *)NULL)), WH_CHAN_OF_(ch))

WH_END_DECLS

#endif
