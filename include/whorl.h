/*
 * whorl.h: all of whorl. The headers it includes are the manual.
 */
#ifndef WHORL_H
#define WHORL_H

#include <whorl/coro.h>
#include <whorl/ctx.h>
#include <whorl/io.h>
#include <whorl/net.h>
#include <whorl/run.h>
#include <whorl/stats.h>
#include <whorl/time.h>
#include <whorl/types.h>

#endif
