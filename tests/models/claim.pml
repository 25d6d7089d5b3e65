/*
 * claim.pml: who wakes a parked coroutine, when several want to.
 *
 * Three coroutines, each on a worker of its own, send and receive on two channels without a buffer.
 * A call waits on one channel or selects among both, with a deadline or without. A parked coroutine
 * is found by peers in the queues where its waiters are, and by its own worker when the deadline
 * passes. Whoever changes its state from PARKED to READY, by compare-and-swap, has claimed it: that
 * one serves it and wakes it.
 *
 * What holds:
 *  - a call has one outcome: served, or timed out and nothing was taken from it or given to it;
 *  - an element that was handed over is received once, one that was not is in its sender's hands;
 *  - a coroutine is woken once: it is never put on a list of woken ones where it is already;
 *  - nobody writes to or reads from the memory of a call that has returned, and none of its waiters
 *    is in a queue any more;
 *  - in the end no sender waits on a channel where a receiver waits, and no lock is held.
 *
 * Memory: queues, waiters and elements are under the channels' locks. `state` is stored before the
 * unlock and loaded after the lock. `wake` and `won` are stored before the push to the list of the
 * woken (release), and loaded after it was taken (acquire). So no store buffer is modelled.
 *
 * model                    code
 * lock, unlock             the object's lock (sync/): all of a call, in the order of addresses
 * serve                    queue_take() with claim(): stale waiters are dropped
 * swap_state               claim(): the compare-and-swap PARKED -> READY
 * hand_over                the transfer, under the lock, once the peer is claimed
 * wake_up                  wake(): result into coro->wake, push to the worker's `woken` list
 * enqueue                  wake = 0, state = PARKED, waiters into the queues; then unlock
 * loop                     the worker's loop: takes `woken`; its wheel: deadline_fired() claims
 * unlink                   queue_withdraw(), and a select's tidying, before the call returns
 *
 * Not here: cancelling (it claims like a deadline: cancel.pml), more than one coroutine a worker.
 *
 * Runs:
 *   holds
 *   holds -DSECOND_RECEIVES
 *   fails -DBROKEN_RESULT_FIRST : assertion violated
 *   fails -DBROKEN_PARKED_LATE : assertion violated
 *   fails -DBROKEN_LOSER_LEFT : assertion violated
 *   fails -DBROKEN_CLAIM_IS_STORE : assertion violated
 *   fails -DBROKEN_HAND_OVER_LATE : assertion violated
 *   fails -DBROKEN_LOCK_ORDER : assertion violated
 */
#ifndef CALLS
#define CALLS 1 /* of the second and third coroutine; the first makes two */
#endif
#define COROS 3
#define NOBODY 255

mtype = { RUNNING, PARKED, READY };
mtype = { NOTHING, SERVED, TIMED_OUT };

/* A queue for each channel and direction: the coroutines whose waiters are in it. */
chan queue[4] = [COROS] of { byte };
#define queue_of(sender, channel) queue[(sender) * 2 + (channel)]

bool locked[2];
mtype state[COROS] = RUNNING;
mtype wake[COROS] = NOTHING;
byte won[COROS];
bool woken[COROS];       /* on its worker's list */
byte element[COROS];     /* a sender's; 0: not in a call */
byte place[COROS * 2];   /* a receiver's, one a case */
bool in_call[COROS];
byte waits_on[COROS];    /* the channels of its call, as bits, while it waits */
byte handed[7], received[7]; /* how often, by element */

/* ---- Parts of a call ---- */

#define has(channel) (channels & (1 << (channel)))

inline lock(channel) { atomic { !locked[channel]; locked[channel] = true } }
inline unlock(channel) { assert(locked[channel]); locked[channel] = false }

inline lock_all()
{
    if
    :: has(0) -> lock(0)
    :: else
    fi;
    if
    :: has(1) -> lock(1)
    :: else
    fi
}

inline lock_all_in_any_order()
{
    if
    :: lock_all()
    :: channels == 3 -> lock(1); lock(0)
    fi
}

inline unlock_all()
{
    if
    :: has(1) -> unlock(1)
    :: else
    fi;
    if
    :: has(0) -> unlock(0)
    :: else
    fi
}

inline swap_state(coro)
{
    atomic {
        if
#ifdef BROKEN_CLAIM_IS_STORE
        :: claimable -> state[coro] = READY; claimed = true
#else
        :: state[coro] == PARKED -> state[coro] = READY; claimed = true
#endif
        :: else -> claimed = false
        fi
    }
}

/* Sets peer to who was claimed from the channel's queue. */
inline serve(channel)
{
    do
    :: queue_of(!sends, channel)?peer ->
#ifdef BROKEN_RESULT_FIRST
        won[peer] = channel;
        wake[peer] = SERVED;
#endif
#ifdef BROKEN_CLAIM_IS_STORE
        claimable = state[peer] == PARKED;
#endif
        swap_state(peer);
        if
        :: claimed -> claimed = false; by = channel; break
        :: else -> peer = NOBODY
        fi
    :: empty(queue_of(!sends, channel)) -> break
    od
}

inline hand_over()
{
    d_step {
        assert(in_call[peer]);
        if
        :: sends ->
            place[peer * 2 + by] = element[me];
            handed[element[me]]++
        :: else ->
            assert(element[peer] != 0);
            got = element[peer];
            handed[got]++
        fi
    }
}

inline wake_up()
{
#ifndef BROKEN_RESULT_FIRST
    won[peer] = by;
    wake[peer] = SERVED;
#endif
    atomic { assert(!woken[peer]); woken[peer] = true }
}

inline enqueue(channel)
{
    if
    :: has(channel) -> queue_of(sends, channel)!me
    :: else
    fi
}

inline unlink(channel)
{
    if
    :: has(channel) && !(result == SERVED && won[me] == channel) ->
        lock(channel);
        if
        :: queue_of(sends, channel)??[eval(me)] -> queue_of(sends, channel)??eval(me)
        :: else
        fi;
        unlock(channel)
    :: else
    fi
}

/* The worker, while its coroutine is parked. */
inline loop()
{
    waits_on[me] = channels;
end_waiting:
    do
    :: woken[me] ->
        atomic { woken[me] = false; assert(state[me] == READY) }
        break
    :: timed && state[me] == PARKED ->
#ifdef BROKEN_CLAIM_IS_STORE
        claimable = true;
#endif
        swap_state(me);
        if
        :: claimed -> claimed = false; wake[me] = TIMED_OUT; break
        :: else
        fi
    od;
    waits_on[me] = 0;
    state[me] = RUNNING
}

/* ---- A call ---- */

inline call()
{
    atomic {
        in_call[me] = true;
        select (channels : 1 .. 3);
        if
        :: timed = true
        :: timed = false
        fi;
        if
        :: sends -> element[me] = item
        :: else
        fi
    }
#ifdef BROKEN_LOCK_ORDER
    lock_all_in_any_order();
#else
    lock_all();
#endif
    if
    :: has(0) -> serve(0)
    :: else
    fi;
    if
    :: has(1) && peer == NOBODY -> serve(1)
    :: else
    fi;
    if
    :: peer != NOBODY ->
#ifdef BROKEN_HAND_OVER_LATE
        unlock_all();
        wake_up();
        hand_over();
#else
        hand_over();
        unlock_all();
        wake_up();
#endif
        result = SERVED
    :: else ->
        wake[me] = NOTHING;
#ifndef BROKEN_PARKED_LATE
        state[me] = PARKED;
#endif
        enqueue(0);
        enqueue(1);
        unlock_all();
#ifdef BROKEN_PARKED_LATE
        state[me] = PARKED;
#endif
        loop();
        result = wake[me];
#ifndef BROKEN_LOSER_LEFT
        unlink(0);
        unlink(1);
#endif
        if
        :: !sends && result == SERVED -> got = place[me * 2 + won[me]]
        :: else
        fi
    fi;
    d_step {
        assert(result == SERVED || (result == TIMED_OUT && timed));
        assert(!queue_of(sends, 0)??[eval(me)] && !queue_of(sends, 1)??[eval(me)]);
        if
        :: sends -> assert(handed[item] == (result == SERVED))
        :: !sends && result == SERVED ->
            assert(got != 0 && handed[got] == 1);
            received[got]++;
            assert(received[got] == 1)
        :: !sends && result != SERVED -> assert(!place[me * 2] && !place[me * 2 + 1])
        fi;
        in_call[me] = false;
        element[me] = 0;
        place[me * 2] = 0;
        place[me * 2 + 1] = 0;
        wake[me] = NOTHING;
        won[me] = 0;
        peer = NOBODY; by = 0; got = 0; channels = 0; timed = false; result = NOTHING;
        item++
    }
}

proctype coroutine(byte me; bool sends; byte calls)
{
    byte item = me * 2 + 1;
    byte channels, by, got;
    byte peer = NOBODY;
    bool claimed, timed;
#ifdef BROKEN_CLAIM_IS_STORE
    bool claimable;
#endif
    mtype result = NOTHING;

    do
    :: calls > 0 -> calls--; call()
    :: else -> break
    od
}

/* ---- In the end ---- */

#define waits(coro, channel) (waits_on[coro] & (1 << (channel)))
#ifdef SECOND_RECEIVES
#define waits_in_vain(channel) ((waits(0, channel) || waits(1, channel)) && waits(2, channel))
#define SECOND_SENDS false
#else
#define waits_in_vain(channel) (waits(0, channel) && (waits(1, channel) || waits(2, channel)))
#define SECOND_SENDS true
#endif

init
{
    byte i;

    atomic {
        run coroutine(0, false, 2);
        run coroutine(1, SECOND_SENDS, CALLS);
        run coroutine(2, true, CALLS)
    }
    timeout;
    assert(!locked[0] && !locked[1]);
    assert(!waits_in_vain(0) && !waits_in_vain(1));
    for (i : 0 .. 6) {
        assert(received[i] == handed[i])
    }
}
