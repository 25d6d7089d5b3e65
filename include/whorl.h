/*
 * whorl.h: all of whorl. The headers it includes are the manual.
 */
#ifndef WHORL_H
#define WHORL_H

#include <whorl/addr.h>
#include <whorl/blocking.h>
#include <whorl/chan.h>
#include <whorl/conn.h>
#include <whorl/conn_pool.h>
#include <whorl/copy.h>
#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/fs.h>
#include <whorl/group.h>
#include <whorl/io.h>
#include <whorl/net.h>
#include <whorl/process.h>
#include <whorl/resolve.h>
#include <whorl/run.h>
#include <whorl/runtime.h>
#include <whorl/select.h>
#include <whorl/serve.h>
#include <whorl/signal.h>
#include <whorl/stats.h>
#include <whorl/sync.h>
#include <whorl/time.h>
#include <whorl/timer.h>
#include <whorl/types.h>
#include <whorl/udp.h>
#include <whorl/unix.h>
#include <whorl/watch.h>

#endif
