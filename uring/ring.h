/*
 * ring.h: what of the io_uring engine is not common to all engines.
 */
#ifndef URING_RING_H
#define URING_RING_H

#include "uring/caps.h"
#include "uring/engine.h"

/* The kernel features that the ring uses. */
void ring_caps(const struct engine *engine, struct caps *ret_caps);

#endif
