/*
 * copy_memory.cpp: the linker's --wrap=mem_alloc puts this between the library and its allocator.
 */
#include "tests/net/copy.hpp"

extern "C" {
void *__real_mem_alloc(size_t bytes);
void *__wrap_mem_alloc(size_t bytes);
}

std::atomic<bool> no_memory{false};

void *__wrap_mem_alloc(size_t bytes)
{
    return no_memory ? nullptr : __real_mem_alloc(bytes);
}
