/*
 * from_c.h: pieces of C that use the public macros, for the tests, which are C++ and see the other
 * half of the headers. Each runs as the root of a run and returns 0, or the line where what must
 * hold does not.
 */
#ifndef TESTS_HEADERS_FROM_C_H
#define TESTS_HEADERS_FROM_C_H

#ifdef __cplusplus
extern "C" {
#endif

int c_arguments_arrive(void *arg);
int c_results_come_back(void *arg);
int c_arguments_are_evaluated_once(void *arg);
int c_sites_name_the_call(void *arg);
int c_blocks_end(void *arg);

#ifdef __cplusplus
}
#endif

#endif
