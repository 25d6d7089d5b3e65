/*
 * list_test.cpp: the intrusive list against std::deque.
 */
#include "tests/base/child.hpp"

#include <catch2/catch_test_macros.hpp>

#include <deque>
#include <random>
#include <vector>

extern "C" {
#include "base/list.h"
}

namespace
{

struct item {
    int number = 0;
    struct list link = {nullptr, nullptr};
};

struct item *item_of(struct list *node)
{
    return container_of(node, struct item, link);
}

/* The list forwards, having checked that backwards it is the same. */
std::vector<int> numbers(struct list *head)
{
    std::vector<int> forwards;
    list_for_each (node, head) {
        REQUIRE(node->next->prev == node);
        REQUIRE(node->prev->next == node);
        forwards.push_back(item_of(node)->number);
    }
    std::vector<int> backwards;
    for (struct list *node = head->prev; node != head; node = node->prev)
        backwards.insert(backwards.begin(), item_of(node)->number);
    REQUIRE(forwards == backwards);
    return forwards;
}

} // namespace

TEST_CASE("list: a new head is empty")
{
    struct list head;
    list_init(&head);
    CHECK(list_empty(&head));
    CHECK(numbers(&head).empty());
}

TEST_CASE("list: what is pushed at the back comes out first in, first out")
{
    struct list head;
    struct item items[3];
    list_init(&head);
    for (int i = 0; i < 3; i++) {
        items[i].number = i;
        list_push_back(&head, &items[i].link);
    }
    CHECK(numbers(&head) == std::vector<int>{0, 1, 2});
    for (int i = 0; i < 3; i++)
        CHECK(list_pop_front(&head) == &items[i].link);
    CHECK(list_empty(&head));
}

TEST_CASE("list: a node removed is unlinked and its neighbours join")
{
    struct list head;
    struct item items[3];
    list_init(&head);
    for (int i = 0; i < 3; i++) {
        items[i].number = i;
        list_push_back(&head, &items[i].link);
    }
    list_remove(&items[1].link);
    CHECK(list_empty(&items[1].link));
    CHECK(numbers(&head) == std::vector<int>{0, 2});
}

TEST_CASE("list: a node unlinked keeps its own pointers")
{
    struct list head;
    struct item items[2];
    list_init(&head);
    list_push_back(&head, &items[0].link);
    list_push_back(&head, &items[1].link);
    list_unlink(&items[0].link);
    CHECK(items[0].link.next == &items[1].link);
    CHECK(items[0].link.prev == &head);
    CHECK(head.next == &items[1].link);
}

TEST_CASE("list: splicing an empty list changes nothing")
{
    struct list to, from;
    struct item one;
    list_init(&to);
    list_init(&from);
    list_push_back(&to, &one.link);
    list_splice_back(&to, &from);
    CHECK(numbers(&to).size() == 1);
    CHECK(list_empty(&from));
}

TEST_CASE("list: taking from an empty list is a programmer's error")
{
    ChildEnd end = in_child([] {
        struct list head;
        list_init(&head);
        list_pop_front(&head);
        return 0;
    });
    INFO(end.how());
    CHECK(end.killed_by(SIGABRT));
    CHECK(end.said.find("list.h") != std::string::npos);
}

TEST_CASE("list: a random mix of all operations agrees with a deque")
{
    std::mt19937 random(20240607);
    std::vector<struct item> items(64);
    for (size_t i = 0; i < items.size(); i++)
        items[i].number = static_cast<int>(i);

    struct list head[2];
    std::deque<int> model[2];
    std::vector<int> where(items.size(), -1);
    list_init(&head[0]);
    list_init(&head[1]);

    for (int step = 0; step < 20000; step++) {
        size_t i = random() % items.size();
        size_t h = random() % 2;
        int number = static_cast<int>(i);
        if (where[i] >= 0) {
            size_t in = static_cast<size_t>(where[i]);
            auto &m = model[in];
            list_remove(&items[i].link);
            for (auto at = m.begin(); at != m.end(); ++at)
                if (*at == number) {
                    m.erase(at);
                    break;
                }
            where[i] = -1;
        } else if (random() % 2) {
            list_push_back(&head[h], &items[i].link);
            model[h].push_back(number);
            where[i] = static_cast<int>(h);
        } else {
            list_push_front(&head[h], &items[i].link);
            model[h].push_front(number);
            where[i] = static_cast<int>(h);
        }
        if (random() % 50 == 0) {
            list_splice_back(&head[h], &head[1 - h]);
            for (int moved : model[1 - h]) {
                model[h].push_back(moved);
                where[static_cast<size_t>(moved)] = static_cast<int>(h);
            }
            model[1 - h].clear();
        }
        if (!model[h].empty() && random() % 8 == 0) {
            struct item *first = item_of(list_pop_front(&head[h]));
            REQUIRE(first->number == model[h].front());
            model[h].pop_front();
            where[static_cast<size_t>(first->number)] = -1;
        }
        for (size_t k = 0; k < 2; k++) {
            REQUIRE(list_empty(&head[k]) == model[k].empty());
            if (step % 16 == 0)
                REQUIRE(numbers(&head[k]) == std::vector<int>(model[k].begin(), model[k].end()));
        }
    }
}
