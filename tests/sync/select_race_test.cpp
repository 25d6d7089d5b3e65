/*
 * select_race_test.cpp: one select that waits for everything, and everything happening to it in
 * every order (orders.hpp): exactly one case happens, and the others had no effect.
 */
#include "tests/sync/orders.hpp"
#include "tests/sync/select_tools.hpp"

using namespace orders;
using namespace select_tools;

namespace
{

/* What can happen, by name; a Scene is made with some of it. */
enum What : unsigned {
    SEND = 1 << 0,     /* to a: case 0 receives it */
    CLOSE = 1 << 1,    /* of b: case 1 receives its end */
    RECV = 1 << 2,     /* from c: case 2 sends */
    DONE = 1 << 3,     /* of a context: case 3 */
    TICK = 1 << 4,     /* case 4 */
    READABLE = 1 << 5, /* case 5 */
    END = 1 << 6,      /* of a coroutine: case 6 */
    TIME = 1 << 7,     /* case 7 */
    SHUT = 1 << 8,     /* the descriptor of case 5 is closed */
    CANCEL = 1 << 9,
    CTX = 1 << 10,
    DEADLINE = 1 << 11, /* not with TIME: the earlier of them is the one that can come */
};

class Everything : public Scene
{
  public:
    explicit Everything(unsigned what) : what_(what)
    {
        deadline_lasts = false;
        if (what & TIME)
            timeout_ns = 2 * WH_HOUR;
        target_ = spawn([this] { (void)!wh_chan_recv(gate_, nullptr); });
        wh_yield();
        if (what & SEND)
            events.push_back({"send",
                              [this](wh_coro *) {
                                  sent_ += wh_chan_try_send(a_, 5) == 0;
                                  return true;
                              },
                              is(0)});
        if (what & CLOSE)
            events.push_back({"close",
                              [this](wh_coro *) {
                                  wh_chan_close(b_);
                                  return true;
                              },
                              is(1)});
        if (what & RECV)
            events.push_back({"recv",
                              [this](wh_coro *) {
                                  int x = 0;
                                  received_ += wh_chan_try_recv(c_, &x) == 1;
                                  received_wrong_ |= received_ && x != 7;
                                  return true;
                              },
                              is(2)});
        if (what & DONE)
            events.push_back({"done",
                              [this](wh_coro *) {
                                  wh_ctx_cancel(done_, 0);
                                  return true;
                              },
                              is(3)});
        if (what & TICK)
            events.push_back({"tick",
                              [this](wh_coro *) {
                                  wh_timer_reset(timer_, 0, 0);
                                  ticks_++;
                                  return true;
                              },
                              is(4), true});
        if (what & READABLE)
            events.push_back({"readable",
                              [this](wh_coro *) {
                                  written_ = send(pair_.b, "x", 1, MSG_NOSIGNAL) == 1;
                                  return written_ || shut_;
                              },
                              is(5), true});
        if (what & END)
            events.push_back({"end",
                              [this](wh_coro *) {
                                  (void)wh_chan_try_send(gate_, 1);
                                  ended_ = true;
                                  return true;
                              },
                              is(6), true});
        if (what & TIME)
            events.push_back({"time",
                              [](wh_coro *waiter) {
                                  pass_deadline(waiter);
                                  return true;
                              },
                              is(7), true});
        if (what & SHUT)
            events.push_back({"shut",
                              [this](wh_coro *) {
                                  shut_ = true;
                                  shut_rc_ = wh_close(pair_.a.release());
                                  return true;
                              },
                              is(5), true});
        if (what & CANCEL)
            events.push_back(orders::cancel());
        if (what & CTX)
            events.push_back(ctx_cancel(ctx));
        if (what & DEADLINE)
            events.push_back(orders::deadline());
    }
    ~Everything() override
    {
        end_target();
        wh_timer_destroy(timer_);
        wh_ctx_destroy(done_);
        unref(a_, b_, c_, gate_);
    }
    int call() override
    {
        const wh_case cases[] = {
            WH_RECV_OK(a_, &got_a_, &ok_a_),
            WH_RECV_OK(b_, &got_b_, &ok_b_),
            WH_SEND(c_, &seven_),
            WH_DONE(done_),
            WH_TICK(timer_),
            WH_READABLE(what_ & (READABLE | SHUT) ? fd_ : -1),
            WH_JOINABLE(target_), /* NULL for the call after it: never ready */
            what_ & TIME ? WH_AFTER(WH_HOUR) : WH_AT(WH_NEVER),
        };
        /* Without the descriptor's case a select has no polls to wait for. */
        const wh_case others[] = {cases[0], cases[1],        cases[2], cases[3],
                                  cases[4], WH_AT(WH_NEVER), cases[6], cases[7]};
        return wh_select_n(what_ & (READABLE | SHUT) ? cases : others, 8);
    }
    void finish() override
    {
        end_target();
    }
    std::string wrong(int result) override
    {
        if (!quiet(a_) || !quiet(b_) || !quiet(c_) || !list_empty(&timer_->waiters) ||
            !list_empty(ctx_waiters(done_)))
            return "it is still in a queue";
        if (worker_tls->ops_in_flight)
            return "a poll is still in flight";
        if (sent_ != (result == 0) || (result == 0 ? got_a_ != 5 || !ok_a_ : got_a_ != 77))
            return "an element that was sent was not received, or received otherwise";
        if (result == 1 ? got_b_ || ok_b_ : got_b_ != 77)
            return "the end of the channel was noted wrongly";
        if (received_ != (result == 2) || received_wrong_)
            return "an element was sent otherwise than received";
        if (result == 4 && timer_->pending)
            return "the tick was not taken";
        if (result != 4 && ticks_ && !timer_->pending && !timer_armed(&timer_->alarm.timer))
            return "the tick was taken";
        char byte;
        if (!shut_ && written_ != (recv(pair_.a, &byte, 1, MSG_DONTWAIT) == 1))
            return "the byte was taken";
        if (shut_ && (shut_rc_ != 0 || fcntl(fd_, F_GETFD) != -1))
            return "the close failed";
        return "";
    }

  private:
    void end_target()
    {
        if (!ended_)
            (void)wh_chan_try_send(gate_, 1);
        ended_ = true;
        if (target_)
            join(std::exchange(target_, nullptr));
    }

    const unsigned what_;
    Ints a_ = wh_chan_create(int, 0), b_ = wh_chan_create(int, 0), c_ = wh_chan_create(int, 0);
    Ints gate_ = wh_chan_create(int, 0);
    wh_ctx *done_ = wh_ctx_create(wh_ctx_background());
    wh_timer *timer_ = wh_timer_create(WH_HOUR, 0);
    FdPair pair_ = socket_pair();
    const int fd_ = pair_.a;
    wh_coro *target_ = nullptr;

    const int seven_ = 7;
    int got_a_ = 77, got_b_ = 77;
    bool ok_a_ = false, ok_b_ = true;
    int sent_ = 0, received_ = 0, ticks_ = 0, shut_rc_ = INT_MIN;
    bool received_wrong_ = false, written_ = false, ended_ = false, shut_ = false;
};

int play_all(unsigned what, size_t paused_max)
{
    return all([what] { return std::make_unique<Everything>(what); }, paused_max);
}

} // namespace

TEST_CASE("select: send, close, context, cancel, deadline, descriptor and tick in every order")
{
    const int count =
        play_all(SEND | CLOSE | CTX | CANCEL | DEADLINE | READABLE | TICK, WITH_ASAN ? 2 : 3);
    CHECK(count > sampled(13699));
}

TEST_CASE("select: every two and three of all that can happen, with every pause")
{
    const unsigned events[] = {SEND, CLOSE, RECV, DONE, TICK, READABLE, END, CTX, CANCEL, DEADLINE};
    for (unsigned one : events)
        for (unsigned two : events)
            for (unsigned three : events)
                if (one < two && two < three)
                    play_all(one | two | three, 3);
}

TEST_CASE("select: a receiver, a context, a coroutine's end, a send and a close in every order")
{
    play_all(RECV | DONE | END | SEND | CLOSE, WITH_ASAN ? 3 : 5);
}

TEST_CASE("select: a time against a send, cancels and a descriptor in every order")
{
    play_all(TIME | SEND | CANCEL | CTX | READABLE, WITH_ASAN ? 3 : 5);
}

TEST_CASE("select: closing the descriptor against data, send, cancel and deadline in every order")
{
    play_all(SHUT | READABLE | SEND | CANCEL | DEADLINE, WITH_ASAN ? 3 : 5);
}
