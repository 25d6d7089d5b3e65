/*
 * local_test.cpp: coroutine-local storage.
 *
 * Keys are the process's and are never given back, so the cases share a few, and the one that uses
 * them up runs in a child.
 */
#include "tests/base/child.hpp"
#include "tests/sched/in_run.hpp"

#include <catch2/catch_test_macros.hpp>

#include <vector>

namespace
{

std::vector<int *> destroyed;

void note_destroyed(void *value)
{
    destroyed.push_back(static_cast<int *>(value));
}

wh_key plain_key()
{
    static const wh_key key = [] {
        wh_key made = 0;
        wh_key_create(&made, nullptr);
        return made;
    }();
    return key;
}

wh_key noting_key()
{
    static const wh_key key = [] {
        wh_key made = 0;
        wh_key_create(&made, note_destroyed);
        return made;
    }();
    return key;
}

wh_key chained;

/* Leaves something for a key that was looked at before. */
void set_earlier(void *value)
{
    wh_local_set(noting_key(), value);
}

void park_a_while(void *value)
{
    int *steps = static_cast<int *>(value);
    if (wh_sleep(WH_MILLISECOND) == 0)
        ++*steps;
    wh_yield();
    ++*steps;
}

} // namespace

TEST_CASE("local: a value is NULL at first and belongs to one coroutine")
{
    in_run([] {
        int a, b;
        wh_key key = plain_key();
        CHECK(wh_local_get(key) == nullptr);
        int rc = wh_local_set(key, &a);
        CHECK(rc == 0);
        wh_coro *coro = spawn([&] {
            CHECK(wh_local_get(key) == nullptr);
            wh_local_set(key, &b);
            wh_yield();
            CHECK(wh_local_get(key) == &b);
        });
        wh_yield();
        CHECK(wh_local_get(key) == &a);
        join(coro);
        CHECK(wh_local_get(key) == &a);
    });
}

TEST_CASE("local: a value does not outlive its coroutine, also when its memory is used again")
{
    in_run([] {
        wh_key key = plain_key();
        for (int i = 0; i < 100; i++) {
            wh_coro *coro = spawn([&] {
                CHECK(wh_local_get(key) == nullptr);
                wh_local_set(key, &key);
            });
            join(coro);
        }
    });
}

TEST_CASE("local: the destructor gets each value that is not NULL, once, when its coroutine ends")
{
    destroyed.clear();
    int values[3];
    in_run([&] {
        wh_key key = noting_key();
        for (int &value : values)
            start([&value, key] {
                wh_local_set(key, nullptr);
                wh_local_set(key, &value);
                wh_sleep(WH_MILLISECOND);
                CHECK(destroyed.empty());
                wh_yield();
                wh_yield();
            });
        start([key] {
            int value;
            wh_local_set(key, &value);
            wh_local_set(key, nullptr);
        });
        wh_yield();
        CHECK(destroyed.empty());
    });
    CHECK(destroyed == std::vector<int *>{&values[0], &values[1], &values[2]});
}

TEST_CASE("local: the root's values are destroyed too")
{
    destroyed.clear();
    int value;
    in_run([&] { wh_local_set(noting_key(), &value); });
    CHECK(destroyed == std::vector<int *>{&value});
}

TEST_CASE("local: a destructor may park, and a join waits for it")
{
    wh_key key;
    int rc = wh_key_create(&key, park_a_while);
    CHECK(rc == 0);
    in_run([&] {
        int steps = 0;
        wh_coro *coro = spawn([&] {
            wh_local_set(key, &steps);
            return 9;
        });
        intptr_t value = join(coro);
        CHECK(value == 9);
        CHECK(steps == 2);

        /* Of a cancelled coroutine too; its sleep fails then. */
        steps = 0;
        coro = spawn([&] {
            wh_local_set(key, &steps);
            wh_sleep(WH_HOUR);
        });
        wh_yield();
        wh_cancel(coro);
        join(coro);
        CHECK(steps == 1);
    });
}

TEST_CASE("local: what a destructor sets for another key is destroyed as well")
{
    destroyed.clear();
    noting_key(); /* made first, so looked at first */
    int rc = wh_key_create(&chained, set_earlier);
    CHECK(rc == 0);
    int value;
    in_run([&] {
        wh_coro *coro = spawn([&] { wh_local_set(chained, &value); });
        join(coro);
    });
    CHECK(destroyed == std::vector<int *>{&value});
}

TEST_CASE("local: a name and values do not get in each other's way")
{
    in_run([] {
        int value;
        wh_spawn_options options = {"named", 0};
        wh_coro *coro = spawn(
            [&] {
                CHECK(wh_local_get(plain_key()) == nullptr);
                wh_local_set(plain_key(), &value);
                CHECK(std::string(wh_name(wh_self())) == "named");
                wh_name_set("renamed");
                CHECK(wh_local_get(plain_key()) == &value);
            },
            &options);
        join(coro);
    });
}

TEST_CASE("local: there are WH_KEYS_MAX keys in a process and then -EAGAIN")
{
    ChildEnd end = in_child([] {
        wh_key key = 12345;
        int made = 0;
        while (wh_key_create(&key, nullptr) == 0 && made < 1000)
            made++;
        wh_key last = key;
        CHILD_REQUIRE(wh_key_create(&key, nullptr) == -EAGAIN);
        CHILD_REQUIRE(key == last);
        CHILD_REQUIRE(key == WH_KEYS_MAX - 1);
        return in_run([&] {
            int value;
            return wh_local_set(last, &value) == 0 && wh_local_get(last) == &value ? 33 : 1;
        });
    });
    INFO(end.how());
    CHECK(end.exited(33));
}

TEST_CASE("local: a key that was never made aborts with a message")
{
    ChildEnd end =
        in_child([] { return in_run([] { return wh_local_set(WH_KEYS_MAX, nullptr); }); });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(lines_of(end.said) == 1);
}
