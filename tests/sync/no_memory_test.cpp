/*
 * no_memory_test.cpp: contexts, groups, pools and processes without memory. The linker's
 * --wrap=mem_alloc puts the functions below between the library and its allocator.
 */
#include "tests/sync/sync.hpp"

#include <climits>

extern "C" {
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_alloc(size_t bytes);
void *__real_mem_zalloc(size_t bytes);
void *__wrap_mem_zalloc(size_t bytes);
}

namespace
{

int allocations_left = INT_MAX;

bool refused()
{
    return allocations_left <= 0 || (allocations_left != INT_MAX && allocations_left-- <= 0);
}

/* While it lives only so many allocations succeed, and no context is left over from before. */
class Memory
{
  public:
    explicit Memory(int allocations) : left_over_(worker_tls->ctx_free)
    {
        worker_tls->ctx_free = nullptr;
        allocations_left = allocations;
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory()
    {
        end();
    }
    void end()
    {
        allocations_left = INT_MAX;
        if (!worker_tls->ctx_free) /* else they are lost until the run ends */
            worker_tls->ctx_free = std::exchange(left_over_, nullptr);
    }

  private:
    wh_ctx *left_over_;
};

int key;

void stay()
{
    (void)wh_sleep(WH_HOUR);
}

} // namespace

void *__wrap_mem_alloc(size_t bytes)
{
    return refused() ? nullptr : __real_mem_alloc(bytes);
}

void *__wrap_mem_zalloc(size_t bytes)
{
    return refused() ? nullptr : __real_mem_zalloc(bytes);
}

TEST_CASE("no memory: a context is NULL, and nothing else has changed")
{
    in_run([] {
        Memory none(0);
        wh_ctx *ctx = wh_ctx_create(nullptr);
        CHECK(ctx == nullptr);
        ctx = wh_ctx_create_timeout(wh_ctx_background(), WH_SECOND);
        CHECK(ctx == nullptr);
        ctx = wh_ctx_create_deadline(nullptr, WH_NEVER);
        CHECK(ctx == nullptr);
        ctx = wh_ctx_create_value(nullptr, &key, &key);
        CHECK(ctx == nullptr);
        CHECK(wh_ctx_err(nullptr) == 0);
    });
}

TEST_CASE("no memory: WH_WITH_CANCEL and WH_WITH_VALUE run their blocks in a context that is "
          "cancelled, with the cause -ENOMEM")
{
    in_run([] {
        int ran = 0, rc = 1, nested = 1, started_rc = 1;
        bool shielded = false;
        Memory none(0);
        WH_WITH_CANCEL(ctx)
        {
            ran++;
            CHECK(wh_ctx_err(ctx) == -ECANCELED);
            CHECK(wh_ctx_cause(ctx) == -ENOMEM);
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
            CHECK(wh_ctx_cause(nullptr) == -ENOMEM);
            CHECK(wh_ctx_deadline(ctx) == WH_NEVER);
            CHECK(wh_ctx_create(ctx) == nullptr);
            wh_ctx_cancel(ctx, -EIO);
            CHECK(wh_ctx_ref(ctx) == ctx);
            wh_ctx_unref(ctx);
            rc = wh_sleep(1);
            WH_WITH_CTX(ctx)
            {
                nested = wh_sleep(1);
            }
            WH_SHIELD
            {
                shielded = wh_sleep(1) == 0;
            }
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
        }
        CHECK(rc == -ECANCELED);
        CHECK(nested == -ECANCELED);
        CHECK(shielded);
        CHECK(wh_ctx_err(nullptr) == 0);
        WH_WITH_VALUE(&key, &key)
        {
            ran++;
            rc = wh_sleep(0);
            CHECK(wh_ctx_cause(nullptr) == -ENOMEM);
        }
        CHECK(rc == -ECANCELED);
        CHECK(ran == 2);
        rc = wh_sleep(1);
        CHECK(rc == 0);
        none.end();
        wh_event go = {};
        wh_coro *started = nullptr;
        {
            wh_coro *spare = spawn([] {}); /* so that there are descriptors */
            join(spare);
        }
        auto body = [&] { started_rc = wh_event_wait(&go); };
        {
            Memory again(0);
            WH_WITH_CANCEL(ctx)
            {
                started = spawn(body);
                CHECK(ctx != nullptr);
            }
        }
        wh_event_set(&go);
        join(started);
        CHECK(started_rc == -ECANCELED); /* it is in the block's context, which has ended */
    });
}

TEST_CASE("no memory: a context in such a block has ended, too, when there is memory again")
{
    in_run([] {
        Memory none(0);
        WH_WITH_CANCEL(lost)
        {
            none.end();
            WH_WITH_CANCEL(ctx)
            {
                CHECK(wh_ctx_err(ctx) == -ECANCELED);
                int rc = wh_sleep(1);
                CHECK(rc == -ECANCELED);
            }
            wh_ctx *other = wh_ctx_create(wh_ctx_background());
            WH_WITH_CTX(other)
            {
                int rc = wh_sleep(1);
                CHECK(rc == -ECANCELED);
            }
            CHECK(wh_ctx_err(other) == 0);
            wh_ctx_destroy(other);
            CHECK(wh_ctx_err(lost) == -ECANCELED);
        }
        int rc = wh_sleep(1);
        CHECK(rc == 0);
    });
}

TEST_CASE("no memory: WH_WITH_CTX under foreign blocks fails closed: its calls are refused")
{
    in_run([] {
        wh_ctx *foreign = wh_ctx_create(wh_ctx_background());
        WH_WITH_CANCEL(ctx)
        {
            Memory none(0);
            int rc = 1;
            WH_WITH_CTX(foreign)
            {
                rc = wh_sleep(1);
            }
            CHECK(rc == -ECANCELED);
            rc = wh_sleep(1);
            CHECK(rc == 0);
            CHECK(wh_ctx_err(ctx) == 0);
        }
        wh_ctx_destroy(foreign);
    });
}

TEST_CASE("no memory: a shield shields all the same")
{
    in_run([] {
        WH_WITH_CANCEL(ctx)
        {
            wh_ctx_cancel(ctx, 0);
            Memory none(0);
            int rc = 1;
            WH_SHIELD
            {
                rc = wh_sleep(1);
            }
            CHECK(rc == 0);
            CHECK(wh_ctx_err(nullptr) == -ECANCELED);
        }
    });
}

TEST_CASE("no memory: wh_ctx_after says -ENOMEM and leaves its handle alone")
{
    in_run([] {
        wh_ctx *ctx = wh_ctx_create(nullptr);
        wh_after *after = nullptr;
        {
            Memory none(0);
            CHECK(wh_ctx_after(ctx, &after, stay) == -ENOMEM);
        }
        CHECK(after == nullptr);
        wh_ctx_destroy(ctx);
    });
}

TEST_CASE("no memory: in a group's block nothing can be started, and start and wait say -ENOMEM")
{
    in_run([] {
        for (int allocations : {0, 1}) { /* none for the group; none for its context */
            Memory few(allocations);
            int ran = 0, error = 0, go = 0, tried = 0, wait = 0, own = 0;
            const wh_group_options options = {0, &error};
            WH_WITH_GROUP(group, &options)
            {
                ran++;
                go = wh_group_go(group, stay);
                tried = wh_group_try_go(group, stay);
                wait = wh_group_wait(group);
                CHECK(wh_group_members(group) == 0);
                wh_group_cancel(group, -EIO);
                CHECK(wh_ctx_err(nullptr) == -ECANCELED);
                own = wh_sleep(1);
                if (allocations)
                    break;
            }
            CHECK(ran == 1);
            CHECK(go == -ENOMEM);
            CHECK(tried == -ENOMEM);
            CHECK(wait == -ENOMEM);
            CHECK(error == -ENOMEM);
            CHECK(own == -ECANCELED);
            int after = wh_sleep(1);
            CHECK(after == 0);
        }
    });
}

TEST_CASE("no memory: a pool has all that it needs or is NULL")
{
    const wh_options few = {0, 4, 0, 0, 0};
    in_run(
        [] {
            for (int allocations = 0; allocations < 2; allocations++) {
                Memory none(allocations);
                wh_pool *pool = wh_pool_create(1, 4);
                CHECK(pool == nullptr);
            }
            wh_pool *pool = wh_pool_create(4, 4); /* one worker too many */
            CHECK(pool == nullptr);
            CHECK(wh_pool_create(1, SIZE_MAX / 8) == nullptr);
            wh_stats stats;
            wh_stats_get(&stats);
            CHECK(stats.coros_live == 1);
            pool = wh_pool_create(3, 4);
            CHECK(pool != nullptr);
            wh_pool_destroy(pool);
            wh_stats_get(&stats);
            CHECK(stats.coros_live == 1);
        },
        &few);
}

TEST_CASE("no memory: a process is not started")
{
    in_run([] {
        const char *const argv[] = {"true", nullptr};
        wh_process *process = nullptr;
        int rc = 0;
        {
            Memory none(0);
            rc = wh_process_spawn(&process, argv, nullptr);
        }
        CHECK(rc == -ENOMEM);
        CHECK(process == nullptr);
    });
}
