/*
 * list.h: the one list type: intrusive, circular, doubly linked.
 *
 * A head and a node are the same struct; an empty head and an unlinked node point at themselves.
 *
 *      head <-> a <-> b <-> c <-> (head)
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/base.h"

struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *node)
{
    node->next = node;
    node->prev = node;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

/* Links node, which must be unlinked or raw, before `where`: at the tail when that is a head. */
static inline void list_push_back(struct list *where, struct list *node)
{
    node->next = where;
    node->prev = where->prev;
    where->prev->next = node;
    where->prev = node;
}

static inline void list_push_front(struct list *head, struct list *node)
{
    list_push_back(head->next, node);
}

/* Unlinks node and leaves its own pointers as they were: for a node linked again or freed next. */
static inline void list_unlink(struct list *node)
{
    wh_assert_slow(node->next->prev == node && node->prev->next == node);
    node->next->prev = node->prev;
    node->prev->next = node->next;
}

static inline void list_remove(struct list *node)
{
    list_unlink(node);
    list_init(node);
}

static inline struct list *list_pop_front(struct list *head)
{
    struct list *node = head->next;
    wh_assert(node != head);
    list_unlink(node);
    return node;
}

/* Moves everything of `from` to the tail of `to`; `from` is empty afterwards. */
static inline void list_splice_back(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_for_each(node, head) \
    for (struct list *node = (head)->next; node != (head); node = node->next)

#endif
