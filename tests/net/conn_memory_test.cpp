/*
 * conn_memory_test.cpp: what memory a stream has while nothing is in its buffer: none. The linker's
 * --wrap=mem_alloc and --wrap=mem_free count.
 */
#include "tests/net/peers.hpp"

#include <catch2/catch_test_macros.hpp>

extern "C" {
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_alloc(size_t bytes);
void __real_mem_free(void *memory);
void __wrap_mem_free(void *memory);
}

namespace
{

/* Pieces of memory; other threads allocate, too. */
thread_local int held = 0;

} // namespace

void *__wrap_mem_alloc(size_t bytes)
{
    void *memory = __real_mem_alloc(bytes);
    held += memory != nullptr;
    return memory;
}

void __wrap_mem_free(void *memory)
{
    held -= memory != nullptr;
    __real_mem_free(memory);
}

TEST_CASE("conn: writing nothing takes no buffer")
{
    in_run([] {
        FdPair pair = tcp_pair();
        wh_conn *conn = nullptr;
        int rc = wh_conn_create(&conn, pair.a.release());
        CHECK(rc == 0);
        const int before = held;
        const struct iovec nothing[2] = {};
        ssize_t n = wh_conn_write(conn, "", 0);
        CHECK(n == 0);
        CHECK(held == before);
        n = wh_conn_writev(conn, nothing, 2);
        CHECK(n == 0);
        n = wh_conn_writev(conn, nothing, 0);
        CHECK(n == 0);
        CHECK(held == before);
        n = wh_conn_printf(conn, "%s", "");
        CHECK(n == 0);
        CHECK(held == before);
        rc = wh_conn_flush(conn);
        CHECK(rc == 0);

        const std::string most(4095, 'x'); /* of what fits */
        n = wh_conn_write(conn, most.data(), most.size());
        CHECK(n == 4095);
        CHECK(held == before + 1);
        n = wh_conn_printf(conn, "%s", "");
        CHECK(n == 0);
        n = wh_conn_write(conn, "", 0);
        CHECK(n == 0);
        n = wh_conn_printf(conn, "%s", "yz");
        CHECK(n == 2);
        rc = wh_conn_flush(conn);
        CHECK(rc == 0);
        CHECK(held == before);
        std::string got(4097, 0);
        CHECK(recv(pair.b, got.data(), got.size(), MSG_WAITALL) == 4097);
        CHECK((got == most + "yz"));
        rc = wh_conn_close(conn);
        CHECK(rc == 0);
    });
}
