/*
 * linux/blkdev.h: what liburing/compat.h wants of a header that the headers of older kernels lack.
 */
#ifndef BASE_COMPAT_LINUX_BLKDEV_H
#define BASE_COMPAT_LINUX_BLKDEV_H

#include <linux/ioctl.h>

#ifndef BLOCK_URING_CMD_DISCARD
#define BLOCK_URING_CMD_DISCARD _IO(0x12, 0)
#endif

#endif
