/*
 * cancel.pml: a request to cancel finds its coroutine, which moves and ends meanwhile.
 *
 * Two workers run, park, wake, steal and end coroutines; two threads cancel them; one joins them
 * and starts new ones in the same descriptors. A request travels as mail: the descriptor itself is
 * linked into the mail of the worker that it names, which `asked` allows once at a time. Only the
 * worker that runs the coroutine may set its flag CANCELLED.
 *
 * What holds:
 *  - a request is delivered to the coroutine that it was meant for, never to one that is dead or to
 *    a later one in the same descriptor;
 *  - it is not lost: in the end no coroutine that was cancelled is parked; it has ended;
 *  - a descriptor is on one list of mail at most, and on none when it is freed;
 *  - a coroutine that has begun to end does end (the live run), if workers open their mail.
 *
 * Memory: asked, dead, worker and the flag are under the coroutine's lock; state is changed by
 * compare-and-swap, by wakers without that lock. No store buffer matters.
 *
 * model                    code (sched/coro.c)
 * cancel                   wh_cancel(): lock; dead or asked: nothing; asked, mail to coro->worker
 * deliver                  the worker's mail: lock; another's now: on to that one; else asked = 0,
 *                          CANCELLED, and a parked one is claimed. Whether it is parked is decided
 *                          before the unlock: after it, a thief may have run it to its end
 * STOLEN                   a thief has it from a deque: lock, coro->worker = me, unlock, run
 * CLAIMED                  a waker anywhere: claim(), then coro->worker's `woken` list
 * run_coro                 the coroutine: ends, yields, or parks if it is not cancelled
 * end_coro                 its end: asked: open own mail until it is not; lock; look again; dead
 * joiner                   wh_join(): frees the descriptor; a new coroutine gets it. A handle is
 *                          used by nobody any more then: that is the callers' to see to
 *
 * In the end's loop `asked` is looked at without the lock. BROKEN_END_HOGS takes the lock each time
 * and may keep those away who want to deliver: a lock that is not fair lets it.
 *
 * Not here: how the mail's owner is woken (sleep.pml); shields; contexts.
 *
 * Runs:
 *   holds
 *   holds -DCOROS=2 -DREUSES=0 -DWAKES=1
 *   holds live -DLIVE -DCOROS=2 -DREUSES=0 -DWAKES=0
 *   fails -DBROKEN_STATE_LATE : assertion violated
 *   fails -DBROKEN_WORKER_UNLOCKED : assertion violated
 *   fails -DBROKEN_NO_FORWARD : assertion violated
 *   fails -DBROKEN_END_UNASKED : assertion violated
 *   fails -DBROKEN_ASKED_TWICE : assertion violated
 *   fails live -DLIVE -DBROKEN_END_SPINS -DREUSES=0 -DWAKES=0 : acceptance cycle
 *   fails live -DLIVE -DBROKEN_END_HOGS -DREUSES=0 -DWAKES=0 : acceptance cycle
 */
#ifndef COROS
#define COROS 1
#endif
#ifndef REUSES
#define REUSES 1 /* how often a descriptor gets a new coroutine, of all */
#endif
#ifndef WAKES
#define WAKES 2 /* how often a peer wakes one, of all */
#endif

mtype = { FREE, READY, RUNNING, PARKED, DEAD };
mtype = { MAIL, WOKEN, OWN, STOLEN, CLAIMED };

/* The descriptors. */
mtype state[2] = FREE;
bool locked[2], asked[2], dead[2], flagged[2];
byte worker_of[2];
byte life[2];           /* which coroutine is in it */
byte mail_life[2];      /* and which was meant by the mail */
bool cancelled[2];      /* somebody has called cancel for this life, and it had not ended */
bool ending[2];

/* The workers. */
typedef lists { bool mail[2]; bool woken[2]; bool deque[2] };
lists at[2];

byte wakes = WAKES, reuses = REUSES;
byte holders[2];        /* are using its handle */

inline lock(n) { atomic { !locked[n]; locked[n] = true } }
inline unlock(n) { assert(locked[n]); locked[n] = false }

inline post(w, n)
{
    assert(!at[0].mail[n] && !at[1].mail[n]);
    at[w].mail[n] = true
}

/* ---- Anybody ---- */

inline cancel(n)
{
    lock(n);
    if
#ifdef BROKEN_ASKED_TWICE
    :: dead[n]
#else
    :: dead[n] || asked[n]
#endif
    :: else ->
        asked[n] = true;
        d_step { mail_life[n] = life[n]; post(worker_of[n], n) };
    fi;
    atomic {
        if
        :: !dead[n] -> cancelled[n] = true
        :: else
        fi;
        unlock(n)
    }
}

active [2] proctype canceller()
{
    byte n;

    if
    :: COROS > 1 -> n = _pid
    :: COROS == 1 /* both want the same one */
    :: COROS == 1 -> goto over
    fi;
    atomic { state[n] != FREE -> holders[n]++ }
    cancel(n);
    holders[n]--;
over:
    skip
}

/* ---- A worker's mail ---- */

/* Of descriptor n, which has just been taken out of the mail. */
inline deliver(n)
{
    assert(life[n] == mail_life[n]);
    lock(n);
    assert(life[n] == mail_life[n] && !dead[n]);
    if
#ifndef BROKEN_NO_FORWARD
    :: worker_of[n] != me ->
        d_step { post(worker_of[n], n) };
        unlock(n)
#endif
    :: else ->
        d_step { asked[n] = false; meant = mail_life[n] }
        flagged[n] = true;
#ifdef BROKEN_STATE_LATE
        unlock(n);
        parked = state[n] == PARKED;
#else
        parked = state[n] == PARKED;
        unlock(n);
#endif
        if
        :: parked ->
            atomic {
                parked = false;
                if
                :: state[n] == PARKED ->
                    state[n] = READY;
                    assert(life[n] == meant && worker_of[n] == me);
                    at[me].deque[n] = true
                :: else /* a waker was first */
                fi
            }
        :: else
        fi;
        meant = 0
    fi
}

/* ---- A coroutine ---- */

inline open_mail()
{
    if
    :: atomic { at[me].mail[0] -> at[me].mail[0] = false }
        deliver(0)
    :: atomic { at[me].mail[1] -> at[me].mail[1] = false }
        deliver(1)
    :: atomic { !at[me].mail[0] && !at[me].mail[1] -> skip }
    fi
}

inline end_coro()
{
    ending[c] = true;
    do
#ifndef BROKEN_END_UNASKED
#ifdef BROKEN_END_HOGS
    :: true ->
#else
    :: asked[c] ->
#ifndef BROKEN_END_SPINS
        open_mail()
#endif
    :: !asked[c] ->
#endif
        lock(c);
        if
        :: asked[c] ->
            unlock(c);
            open_mail()
        :: else -> break
        fi
#else
    :: true -> lock(c); break
#endif
    od;
    atomic {
        dead[c] = true;
        state[c] = DEAD;
        ending[c] = false;
        unlock(c)
    }
}

inline run_coro()
{
    atomic {
        assert(state[c] == READY && worker_of[c] == me && !dead[c]);
        state[c] = RUNNING
    }
    if
    :: end_coro()
    :: atomic { state[c] = READY; at[me].deque[c] = true }
    :: !flagged[c] -> state[c] = PARKED
    fi
}

/* ---- A worker ---- */

/* The loop opens its mail at each turn. That it comes to it at all matters to what lives only. */
#ifdef LIVE
#define mail_first (!at[me].mail[0] && !at[me].mail[1])
#else
#define mail_first true
#endif

#define work_on(n)                                                                                \
    :: atomic { at[me].mail[n] -> at[me].mail[n] = false; c = n; what = MAIL }                    \
    :: atomic { at[me].woken[n] -> at[me].woken[n] = false; c = n; what = WOKEN }                 \
    :: atomic { at[me].deque[n] && mail_first -> at[me].deque[n] = false; c = n; what = OWN }     \
    :: atomic {                                                                                   \
            at[1 - me].deque[n] && mail_first ->                                                  \
            at[1 - me].deque[n] = false; c = n; what = STOLEN                                     \
        }                                                                                         \
    :: atomic {                                                                                   \
            state[n] == PARKED && wakes > 0 ->                                                    \
            state[n] = READY; wakes--; c = n; what = CLAIMED                                      \
        }

active [2] proctype worker()
{
    byte me = _pid - 2;
    byte c, meant;
    bool parked;
    mtype what = MAIL;

end:
    do
    :: if
        work_on(0)
        work_on(1)
        fi;
        if
        :: what == MAIL -> deliver(c)
        :: what == WOKEN -> at[me].deque[c] = true
        :: what == OWN -> run_coro()
        :: what == STOLEN ->
#ifdef BROKEN_WORKER_UNLOCKED
            worker_of[c] = me;
#else
            lock(c);
            worker_of[c] = me;
            unlock(c);
#endif
            run_coro()
        :: what == CLAIMED ->
            d_step {
                assert(!at[0].woken[c] && !at[1].woken[c]);
                at[worker_of[c]].woken[c] = true
            }
        fi;
        atomic { c = 0; what = MAIL }
    od
}

/* ---- Starting and joining ---- */

inline start(n)
{
    d_step {
        assert(!at[0].mail[n] && !at[1].mail[n] && !asked[n] && !locked[n]);
        dead[n] = false; flagged[n] = false; cancelled[n] = false;
        state[n] = READY;
        at[worker_of[n]].deque[n] = true
    }
}

active proctype joiner()
{
    byte n;

    start(0);
    if
    :: COROS > 1 -> worker_of[1] = 1; start(1)
    :: else
    fi;
    do
    :: reuses > 0 ->
end_joining:
        atomic { dead[0] && holders[0] == 0 -> state[0] = FREE }
        lock(0);
        unlock(0);
        atomic {
            reuses--;
            life[0]++;
            if
            :: worker_of[0] = 0
            :: worker_of[0] = 1
            fi
        }
        start(0)
    :: else -> break
    od
}

active proctype at_the_end()
{
    timeout;
    assert(!locked[0] && !locked[1]);
    assert(!(state[0] == PARKED && cancelled[0]));
    assert(!(state[1] == PARKED && cancelled[1]));
    assert(state[0] == PARKED || state[0] == DEAD)
}

#ifdef LIVE
ltl ends { [] ((ending[0] -> <> !ending[0]) && (ending[1] -> <> !ending[1])) }
#endif
