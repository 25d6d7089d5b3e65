/*
 * from_c.c: the macros of the public headers as C expands them (from_c.h).
 */
#include "from_c.h"

#include <whorl.h>

#include <string.h>

#define HOLDS(condition)     \
    do {                     \
        if (!(condition))    \
            return __LINE__; \
    } while (0)

enum colour { RED = -3, GREEN = 70000 };

static struct {
    int count;
    long long a, b, c, d, e, f;
    const void *p;
} seen;

static void take0(void)
{
    seen.count = 1;
}
static void take1(int a)
{
    seen.count = 2;
    seen.a = a;
}
static void take2(long a, const char *b)
{
    seen.count = 3;
    seen.a = a;
    seen.p = b;
}
static void take3(size_t a, unsigned b, int64_t c)
{
    seen.count = 4;
    seen.a = (long long)a;
    seen.b = b;
    seen.c = c;
}
static void take4(enum colour a, void *b, wh_fd c, uint64_t d)
{
    seen.count = 5;
    seen.a = a;
    seen.p = b;
    seen.c = c;
    seen.d = (long long)d;
}
static void take6(int a, int b, int c, int d, int e, int f)
{
    seen.count = 7;
    seen.a = a;
    seen.b = b;
    seen.c = c;
    seen.d = d;
    seen.e = e;
    seen.f = f;
}
static void take5(void (*a)(void), int *b, short *c, ssize_t d, uintptr_t e)
{
    seen.count = 6;
    seen.a = a == take0;
    seen.b = *b;
    seen.c = *c;
    seen.d = d;
    seen.e = (long long)e;
}

int c_arguments_arrive(void *arg)
{
    int number = -17;
    short narrow = -5;
    signed char small = -100;
    (void)arg;

    HOLDS(wh_go(take0) == 0);
    wh_yield();
    HOLDS(seen.count == 1);

    const int values[] = {0, 1, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        HOLDS(wh_go(take1, values[i]) == 0);
        wh_yield();
        HOLDS(seen.count == 2 && seen.a == values[i]);
    }
    HOLDS(wh_go(take1, small) == 0);
    wh_yield();
    HOLDS(seen.a == -100);
    HOLDS(wh_go(take1, (unsigned short)65535) == 0);
    wh_yield();
    HOLDS(seen.a == 65535);
    HOLDS(wh_go(take1, 'c') == 0);
    wh_yield();
    HOLDS(seen.a == 'c');

    HOLDS(wh_go(take2, -1, "text") == 0); /* an int for a long */
    wh_yield();
    HOLDS(seen.count == 3 && seen.a == -1 && !strcmp(seen.p, "text"));
    HOLDS(wh_go(take2, INT64_MIN, NULL) == 0);
    wh_yield();
    HOLDS(seen.a == INT64_MIN && !seen.p);

    HOLDS(wh_go(take3, SIZE_MAX, UINT32_MAX, -5) == 0);
    wh_yield();
    HOLDS(seen.count == 4 && seen.a == -1 && seen.b == UINT32_MAX && seen.c == -5);
    HOLDS(wh_go(take3, 4096, 7, INT64_MAX) == 0);
    wh_yield();
    HOLDS(seen.a == 4096 && seen.b == 7 && seen.c == INT64_MAX);

    HOLDS(wh_go(take4, RED, &number, -1, 1) == 0);
    wh_yield();
    HOLDS(seen.count == 5 && seen.a == RED && seen.p == &number && seen.c == -1 && seen.d == 1);
    HOLDS(wh_go(take4, GREEN, NULL, 3, UINT64_MAX) == 0);
    wh_yield();
    HOLDS(seen.a == GREEN && !seen.p && seen.c == 3 && seen.d == -1);

    HOLDS(wh_go(take5, take0, &number, &narrow, -2, 99) == 0);
    wh_yield();
    HOLDS(seen.count == 6 && seen.a && seen.b == -17 && seen.c == -5 && seen.d == -2);
    HOLDS(seen.e == 99);

    HOLDS(wh_go(take6, 1, -2, 3, -4, 5, -6) == 0);
    wh_yield();
    HOLDS(seen.count == 7 && seen.a == 1 && seen.b == -2 && seen.c == 3);
    HOLDS(seen.d == -4 && seen.e == 5 && seen.f == -6);
    return 0;
}

static signed char give_i8(int a)
{
    return (signed char)a;
}
static unsigned char give_u8(int a)
{
    return (unsigned char)a;
}
static _Bool give_bool(int a)
{
    return a > 1;
}
static short give_i16(int a)
{
    return (short)a;
}
static int give_i32(int a)
{
    return a;
}
static long give_i64(long a)
{
    return a;
}
static const char *give_pointer(const char *a)
{
    return a;
}

#define RESULT(fn, arg)                                                         \
    __extension__({                                                             \
        wh_coro *coro_;                                                         \
        intptr_t value_ = 12345;                                                \
        if (wh_spawn(&coro_, NULL, fn, arg) < 0 || wh_join(coro_, &value_) < 0) \
            return __LINE__;                                                    \
        value_;                                                                 \
    })

int c_results_come_back(void *arg)
{
    wh_coro *coro;
    intptr_t value = 12345;
    (void)arg;
    HOLDS(wh_spawn(&coro, NULL, take0) == 0);
    HOLDS(wh_join(coro, &value) == 0);
    HOLDS(value == 0);
    HOLDS(RESULT(give_i8, -100) == -100);
    HOLDS(RESULT(give_u8, 200) == (signed char)200);
    HOLDS(RESULT(give_bool, 5) == 1);
    HOLDS(RESULT(give_bool, 0) == 0);
    HOLDS(RESULT(give_i16, -30000) == -30000);
    HOLDS(RESULT(give_i32, INT32_MIN) == INT32_MIN);
    HOLDS(RESULT(give_i32, -1) == -1);
    HOLDS(RESULT(give_i64, INT64_MIN) == INT64_MIN);
    HOLDS(RESULT(give_pointer, "p") != 0);
    const char *text = "text";
    HOLDS(RESULT(give_pointer, text) == (intptr_t)text);
    return 0;
}

static int chosen;

static void (*choose(void))(int)
{
    chosen++;
    return take1;
}

int c_arguments_are_evaluated_once(void *arg)
{
    int i = 5;
    wh_coro *coros[2];
    wh_coro **next = coros;
    (void)arg;
    HOLDS(wh_go(take1, i++) == 0);
    HOLDS(i == 6);
    wh_yield();
    HOLDS(seen.a == 5);
    HOLDS(wh_go(choose(), ++i) == 0);
    HOLDS(i == 7 && chosen == 1);
    wh_yield();
    HOLDS(seen.a == 7);
    HOLDS(wh_spawn(next++, NULL, take0) == 0);
    HOLDS(wh_spawn(next++, NULL, take0) == 0);
    HOLDS(next == coros + 2);
    HOLDS(wh_join(coros[0], NULL) == 0 && wh_join(coros[1], NULL) == 0);
    return 0;
}

static void visit(const struct wh_site *site, void *arg)
{
    if (!strcmp(site->function, "give_i64") && strstr(site->file, "from_c.c"))
        *(int *)arg += site->args == 1 && site->ret_size == sizeof(long) && site->line > 0;
    if (!strcmp(site->function, "take6") && strstr(site->file, "from_c.c"))
        *(int *)arg += 10 * (site->args == 6 && site->ret_size == 0);
}

int c_sites_name_the_call(void *arg)
{
    wh_coro *coro;
    int found = 0;
    (void)arg;
    HOLDS(wh_go(take6, 1, 2, 3, 4, 5, 6) == 0);
    HOLDS(wh_spawn(&coro, NULL, give_i64, 5) == 0);
    HOLDS(!strcmp(wh_name(coro), "give_i64"));
    HOLDS(wh_join(coro, NULL) == 0);
    wh_sites_visit(visit, &found);
    HOLDS(found % 10 >= 1 && found / 10 >= 1);
    return 0;
}

static int leave_by_return(void)
{
    WH_WITH_TIMEOUT(WH_HOUR)
    {
        if (wh_deadline() != WH_NEVER)
            return 5;
    }
    return 6;
}

int c_blocks_end(void *arg)
{
    int rounds = 0;
    (void)arg;
    WH_WITH_TIMEOUT(WH_HOUR)
    {
        HOLDS(wh_deadline() < wh_now() + WH_HOUR + WH_SECOND);
        WH_WITH_DEADLINE(1000)
        {
            HOLDS(wh_deadline() == 1000);
            break;
        }
        HOLDS(wh_deadline() > 1000);
    }
    HOLDS(wh_deadline() == WH_NEVER);
    HOLDS(leave_by_return() == 5);
    HOLDS(wh_deadline() == WH_NEVER);
    WH_WITH_TIMEOUT(1)
    {
        rounds++;
        continue;
    }
    HOLDS(rounds == 1);
    WH_WITH_TIMEOUT(1)
    {
        WH_WITH_TIMEOUT(2)
        {
            goto out;
        }
    }
    return __LINE__;
out:
    HOLDS(wh_deadline() == WH_NEVER);
    if (rounds == 1)
        wh_go(take0);
    else
        wh_go(take1, 1);
    wh_yield();
    HOLDS(seen.count == 1);
    return 0;
}
