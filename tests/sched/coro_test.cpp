/*
 * coro_test.cpp: the life of a coroutine: start, arguments, result, join, detach, name, stack.
 * (cancel_test.cpp: how it is asked to end.)
 */
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <map>
#include <set>
#include <vector>

extern "C" {
#include "sched/sched.h"
}

namespace
{

std::vector<int> order;

void note(int number)
{
    order.push_back(number);
}

bool is_parked(const wh_coro *coro)
{
    return coro->state == CORO_PARKED;
}

} // namespace

/* ---- Starting ---- */

TEST_CASE("coro: what was started runs in the order of starting, once its starter parks")
{
    order.clear();
    int rc = in_run([] {
        for (int i = 0; i < 100; i++)
            wh_go(note, i);
        CHECK(order.empty());
        wh_yield();
        CHECK(order.size() == 100);
    });
    CHECK(rc == 0);
    for (size_t i = 0; i < order.size(); i++)
        CHECK(order[i] == static_cast<int>(i));
}

TEST_CASE("coro: what was started runs when its starter parks, sleeps or ends, too")
{
    order.clear();
    in_run([] {
        wh_go(note, 1);
        wh_sleep(1);
        CHECK(order.size() == 1);
        start([] { wh_go(note, 2); });
        wh_coro *last = spawn([] { CHECK(order.size() == 1); });
        join(last); /* the inner one stands between its end and our waking */
        CHECK(order.size() == 2);
    });
}

TEST_CASE("coro: a loop variable is copied at the start")
{
    order.clear();
    in_run([] {
        for (int i = 0; i < 3; i++) {
            int twice = 2 * i;
            wh_go(note, twice++);
            twice = -1;
        }
        wh_yield();
    });
    CHECK(order == std::vector<int>{0, 2, 4});
}

namespace
{

struct Seen {
    int64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0;
    int count = -1;
} seen;

enum class Colour : short { RED = -3 };

void take0()
{
    seen.count = 0;
}
void take1(int a)
{
    seen = {a, 0, 0, 0, 0, 0, 1};
}
void take2(signed char a, const char *b)
{
    seen = {a, b ? b[0] : 0, 0, 0, 0, 0, 2};
}
void take3(size_t a, int64_t b, uint32_t c)
{
    seen = {static_cast<int64_t>(a), b, c, 0, 0, 0, 3};
}
void take4(bool a, short b, Colour c, void *d)
{
    seen = {a, b, static_cast<int64_t>(c), d == nullptr, 0, 0, 4};
}
void take5(unsigned char a, unsigned short b, long c, unsigned long d, char e)
{
    seen = {a, b, c, static_cast<int64_t>(d), e, 0, 5};
}
void take6(int a, int b, int c, int d, int e, int *f)
{
    seen = {a, b, c, d, e, *f, 6};
}

bool saw(int count, int64_t a = 0, int64_t b = 0, int64_t c = 0, int64_t d = 0, int64_t e = 0,
         int64_t f = 0)
{
    wh_yield();
    bool same = seen.count == count && seen.a == a && seen.b == b && seen.c == c && seen.d == d &&
                seen.e == e && seen.f == f;
    seen = Seen();
    return same;
}

} // namespace

TEST_CASE("coro: none to six arguments of any integer or pointer type arrive as given")
{
    in_run([] {
        int six = 6;
        bool right = wh_go(take0) == 0 && saw(0);
        CHECK(right);
        right = wh_go(take1, -1) == 0 && saw(1, -1);
        CHECK(right);
        right = wh_go(take1, INT32_MIN) == 0 && saw(1, INT32_MIN);
        CHECK(right);
        right = wh_go(take2, -128, "x") == 0 && saw(2, -128, 'x');
        CHECK(right);
        right = wh_go(take2, 127, nullptr) == 0 && saw(2, 127, 0);
        CHECK(right);
        right = wh_go(take3, SIZE_MAX, INT64_MIN, UINT32_MAX) == 0 &&
                saw(3, -1, INT64_MIN, INT64_C(0xffffffff));
        CHECK(right);
        right = wh_go(take4, true, -32768, Colour::RED, nullptr) == 0 && saw(4, 1, -32768, -3, 1);
        CHECK(right);
        right = wh_go(take5, 255, 65535, -5L, 5UL, 'c') == 0 && saw(5, 255, 65535, -5, 5, 'c');
        CHECK(right);
        right = wh_go(take6, 1, -2, 3, -4, 5, &six) == 0 && saw(6, 1, -2, 3, -4, 5, 6);
        CHECK(right);
    });
}

TEST_CASE("coro: an argument is converted to the parameter's type first, as in a plain call")
{
    in_run([] {
        /* A negative int for a 64-bit parameter, a wide one for a narrow parameter. */
        bool right = wh_go(take3, 1u, -7, 'a') == 0 && saw(3, 1, -7, 'a');
        CHECK(right);
        right = wh_go(take2, 0x1ff, "y") == 0 && saw(2, -1, 'y');
        CHECK(right);
        right = wh_go(take4, 256, 0x18000, Colour::RED, &seen) == 0 && saw(4, 1, -32768, -3, 0);
        CHECK(right);
    });
}

/* ---- Results ---- */

namespace
{

void give_nothing()
{
}
signed char give_i8(int a)
{
    return static_cast<signed char>(a);
}
unsigned char give_u8(int a)
{
    return static_cast<unsigned char>(a);
}
bool give_bool(int a)
{
    return a > 1;
}
short give_i16(int a)
{
    return static_cast<short>(a);
}
unsigned short give_u16(int a)
{
    return static_cast<unsigned short>(a);
}
int give_i32(int a)
{
    return a;
}
unsigned give_u32(int a)
{
    return static_cast<unsigned>(a);
}
int64_t give_i64(int64_t a)
{
    return a;
}
const char *give_pointer(const char *a)
{
    return a + 1;
}

template <typename F, typename... A> intptr_t result_of(F *fn, A... args)
{
    wh_coro *coro;
    intptr_t value = 12345;
    if (wh_spawn(&coro, nullptr, fn, args...) < 0 || wh_join(coro, &value) < 0)
        return 54321;
    return value;
}

} // namespace

TEST_CASE("coro: a result of every width comes through a join, widened with its sign")
{
    in_run([] {
        intptr_t value = result_of(give_nothing);
        CHECK(value == 0);
        for (int a : {-128, -1, 0, 1, 127, 200}) {
            value = result_of(give_i8, a);
            CHECK(value == static_cast<int8_t>(a));
            value = result_of(give_u8, a);
            CHECK(value == static_cast<int8_t>(a));
            value = result_of(give_bool, a);
            CHECK(value == (a > 1));
        }
        for (int a : {-32768, -1, 0, 1, 32767, 40000, INT32_MIN, INT32_MAX}) {
            value = result_of(give_i16, a);
            CHECK(value == static_cast<int16_t>(a));
            value = result_of(give_u16, a);
            CHECK(value == static_cast<int16_t>(a));
            value = result_of(give_i32, a);
            CHECK(value == a);
            value = result_of(give_u32, a);
            CHECK(value == a);
        }
        for (int64_t a : {INT64_MIN, INT64_C(-1), INT64_C(0), INT64_MAX}) {
            value = result_of(give_i64, a);
            CHECK(value == a);
        }
        const char *text = "text";
        value = result_of(give_pointer, text);
        CHECK(value == reinterpret_cast<intptr_t>(text + 1));
    });
}

/* ---- Join and detach ---- */

TEST_CASE("coro: a join waits for the end, and after the end it returns at once")
{
    in_run([] {
        bool ended = false;
        wh_coro *coro = spawn([&] {
            wh_sleep(WH_MILLISECOND);
            ended = true;
            return 7;
        });
        intptr_t value = join(coro);
        CHECK(ended);
        CHECK(value == 7);

        coro = spawn([] { return 8; });
        wh_yield();
        value = join(coro);
        CHECK(value == 8);

        coro = spawn([] { return 9; });
        int rc = wh_join(coro, nullptr);
        CHECK(rc == 0);
    });
}

TEST_CASE("coro: joining one that was joined or detached aborts with the caller's name")
{
    for (bool detached : {false, true}) {
        ChildEnd end = in_child([detached] {
            return in_run([detached] {
                wh_coro *coro = spawn([] { wh_yield(); });
                if (detached)
                    wh_detach(coro);
                else
                    join(coro);
                (void)wh_join(coro, nullptr);
            });
        });
        INFO(end.how());
        CHECK(end.killed_by(SIGABRT));
        CHECK(end.said.find("wh_join") != std::string::npos);
        CHECK(end.said.find("root #1") != std::string::npos);
    }
}

TEST_CASE("coro: a join that times out leaves the handle valid, and it can be joined again")
{
    in_run([] {
        wh_coro *coro = spawn([] {
            wh_sleep(20 * WH_MILLISECOND);
            return 3;
        });
        intptr_t value = -1;
        int rc = 0;
        for (int i = 0; i < 3; i++) {
            WH_WITH_TIMEOUT(100 * WH_MICROSECOND)
            {
                rc = wh_join(coro, &value);
            }
            CHECK(rc == -ETIMEDOUT);
            CHECK(value == -1);
        }
        value = join(coro);
        CHECK(value == 3);
    });
}

TEST_CASE("coro: a join that is cancelled leaves the handle valid for someone else")
{
    in_run([] {
        wh_coro *child = spawn([] {
            wh_sleep(5 * WH_MILLISECOND);
            return 4;
        });
        int rc = 0;
        wh_coro *joiner = spawn([&] { rc = wh_join(child, nullptr); });
        wh_yield();
        wh_cancel(joiner);
        join(joiner);
        CHECK(rc == -ECANCELED);
        intptr_t value = join(child);
        CHECK(value == 4);
    });
}

TEST_CASE("coro: a coroutine cannot join itself, and its handle stays good")
{
    in_run([] {
        wh_coro *coro = nullptr;
        int rc = 0;
        coro = spawn([&] { rc = wh_join(coro, nullptr); });
        intptr_t value = join(coro);
        CHECK(rc == -EDEADLK);
        CHECK(value == 0);
    });
}

TEST_CASE("coro: a second joiner is told -EBUSY and the first one gets the result")
{
    in_run([] {
        wh_coro *coro = spawn([] {
            wh_sleep(2 * WH_MILLISECOND);
            return 5;
        });
        intptr_t value = 0;
        wh_coro *first = spawn([&] { value = join(coro); });
        wh_yield();
        int rc = wh_join(coro, nullptr);
        CHECK(rc == -EBUSY);
        join(first);
        CHECK(value == 5);
    });
}

TEST_CASE("coro: a second joiner is told -EBUSY also between the end and the first one's waking")
{
    in_run([] {
        wh_coro *coro = spawn([] { return 6; });
        intptr_t value = 0;
        int rc = 0;
        wh_coro *first = spawn([&] { value = join(coro); });
        wh_yield(); /* coro has ended already: first gets it */
        join(first);
        CHECK(value == 6);

        /* The second stands in the run queue before the first, who is woken by the end. */
        Turns turn;
        bool go = false;
        coro = spawn([&] {
            while (!go)
                wh_yield();
            return 7;
        });
        first = spawn([&] { value = join(coro); });
        wh_yield();
        CHECK(is_parked(first));
        go = true;
        wh_coro *second = spawn([&] {
            while (coro->state != CORO_DEAD)
                wh_yield();
            rc = wh_join(coro, nullptr);
        });
        while (coro->state != CORO_DEAD)
            wh_yield();
        join(second);
        join(first);
        CHECK(value == 7);
        CHECK(rc == -EBUSY);
    });
}

TEST_CASE("coro: a detached coroutine runs on and gives everything back by itself")
{
    in_run([] {
        wh_stats before, after;
        wh_stats_get(&before);
        bool ended = false;
        wh_coro *early = spawn([&] {
            wh_sleep(WH_MILLISECOND);
            ended = true;
        });
        wh_detach(early);
        while (!ended)
            wh_sleep(WH_MILLISECOND);

        wh_coro *late = spawn([] {});
        wh_yield();
        CHECK(late->state == CORO_DEAD);
        wh_detach(late);
        CHECK(late->state == CORO_FREE);
        wh_stats_get(&after);
        CHECK(after.coros_live == before.coros_live);
        CHECK(after.stacks_in_use == before.stacks_in_use);
    });
}

TEST_CASE("coro: joining or detaching a handle twice aborts with a message")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            wh_coro *coro = spawn([] {});
            join(coro);
            wh_detach(coro);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(lines_of(end.said) >= 1);
}

TEST_CASE("coro: detaching what another coroutine is joining aborts and does not lose the joiner")
{
    ChildEnd end = in_child([] {
        return in_run([] {
            wh_coro *coro = spawn([] { wh_sleep(WH_MILLISECOND); });
            wh_coro *joiner = spawn([&] { wh_join(coro, nullptr); });
            wh_yield();
            wh_detach(coro);
            join(joiner);
        });
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
}

/* ---- Who ---- */

TEST_CASE("coro: wh_self is the running coroutine, and NULL outside of a run")
{
    CHECK(wh_self() == nullptr);
    in_run([] {
        wh_coro *root = wh_self();
        CHECK(root != nullptr);
        wh_coro *inside = nullptr;
        wh_coro *coro = spawn([&] {
            inside = wh_self();
            wh_yield();
            CHECK(wh_self() == inside);
        });
        join(coro);
        CHECK(inside == coro);
        CHECK(wh_self() == root);
    });
    CHECK(wh_self() == nullptr);
}

TEST_CASE("coro: numbers start with the root's 1 and no two are alike")
{
    in_run([] {
        CHECK(wh_id(wh_self()) == 1);
        std::set<uint32_t> ids;
        for (int i = 0; i < 1000; i++) {
            wh_coro *coro = spawn([] {});
            ids.insert(wh_id(coro));
            join(coro);
        }
        CHECK(ids.size() == 1000);
        CHECK(*ids.begin() == 2);
        CHECK(*ids.rbegin() == 1001);
    });
}

TEST_CASE("coro: a name is the function's, the one of the options, or what it calls itself")
{
    in_run([] {
        std::string name;
        wh_coro *coro;
        wh_spawn(&coro, nullptr, give_i32, 1);
        CHECK(std::string(wh_name(coro)) == "give_i32");
        join(coro);

        char given[] = "worker";
        wh_spawn_options options = {given, 0};
        wh_spawn(&coro, &options, give_i32, 1);
        given[0] = 'X'; /* it was copied */
        CHECK(std::string(wh_name(coro)) == "worker");
        join(coro);

        coro = spawn([&] {
            int rc = wh_name_set("renamed");
            CHECK(rc == 0);
            name = wh_name(wh_self());
        });
        join(coro);
        CHECK(name == "renamed");

        const std::string longest(31, 'n');
        wh_spawn_options longer = {"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", 0};
        wh_spawn(&coro, &longer, give_i32, 1);
        CHECK(wh_name(coro) == longest);
        join(coro);
    });
}

TEST_CASE("coro: a place that starts coroutines is visited with its name and its count")
{
    in_run([] {
        for (int i = 0; i < 5; i++) {
            wh_coro *coro;
            wh_spawn(&coro, nullptr, give_u32, 1);
            join(coro);
        }
        uint64_t started = 0;
        auto visit = [](const struct wh_site *site, void *arg) {
            if (!strcmp(site->function, "give_u32") && strstr(site->file, "coro_test")) {
                CHECK(site->args == 1);
                CHECK(site->ret_size == 4);
                CHECK(site->stack_depth_max % 4096 == 0);
                *static_cast<uint64_t *>(arg) += site->started;
            }
        };
        wh_sites_visit(visit, &started);
        CHECK(started == 5);
    });
}

/* ---- Stacks ---- */

namespace
{

/* Touches that much of the stack. */
__attribute__((noinline)) int use_stack(size_t bytes)
{
    volatile char page[4096];
    page[0] = static_cast<char>(bytes);
    page[4095] = 1;
    int below = bytes > sizeof page ? use_stack(bytes - sizeof page) : 0;
    return below + page[4095];
}

} // namespace

TEST_CASE("coro: the stack is as large as the class that was asked for")
{
    if (WITH_ASAN)
        SKIP("AddressSanitizer widens every frame");
    in_run([] {
        for (size_t bytes : {size_t(16) << 10, size_t(64) << 10, size_t(256) << 10, size_t(1) << 20,
                             size_t(8) << 20}) {
            wh_coro *coro;
            wh_spawn_options options = {nullptr, bytes - 100}; /* rounded up */
            int rc = wh_spawn(&coro, &options, use_stack, bytes * 3 / 4 - 4096);
            CHECK(rc == 0);
            intptr_t pages = join(coro);
            CHECK(pages >= static_cast<intptr_t>(bytes / 4096 / 2));
        }
    });
}

TEST_CASE("coro: a stack larger than the largest class is -EINVAL and the handle is left alone")
{
    in_run([] {
        wh_coro *const untouched = wh_self();
        wh_coro *coro = untouched;
        wh_spawn_options options = {nullptr, (size_t(8) << 20) + 1};
        int rc = wh_spawn(&coro, &options, give_nothing);
        CHECK(rc == -EINVAL);
        CHECK(coro == untouched);
        options.stack_bytes = SIZE_MAX;
        rc = wh_spawn(&coro, &options, give_nothing);
        CHECK(rc == -EINVAL);
        CHECK(coro == untouched);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_started == 1);
    });
}

/* ---- Yield ---- */

TEST_CASE("coro: yielding goes round robin")
{
    constexpr int COROS = 7, ROUNDS = 500;
    std::vector<int> ran;
    in_run([&] {
        std::vector<wh_coro *> coros;
        for (int i = 0; i < COROS; i++)
            coros.push_back(spawn([&ran, i] {
                for (int round = 0; round < ROUNDS; round++) {
                    ran.push_back(i);
                    wh_yield();
                }
            }));
        for (wh_coro *coro : coros)
            join(coro);
    });
    CHECK(ran.size() == COROS * ROUNDS);
    int out_of_turn = 0;
    for (size_t i = 0; i < ran.size(); i++)
        out_of_turn += ran[i] != static_cast<int>(i % COROS);
    CHECK(out_of_turn == 0);
}

TEST_CASE("coro: yielding alone returns, and lets nothing starve")
{
    in_run([] {
        bool timer_came = false;
        start([&] {
            wh_sleep(WH_MILLISECOND);
            timer_came = true;
        });
        int64_t limit_ns = wh_now() + 30 * WH_SECOND;
        while (!timer_came && wh_now() < limit_ns)
            wh_yield();
        CHECK(timer_came);
    });
}

TEST_CASE("coro: a tree of coroutines, each joining its children, gives the right sum")
{
    struct Tree {
        static intptr_t sum(int depth)
        {
            if (!depth)
                return 1;
            wh_coro *left, *right;
            if (wh_spawn(&left, nullptr, sum, depth - 1) < 0)
                return -1000000;
            if (wh_spawn(&right, nullptr, sum, depth - 1) < 0) {
                wh_detach(left);
                return -1000000;
            }
            return join(left) + join(right);
        }
    };
    int rc = in_run([] { return static_cast<int>(Tree::sum(12)); });
    CHECK(rc == 4096);
}
