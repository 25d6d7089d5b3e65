/*
 * sleep.pml: when workers sleep, and who wakes them.
 *
 * Worker 0 runs the root. It sends MAILS mails to worker 1, which only that one can open, and hands
 * out ITEMS items that anybody may run: each onto its deque or into the run's injection list. Then
 * it computes until all items have begun, and so does each item and who has opened a mail: as if
 * they were written to meet. Nobody may therefore sleep while there is an item for him. One for
 * which nobody is woken, and all stand still. (There are as many workers as that takes.) After that
 * nothing ever comes, and a deadlock is to be declared.
 *
 * What holds (a message is what wakes a worker's ring, and costs a system call):
 *  - all begins: no wake-up is lost, and none waits for a worker that is busy;
 *  - no herd: messages <= 2 * ITEMS + MAILS, one for a push, one for what a searcher has found;
 *  - in the end the counts are right: nobody searches, and all sleep;
 *  - a deadlock is declared only when nothing is left, and when all sleep for good, it has been.
 *
 * The two counts are read without a lock and may be wrong for a moment, each to one side only:
 *  - `searching` is never too high. It is raised after a sleeper was woken to search, and lowered
 *    before the last look. It may be -1: "nobody searches" is <= 0.
 *  - `asleep` is never too low. It is raised before the sleep word says so, and lowered after.
 *
 * Memory: a push to a deque is a plain store (release). It goes into a buffer, `unseen`, and from
 * there to the others at any time, at the latest when its owner executes a fence or a locked
 * operation. All else is read-modify-write or a load, sequentially consistent. Where a BROKEN model
 * stores the sleep word, that store goes into the buffer `word_unseen`.
 *
 * Who has searched, given it up and then finds something in the last look searches again, counted:
 * two items may have been pushed by two workers who both saw it search, and it would run the one
 * and tell nobody of the other. The same of a mail and an item.
 *
 * model                    code (sched/worker.c)
 * root                     deque_push() or the injection list, then notify
 * notify                   fence; run->searching > 0 or run->asleep <= 0: nothing to do; else a
 *                          sleeper's word by compare-and-swap to WOKEN_TO_SEARCH, asleep--,
 *                          searching++, message
 * send_mail                push, load of the sleep word; if it sleeps: compare-and-swap to AWAKE,
 *                          asleep--, message
 * look_near, look_far      the loop: mail, own deque, injection list; then the others' deques. What
 *                          a thief brings beyond what it runs goes onto its own deque (brought)
 * found                    before anything is run, wherever it came from: searching--; the last one
 *                          looks for more, after that, and notifies
 * stop_searching           searching--, before the sleep word is stored and the last look
 * fall_asleep              asleep++, exchange of the sleep word, last look (relook: takes nothing).
 *                          A barren one holds the run's lock from before the exchange until it is
 *                          up again or has looked at the others' words (verdict)
 * get_up                   exchange of the sleep word to AWAKE, then asleep--. If the word has
 *                          become WOKEN_TO_SEARCH, who woke it has counted it as searching
 * search_again             searching++, if it had searched
 * end_asleep               the engine's wait: a message, or a timer
 *
 * Not here: threads that are not workers (a verdict is none then), the ring, spinning for a while.
 *
 * Runs:
 *   holds -DCOUNTED
 *   holds -DITEMS=1 -DMAILS=1
 *   holds -DMEET=0 -DITEMS=1
 *   holds -DFAR_TIMERS=1
 *   holds -DFAR_TIMERS=1 -DMAILS=1 -DSHORT_MAIL=1 -DINJECTS=0
 *   holds -DITEMS=1 -DTIMERS=1 -DINJECTS=0
 *   fails -DBROKEN_NO_RELOOK : left==0
 *   fails -DBROKEN_NO_FENCE : left==0
 *   fails -DBROKEN_WORD_IS_STORE : left==0
 *   fails -DBROKEN_SEARCHING_LOWERED_LATE : left==0
 *   fails -DBROKEN_SEARCHING_UNSIGNED : left==0
 *   fails -DBROKEN_SEARCHED_ENOUGH -DITEMS=1 -DMAILS=1 : left==0
 *   fails -DBROKEN_WORD_DOES_NOT_TELL : left==0
 *   fails -DBROKEN_FOUND_IS_ALL : left==0
 *   fails -DBROKEN_MORE_IS_EARLY : left==0
 *   fails -DBROKEN_ASLEEP_RAISED_LATE -DFAR_TIMERS=1 -DMAILS=1 -DSHORT_MAIL=1 : left==0
 *   fails -DBROKEN_BARREN_UNLOCKED -DITEMS=0 -DMAILS=1 : left==0
 */
#ifndef WORKERS
#define WORKERS 3
#endif
#ifndef ITEMS
#define ITEMS 2
#endif
#ifndef MAILS
#define MAILS 0
#endif
#ifndef TIMERS
#define TIMERS 0
#endif
#ifndef FAR_TIMERS
#define FAR_TIMERS 0 /* 1: all have timers, which do not fire: nobody is barren */
#endif
#ifndef SHORT_MAIL
#define SHORT_MAIL 0 /* 1: who has opened a mail waits for nothing */
#endif
#ifndef MEET
#define MEET 1 /* 0: nobody waits for the others */
#endif
#ifndef INJECTS
#define INJECTS 1 /* 0: the root has only its deque */
#endif

mtype = { AWAKE, WOKEN_TO_SEARCH, ASLEEP, BARREN };
#define sleeps(word) ((word) == ASLEEP || (word) == BARREN)

mtype word[WORKERS] = AWAKE;
byte message[WORKERS];      /* completions in its ring */
#ifdef COUNTED
byte messages;              /* all that were ever sent */
#define count_message() messages++
#define bounded (messages <= 2 * ITEMS + MAILS)
#else
#define count_message() skip
#define bounded true
#endif
byte timers = TIMERS;       /* that will fire once each, on any worker that waits for them */

byte mail[WORKERS];
byte seen[WORKERS];         /* in its deque, as others see it */
byte unseen[WORKERS];       /* pushed, but still in the store buffer */
byte injected;

short searching, asleep;
bool locked;                /* the run's lock */
bool declared;

byte begun;                 /* items */
byte left = ITEMS + MAILS;  /* that have not ended */

/* ---- Memory ---- */

#ifdef BROKEN_WORD_IS_STORE
mtype word_unseen[WORKERS] = AWAKE;
#define drain_word(w)                                                                             \
    if                                                                                            \
    :: word_unseen[w] != AWAKE -> word[w] = word_unseen[w]; word_unseen[w] = AWAKE                \
    :: else                                                                                       \
    fi
#else
#define drain_word(w) skip
#endif

inline drain(w)
{
    seen[w] = seen[w] + unseen[w];
    unseen[w] = 0;
    drain_word(w)
}

active proctype memory()
{
    byte w;

end:
    do
    :: d_step { unseen[0] > 0 -> drain(0) }
    :: d_step { unseen[1] > 0 -> drain(1) }
    :: d_step { unseen[2] > 0 -> drain(2) }
#ifdef BROKEN_WORD_IS_STORE
    :: d_step { word_unseen[0] != AWAKE -> drain(0) }
    :: d_step { word_unseen[1] != AWAKE -> drain(1) }
    :: d_step { word_unseen[2] != AWAKE -> drain(2) }
#endif
    od
}

/* ---- Waking ---- */

inline post(w)
{
    d_step {
        message[w]++;
        count_message();
    }
}

/* A sleeper's word from what was read of it to `awake`; `was` is AWAKE when that has failed. */
inline swap_word(w, awake)
{
    atomic {
        drain(me);
        if
        :: word[w] == was -> word[w] = awake
        :: else -> was = AWAKE
        fi
    }
}

inline notify()
{
#ifndef BROKEN_NO_FENCE
    d_step { drain(me) }
#endif
    if
#ifdef BROKEN_SEARCHING_UNSIGNED
    :: atomic { searching != 0 -> skip }
#else
    :: atomic { searching > 0 -> skip }
#endif
    :: atomic { else -> skip }
        if
        :: atomic { asleep <= 0 -> skip }
        :: atomic { else -> skip }
            do
            :: atomic { other < WORKERS && (other == me || !sleeps(word[other])) -> other++ }
            :: atomic { other < WORKERS && other != me && sleeps(word[other]) -> was = word[other] }
                swap_word(other, WOKEN_TO_SEARCH);
                if
                :: was != AWAKE ->
                    d_step { asleep--; was = AWAKE }
                    searching++;
                    post(other);
                    break
                :: else -> other++
                fi
            :: atomic { other == WORKERS -> break }
            od;
            other = 0
        fi
    fi
}

inline send_mail(w)
{
    d_step { drain(me); mail[w]++ }
    if
    :: atomic { sleeps(word[w]) -> was = word[w] }
        swap_word(w, AWAKE);
        if
        :: was != AWAKE ->
            d_step { asleep--; was = AWAKE }
            post(w)
        :: else
        fi
    :: atomic { else -> skip }
    fi
}

/* ---- Work ---- */

inline look_for_more()
{
    if
    :: atomic { injected > 0 -> more = true }
    :: atomic { else -> skip }
        do
        :: atomic { other < WORKERS && seen[other] == 0 -> other++ }
        :: atomic { other < WORKERS && seen[other] > 0 -> more = true; break }
        :: other == WORKERS -> break
        od;
        other = 0
    fi
}

/* Something has been taken, which is run next. */
inline found()
{
#ifdef BROKEN_MORE_IS_EARLY
    look_for_more();
#endif
    if
    :: d_step { searcher -> drain(me); searching--; searcher = false; last = searching <= 0 }
#if !defined(BROKEN_MORE_IS_EARLY) && !defined(BROKEN_FOUND_IS_ALL)
        if
        :: last -> look_for_more()
        :: else
        fi;
#endif
        more = more && last
    :: d_step { else -> more = brought }
    fi;
    if
    :: atomic { more -> more = false }
        notify()
    :: else
    fi;
    atomic { brought = false; last = false }
}

/* Gets one of what is near and goes to run it, if there is any. */
inline look_near()
{
    if
    :: atomic { mail[me] > 0 -> message[me] = 0; drain(me); mail[me]--; goto work }
    :: atomic { mail[me] == 0 -> message[me] = 0 }
    fi;
    if
    :: atomic { seen[me] + unseen[me] > 0 -> drain(me); seen[me]--; item = true; goto work }
    :: atomic { seen[me] + unseen[me] == 0 -> skip }
    fi;
    if
    :: atomic { injected > 0 -> drain(me); injected--; item = true; goto work }
    :: atomic { injected == 0 -> skip }
    fi
}

/* The same of the others' deques: of two items it takes one or both. */
inline look_far()
{
    if
    :: searcher
    :: d_step { !searcher -> searching++; searcher = true }
    :: !searcher /* enough do, by some measure: it looks uncounted */
    fi;
    do
    :: atomic {
            other < WORKERS && other != me && seen[other] > 0 ->
            drain(me);
            if
            :: seen[other]--
            :: seen[other] > 1 -> seen[other] = seen[other] - 2; unseen[me]++; brought = true
            fi;
            other = 0;
            item = true;
            goto work
        }
    :: atomic { other < WORKERS && (other == me || seen[other] == 0) -> other++ }
    :: atomic { other == WORKERS -> other = 0; break }
    od
}

/* ---- Sleeping ---- */

inline stop_searching()
{
    if
    :: d_step { searcher -> searching--; searcher = false; had_searched = true }
    :: else
    fi
}

/* The last look has found something. Who pushed it or something else may have relied on this one to
 * search, and it might now take the one and leave the other. */
inline search_again()
{
    if
#ifndef BROKEN_SEARCHED_ENOUGH
    :: d_step { had_searched && !searcher -> searching++; searcher = true }
#endif
    :: else
    fi
}

/* more: there is something. */
inline relook()
{
    if
    :: atomic { mail[me] > 0 -> more = true }
    :: atomic { else -> skip }
        look_for_more()
    fi
}

inline get_up()
{
    atomic {
        drain(me);
        was = word[me];
        word[me] = AWAKE;
        if
#ifndef BROKEN_WORD_DOES_NOT_TELL
        :: was == WOKEN_TO_SEARCH -> searcher = true; was = AWAKE
#endif
        :: else
        fi
    }
    if
    :: atomic { sleeps(was) -> asleep--; was = AWAKE }
    :: else -> was = AWAKE
    fi
}

inline store_word()
{
#ifdef BROKEN_WORD_IS_STORE
    word_unseen[me] = (barren -> BARREN : ASLEEP)
#else
    d_step { drain(me); word[me] = (barren -> BARREN : ASLEEP) }
#endif
}

/* All others sleep for good: nobody is left who could make anything happen. */
inline verdict()
{
    do
    :: atomic { other < WORKERS && (other == me || word[other] == BARREN) -> other++ }
    :: atomic { other < WORKERS && other != me && word[other] != BARREN -> other = 0; break }
    :: atomic {
            other == WORKERS ->
            other = 0;
            assert(left == 0);
            declared = true;
            break
        }
    od
}

inline lock_if_barren()
{
    if
    :: atomic { barren && !locked -> drain(me); locked = true }
    :: !barren
    fi
}

inline unlock_if_barren()
{
    if
    :: atomic { barren -> locked = false }
    :: else
    fi
}

inline fall_asleep()
{
    if
    :: FAR_TIMERS || timers > 0
    :: atomic { !FAR_TIMERS && timers == 0 -> barren = true }
    fi;
#ifndef BROKEN_BARREN_UNLOCKED
    lock_if_barren();
#endif
#ifdef BROKEN_ASLEEP_RAISED_LATE
    store_word();
    asleep++;
#else
    asleep++;
    store_word();
#endif
#ifndef BROKEN_NO_RELOOK
    relook();
#endif
#ifdef BROKEN_SEARCHING_LOWERED_LATE
    stop_searching();
#endif
    if
    :: atomic { more -> more = false }
        get_up();
#ifndef BROKEN_BARREN_UNLOCKED
        unlock_if_barren();
#endif
        search_again()
    :: else ->
#ifdef BROKEN_BARREN_UNLOCKED
        lock_if_barren();
#endif
        if
        :: barren -> verdict()
        :: else
        fi;
        unlock_if_barren();
end_asleep:
        if
        :: atomic { message[me] > 0 -> message[me] = 0 }
        :: atomic { !barren && timers > 0 -> timers-- }
        fi;
        get_up()
    fi;
    atomic { barren = false; had_searched = false }
}

/* ---- Workers ---- */

inline root()
{
    if
    :: MAILS > 0 -> send_mail(1)
    :: else
    fi;
    do
    :: items < ITEMS ->
        if
        :: atomic { unseen[me]++; items++ }
        :: atomic { INJECTS -> drain(me); injected++; items++ }
        fi;
        notify()
    :: else -> break
    od;
    atomic { !MEET || begun == ITEMS -> items = 0 }
}

proctype worker(byte me)
{
    byte other, items;
    mtype was = AWAKE;
    bool searcher, had_searched, item, brought, last, more, barren;

    if
    :: me == 0 -> root()
    :: else
    fi;
next:
    look_near();
    look_far();
#ifndef BROKEN_SEARCHING_LOWERED_LATE
    stop_searching();
#endif
    fall_asleep();
    goto next;
work:
    found();
    atomic {
        if
        :: item -> begun++
        :: else
        fi
    }
    d_step { !MEET || (SHORT_MAIL && !item) || begun == ITEMS -> left--; item = false }
    goto next
}

/* ---- In the end ---- */

#define barren_all (word[0] == BARREN && word[1] == BARREN && word[2] == BARREN)

init
{
    atomic {
        run worker(0);
        run worker(1);
        run worker(2)
    }
    timeout;
    assert(left == 0);
    assert(searching == 0);
    assert(asleep == WORKERS);
    assert(bounded);
    assert(declared == barren_all)
}
