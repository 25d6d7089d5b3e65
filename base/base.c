/*
 * base.c: reporting, memory, and numbers from the environment (base.h).
 */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef WHORL_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

static void report_line(const char *format, va_list args)
{
    char line[512];
    int n = snprintf(line, sizeof line, "whorl: ");
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    size_t len = strlen(line);
    (void)m;
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nowhere left to say it */
}

void report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_line(format, args);
    va_end(args);
}

void panic(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_line(format, args);
    va_end(args);
    abort();
}

void assert_failed(const char *condition, const char *file, int line)
{
    panic("%s:%d: this must hold and does not: %s", file, line, condition);
}

#ifdef WHORL_JEMALLOC

void *mem_alloc(size_t bytes)
{
    return mallocx(bytes, 0);
}

void *mem_alloc_aligned(size_t bytes, size_t align)
{
    return mallocx(bytes, MALLOCX_ALIGN(align));
}

void *mem_zalloc(size_t bytes)
{
    return mallocx(bytes, MALLOCX_ZERO);
}

void mem_free(void *memory)
{
    if (memory)
        dallocx(memory, 0);
}

#else

void *mem_alloc(size_t bytes)
{
    return malloc(bytes);
}

void *mem_alloc_aligned(size_t bytes, size_t align)
{
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

void *mem_zalloc(size_t bytes)
{
    return calloc(1, bytes);
}

void mem_free(void *memory)
{
    free(memory);
}

#endif

int64_t env_number(const char *name, int64_t fallback)
{
    const char *text = getenv(name);
    if (!text || !*text)
        return fallback;

    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end) {
        report("%s=%s is not a number; the variable is ignored", name, text);
        return fallback;
    }
    return value;
}
