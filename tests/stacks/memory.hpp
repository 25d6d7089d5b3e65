/*
 * memory.hpp: what the kernel says of the process's memory.
 */
#ifndef TESTS_STACKS_MEMORY_HPP
#define TESTS_STACKS_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include <sys/mman.h>

constexpr size_t PAGE_BYTES = 4096;

/* Resident pages that [low, high) touches. */
inline size_t resident_pages(const char *low, const char *high)
{
    uintptr_t first = reinterpret_cast<uintptr_t>(low) & ~(PAGE_BYTES - 1);
    size_t pages = (reinterpret_cast<uintptr_t>(high) - first + PAGE_BYTES - 1) / PAGE_BYTES;
    std::vector<unsigned char> present(pages);
    if (mincore(reinterpret_cast<void *>(first), pages * PAGE_BYTES, present.data()) < 0)
        return SIZE_MAX;
    size_t count = 0;
    for (unsigned char page : present)
        count += page & 1;
    return count;
}

inline size_t mappings()
{
    std::ifstream maps("/proc/self/maps");
    std::string line;
    size_t count = 0;
    while (std::getline(maps, line))
        count++;
    return count;
}

inline size_t address_space_bytes()
{
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0;
    statm >> pages;
    return pages * PAGE_BYTES;
}

#endif
