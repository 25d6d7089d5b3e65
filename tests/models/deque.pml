/*
 * deque.pml: the run queue of a worker, taken from by its owner and stolen from by others.
 *
 * A ring of SLOTS slots between two counters that only grow and wrap around: head (moved by
 * compare-and-swap, by anyone) and tail (stored by the owner alone).
 *
 * Item k is pushed as the k-th, so that whoever keeps what was at the counter value START + k must
 * hold item k, and nobody else: that says at once that the order is first in, first out, that no
 * item is lost or taken twice, and that nobody keeps what he read from a slot that was overwritten.
 * The counters are bytes and start at 254: they wrap.
 *
 * Memory: the owner's stores of slots and tail go into a buffer and reach the others later. A store
 * of tail is a release: it leaves the buffer after all that is before it; a store of a slot may
 * leave it before an earlier one of tail. That is weaker than x86-TSO, and what C11 allows to these
 * stores. A compare-and-swap (acq_rel) waits for the buffer to be empty. The loads of a thief are
 * acquire loads and happen in order; its copies happen before its compare-and-swap, a release.
 *
 * model                    code (sched/deque.h)
 * push                     deque_push(): head acquire, slot, tail release
 * take                     deque_take(): head acquire, copy, compare-and-swap of head
 * steal                    deque_take(): head acquire, tail acquire, copy, compare-and-swap
 * steal: n > SLOTS / 2     the check that head and tail belong together, see BROKEN_STEAL_UNCHECKED
 * memory, own[]            the processor's: the store buffer; the owner's view of its stores
 *
 * BROKEN_STEAL_UNCHECKED: head is loaded before tail. In between the owner and others may have
 * taken and pushed more than the ring holds; half of the difference is then more than a thief
 * has room for. Its compare-and-swap would fail, but only after the copy.
 *
 * Runs:
 *   holds
 *   holds -DSLOTS=4 -DITEMS=7 -DTHIEVES=1
 *   fails -DBROKEN_COPY_AFTER_SWAP : assertion violated (copied[i]==
 *   fails -DBROKEN_PUSH_UNCHECKED : assertion violated (copied[i]==
 *   fails -DBROKEN_TAIL_RELAXED : assertion violated (copied[i]==
 *   fails -DBROKEN_SWAP_IS_STORE : assertion violated !(taken[
 *   fails -DBROKEN_STEAL_UNCHECKED : assertion violated (n<=
 */
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef ITEMS
#define ITEMS 5
#endif
#ifndef THIEVES
#define THIEVES 2
#endif
#define START 254

/* Item k has the value k + 1; 0: none was ever there. */
#define item_at(counter) (((counter) - START + 257) % 256)

byte head = START;
byte tail = START;
byte slot[SLOTS];
bool taken[ITEMS];
byte taken_count;
bool over; /* the owner has seen the queue empty, after the last push */

mtype = { SLOT, TAIL };
chan buffer = [3] of { mtype, byte, byte }; /* what, its index, its new value */

/* ---- What is kept ---- */

inline keep()
{
    d_step {
        i = 0;
        do
        :: i < n ->
            assert(copied[i] == item_at(h + i));
            assert(!taken[copied[i] - 1]);
            taken[copied[i] - 1] = true;
            taken_count++;
            i++
        :: else -> break
        od;
        i = 0; n = 0; h = 0
    }
}

/* done is true when head was still h. */
inline swap_head()
{
    if
#ifdef BROKEN_SWAP_IS_STORE
    :: true ->
#else
    :: head == h ->
#endif
        head = h + n;
        done = true
    :: else -> done = false
    fi
}

/* ---- Memory ---- */

active proctype memory()
{
    byte i, value;

end:
    do
    :: d_step { buffer?[SLOT, _, _] -> buffer?SLOT, i, value; slot[i] = value; i = 0; value = 0 }
    :: d_step { buffer?[TAIL, _, _] -> buffer?TAIL, i, value; tail = value; i = 0; value = 0 }
    :: d_step { buffer??[SLOT, _, _] -> buffer??SLOT, i, value; slot[i] = value; i = 0; value = 0 }
#ifdef BROKEN_TAIL_RELAXED
    :: d_step { buffer??[TAIL, _, _] -> buffer??TAIL, i, value; tail = value; i = 0; value = 0 }
#endif
    od
}

/* ---- The owner ---- */

inline push()
{
    h = head;
    own_size = own_tail - h;
    if
#ifdef BROKEN_PUSH_UNCHECKED
    :: true ->
#else
    :: own_size < SLOTS ->
#endif
        own[own_tail % SLOTS] = item_at(own_tail);
        buffer!SLOT, own_tail % SLOTS, item_at(own_tail);
        own_tail++;
        pushed++;
        buffer!TAIL, 0, own_tail
    :: else /* full */
    fi;
    h = 0
}

inline take(most)
{
    do
    :: h = head;
        own_size = own_tail - h;
        n = (most < own_size -> most : own_size);
        if
        :: n == 0 -> break
        :: else
        fi;
        d_step {
            i = 0;
            do
            :: i < n -> copied[i] = own[(h + i) % SLOTS]; i++
            :: else -> break
            od;
            i = 0
        }
        atomic { empty(buffer); swap_head() }
        if
        :: done -> keep(); break
        :: else
        fi
    od;
    own_size = 0; h = 0; n = 0; done = false
}

active proctype owner()
{
    byte own[SLOTS]; /* what it has stored: nobody else stores slots */
    byte own_tail = START;
    byte own_size, pushed, h, n, i;
    byte copied[SLOTS];
    bool done;

    do
    :: pushed < ITEMS -> push()
    :: true -> take(1)
    :: true -> take(2)
    :: pushed == ITEMS && head == own_tail -> break
    od;
    over = true
}

/* ---- A thief ---- */

inline copy_slots()
{
    do
    :: i < n -> copied[i] = slot[(h + i) % SLOTS]; i++
    :: else -> i = 0; break
    od
}

inline steal()
{
    h = head;
    n = tail - h;
    n = n - n / 2;
    if
    :: n == 0 /* nothing there */
#ifndef BROKEN_STEAL_UNCHECKED
    :: n > SLOTS / 2 /* head is from long ago */
#endif
    :: else ->
        assert(n <= SLOTS / 2); /* as much as there is room for */
#ifndef BROKEN_COPY_AFTER_SWAP
        copy_slots();
        atomic { swap_head() }
#else
        atomic { swap_head() }
        copy_slots();
#endif
        if
        :: done -> keep()
        :: else
        fi
    fi;
    d_step {
        h = 0; n = 0; done = false; i = 0;
        do
        :: i < SLOTS / 2 -> copied[i] = 0; i++
        :: else -> i = 0; break
        od
    }
}

active [THIEVES] proctype thief()
{
    byte h, n, i;
    byte copied[SLOTS / 2];
    bool done;

    do
    :: !over -> steal()
    :: over -> break
    od
}

/* ---- In the end ---- */

active proctype at_the_end()
{
    timeout;
    assert(taken_count == ITEMS)
}
