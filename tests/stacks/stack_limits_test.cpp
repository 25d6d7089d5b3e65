/*
 * stack_limits_test.cpp: very many stacks, and what happens where there can be no more: a clear
 * error, said once, and everything there is goes on working.
 */
#include "tests/base/child.hpp"
#include "tests/stacks/memory.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>
#include <fstream>
#include <random>
#include <vector>

extern "C" {
#include "stacks/stacks.h"
}

namespace
{

constexpr int KIB_256 = 2, MIB_8 = 4;

int some_owner;

/* Reserves and takes until it fails; returns what that said. */
int take_all(struct stack_pool *pool, int size_class, std::vector<struct stack *> &stacks,
             size_t most)
{
    while (stacks.size() < most) {
        int rc = stack_reserve(pool, size_class);
        if (rc < 0)
            return rc;
        stacks.push_back(stack_take(pool, size_class, &some_owner));
    }
    return 0;
}

/* Writes to both ends of some of the stacks and sees that each keeps what is its own. */
bool usable(const struct stack_pool *pool, const std::vector<struct stack *> &stacks)
{
    for (size_t i = 0; i < stacks.size(); i += 1 + stacks.size() / 1000) {
        memcpy(stack_bottom(pool, stacks[i]), &i, sizeof i);
        memcpy(stacks[i]->top - sizeof i, &i, sizeof i);
    }
    for (size_t i = 0; i < stacks.size(); i += 1 + stacks.size() / 1000)
        if (memcmp(stack_bottom(pool, stacks[i]), &i, sizeof i) != 0 ||
            memcmp(stacks[i]->top - sizeof i, &i, sizeof i) != 0)
            return false;
    return true;
}

long max_map_count()
{
    std::ifstream file("/proc/sys/vm/max_map_count");
    long count = 0;
    file >> count;
    return count;
}

} // namespace

TEST_CASE("stacks: a hundred thousand guarded by madvise are a few mappings")
{
    if (!stack_guard_probe()) {
        WARN("this kernel has no guard regions: not tested");
        return;
    }
    size_t before = mappings();
    struct stack_pool pool;
    stack_pool_init(&pool, 0, SIZE_MAX, nullptr, true);
    std::vector<struct stack *> stacks;
    stacks.reserve(100000);
    REQUIRE(take_all(&pool, KIB_256, stacks, 100000) == 0);
    size_t added = mappings() - before;
    INFO("mappings added: " << added);
    CHECK(added < 60);
    CHECK(usable(&pool, stacks));

    /* Guards are there, also after memory was touched and given back. */
    std::mt19937 random(1);
    for (int i = 0; i < 20; i++) {
        struct stack *stack = stacks[random() % stacks.size()];
        char *bottom = stack_bottom(&pool, stack);
        CHECK(stack_of_guard(&pool, bottom - 1) == stack);
        /* The kernel's own access says it without dying of it. */
        unsigned char byte = 0;
        int fds[2];
        REQUIRE(pipe(fds) == 0);
        REQUIRE(write(fds[1], &byte, 1) == 1);
        CHECK(read(fds[0], bottom - 1, 1) == -1);
        CHECK(errno == EFAULT);
        CHECK(read(fds[0], bottom, 1) == 1);
        close(fds[0]);
        close(fds[1]);
    }
    stack_pool_validate(&pool);

    for (auto *stack : stacks)
        stack_give(&pool, stack);
    for (int round = 0; round < 20; round++) {
        stack_pool_tidy(&pool);
        while (stack_pool_give_back(&pool, 10000))
            ;
    }
    stack_pool_validate(&pool);
    CHECK(stack_pool_resident_bytes(&pool) == 0);
    CHECK(mappings() - before < 60);
    stack_pool_finish(&pool);
    CHECK(mappings() <= before + 4);
}

TEST_CASE("stacks: guarded by mprotect, vm.max_map_count is a clear error and no more")
{
    long limit = max_map_count();
    REQUIRE(limit > 0);
#if defined(__SANITIZE_ADDRESS__)
    SKIP("the sanitizer itself needs mappings, and dies without; tested in the plain build");
#endif
    if (limit > 400000) {
        WARN("vm.max_map_count is " << limit << " here: too many to reach; not tested");
        return;
    }
    ChildEnd end = in_child([&] {
        struct stack_pool pool;
        stack_pool_init(&pool, 0, SIZE_MAX, nullptr, false);
        std::vector<struct stack *> stacks;
        stacks.reserve(300000);
        CHILD_REQUIRE(take_all(&pool, KIB_256, stacks, 300000) == -ENOMEM);
        CHILD_REQUIRE(stacks.size() > static_cast<size_t>(limit) / 2 - 500);
        for (int c = 0; c < STACK_CLASSES; c++) /* and again, and of every class */
            CHILD_REQUIRE(stack_reserve(&pool, c) == -ENOMEM);
        stack_pool_validate(&pool);
        CHILD_REQUIRE(usable(&pool, stacks));

        /* Those given back can be had again. */
        for (int i = 0; i < 100; i++) {
            stack_give(&pool, stacks.back());
            stacks.pop_back();
        }
        size_t most = stacks.size() + 200;
        CHILD_REQUIRE(take_all(&pool, KIB_256, stacks, most) == -ENOMEM);
        CHILD_REQUIRE(stacks.size() == most - 100);
        stack_pool_validate(&pool);
        CHILD_REQUIRE(usable(&pool, stacks));
        stack_pool_finish(&pool);

        /* The process can go on. */
        stack_pool_init(&pool, 0, SIZE_MAX, nullptr, false);
        stacks.clear();
        CHILD_REQUIRE(take_all(&pool, KIB_256, stacks, 1000) == 0);
        CHILD_REQUIRE(usable(&pool, stacks));
        stack_pool_finish(&pool);
        return 0;
    });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(lines_of(end.said) == 1);
    CHECK(end.said.find("vm.max_map_count") != std::string::npos);
}

TEST_CASE("stacks: where the mappings end, the next class names their limit too")
{
    long limit = max_map_count();
    if (limit > 400000) {
        WARN("vm.max_map_count is " << limit << " here: too many to reach; not tested");
        return;
    }
    /* The first arena of a class is a mapping as well, and fails for the same cause. */
    ChildEnd end = in_child([&] {
        struct stack_pool pool;
        stack_pool_init(&pool, 0, SIZE_MAX, nullptr, false);
        char *page = nullptr;
        for (;;) { /* every other page of its own protection: all mappings but a few */
            void *map = mmap(nullptr, PAGE_BYTES, page ? PROT_READ : PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (map == MAP_FAILED)
                break;
            page = page ? nullptr : static_cast<char *>(map);
        }
        return stack_reserve(&pool, KIB_256) == -ENOMEM ? 0 : 1;
    });
    INFO(end.how());
    CHECK(end.exited(0));
    CHECK(lines_of(end.said) == 1);
    CHECK(end.said.find("vm.max_map_count") != std::string::npos);
}

TEST_CASE("stacks: where address space ends, a reservation fails cleanly and works again later")
{
    for (bool way : {true, false}) {
        if (way && !stack_guard_probe())
            continue;
        INFO("madvise " << way);
        ChildEnd end = in_child([&] {
            /* What there is (a sanitizer maps terabytes) and a little more. */
            size_t space = address_space_bytes() + (size_t{600} << 20);
            const struct rlimit limit = {space, space};
            CHILD_REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
            struct stack_pool pool;
            stack_pool_init(&pool, 0, SIZE_MAX, nullptr, way);
            std::vector<struct stack *> stacks;
            stacks.reserve(1000);
            CHILD_REQUIRE(take_all(&pool, MIB_8, stacks, 1000) == -ENOMEM);
            /* Arenas are halved until they fit: little is left over. */
            CHILD_REQUIRE(stacks.size() >= 600 / 8 - 4);
            CHILD_REQUIRE(stacks.size() <= 600 / 8);
            CHILD_REQUIRE(stack_reserve(&pool, MIB_8) == -ENOMEM);
            stack_pool_validate(&pool);
            CHILD_REQUIRE(usable(&pool, stacks));

            stack_give(&pool, stacks.back());
            stacks.pop_back();
            CHILD_REQUIRE(stack_reserve(&pool, MIB_8) == 0);
            CHILD_REQUIRE(stack_reserve(&pool, MIB_8) == -ENOMEM);
            stacks.push_back(stack_take(&pool, MIB_8, &some_owner));
            stack_pool_validate(&pool);
            CHILD_REQUIRE(usable(&pool, stacks));
            stack_pool_finish(&pool);

            stack_pool_init(&pool, 0, SIZE_MAX, nullptr, way);
            stacks.clear();
            CHILD_REQUIRE(take_all(&pool, KIB_256, stacks, 1000) == 0);
            CHILD_REQUIRE(usable(&pool, stacks));
            return 0;
        });
        INFO(end.how());
        CHECK(end.exited(0));
        CHECK(lines_of(end.said) == 1);
        CHECK(end.said.find("address space") != std::string::npos);
    }
}
