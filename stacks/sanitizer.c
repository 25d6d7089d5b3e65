/*
 * sanitizer.c: the fibers that ThreadSanitizer knows coroutines by, kept for the next ones.
 */
#include "stacks/sanitizer.h"

#ifdef WHORL_TSAN

enum { FIBERS_KEPT = 1024 };

static __thread void *kept[FIBERS_KEPT];
static __thread unsigned kept_count;

void *sanitizer_fiber_take(void)
{
    return kept_count ? kept[--kept_count] : __tsan_create_fiber(0);
}

/* It may be the running one, which cannot be destroyed: of too many, another one goes. */
void sanitizer_fiber_give(void *fiber)
{
    if (kept_count == FIBERS_KEPT)
        __tsan_destroy_fiber(kept[--kept_count]);
    kept[kept_count++] = fiber;
}

void sanitizer_fibers_finish(void)
{
    while (kept_count)
        __tsan_destroy_fiber(kept[--kept_count]);
}

#endif
