/*
 * steps.hpp: several coroutines wait for one object, and things happen to them, in every order.
 *
 * A Fixture is a new object with its waiters. An Event is one thing that happens: the object serves
 * (an unlock, a release), or something ends a wait early. Each is made to happen by a coroutine of
 * its own that has been started and has prepared before (it holds the lock that it will unlock).
 * Every permutation of every subset of a fixture's events is tried, and between two events there is
 * either nothing, so that both happen before anyone that the first one woke has run; or a pause, in
 * which everything settles.
 *
 * On one worker nothing of this is left to chance, so the fixture's model says exactly who is
 * served and what each call returns:
 *   - the first event that reaches a wait decides it, and no later one takes that back;
 *   - a TIMER is the waiter's timer firing now; a DEADLINE is one that has passed, which the loop
 *     notices at its next turn, so that whatever comes before it does beats it;
 *   - what an interrupted waiter leaves to those behind it they get when it has run.
 * After the order: calls that have returned have returned what the model says, and the others have
 * not; the object is in the state that these results imply; the next call of a waiter to which an
 * end has come fails, with -ECANCELED before -ETIMEDOUT.
 */
#ifndef TESTS_SYNC_STEPS_HPP
#define TESTS_SYNC_STEPS_HPP

#include "tests/sched/race.hpp"

#include <deque>

namespace steps
{

enum Kind { SERVE, CANCEL, TIMER, DEADLINE, CTX };

struct Event {
    Kind kind;
    int which; /* the serve, or the waiter */

    std::string text() const
    {
        static const char *const names[] = {"serve ", "cancel ", "timer ", "deadline ", "context "};
        return names[kind] + std::to_string(which);
    }
};

struct Order {
    std::vector<size_t> events;
    unsigned pauses; /* bit i: one after event i */
};

/* Every order of every subset of that many events, with every set of pauses. */
inline std::vector<Order> orders(size_t count)
{
    std::vector<Order> all;
    for (unsigned subset = 1; subset < 1u << count; subset++) {
        std::vector<size_t> chosen;
        for (size_t i = 0; i < count; i++)
            if (subset >> i & 1)
                chosen.push_back(i);
        do {
            for (unsigned pauses = 0; pauses < 1u << (chosen.size() - 1); pauses++)
                all.push_back({chosen, pauses});
        } while (std::next_permutation(chosen.begin(), chosen.end()));
    }
    return sampled(all);
}

using Who = std::deque<int>;

class Fixture
{
  public:
    virtual ~Fixture() = default;

    /* The waiters call it, in the order of their numbers. */
    virtual int call(int who) = 0;
    /* Done by a waiter whose call was served, at the end. */
    virtual void give_back(int who)
    {
        (void)who;
    }
    /* Whether a call fails in a context that has ended, as the object is at the end. */
    virtual bool next_fails() const
    {
        return true;
    }

    /* What a serve does, by its coroutine: before all, when it is its turn, and at the end if it
     * was not in the order. */
    virtual void prepare(int which)
    {
        (void)which;
    }
    virtual void serve(int which) = 0;
    virtual void unserved(int which)
    {
        (void)which;
    }

    /* The model. `waiting` are those that wait, first come first. */
    Who waiting;
    /* Takes those off `waiting` whom this serve serves, and returns them. */
    virtual Who serve_model(int which) = 0;
    /* Those that are let in because one before them has left. */
    virtual Who admit_model()
    {
        return {};
    }
    /* One that was waiting has left without being served. */
    virtual void leave_model(int who)
    {
        (void)who;
    }
    virtual int served_result(int who) const
    {
        (void)who;
        return 0;
    }
    /* What is wrong with the object now, or nothing: after the order, and when all are gone. */
    virtual std::string wrong()
    {
        return "";
    }
    virtual std::string wrong_at_end()
    {
        return "";
    }
};

/* Takes the first off a queue. */
inline int take_first(Who &from)
{
    int first = from.front();
    from.pop_front();
    return first;
}

constexpr int WAITS = INT32_MIN; /* the result of a call that has not returned */

/* One order, driven and judged. */
class Drive
{
  public:
    Drive(Fixture &fixture, int waiters, const std::vector<Event> &events, const Order &order,
          Turns &turn)
        : fixture_(fixture), events_(events), order_(order), turn_(turn),
          results_(static_cast<size_t>(waiters), WAITS), expected_(results_),
          ends_(results_.size(), 0), next_(results_.size(), 0), context_(wh_ctx_create(nullptr))
    {
    }
    Drive(const Drive &) = delete;
    Drive &operator=(const Drive &) = delete;
    ~Drive()
    {
        wh_ctx_destroy(context_);
    }

    std::string run()
    {
        begin();
        happen();
        std::string what = judge();
        end();
        std::string at_end = judge_end();
        return !what.empty() ? what : at_end;
    }

  private:
    struct Actor {
        wh_coro *coro;
        wh_event turn = {};
        bool acts = false;
    };

    void wait_and_stay(int who)
    {
        const auto at = static_cast<size_t>(who);
        WH_WITH_CTX(context_)
        WH_WITH_TIMEOUT(WH_HOUR)
        {
            results_[at] = fixture_.call(who);
            while (!over_)
                wh_yield();
            if (results_[at] >= 0)
                fixture_.give_back(who);
            next_[at] = ends_[at] && fixture_.next_fails() ? fixture_.call(who) : ends_[at];
        }
    }

    void begin()
    {
        for (size_t i = 0; i < events_.size(); i++)
            actors_.push_back(std::make_unique<Actor>());
        for (size_t i = 0; i < events_.size(); i++) {
            actors_[i]->coro = spawn([this, i] {
                const Event event = events_[i];
                if (event.kind == SERVE)
                    fixture_.prepare(event.which);
                wh_event_wait(&actors_[i]->turn);
                if (actors_[i]->acts)
                    act(event);
                else if (event.kind == SERVE)
                    fixture_.unserved(event.which);
            });
        }
        turn_(2);
        for (int who = 0; who < static_cast<int>(results_.size()); who++) {
            coros_.push_back(spawn([this, who] { wait_and_stay(who); }));
            fixture_.waiting.push_back(who);
        }
        turn_(2);
    }

    void act(const Event &event)
    {
        const auto at = static_cast<size_t>(event.which);
        switch (event.kind) {
        case SERVE: fixture_.serve(event.which); break;
        case CANCEL: wh_cancel(coros_[at]); break;
        case DEADLINE: race::pass_deadline(coros_[at]); break;
        case CTX: wh_ctx_cancel(context_, 0); break;
        case TIMER:
            coros_[at]->deadline_ns = 0;
            if (timer_armed(&coros_[at]->timer))
                wheel_cancel(&worker_tls->wheel, &coros_[at]->timer);
            where_set(worker_tls, IN_RUNTIME); /* where the loop would be */
            deadline_fired(coros_[at]);
            where_set(worker_tls, IN_USER);
            break;
        }
    }

    void served(const Who &whom)
    {
        for (int who : whom)
            expected_[static_cast<size_t>(who)] = fixture_.served_result(who);
    }

    void ended(int who, int why)
    {
        const auto at = static_cast<size_t>(who);
        if (ends_[at] != -ECANCELED)
            ends_[at] = why;
        if (expected_[at] != WAITS)
            return;
        expected_[at] = why;
        fixture_.waiting.erase(std::find(fixture_.waiting.begin(), fixture_.waiting.end(), who));
        fixture_.leave_model(who);
    }

    void act_model(const Event &event)
    {
        switch (event.kind) {
        case SERVE: served(fixture_.serve_model(event.which)); break;
        case CANCEL: ended(event.which, -ECANCELED); break;
        case TIMER: ended(event.which, -ETIMEDOUT); break;
        case DEADLINE: passed_.push_back(event.which); break;
        case CTX:
            for (int who = 0; who < static_cast<int>(results_.size()); who++)
                ended(who, -ECANCELED);
            break;
        }
    }

    void settle()
    {
        served(fixture_.admit_model());
        for (int who : passed_)
            ended(who, -ETIMEDOUT);
        passed_.clear();
        served(fixture_.admit_model());
        turn_(3);
    }

    void happen()
    {
        for (size_t i = 0; i < order_.events.size(); i++) {
            Actor &actor = *actors_[order_.events[i]];
            actor.acts = true;
            wh_event_set(&actor.turn);
            act_model(events_[order_.events[i]]);
            if (order_.pauses >> i & 1)
                settle();
        }
        settle();
    }

    std::string judge()
    {
        for (size_t i = 0; i < results_.size(); i++)
            if (results_[i] != expected_[i])
                return "waiter " + std::to_string(i) + ": " + std::to_string(results_[i]) +
                       " and not " + std::to_string(expected_[i]);
        return fixture_.wrong();
    }

    void end()
    {
        for (size_t i = 0; i < results_.size(); i++)
            if (results_[i] == WAITS)
                wh_cancel(coros_[i]);
        turn_(2);
        over_ = true;
        for (wh_coro *coro : coros_)
            join(coro);
        for (auto &actor : actors_) {
            wh_event_set(&actor->turn);
            join(actor->coro);
        }
    }

    std::string judge_end()
    {
        for (size_t i = 0; i < results_.size(); i++)
            if (next_[i] != ends_[i])
                return "the next call of waiter " + std::to_string(i) + ": " +
                       std::to_string(next_[i]);
        return fixture_.wrong_at_end();
    }

    Fixture &fixture_;
    const std::vector<Event> &events_;
    const Order &order_;
    Turns &turn_;
    std::vector<int> results_, expected_;
    std::vector<int> ends_; /* why a waiter may not wait any more */
    std::vector<int> next_;
    std::vector<int> passed_; /* whose deadline has, unnoticed */
    std::vector<wh_coro *> coros_;
    std::vector<std::unique_ptr<Actor>> actors_;
    wh_ctx *context_;
    bool over_ = false;
};

inline std::string text(const Order &order, const std::vector<Event> &events)
{
    std::string text;
    for (size_t i = 0; i < order.events.size(); i++) {
        text += events[order.events[i]].text();
        text += order.pauses >> i & 1 ? " | " : ", ";
    }
    return text;
}

/* Runs every order of the events against new fixtures of the kind F with that many waiters, and
 * complains of each that is wrong. */
template <typename F, typename... A>
void all(int waiters, const std::vector<Event> &events, A... arguments)
{
    int wrong = 0;
    in_run([&] {
        Turns turn;
        for (const Order &order : orders(events.size())) {
            auto fixture = std::make_unique<F>(arguments...);
            std::string what = Drive(*fixture, waiters, events, order, turn).run();
            if (!what.empty() && wrong++ < 20) {
                INFO(text(order, events));
                FAIL_CHECK(what);
            }
        }
        worker_validate(worker_tls);
        wh_stats stats;
        wh_stats_get(&stats);
        CHECK(stats.coros_live == 1);
        CHECK(stats.ops_in_flight == 0);
    });
    CHECK(wrong == 0);
}

} // namespace steps

#endif
