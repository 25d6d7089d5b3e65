/*
 * caps.h: what this kernel can do, found out once by trying. No kernel version is compared
 * anywhere.
 *
 * WHORL_MASK in the environment (names separated by commas) hides features that are there.
 */
#ifndef URING_CAPS_H
#define URING_CAPS_H

#include "base/base.h"

/*      field             name              what for                                        since */
#define CAPS(X)                                                                                    \
    X(single_issuer, "single_issuer") /* one thread submits: no locking of the ring        6.0 */  \
    X(defer_taskrun, "defer_taskrun") /* completions are posted when we ask, in a batch    6.1 */  \
    X(taskrun_flag, "taskrun_flag")   /* tells without a call that there is work           5.19 */ \
    X(no_sqarray, "no_sqarray")       /* no indirection in the submission queue            6.6 */  \
    X(ring_fd, "ring_fd")             /* the ring's own descriptor registered              5.18 */ \
    X(ext_arg, "ext_arg")             /* a timeout for the wait itself                     5.11 */ \
    X(abs_timer, "abs_timer")         /* ... as an absolute time                           6.12 */ \
    X(cqe_skip, "cqe_skip")           /* a successful cancel needs no completion           5.17 */ \
    X(no_iowait, "no_iowait")         /* a sleeping ring does not show as I/O wait         6.15 */ \
    X(waitid, "waitid")               /* waits for a child in the ring                     6.7 */  \
    X(ftruncate, "ftruncate")         /* sets a file's length in the ring                  6.9 */  \
    X(msg_sync, "msg_sync")           /* a message that wakes a ring, from any thread      6.13 */ \
    X(buffer_ring, "buffer_ring")     /* buffers that the kernel picks, in shared memory   5.19 */ \
    X(direct, "direct")               /* descriptors of the ring's own                     5.19 */ \
    X(splice, "splice")               /* moves bytes without the program (pipe to pipe)    2.6 */  \
    X(udp_gso, "udp_gso")             /* cuts what is sent into datagrams (udp(7))         4.18 */ \
    X(udp_gro, "udp_gro")             /* hands several over in one piece                   5.0 */  \
    X(guard, "guard")                 /* guard regions without mappings (stacks)           6.13 */

struct caps {
#define CAPS_FIELD(field, name) bool field;
    CAPS(CAPS_FIELD)
#undef CAPS_FIELD
};

/* Whether WHORL_MASK names the feature. */
bool caps_masked(const char *name);

/* Fills in splice, udp_gso and udp_gro alone. */
void caps_probe_others(struct caps *caps);

/* Says which names in WHORL_MASK are no feature's. */
void caps_check_mask(void);

/* Writes the names of the features that are there into buf, separated by spaces; as snprintf(3). */
int caps_print(const struct caps *caps, char *buf, size_t size);

#endif
