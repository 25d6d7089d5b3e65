/*
 * ledger.c: accounts of items that are sent and received: each whose send succeeded must come
 * exactly once, each whose send failed never.
 *
 * A receiver may note an item before its sender does: the two notes are different bits, and are
 * compared when both have ended.
 */
#include "stress.h"

#include <stdlib.h>

enum { NOTE_SENT = 1, NOTE_RECEIVED = 16 };

#define ITEM_KEY UINT64_C(0x5eed0f17e3)

static uint64_t item_check(const struct item *item)
{
    return mix(item->id ^ mix(item->from ^ mix(item->seq ^ ITEM_KEY)));
}

void ledger_open(struct ledger *ledger, uint64_t size)
{
    *ledger = (struct ledger){.size = size};
    ledger->states = calloc(size, sizeof *ledger->states);
    if (!ledger->states)
        abort();
}

bool ledger_item(struct ledger *ledger, struct item *ret_item, uint64_t from, uint64_t seq)
{
    if (count_get(&ledger->next) >= ledger->size)
        return false;
    uint64_t id = count_add(&ledger->next, 1);
    if (id >= ledger->size)
        return false;
    *ret_item = (struct item){.id = id, .from = from, .seq = seq};
    ret_item->check = item_check(ret_item);
    return true;
}

/* Relaxed, which pairs with nothing: see above. */
static uint8_t note(struct ledger *ledger, uint64_t id, uint8_t what)
{
    return atomic_fetch_add_explicit(&ledger->states[id], what, memory_order_relaxed);
}

void ledger_sent(struct ledger *ledger, const struct item *item, int rc)
{
    count_add(rc == 0 ? &ledger->sent : &ledger->unsent, 1);
    if (rc == 0)
        note(ledger, item->id, NOTE_SENT);
}

void ledger_received(struct ledger *ledger, const struct item *item)
{
    bool whole = item->id < ledger->size && item->check == item_check(item);
    CHECK(whole, "an item came damaged: id %llu, from %llu, seq %llu, check %llx",
          (unsigned long long)item->id, (unsigned long long)item->from,
          (unsigned long long)item->seq, (unsigned long long)item->check);
    if (!whole)
        return;
    count_add(&ledger->received, 1);
    uint8_t before = note(ledger, item->id, NOTE_RECEIVED);
    CHECK(before < NOTE_RECEIVED, "item %llu came %d times", (unsigned long long)item->id,
          before / NOTE_RECEIVED + 1);
}

void ledger_close(struct ledger *ledger, const char *name, bool may_lose)
{
    uint64_t made = count_get(&ledger->next), lost = 0, ghosts = 0;
    if (made > ledger->size)
        made = ledger->size;
    for (uint64_t id = 0; id < made; id++) {
        uint8_t state = atomic_load_explicit(&ledger->states[id], memory_order_relaxed);
        lost += state == NOTE_SENT;
        ghosts += state >= NOTE_RECEIVED && !(state & NOTE_SENT);
    }
    uint64_t sent = count_get(&ledger->sent), received = count_get(&ledger->received);
    CHECK((may_lose || !lost) && !ghosts && sent == received + lost &&
              sent + count_get(&ledger->unsent) == made,
          "%s: of %llu items %llu were sent, %llu not, %llu came; %llu lost, %llu came unsent",
          name, (unsigned long long)made, (unsigned long long)sent,
          (unsigned long long)count_get(&ledger->unsent), (unsigned long long)received,
          (unsigned long long)lost, (unsigned long long)ghosts);
    free(ledger->states);
    ledger->states = NULL;
}
