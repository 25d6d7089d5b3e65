/*
 * switching_main.c: runs the checks of switching.c as a program of its own, for the builds and
 * processors that Catch2 is not built for. Exit status 0, or 1 when one fails.
 */
#include "tests/stacks/switching.h"

#include <stdio.h>

int main(void)
{
#ifdef __AVX512F__
    if (!__builtin_cpu_supports("avx512f")) {
        printf("skipped: this processor has no AVX-512\n");
        return 77;
    }
#endif
    int failed = 0;
    for (size_t i = 0; i < switch_checks_count; i++) {
        const char *wrong = switch_checks[i].run();
        printf("%s: %s\n", switch_checks[i].name, wrong ? wrong : "ok");
        failed += wrong != NULL;
    }
    return failed ? 1 : 0;
}
