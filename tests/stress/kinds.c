/*
 * kinds.c: the table of kinds. A new kind is a file, or a part of one, with a struct kind at its
 * end, and two lines here.
 */
#include "stress.h"

extern const struct kind exchange_kind;
extern const struct kind pipeline_kind;
extern const struct kind select_kind;
extern const struct kind mutex_kind;
extern const struct kind rwlock_kind;
extern const struct kind cond_kind;
extern const struct kind turns_kind;
extern const struct kind patience_kind;
extern const struct kind sem_kind;
extern const struct kind once_kind;
extern const struct kind waitgroup_kind;
extern const struct kind event_kind;
extern const struct kind barrier_kind;
extern const struct kind pool_kind;
extern const struct kind group_kind;
extern const struct kind tree_kind;
extern const struct kind after_kind;
extern const struct kind shield_kind;
extern const struct kind swarm_kind;
extern const struct kind locals_kind;
extern const struct kind victims_kind;
extern const struct kind stream_kind;
extern const struct kind close_kind;
extern const struct kind listener_kind;
extern const struct kind sleep_kind;
extern const struct kind timer_kind;
extern const struct kind hog_kind;
extern const struct kind blocking_kind;

const struct kind *const kinds[] = {
    &exchange_kind, &pipeline_kind, &select_kind,  &mutex_kind,    &rwlock_kind,    &cond_kind,
    &turns_kind,    &patience_kind, &sem_kind,     &once_kind,     &waitgroup_kind, &event_kind,
    &barrier_kind,  &pool_kind,     &group_kind,   &tree_kind,     &after_kind,     &shield_kind,
    &swarm_kind,    &locals_kind,   &victims_kind, &stream_kind,   &close_kind,     &listener_kind,
    &sleep_kind,    &timer_kind,    &hog_kind,     &blocking_kind,
};

const int kinds_count = COUNT_OF(kinds);
_Static_assert(COUNT_OF(kinds) <= KINDS_MAX, "a round has room for fewer kinds");
