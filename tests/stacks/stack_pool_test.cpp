/*
 * stack_pool_test.cpp: the life of stacks, with guards made both ways. The limits (many stacks, no
 * more mappings, no more address space) are in stack_limits_test.cpp.
 */
#include "tests/base/child.hpp"
#include "tests/stacks/memory.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

extern "C" {
#include "stacks/stacks.h"
}

namespace
{

constexpr int KIB_16 = 0, KIB_64 = 1, KIB_256 = 2, MIB_1 = 3, MIB_8 = 4;

int some_owner;

/* The guard methods that this kernel has; false is mprotect. */
std::vector<bool> guard_ways()
{
    if (stack_guard_probe())
        return {true, false};
    WARN("this kernel has no guard regions: only the mprotect way is tested");
    return {false};
}

/* A pool that is checked and unmapped at the end of its scope. */
struct Pool {
    struct stack_pool pool;
    size_t total = 0;

    explicit Pool(bool guard_by_madvise, size_t stacks_max = SIZE_MAX)
    {
        stack_pool_init(&pool, 0, stacks_max, stacks_max == SIZE_MAX ? nullptr : &total,
                        guard_by_madvise);
    }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
    ~Pool()
    {
        stack_pool_finish(&pool);
    }
    struct stack *get(int size_class)
    {
        REQUIRE(stack_reserve(&pool, size_class) == 0);
        return stack_take(&pool, size_class, &some_owner);
    }
    void give(struct stack *stack)
    {
        stack_give(&pool, stack);
    }
    char *bottom(const struct stack *stack) const
    {
        return stack_bottom(&pool, stack);
    }
    void validate() const
    {
        stack_pool_validate(&pool);
    }
    /* A whole round of housekeeping. */
    void tidy()
    {
        stack_pool_tidy(&pool);
        while (stack_pool_give_back(&pool, 3))
            ;
    }
    const struct stack_class &of(int size_class) const
    {
        return pool.classes[size_class];
    }
};

/* Writes a pattern over the highest `bytes` of a stack, and looks whether it is still there. */
void fill(struct stack *stack, size_t bytes, unsigned char pattern)
{
    memset(stack->top - bytes, pattern, bytes);
}

bool filled(const struct stack *stack, size_t bytes, unsigned char pattern)
{
    for (const char *at = stack->top - bytes; at < stack->top; at++)
        if (static_cast<unsigned char>(*at) != pattern)
            return false;
    return true;
}

size_t stack_bytes(const Pool &pool, const struct stack *stack)
{
    return static_cast<size_t>(stack->top - pool.bottom(stack));
}

} // namespace

TEST_CASE("stack class: the smallest that fits, and none above the largest")
{
    const size_t kib = 1024;
    CHECK(stack_class_of(0) == KIB_16);
    CHECK(stack_class_of(1) == KIB_16);
    CHECK(stack_class_of(16 * kib) == KIB_16);
    CHECK(stack_class_of(16 * kib + 1) == KIB_64);
    CHECK(stack_class_of(64 * kib) == KIB_64);
    CHECK(stack_class_of(64 * kib + 1) == KIB_256);
    CHECK(stack_class_of(256 * kib) == KIB_256);
    CHECK(stack_class_of(256 * kib + 1) == MIB_1);
    CHECK(stack_class_of(1024 * kib) == MIB_1);
    CHECK(stack_class_of(1024 * kib + 1) == MIB_8);
    CHECK(stack_class_of(8192 * kib) == MIB_8);
    CHECK(stack_class_of(8192 * kib + 1) == -EINVAL);
    CHECK(stack_class_of(SIZE_MAX) == -EINVAL);
    for (int c = 0; c < STACK_CLASSES; c++)
        CHECK(stack_class_of(stack_class_bytes(c)) == c);
}

TEST_CASE("stack: every byte from bottom to top is its own and can be written")
{
    for (bool way : guard_ways()) {
        for (int c = 0; c < STACK_CLASSES; c++) {
            INFO("madvise " << way << ", class " << c);
            Pool pool(way);
            std::vector<struct stack *> stacks;
            for (int i = 0; i < (c == MIB_8 ? 3 : 40); i++)
                stacks.push_back(pool.get(c));
            for (size_t i = 0; i < stacks.size(); i++) {
                size_t bytes = stack_bytes(pool, stacks[i]);
                CHECK(reinterpret_cast<uintptr_t>(stacks[i]->top) % 16 == 0);
                CHECK(bytes <= pool.of(c).bytes - pool.of(c).guard_bytes);
                CHECK(bytes > pool.of(c).bytes - pool.of(c).guard_bytes - 1024);
                /* A coroutine that asked for so much gets nearly that. */
                CHECK(bytes > stack_class_bytes(c) * 3 / 4 - 1024);
                fill(stacks[i], bytes, static_cast<unsigned char>(i + 1));
            }
            for (size_t i = 0; i < stacks.size(); i++)
                CHECK(filled(stacks[i], stack_bytes(pool, stacks[i]),
                             static_cast<unsigned char>(i + 1)));
            pool.validate();
            for (auto *stack : stacks)
                pool.give(stack);
            pool.validate();
        }
    }
}

TEST_CASE("stack: touching the guard dies by SIGSEGV, the byte above it does not")
{
    for (bool way : guard_ways()) {
        for (int c = 0; c < STACK_CLASSES; c++) {
            size_t guard_bytes;
            {
                Pool pool(way);
                guard_bytes = pool.of(c).guard_bytes;
                CHECK(guard_bytes >= 4 * PAGE_BYTES); /* an ordinary frame does not jump it */
            }
            for (size_t below : {size_t{0}, size_t{1}, guard_bytes / 2, guard_bytes}) {
                INFO("madvise " << way << ", class " << c << ", " << below << " below the bottom");
                ChildEnd end = in_child([&] {
                    Pool pool(way);
                    /* In the middle of others: what is below the guard is a neighbour's top. */
                    pool.get(c);
                    struct stack *stack = pool.get(c);
                    pool.get(c);
                    *static_cast<volatile char *>(pool.bottom(stack)) = 1;
                    fprintf(stderr, "above works\n");
                    *static_cast<volatile char *>(pool.bottom(stack) - below) = 1;
                    return 0;
                });
                INFO(end.how());
                CHECK(end.said == "above works\n");
                if (below)
                    CHECK(end.killed_by(SIGSEGV));
                else
                    CHECK(end.exited(0));
            }
        }
    }
}

TEST_CASE("stack: a guard outlives the memory being given back and the stack's next use")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        ChildEnd end = in_child([&] {
            Pool pool(way);
            struct stack *stack = pool.get(KIB_64);
            fill(stack, 20000, 1);
            pool.give(stack);
            pool.tidy();
            pool.tidy();
            CHILD_REQUIRE(stack->state == STACK_COLD);
            struct stack *again = pool.get(KIB_64);
            CHILD_REQUIRE(again == stack);
            CHILD_REQUIRE(stack_trim(&pool.pool, again, again->top - 100) == false);
            fprintf(stderr, "so far\n");
            *static_cast<volatile char *>(pool.bottom(stack) - 1) = 1;
            return 0;
        });
        INFO(end.how());
        CHECK(end.said == "so far\n");
        CHECK(end.killed_by(SIGSEGV));
    }
}

TEST_CASE("stack: grows by being touched, and costs only what was touched")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        struct stack *stack = pool.get(KIB_256);
        char *bottom = pool.bottom(stack);
        CHECK(resident_pages(bottom, stack->top) == 0);
        CHECK(stack_pool_resident_bytes(&pool.pool) == 0);

        fill(stack, 100, 1);
        size_t first = resident_pages(bottom, stack->top);
        CHECK(first == 1);
        CHECK(stack_pool_resident_bytes(&pool.pool) == first * PAGE_BYTES);

        /* Downwards page by page, as calls do. */
        for (size_t depth = 0; depth < 200 * 1024; depth += 512)
            *static_cast<volatile char *>(stack->top - 1 - depth) = 2;
        size_t grown = resident_pages(bottom, stack->top);
        CHECK(grown >= 50);
        CHECK(grown <= 51);
        CHECK(stack_pool_resident_bytes(&pool.pool) == grown * PAGE_BYTES);
    }
}

TEST_CASE("stack: the depth is that of the lowest page touched")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        /* As many as there are colours of tops. */
        for (int i = 0; i < 16; i++) {
            struct stack *stack = pool.get(KIB_256);
            CHECK(stack_depth(&pool.pool, stack) == 0);
            stack->top[-1] = 1;
            CHECK(stack_depth(&pool.pool, stack) == PAGE_BYTES);
            stack->top[-100000] = 1;
            size_t depth = stack_depth(&pool.pool, stack);
            CHECK(depth % PAGE_BYTES == 0);
            CHECK(depth >= 100000);
            CHECK(depth <= 100000 + 2 * PAGE_BYTES);
            *pool.bottom(stack) = 1;
            CHECK(stack_depth(&pool.pool, stack) ==
                  pool.of(KIB_256).bytes - pool.of(KIB_256).guard_bytes);
        }
    }
}

TEST_CASE("stack: the depth of an 8 MiB stack is found too")
{
    Pool pool(guard_ways()[0]);
    struct stack *stack = pool.get(MIB_8);
    stack->top[-1] = 1;
    CHECK(stack_depth(&pool.pool, stack) == PAGE_BYTES);
    *pool.bottom(stack) = 1;
    CHECK(stack_depth(&pool.pool, stack) == pool.of(MIB_8).bytes - pool.of(MIB_8).guard_bytes);
}

TEST_CASE("stack: neighbouring tops fall on different cache sets")
{
    Pool pool(guard_ways()[0]);
    std::set<uintptr_t> sets;
    for (int i = 0; i < 16; i++)
        sets.insert(reinterpret_cast<uintptr_t>(pool.get(KIB_256)->top) % PAGE_BYTES / 64);
    CHECK(sets.size() == 16);
}

TEST_CASE("stack: states and counts go through the drawn life")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        const struct stack_class &c = pool.of(KIB_256);
        REQUIRE(stack_reserve(&pool.pool, KIB_256) == 0);
        CHECK(c.promised == 1);
        CHECK(c.cold_count == 1);
        CHECK(c.taken == 0);
        CHECK(pool.pool.stacks == 1);

        struct stack *stack = stack_take(&pool.pool, KIB_256, &some_owner);
        CHECK(stack->state == STACK_TAKEN);
        CHECK(stack->owner == &some_owner);
        CHECK(stack->was_cold);
        CHECK(c.promised == 0);
        CHECK(c.cold_count == 0);
        CHECK(c.taken == 1);
        CHECK(pool.pool.stacks == 1);

        fill(stack, 100, 1);
        pool.give(stack);
        CHECK(stack->state == STACK_WARM);
        CHECK(stack->owner == nullptr);
        CHECK(c.warm_count == 1);
        CHECK(c.taken == 0);
        CHECK(pool.pool.stacks == 0);

        CHECK(pool.get(KIB_256) == stack);
        CHECK(!stack->was_cold);
        CHECK(filled(stack, 100, 1)); /* still warm: the same memory */

        pool.give(stack);
        pool.tidy(); /* it was needed since the last time */
        pool.tidy();
        CHECK(stack->state == STACK_COLD);
        CHECK(c.cold_count == 1);
        CHECK(c.warm_count == 0);
        CHECK(resident_pages(pool.bottom(stack), stack->top) == 0);
        pool.validate();

        CHECK(pool.get(KIB_256) == stack);
        CHECK(stack->was_cold);
        CHECK(filled(stack, 100, 0));
    }
}

TEST_CASE("stack: the last one given is the first taken")
{
    Pool pool(guard_ways()[0]);
    std::vector<struct stack *> stacks;
    for (int i = 0; i < 10; i++)
        stacks.push_back(pool.get(KIB_64));
    std::mt19937 random(1);
    std::shuffle(stacks.begin(), stacks.end(), random);
    for (auto *stack : stacks)
        pool.give(stack);
    for (size_t i = stacks.size(); i-- > 0;)
        CHECK(pool.get(KIB_64) == stacks[i]);
}

TEST_CASE("stack: a warm one is preferred to a cold one")
{
    Pool pool(guard_ways()[0]);
    struct stack *used = pool.get(KIB_64);
    for (int i = 0; i < 5; i++)
        REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
    pool.give(used);
    CHECK(pool.of(KIB_64).cold_count == 5);
    CHECK(stack_take(&pool.pool, KIB_64, &some_owner) == used);
}

TEST_CASE("stack: a thousand reserved and used one after the other share one")
{
    Pool pool(guard_ways()[0]);
    for (int i = 0; i < 1000; i++)
        REQUIRE(stack_reserve(&pool.pool, KIB_256) == 0);
    struct stack *first = stack_take(&pool.pool, KIB_256, &some_owner);
    fill(first, 1000, 1);
    pool.give(first);
    for (int i = 1; i < 1000; i++) {
        struct stack *stack = stack_take(&pool.pool, KIB_256, &some_owner);
        REQUIRE(stack == first);
        pool.give(stack);
    }
    CHECK(stack_pool_resident_bytes(&pool.pool) <= 2 * PAGE_BYTES);
    CHECK(pool.of(KIB_256).promised == 0);
    pool.validate();
}

TEST_CASE("stack: passed on, it serves another reservation and keeps its memory")
{
    Pool pool(guard_ways()[0]);
    struct stack *stack = pool.get(KIB_64);
    fill(stack, 100, 7);
    REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
    CHECK(pool.pool.stacks == 2);
    int next_owner;
    stack_pass(&pool.pool, stack, &next_owner);
    CHECK(stack->owner == &next_owner);
    CHECK(stack->state == STACK_TAKEN);
    CHECK(!stack->was_cold);
    CHECK(pool.pool.stacks == 1);
    CHECK(pool.of(KIB_64).promised == 0);
    CHECK(filled(stack, 100, 7));
    pool.validate();
}

TEST_CASE("stack: a reservation that is not needed goes back")
{
    Pool pool(guard_ways()[0], 3);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3; i++)
            REQUIRE(stack_reserve(&pool.pool, KIB_16) == 0);
        for (int i = 0; i < 3; i++)
            stack_unreserve(&pool.pool, KIB_16);
        CHECK(pool.pool.stacks == 0);
        pool.validate();
    }
    CHECK(pool.of(KIB_16).cold_count == 3);
}

TEST_CASE("stack: at stacks_max a reservation is refused, said once, until one is given back")
{
    for (bool way : guard_ways()) {
        Pool pool(way, 4);
        StderrKept kept;
        std::vector<struct stack *> stacks;
        for (int i = 0; i < 3; i++)
            stacks.push_back(pool.get(i));
        REQUIRE(stack_reserve(&pool.pool, KIB_256) == 0); /* reserved ones count too */
        for (int i = 0; i < 3; i++)
            CHECK(stack_reserve(&pool.pool, i) == -ENOMEM);
        pool.validate();
        std::string said = kept.text();
        INFO(said);
        CHECK(lines_of(said) == 1);
        CHECK(said.find("stacks_max") != std::string::npos);

        pool.give(stacks.back());
        CHECK(stack_reserve(&pool.pool, KIB_64) == 0);
        CHECK(stack_reserve(&pool.pool, KIB_64) == -ENOMEM);
        stack_unreserve(&pool.pool, KIB_64);
        CHECK(stack_reserve(&pool.pool, KIB_16) == 0);
        pool.validate();
    }
}

TEST_CASE("tidy: what was not needed is given back by halves, what is in use is not touched")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        std::vector<struct stack *> stacks;
        for (int i = 0; i < 120; i++) {
            stacks.push_back(pool.get(KIB_64));
            fill(stacks.back(), 5000, static_cast<unsigned char>(i));
        }
        size_t all = stack_pool_resident_bytes(&pool.pool);
        CHECK(all >= 120 * 2 * PAGE_BYTES);
        for (size_t i = 0; i < 100; i++)
            pool.give(stacks[i]);

        pool.tidy();
        CHECK(pool.of(KIB_64).warm_count == 100); /* all were needed since the last time */
        size_t expected = 100;
        while (expected) {
            pool.tidy();
            expected -= (expected + 1) / 2;
            CHECK(pool.of(KIB_64).warm_count == expected);
            pool.validate();
        }
        pool.tidy();
        for (size_t i = 0; i < 100; i++)
            CHECK(resident_pages(pool.bottom(stacks[i]), stacks[i]->top) == 0);
        for (size_t i = 100; i < 120; i++)
            CHECK(filled(stacks[i], 5000, static_cast<unsigned char>(i)));
        CHECK(stack_pool_resident_bytes(&pool.pool) < all / 4);
    }
}

TEST_CASE("tidy: the coldest go first, and what is needed meanwhile stays warm")
{
    Pool pool(guard_ways()[0]);
    std::vector<struct stack *> stacks;
    for (int i = 0; i < 8; i++)
        stacks.push_back(pool.get(KIB_64));
    for (auto *stack : stacks)
        pool.give(stack);
    pool.tidy();
    /* Six of the eight are needed at once: two were surplus, one of these goes. */
    for (int i = 0; i < 6; i++)
        pool.get(KIB_64);
    for (size_t i = 2; i < 8; i++)
        pool.give(stacks[i]);
    pool.tidy();
    CHECK(pool.of(KIB_64).warm_count == 7);
    CHECK(stacks[0]->state == STACK_COLD);
    for (size_t i = 1; i < 8; i++)
        CHECK(stacks[i]->state == STACK_WARM);
}

TEST_CASE("tidy: gives back in slices")
{
    Pool pool(guard_ways()[0]);
    std::vector<struct stack *> stacks;
    for (int i = 0; i < 40; i++)
        stacks.push_back(pool.get(i % 2 ? KIB_64 : KIB_16));
    for (auto *stack : stacks)
        pool.give(stack);
    stack_pool_tidy(&pool.pool);
    CHECK(!stack_pool_give_back(&pool.pool, 5)); /* nothing is surplus yet */
    stack_pool_tidy(&pool.pool);
    auto warm = [&] { return pool.of(KIB_16).warm_count + pool.of(KIB_64).warm_count; };
    CHECK(stack_pool_give_back(&pool.pool, 7));
    CHECK(warm() == 33);
    CHECK(stack_pool_give_back(&pool.pool, 7));
    CHECK(warm() == 26);
    CHECK(!stack_pool_give_back(&pool.pool, 7));
    CHECK(warm() == 20);
    CHECK(!stack_pool_give_back(&pool.pool, 7));
    CHECK(warm() == 20);
    pool.validate();
}

TEST_CASE("trim: what lies below the floor is given back, what lies above stays")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        struct stack *stack = pool.get(KIB_256);
        fill(stack, 150000, 9);
        char *floor = stack->top - 20000; /* not on a page's border */
        uint64_t before = pool.pool.trimmed;
        CHECK(stack_trim(&pool.pool, stack, floor));
        CHECK(pool.pool.trimmed == before + 1);
        CHECK(filled(stack, 20000, 9));
        CHECK(resident_pages(pool.bottom(stack), stack->top) <= 20000 / PAGE_BYTES + 2);
        CHECK(stack_depth(&pool.pool, stack) < 20000 + 2 * PAGE_BYTES);

        CHECK(!stack_trim(&pool.pool, stack, floor)); /* it has not grown since */
        CHECK(pool.pool.trimmed == before + 1);
        CHECK(!stack_trim(&pool.pool, stack, pool.bottom(stack)));
        CHECK(!stack_trim(&pool.pool, stack, pool.bottom(stack) - 100));
        CHECK(filled(stack, 20000, 9));

        *pool.bottom(stack) = 1; /* it can grow again, to its end */
        CHECK(stack_trim(&pool.pool, stack, floor));
        CHECK(*pool.bottom(stack) == 0);
    }
}

TEST_CASE("scan: every prepared slot once a round, then NULL, also when arenas are added")
{
    Pool pool(guard_ways()[0]);
    CHECK(stack_scan_next(&pool.pool) == nullptr);
    std::set<struct stack *> stacks;
    for (int i = 0; i < 100; i++)
        stacks.insert(pool.get(i % STACK_CLASSES));
    for (int round = 0; round < 3; round++) {
        std::set<struct stack *> seen;
        for (struct stack *stack; (stack = stack_scan_next(&pool.pool));)
            CHECK(seen.insert(stack).second);
        CHECK(seen == stacks);
        for (int i = 0; i < 50; i++)
            stacks.insert(pool.get(i % STACK_CLASSES));
    }
    /* New ones in the middle of a round neither end it early nor repeat one. */
    std::set<struct stack *> seen;
    size_t looked = 0;
    for (struct stack *stack; (stack = stack_scan_next(&pool.pool));) {
        CHECK(seen.insert(stack).second);
        if (++looked < 30)
            pool.get(KIB_16);
    }
    CHECK(looked >= 200);
}

TEST_CASE("guard: an address on it names its stack, any other names none")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        Pool pool(way);
        std::vector<struct stack *> stacks;
        for (int i = 0; i < 100; i++)
            stacks.push_back(pool.get(i % STACK_CLASSES));
        for (auto *stack : stacks) {
            char *bottom = pool.bottom(stack);
            char *low = bottom - pool.of(stack->size_class).guard_bytes;
            for (char *at = low; at < bottom; at += 512)
                CHECK(stack_of_guard(&pool.pool, at) == stack);
            CHECK(stack_of_guard(&pool.pool, low) == stack);
            CHECK(stack_of_guard(&pool.pool, bottom - 1) == stack);
            CHECK(stack_of_guard(&pool.pool, bottom) == nullptr);
            CHECK(stack_of_guard(&pool.pool, stack->top - 1) == nullptr);
            CHECK(stack_of_guard(&pool.pool, low - 1) == nullptr);
        }
        CHECK(stack_of_guard(&pool.pool, nullptr) == nullptr);
        CHECK(stack_of_guard(&pool.pool, &pool) == nullptr);
        CHECK(stack_of_guard(&pool.pool, reinterpret_cast<void *>(UINTPTR_MAX)) == nullptr);
        /* A slot that was never prepared has none. */
        const struct stack_arena *arena = pool.of(MIB_8).arena;
        REQUIRE(arena->prepared < arena->slots);
        CHECK(stack_of_guard(&pool.pool, arena->base + arena->prepared * pool.of(MIB_8).bytes) ==
              nullptr);
    }
}

TEST_CASE("pool: finishing it unmaps everything")
{
    for (bool way : guard_ways()) {
        INFO("madvise " << way);
        size_t before = mappings();
        size_t space_before = address_space_bytes();
        {
            Pool pool(way);
            for (int i = 0; i < 500; i++)
                fill(pool.get(i % STACK_CLASSES), 100, 1);
            CHECK(address_space_bytes() > space_before + 100 * stack_class_bytes(MIB_8));
        }
        size_t space_after = address_space_bytes();
        /* The test's own allocations may have grown a little. */
        CHECK(mappings() <= before + 4);
        CHECK(space_after < space_before + (8u << 20));
    }
}

TEST_CASE("pool: figures of address space are what was mapped")
{
    Pool pool(guard_ways()[0]);
    size_t before = address_space_bytes();
    for (int i = 0; i < 100; i++)
        pool.get(KIB_256);
    size_t mapped = address_space_bytes() - before;
    CHECK(pool.pool.reserved_bytes >= 100 * stack_class_bytes(KIB_256));
    CHECK(pool.pool.reserved_bytes <= mapped);
    CHECK(mapped - pool.pool.reserved_bytes < (1u << 20));
}

TEST_CASE("pool: a random driver keeps its promises, and nobody's memory is touched")
{
    uint64_t seed = GENERATE(range(1, 7));
    for (bool way : guard_ways()) {
        INFO("seed " << seed << ", madvise " << way);
        std::mt19937_64 random(seed);
        size_t stacks_max = seed % 2 ? SIZE_MAX : 150;
        StderrKept kept; /* being refused is said, which is tested elsewhere */
        Pool pool(way, stacks_max);
        struct Use {
            struct stack *stack;
            size_t bytes;
            unsigned char pattern;
        };
        std::vector<Use> uses;
        size_t promised[STACK_CLASSES] = {};
        size_t promised_all = 0;

        for (int step = 0; step < 4000; step++) {
            int c = static_cast<int>(random() % 3);
            switch (random() % 12) {
            case 0:
            case 1:
            case 2: {
                int rc = stack_reserve(&pool.pool, c);
                bool full = uses.size() + promised_all >= stacks_max;
                REQUIRE(rc == (full ? -ENOMEM : 0));
                promised[c] += rc == 0;
                promised_all += rc == 0;
                break;
            }
            case 3:
                if (promised[c] && random() % 4 == 0) {
                    stack_unreserve(&pool.pool, c);
                    promised[c]--;
                    promised_all--;
                }
                break;
            case 4:
            case 5:
            case 6:
                if (promised[c]) {
                    Use use = {stack_take(&pool.pool, c, &some_owner), 0,
                               static_cast<unsigned char>(1 + random() % 255)};
                    REQUIRE(use.stack->size_class == c);
                    use.bytes = random() % stack_bytes(pool, use.stack);
                    fill(use.stack, use.bytes, use.pattern);
                    uses.push_back(use);
                    promised[c]--;
                    promised_all--;
                }
                break;
            case 7:
            case 8:
            case 9:
                if (!uses.empty()) {
                    size_t i = random() % uses.size();
                    REQUIRE(filled(uses[i].stack, uses[i].bytes, uses[i].pattern));
                    pool.give(uses[i].stack);
                    uses[i] = uses.back();
                    uses.pop_back();
                }
                break;
            case 10:
                if (!uses.empty()) { /* what is deeper than half of it is not needed any more */
                    Use &use = uses[random() % uses.size()];
                    use.bytes /= 2;
                    stack_trim(&pool.pool, use.stack, use.stack->top - use.bytes);
                }
                break;
            default: pool.tidy(); break;
            }
            pool.validate();
            REQUIRE(pool.pool.stacks == uses.size() + promised_all);
        }
        for (const Use &use : uses)
            REQUIRE(filled(use.stack, use.bytes, use.pattern));
    }
}

TEST_CASE("pool: taking what was not reserved and giving twice are errors")
{
    ChildEnd take = in_child([] {
        Pool pool(false);
        stack_take(&pool.pool, KIB_64, &some_owner);
        return 0;
    });
    INFO(take.how());
    CHECK(take.killed_by(SIGABRT));
    CHECK(take.said.find("promised") != std::string::npos);

    ChildEnd give = in_child([] {
        Pool pool(false);
        CHILD_REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
        struct stack *stack = stack_take(&pool.pool, KIB_64, &some_owner);
        stack_give(&pool.pool, stack);
        stack_give(&pool.pool, stack);
        return 0;
    });
    INFO(give.how());
    CHECK(give.killed_by(SIGABRT));
    CHECK(give.said.find("STACK_TAKEN") != std::string::npos);
}

TEST_CASE("pool: the validator finds a pool that was tampered with")
{
    struct Damage {
        const char *what;
        void (*make)(struct stack_pool *pool, struct stack *taken);
    };
    const Damage damages[] = {
        {"warm", [](struct stack_pool *pool, struct stack *) { pool->classes[1].warm_count++; }},
        {"cold", [](struct stack_pool *pool, struct stack *) { pool->classes[1].cold_count--; }},
        {"taken", [](struct stack_pool *pool, struct stack *) { pool->classes[1].taken++; }},
        {"promised",
         [](struct stack_pool *pool, struct stack *) { pool->classes[1].promised = 99; }},
        {"stacks", [](struct stack_pool *pool, struct stack *) { pool->stacks++; }},
        {"most", [](struct stack_pool *pool, struct stack *) { pool->stacks_max = 1; }},
        {"low", [](struct stack_pool *pool, struct stack *) { pool->classes[1].warm_low = 50; }},
        {"state", [](struct stack_pool *, struct stack *taken) { taken->state = STACK_WARM; }},
    };
    for (const auto &damage : damages) {
        ChildEnd end = in_child([&] {
            Pool pool(false, 1000);
            struct stack *stacks[4];
            for (auto &stack : stacks) {
                CHILD_REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
                stack = stack_take(&pool.pool, KIB_64, &some_owner);
            }
            stack_give(&pool.pool, stacks[0]);
            CHILD_REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
            CHILD_REQUIRE(stack_reserve(&pool.pool, KIB_64) == 0);
            stack_pool_validate(&pool.pool);
            damage.make(&pool.pool, stacks[3]);
            stack_pool_validate(&pool.pool);
            return 0;
        });
        INFO(damage.what << ": " << end.how());
        CHECK(end.killed_by(SIGABRT));
    }
}
