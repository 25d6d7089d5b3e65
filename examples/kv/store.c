/*
 * store.c: the keys, and their end at their time.
 *
 * A key that expires is in a binary heap as well, and knows where, so that another time, or none,
 * costs a logarithm. store_expire_all() waits with the earliest one's time as its deadline, and is
 * told when another one has become the earliest. It comes as late as the loop lets it, so who looks
 * at a key also looks at its time: nobody sees one that has expired. Its memory is given back by
 * either, at once.
 *
 * Rejected: a coroutine for each such key. It costs a stack page of 4 KiB, the key some 150 bytes.
 */
#include "kv.h"

#include <stdlib.h>

enum {
    EXPIRE_STEP = 256, /* keys that are deleted before others may run */
    CLEAR_STEP = 1024,
    ENTRY_BYTES = sizeof(struct entry) + sizeof(struct blob),
};

void table_double(UT_hash_table *table)
{
    bool failed = false;
    HASH_EXPAND_BUCKETS(hh, table, failed);
    (void)failed;
}

/* ---- The heap ---- */

static void heap_put(struct store *store, size_t at, struct entry *entry)
{
    store->heap[at] = entry;
    entry->heap_at = at;
}

/* Moves the entry, for which there is room at `at`, to where it belongs. */
static void heap_sift(struct store *store, size_t at, struct entry *entry)
{
    while (at > 0 && entry->expires_ns < store->heap[(at - 1) / 2]->expires_ns) {
        heap_put(store, at, store->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < store->heap_len &&
            store->heap[child + 1]->expires_ns < store->heap[child]->expires_ns)
            child++;
        if (child >= store->heap_len || store->heap[child]->expires_ns >= entry->expires_ns)
            break;
        heap_put(store, at, store->heap[child]);
        at = child;
    }
    heap_put(store, at, entry);
}

static void heap_remove(struct store *store, struct entry *entry)
{
    struct entry *last = store->heap[--store->heap_len];
    if (last != entry)
        heap_sift(store, entry->heap_at, last);
}

/* Room for one more. False: no memory. */
static bool heap_room(struct store *store)
{
    if (store->heap_len < store->heap_size)
        return true;
    size_t size = store->heap_size ? 2 * store->heap_size : 64;
    struct entry **heap = realloc(store->heap, size * sizeof *heap);
    if (!heap)
        return false;
    store->heap = heap;
    store->heap_size = size;
    return true;
}

/* There is room if it did not expire before. */
static void expire_at(struct store *store, struct entry *entry, int64_t expires_ns)
{
    bool before = entry->expires_ns != WH_NEVER;
    if (expires_ns == WH_NEVER) {
        if (before)
            heap_remove(store, entry);
        entry->expires_ns = WH_NEVER;
        return;
    }
    entry->expires_ns = expires_ns;
    heap_sift(store, before ? entry->heap_at : store->heap_len++, entry);
    if (entry->heap_at == 0)
        wh_event_set(&store->sooner);
}

/* ---- The tables ---- */

void store_init(struct store *store, uint64_t bytes_max)
{
    pthread_mutex_init(&store->lock.mutex, NULL);
    store->bytes_max = bytes_max;
}

static void count_bytes(struct store *store, const struct entry *entry, int sign)
{
    uint64_t bytes = ENTRY_BYTES + (uint64_t)entry->key_len + entry->value->len;
    store->bytes = sign < 0 ? store->bytes - bytes : store->bytes + bytes;
}

/* Takes it out; the value goes to *ret_value, if that is wanted. */
static void take_out(struct store *store, struct entry **shard, struct entry *entry,
                     struct blob **ret_value)
{
    count_bytes(store, entry, -1);
    if (entry->hh.tbl->num_items == 1) /* it ends with its last key */
        store->bytes -= table_bytes(entry->hh.tbl);
    HASH_DEL(*shard, entry);
    if (entry->expires_ns != WH_NEVER)
        heap_remove(store, entry);
    store->keys--;
    if (ret_value)
        *ret_value = entry->value;
    else
        blob_unref(entry->value, store->lock.shared);
    free(entry);
}

static struct entry **shard_of(struct store *store, uint64_t hash)
{
    return &store->shards[hash >> 32 & (SHARDS - 1)];
}

static struct entry *find(struct store *store, struct text key, uint64_t hash)
{
    struct entry **shard = shard_of(store, hash), *entry;
    HASH_FIND_BYHASHVALUE(hh, *shard, key.bytes, key.len, (unsigned)hash, entry);
    if (entry && entry->expires_ns != WH_NEVER && entry->expires_ns <= wh_now()) {
        take_out(store, shard, entry, NULL);
        store->expired++;
        return NULL;
    }
    return entry;
}

static struct entry *find_key(struct store *store, struct text key)
{
    return find(store, key, text_hash(key));
}

/* Lets the table grow if it is time to, and there is room. Else its chains get longer by a sixth at
 * most: then the rest of the room is full of keys. */
static void grow_if_due(struct store *store, UT_hash_table *table)
{
    size_t growth = table_growth(table), before = table_bytes(table);
    if (!growth || (store->bytes_max && store->bytes + growth > store->bytes_max))
        return;
    table_double(table);
    store->bytes += table_bytes(table) - before;
}

/* A new one, which holds the value. */
static struct entry *add(struct store *store, struct text key, uint64_t hash, struct blob *value)
{
    struct entry **shard = shard_of(store, hash);
    bool uthash_failed = false, first = !*shard;
    struct entry *entry = malloc(sizeof *entry + key.len);
    if (!entry)
        return NULL;
    entry->expires_ns = WH_NEVER;
    entry->key_len = (uint32_t)key.len;
    memcpy(entry->key, key.bytes, key.len);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, *shard, entry->key, key.len, (unsigned)hash, entry);
    if (uthash_failed) {
        free(entry);
        return NULL;
    }
    entry->value = blob_ref(value, store->lock.shared);
    count_bytes(store, entry, 1);
    store->bytes += first ? TABLE_BYTES_MIN : 0;
    store->keys++;
    grow_if_due(store, entry->hh.tbl);
    return entry;
}

/* The entry holds another value; the old one goes to *ret_old, if that is wanted. */
static void replace(struct store *store, struct entry *entry, struct blob *value,
                    struct blob **ret_old)
{
    struct blob *old = entry->value;
    count_bytes(store, entry, -1);
    entry->value = blob_ref(value, store->lock.shared);
    count_bytes(store, entry, 1);
    if (ret_old)
        *ret_old = old;
    else
        blob_unref(old, store->lock.shared);
}

/* ---- What commands do ---- */

/* The first link of the chain in which the key is, if it is. */
static struct UT_hash_handle **chain_of(struct store *store, uint64_t hash)
{
    const struct entry *shard = *shard_of(store, hash);
    if (!shard)
        return NULL;
    return &shard->hh.tbl->buckets[(unsigned)hash & (shard->hh.tbl->num_buckets - 1)].hh_head;
}

void store_fetch(struct store *store, struct text key)
{
    if (store->lock.shared)
        return;
    uint64_t hash = text_hash(key);
    struct UT_hash_handle **chain = chain_of(store, hash);
    if (chain)
        __builtin_prefetch(chain);
    wh_yield();
    chain = chain_of(store, hash);
    if (!chain || !*chain)
        return;
    __builtin_prefetch(*chain);
    __builtin_prefetch((char *)*chain + 64);
    wh_yield();
    chain = chain_of(store, hash);
    if (!chain || !*chain)
        return;
    if ((*chain)->hashv == (unsigned)hash)
        __builtin_prefetch(((struct entry *)*chain)->value);
    else
        __builtin_prefetch((*chain)->hh_next);
    wh_yield();
}

struct blob *store_get(struct store *store, struct text key)
{
    struct entry *entry = find_key(store, key);
    store->hits += entry != NULL;
    store->misses += entry == NULL;
    return entry ? blob_ref(entry->value, store->lock.shared) : NULL;
}

bool store_has(struct store *store, struct text key)
{
    return find_key(store, key) != NULL;
}

/* Whether there is no room for a value of so many bytes, which replaces that of the entry, if there
 * is one. */
static bool is_full(struct store *store, const struct entry *entry, struct text key, uint64_t hash,
                    size_t len)
{
    if (!store->bytes_max)
        return false;
    uint64_t others = store->bytes;
    if (entry)
        others -= entry->value->len;
    else
        others += ENTRY_BYTES + key.len + (*shard_of(store, hash) ? 0 : TABLE_BYTES_MIN);
    return others + len > store->bytes_max;
}

int store_set(struct store *store, struct text key, struct blob *value, int64_t expires_ns,
              int condition, struct blob **ret_old)
{
    uint64_t hash = text_hash(key);
    struct entry *entry = find(store, key, hash);
    int rc = 0;
    if (entry ? condition == SET_IF_NEW : condition == SET_IF_THERE) {
        rc = entry ? -EEXIST : -ENOENT;
    } else if (is_full(store, entry, key, hash, value->len) ||
               (expires_ns != KEEP_TTL && expires_ns != WH_NEVER && !heap_room(store))) {
        rc = -ENOMEM;
    } else if (entry) {
        replace(store, entry, value, ret_old);
    } else {
        entry = add(store, key, hash, value);
        rc = entry ? 0 : -ENOMEM;
        if (rc == 0 && ret_old)
            *ret_old = NULL;
    }
    if (rc == 0 && expires_ns != KEEP_TTL && expires_ns != entry->expires_ns)
        expire_at(store, entry, expires_ns);
    if (rc < 0 && ret_old)
        *ret_old = rc != -ENOMEM && entry ? blob_ref(entry->value, store->lock.shared) : NULL;
    return rc;
}

void store_set_back(struct store *store, struct text key, struct blob *old, int64_t expires_ns)
{
    struct entry *entry = find_key(store, key);
    replace(store, entry, old, NULL);
    if (expires_ns != WH_NEVER)
        expire_at(store, entry, expires_ns); /* in the place of the heap that it had */
}

bool store_delete(struct store *store, struct text key, struct blob **ret_old)
{
    uint64_t hash = text_hash(key);
    struct entry *entry = find(store, key, hash);
    if (entry)
        take_out(store, shard_of(store, hash), entry, ret_old);
    return entry != NULL;
}

int store_add(struct store *store, struct text key, int64_t by, int64_t *ret_sum)
{
    uint64_t hash = text_hash(key);
    struct entry *entry = find(store, key, hash);
    int64_t sum = 0;
    char text[NUMBER_BYTES];
    if (entry && !number_read((struct text){entry->value->bytes, entry->value->len}, &sum))
        return -EINVAL;
    if (__builtin_add_overflow(sum, by, &sum))
        return -ERANGE;
    size_t len = number_put(text, sum);
    struct blob *value = is_full(store, entry, key, hash, len) ? NULL : blob_create(len);
    if (!value)
        return -ENOMEM;
    memcpy(value->bytes, text, len);
    if (entry)
        replace(store, entry, value, NULL);
    else
        entry = add(store, key, hash, value);
    blob_unref(value, store->lock.shared);
    *ret_sum = sum;
    return entry ? 0 : -ENOMEM;
}

int64_t store_expiry(struct store *store, struct text key)
{
    const struct entry *entry = find_key(store, key);
    return entry ? entry->expires_ns : -1;
}

int store_set_expiry(struct store *store, struct text key, int64_t expires_ns)
{
    uint64_t hash = text_hash(key);
    struct entry *entry = find(store, key, hash);
    if (!entry)
        return -ENOENT;
    if (expires_ns <= wh_now()) {
        take_out(store, shard_of(store, hash), entry, NULL);
        return 0;
    }
    if (expires_ns != WH_NEVER && !heap_room(store))
        return -ENOMEM;
    expire_at(store, entry, expires_ns);
    return 0;
}

/* Deletes some of the keys of a table that nobody else knows. */
static void clear_some(struct store *store, struct entry **table)
{
    for (int i = 0; i < CLEAR_STEP && *table; i++) {
        struct entry *entry = *table;
        HASH_DEL(*table, entry);
        blob_unref(entry->value, store->lock.shared);
        free(entry);
    }
}

void store_clear(struct store *store)
{
    struct entry *tables[SHARDS];
    struct entry **heap;
    {
        HOLD(&store->lock);
        memcpy(tables, store->shards, sizeof tables);
        memset(store->shards, 0, sizeof tables);
        heap = store->heap;
        store->heap = NULL;
        store->heap_len = store->heap_size = 0;
        store->keys = store->bytes = 0;
    }
    free(heap);
    for (unsigned i = 0; i < SHARDS; i++)
        while (tables[i]) {
            clear_some(store, &tables[i]);
            wh_yield();
        }
}

void store_finish(struct store *store)
{
    for (unsigned i = 0; i < SHARDS; i++)
        while (store->shards[i])
            clear_some(store, &store->shards[i]);
    free(store->heap);
    pthread_mutex_destroy(&store->lock.mutex);
}

/* ---- Their time ---- */

/* Deletes some whose time has come. Returns when there is more to do: now, later, or never. */
static int64_t expire_some(struct store *store)
{
    HOLD(&store->lock);
    int64_t now_ns = wh_now();
    for (int i = 0; i < EXPIRE_STEP && store->heap_len; i++) {
        struct entry *entry = store->heap[0];
        if (entry->expires_ns > now_ns)
            break;
        take_out(store, shard_of(store, text_hash((struct text){entry->key, entry->key_len})),
                 entry, NULL);
        store->expired++;
    }
    wh_event_reset(&store->sooner);
    return store->heap_len ? store->heap[0]->expires_ns : WH_NEVER;
}

void store_expire_all(struct store *store)
{
    int rc = 0;
    while (rc != -ECANCELED) {
        int64_t next_ns = expire_some(store);
        if (next_ns <= wh_now()) {
            wh_yield();
            continue;
        }
        WH_WITH_DEADLINE(next_ns)
        {
            rc = wh_event_wait(&store->sooner);
        }
    }
}
