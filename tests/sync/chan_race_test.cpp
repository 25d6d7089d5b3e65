/*
 * chan_race_test.cpp: sends and receives against peers, close, cancel and deadline, in every order
 * (orders.hpp), and the conservation of elements.
 */
#include "tests/sync/orders.hpp"

using namespace orders;

namespace
{

/* What both scenes have: a channel, and an account of what went in and came out. */
class ChanScene : public Scene
{
  public:
    explicit ChanScene(size_t capacity) : ch(wh_chan_create(int, capacity))
    {
    }
    ~ChanScene() override
    {
        wh_chan_unref(ch);
    }
    /* Takes out all that is left, and lets blocked senders go. */
    void finish() override
    {
        int x = 0;
        while (wh_chan_try_recv(ch, &x) == 1)
            left.push_back(x);
    }

  protected:
    wh_chan *raw() const
    {
        return whorl::chan_of(ch);
    }
    std::string wrong_now() const
    {
        chan_validate(raw());
        if (!list_empty(&raw()->receivers) || !list_empty(&raw()->senders))
            return "something is left in a queue";
        std::vector<int> out = taken;
        out.insert(out.end(), left.begin(), left.end());
        return out == sent ? "" : "what was sent is not what was received";
    }

    WH_CHAN(int) ch;
    std::vector<int> sent;  /* by sends that returned 0, in their order */
    std::vector<int> taken; /* by receives that returned 1, in their order */
    std::vector<int> left;
};

/* A receiver that waits. Peers send without waiting, because one that waits must not see a close;
 * or waiting, without a close. */
class Receiver : public ChanScene
{
  public:
    Receiver(size_t capacity, bool peers_wait) : ChanScene(capacity)
    {
        events = {send(1, peers_wait), send(2, peers_wait), orders::cancel(), orders::deadline(),
                  ctx_cancel(ctx)};
        if (!peers_wait)
            events.push_back({"close",
                              [this](wh_coro *) {
                                  wh_chan_close(ch);
                                  closed_ = true;
                                  return true;
                              },
                              is(0)});
    }
    int call() override
    {
        int x = 77;
        const int rc = wh_chan_recv(ch, &x);
        untouched_ &= rc >= 0 || x == 77;
        zeroed_ &= rc != 0 || x == 0;
        if (rc == 1)
            taken.push_back(x);
        return rc;
    }
    std::string wrong(int result) override
    {
        if (!untouched_)
            return "a receive that failed has written";
        if (!zeroed_)
            return "at the end the element is not zero";
        if ((result == 1) != (taken.size() == 1))
            return "it took more or less than one";
        return wrong_now();
    }

  private:
    Event send(int x, bool waits)
    {
        return {x == 1 ? "send" : "send-2",
                [this, x, waits](wh_coro *) {
                    if (closed_)
                        return false;
                    const bool one_waits = queue_first(&raw()->receivers);
                    if (waits)
                        sent.push_back(x); /* now, because that is the order of waiting */
                    const int rc = waits ? wh_chan_send(ch, x) : wh_chan_try_send(ch, x);
                    if (rc == 0 && !waits)
                        sent.push_back(x);
                    return one_waits && rc == 0;
                },
                is(1)};
    }

    bool closed_ = false;
    bool untouched_ = true;
    bool zeroed_ = true;
};

/* A sender that waits, behind as many elements as fit. */
class Sender : public ChanScene
{
  public:
    Sender(size_t capacity, bool peers_wait) : ChanScene(capacity)
    {
        for (size_t i = 0; i < capacity; i++) {
            sent.push_back(100 + static_cast<int>(i));
            wh_assert(wh_chan_try_send(ch, sent.back()) == 0);
        }
        events = {recv("recv", peers_wait), recv("recv-2", peers_wait), orders::cancel(),
                  orders::deadline(), ctx_cancel(ctx)};
        if (!peers_wait)
            events.push_back({"close",
                              [this](wh_coro *) {
                                  if (!queue_first(&raw()->senders)) /* it would abort */
                                      wh_chan_close(ch);
                                  return false;
                              },
                              is(INT_MIN)});
    }
    int call() override
    {
        const int rc = wh_chan_send(ch, 7);
        if (rc == 0)
            sent.push_back(7);
        return rc;
    }
    /* A receiver that waits for more is sent what it waits for. */
    void finish() override
    {
        while (queue_first(&raw()->receivers)) {
            sent.push_back(50);
            wh_assert(wh_chan_try_send(ch, 50) == 0);
            wh_yield();
        }
        ChanScene::finish();
    }
    std::string wrong(int) override
    {
        return wrong_now();
    }

  private:
    Event recv(const char *name, bool waits)
    {
        return {name,
                [this, waits](wh_coro *) {
                    const bool one_waits = queue_first(&raw()->senders);
                    int x = 0;
                    const int rc = waits ? wh_chan_recv(ch, &x) : wh_chan_try_recv(ch, &x);
                    if (rc == 1)
                        taken.push_back(x);
                    return one_waits && rc == 1;
                },
                is(0)};
    }
};

} // namespace

TEST_CASE("chan: a receive against two sends, close, cancel, deadline and context in every order")
{
    for (size_t capacity : {0, 1, 3}) {
        const int count = all([&] { return std::make_unique<Receiver>(capacity, false); }, 4);
        CHECK(count > sampled(3000));
    }
}

TEST_CASE("chan: a receive against two blocking sends, cancel, deadline and context in every order")
{
    for (size_t capacity : {0, 1})
        all([&] { return std::make_unique<Receiver>(capacity, true); });
}

TEST_CASE("chan: a send against two receives, cancel, deadline, context and a close thereafter")
{
    for (size_t capacity : {0, 1, 3})
        all([&] { return std::make_unique<Sender>(capacity, false); }, 4);
}

TEST_CASE("chan: a send against two blocking receives, cancel, deadline and context")
{
    for (size_t capacity : {0, 1})
        all([&] { return std::make_unique<Sender>(capacity, true); });
}
