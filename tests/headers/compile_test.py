#!/usr/bin/env python3
"""compile_test: what the public headers let a compiler accept, refuse and say.

    compile_test.py INCLUDE_DIR CC CXX

Runs each case with the two compilers given and with every other gcc and clang on the PATH that the
headers support (GCC 12, Clang 14). A case that must not compile stands beside one that differs in
that one thing and must: so a snippet that fails for another reason shows.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

C_STANDARDS = ['c11', 'gnu17']
CXX_STANDARDS = ['c++17', 'gnu++20']
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Wconversion', '-Wcast-qual', '-Wundef',
            '-Wpointer-arith', '-Werror']
C_WARNINGS = ['-Wstrict-prototypes', '-Wvla']
CXX_WARNINGS = ['-Wold-style-cast', '-Wzero-as-null-pointer-constant']
FLOOR = {'gcc': 12, 'clang': 14}

PARTS = ['whorl.h'] + ['whorl/' + name + '.h' for name in
                       ('blocking', 'chan', 'conn', 'coro', 'ctx', 'group', 'io', 'net',
                        'process', 'run', 'runtime', 'select', 'serve', 'signal', 'stats', 'sync',
                        'time', 'timer', 'types')]

# The program that the design and the README open with.
ECHO = '''
#include <whorl.h>

static void serve(wh_fd fd)
{
    char buf[4096];
    WH_WITH_TIMEOUT(30 * WH_SECOND) {
        for (;;) {
            ssize_t n = wh_recv(fd, buf, sizeof buf, 0);
            if (n <= 0)
                break;
            if (wh_send_all(fd, buf, (size_t)n) < 0)
                break;
        }
    }
    wh_close(fd);
}

static int app(void *arg)
{
    wh_fd l = wh_listen_tcp("127.0.0.1:7000", NULL);
    (void)arg;
    if (l < 0)
        return l;
    for (;;) {
        wh_fd c = wh_accept(l);
        if (c < 0)
            return c;
        wh_go(serve, c);
    }
}

int main(void)
{
    return wh_run(app, NULL, NULL);
}
'''

# What the README's other samples stand between.
README_AROUND = '''
#include <whorl.h>

struct page;
void show(struct page *page);
void discard(struct page *page);
int fetch(const char *url, WH_CHAN(struct page *) pages);
int all(const char *const *urls);

int all(const char *const *urls)
{
    SAMPLE
    return rc;
}
'''

# Everything that a program says with these headers, once.
USES = '''
#include <whorl.h>
#include <whorl.h>

enum colour { RED, GREEN };
static void none(void) {}
static void six(int a, long b, const char *c, void *d, size_t e, enum colour f)
{
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
}
static int number(unsigned a) { return (int)a; }
static const char *text(const char *a) { return a; }
static unsigned char byte(int a) { return (unsigned char)a; }
static void drop(void *value) { (void)value; }
static void visit(const struct wh_site *site, void *arg) { (void)site, (void)arg; }

int uses(wh_fd fd);
int uses(wh_fd fd)
{
    wh_coro *coro;
    intptr_t value;
    wh_key key;
    wh_stats stats;
    char buf[16];
    wh_spawn_options options = {"name", 16384, 0, false};
    int i = 0;
    int rc = wh_go(none);
    rc |= wh_go(six, i++, 2L, "three", buf, sizeof buf, GREEN);
    rc |= wh_spawn(&coro, NULL, number, 7u);
    rc |= wh_spawn(&coro, &options, text, "seven");
    if (rc == 0)
        rc = wh_spawn(&coro, &options, byte, 200);
    else
        rc = wh_go(none);
    rc |= wh_join(coro, &value);
    rc |= wh_key_create(&key, drop) | wh_local_set(key, buf);
    WH_WITH_TIMEOUT(2 * WH_SECOND) {
        WH_WITH_DEADLINE(WH_NEVER)
            rc |= wh_sleep(WH_MILLISECOND);
        if (rc)
            break;
        if (wh_read(fd, buf, sizeof buf) < 0)
            return rc;
    }
    WH_WITH_TIMEOUT(1) WH_WITH_TIMEOUT(2) wh_yield();
    wh_stats_get(&stats);
    wh_sites_visit(visit, NULL);
    wh_detach(coro);
    wh_cancel(wh_self());
    {
        const char *const argv[] = {"program", NULL};
        const wh_process_options how = {NULL, "/", WH_STDIO_NULL, WH_STDIO_PIPE, WH_STDIO_FD(fd),
                                        15, WH_SECOND};
        wh_process *process;
        char *out;
        int status;
        if (wh_process_spawn(&process, argv, &how) < 0 ||
            wh_process_wait(process, &status) < 0 || wh_close(wh_process_take(process, 1)) < 0)
            return wh_process_run(argv, NULL, &status);
        rc |= wh_process_kill(process, 15) | wh_process_pid(process) | wh_process_pidfd(process);
        wh_process_destroy(process);
        if (wh_process_output(argv, NULL, 100, &out, NULL) < 0)
            return rc;
    }
    return rc | wh_caps(buf, sizeof buf) | (int)wh_id(coro) | (wh_name(coro) != wh_version());
}
'''

FUNCTIONS = '''
#include <whorl.h>
struct pair { int a, b; };
void none(void);
void takes_ints(WH_CHAN(int) ch);
void one(int a);
void two(int a, const char *b);
void seven(int a, int b, int c, int d, int e, int f, int g);
void pointer(const char *a);
void writes(char *a);
void counts(int *a);
void real(double a);
void record(struct pair a);
struct pair gives_record(int a);
double gives_real(int a);
extern struct pair p;
extern double r;
extern int i;
extern char text[16];
extern char *s;
extern const char *cs;
extern wh_coro *coro;
extern WH_CHAN(int) ints;
extern WH_CHAN(const char *) texts;
extern wh_ctx *ctx;
extern wh_event event;
extern void *anything;
extern long l;
int t(void);
'''

# What is wrong, the call that compiles, the call that differs from it in that and does not, and
# perhaps a word of the message. In C all diagnostics that a plain call would bring count: the
# options have -Werror.
BOTH = [
    ('an argument is missing', 'wh_go(two, 1, cs)', 'wh_go(two, 1)'),
    ('all arguments are missing', 'wh_go(one, 1)', 'wh_go(one)'),
    ('an argument is too many', 'wh_go(one, 1)', 'wh_go(one, 1, 2)'),
    ('an argument for a function without any', 'wh_go(none)', 'wh_go(none, 1)'),
    ('a pointer where a number is wanted', 'wh_go(one, i)', 'wh_go(one, s)'),
    ('a number where a pointer is wanted', 'wh_go(pointer, s)', 'wh_go(pointer, i)'),
    ('a pointer to another type', 'wh_go(counts, &i)', 'wh_go(counts, s)'),
    ('a constant where it will be written', 'wh_go(writes, s)', 'wh_go(writes, cs)'),
    ('a struct as an argument', 'wh_go(one, p.a)', 'wh_go(record, p)'),
    ('a struct where a number is wanted', 'wh_go(one, p.a)', 'wh_go(one, p)'),
    ('a float for a parameter that is one', 'wh_go(one, 1)', 'wh_go(real, r)'),
    ('seven arguments', 'wh_go(one, 1)', 'wh_go(seven, 1, 2, 3, 4, 5, 6, 7)'),
    ('what is no function', 'wh_go(none)', 'wh_go(i)'),
    ('a function that is not declared', 'wh_go(none)', 'wh_go(undeclared)'),
    ('no function at all', 'wh_go(none)', 'wh_go()'),
    ('spawn: the address of a handle', 'wh_spawn(&coro, NULL, none)', 'wh_spawn(coro, NULL, none)'),
    ('spawn: an argument is missing', 'wh_spawn(&coro, NULL, one, 1)',
     'wh_spawn(&coro, NULL, one)'),
    ('a channel of another type as an argument', 'wh_go(takes_ints, ints)',
     'wh_go(takes_ints, texts)'),
    ('a channel: a value of another type', 'wh_chan_send(ints, i)', 'wh_chan_send(ints, s)'),
    ('a channel: receiving into another type', 'wh_chan_recv(ints, &i)', 'wh_chan_recv(ints, &l)'),
    ('a channel: receiving into a number', 'wh_chan_recv(ints, &i)', 'wh_chan_recv(ints, i)'),
    ('a channel: receiving into anything', 'wh_chan_recv(ints, NULL)',
     'wh_chan_recv(ints, anything)'),
    ('a channel: sending from another type', 'wh_chan_send_from(ints, &i)',
     'wh_chan_send_from(ints, &l)'),
    ('a channel: a constant that would be written', 'wh_chan_recv(texts, &cs)',
     'wh_chan_recv(texts, &s)'),
    ('a channel: what is none', 'wh_chan_close(ints)', 'wh_chan_close(&i)'),
    ('select: receiving into another type', 'wh_select(WH_RECV(ints, &i))',
     'wh_select(WH_RECV(ints, &l))'),
    ('select: sending from another type', 'wh_select(WH_SEND(ints, &i))',
     'wh_select(WH_SEND(ints, &l))'),
    ('select: sending a number', 'wh_select(WH_SEND(ints, &i))', 'wh_select(WH_SEND(ints, 5))'),
    ('select: what is no context', 'wh_select(WH_DONE(ctx))', 'wh_select(WH_DONE(coro))'),
    ('select: what is no event', 'wh_select(WH_EVENT_SET(&event))',
     'wh_select(WH_EVENT_SET(ctx))'),
    ('signals on a channel of another type', 'wh_signal_notify(ints, 1)',
     'wh_signal_notify(texts, 1)'),
    ('spawn: options of another type', 'wh_spawn(&coro, NULL, none)', 'wh_spawn(&coro, &i, none)'),
]
# Of these, and in C, more than one complaint would hide the one that tells.
ONCE = {'an argument is missing', 'a pointer where a number is wanted',
        'a constant where it will be written'}
C_ONLY = [
    ('a vector', 'wh_go(one, 1)', 'wh_go(takes_vector, two_ints)'),
    ('a function that returns a vector', 'wh_go(one, 1)', 'wh_go(gives_vector, 1)'),
    ('a float where a number is wanted', 'wh_go(one, 1)', 'wh_go(one, r)'),
    ('a float constant', 'wh_go(one, 1)', 'wh_go(one, 1.0f)'),
    ('a complex number', 'wh_go(one, 1)', 'wh_go(one, z)'),
    ('a union', 'wh_go(one, 1)', 'wh_go(takes_either, u)'),
    ('a number wider than a word', 'wh_go(one, 1)', 'wh_go(takes_wide, wide)'),
    ('a function that returns a struct', 'wh_go(one, 1)', 'wh_go(gives_record, 1)'),
    ('a function that returns a float', 'wh_go(one, 1)', 'wh_go(gives_real, 1)'),
    ('seven arguments, all alike', 'wh_go(one, 1)', 'wh_go(seven, i, i, i, i, i, i, i)',
     'at_most_six'),
    ('eight arguments', 'wh_go(one, 1)', 'wh_go(seven, 1, 2, 3, 4, 5, 6, 7, 8)', 'at_most_six'),
]
CXX_ONLY = [
    ('a number for a float parameter', 'wh_go(one, 1)', 'wh_go(real, 1)'),
    ('a function that returns a struct', 'wh_go(one, 1)', 'wh_go(gives_record, 1)'),
    ('a function that returns a float', 'wh_go(one, 1)', 'wh_go(gives_real, 1)'),
    ('a reference', 'wh_go(by_value, i)', 'wh_go(by_reference, i)'),
    ('a constant reference', 'wh_go(by_value, i)', 'wh_go(by_const_reference, i)'),
    ('a class', 'wh_go(by_value, i)', 'wh_go(by_class, Counted())'),
    ('a function that returns a reference', 'wh_go(by_value, i)', 'wh_go(gives_reference)'),
    ('a lambda that captures', 'wh_go([](int a) { one(a); }, i)',
     'wh_go([&](int a) { i = a; }, i)'),
    ('an argument for a lambda without any', 'wh_go([] { none(); })', 'wh_go([] { none(); }, 1)'),
    ('a pointer for a lambda\'s number', 'wh_go([](int a) { one(a); }, i)',
     'wh_go([](int a) { one(a); }, s)'),
]
C_FUNCTIONS = '''
union either { int a; char *b; };
__extension__ typedef __int128 wide_number;
typedef int vector __attribute__((vector_size(8)));
void takes_vector(vector a);
vector gives_vector(int a);
extern vector two_ints;
void takes_either(union either a);
void takes_wide(wide_number a);
extern union either u;
extern wide_number wide;
extern double _Complex z;
'''
CXX_FUNCTIONS = '''
struct Counted { Counted(); Counted(const Counted &); ~Counted(); };
void by_value(int a);
void by_reference(int &a);
void by_const_reference(const int &a);
void by_class(Counted a);
int &gives_reference();
'''

# Calls that may look suspicious and are right.
FINE = [
    'wh_go((one), 1)', 'wh_go(*one, 1)', 'wh_go(&one, 1)', 'wh_go(i ? one : one, 1)',
    'wh_go(one, -1)', 'wh_go(one, (char)-1)', 'wh_go(one, \'c\')', 'wh_go(one, i++)',
    'wh_go(pointer, "text")', 'wh_go(pointer, s)', 'wh_go(pointer, text)',
    'wh_go(pointer, &text[3])',
    'i ? wh_go(none) : wh_go(one, 1)', '(void)wh_go(none)', 'i = wh_go(none) < 0',
]
C_FINE = ['wh_go(counts, NULL)', 'wh_go(counts, 0)']
CXX_FINE = ['wh_go(+[](int a) { one(a); }, i)', 'wh_go(pointer, nullptr)', 'wh_go(one, true)',
            'wh_go([](const char *a) { pointer(a); }, s)']


class Compiler:
    def __init__(self, path):
        self.path = path
        said = subprocess.run([path, '--version'], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL, check=False).stdout
        self.is_clang = 'clang' in said
        version = re.search(r'(?:version |\) )(\d+)\.', said)
        self.major = int(version.group(1)) if version else 0
        self.name = f'{os.path.basename(path)} ({self.major})'

    def supported(self):
        return self.major >= FLOOR['clang' if self.is_clang else 'gcc']

    def compile(self, source, suffix, options, include):
        """Whether it compiles, and what was said."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'snippet' + suffix)
            with open(path, 'w', encoding='utf-8') as file:
                file.write(source)
            end = subprocess.run([self.path, *options, *include, '-c', path, '-o',
                                  os.path.join(folder, 'snippet.o')], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, check=False)
        return end.returncode == 0, end.stdout


def compilers(given, others):
    """The given one and those others that are installed, each real program once."""
    found = {}
    for name in [given] + others:
        path = shutil.which(name)
        if path and os.path.realpath(path) not in found:
            found[os.path.realpath(path)] = Compiler(path)
    return [c for c in found.values() if c.supported()]


class Cases:
    """Collects cases, runs them two at a time, and says which went wrong."""

    def __init__(self):
        self.cases = []

    def add(self, what, compiler, source, suffix, options, include, wanted, must_say=None,
            once=False):
        self.cases.append((what, compiler, source, suffix, options, include, wanted, must_say,
                           once))

    @staticmethod
    def run_one(case):
        what, compiler, source, suffix, options, include, wanted, must_say, once = case
        compiled, said = compiler.compile(source, suffix, options, include)
        where = f'{compiler.name} {" ".join(options[:1])} {include[0][:8]}: {what}'
        if compiled != wanted:
            return f'{where}: {"compiles" if compiled else "does not compile"}\n{said[:2000]}'
        if must_say and must_say not in said:
            return f'{where}: the message does not mention "{must_say}"\n{said[:2000]}'
        complaints = len(re.findall(r'\b(?:error|warning): ', said))
        if once and complaints != 1:
            return f'{where}: {complaints} complaints instead of one\n{said[:2000]}'
        return None

    def run(self):
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            return [wrong for wrong in pool.map(self.run_one, self.cases) if wrong]


def snippet(statements, cxx):
    functions = FUNCTIONS + (CXX_FUNCTIONS if cxx else C_FUNCTIONS)
    body = ''.join(f'    {statement};\n' for statement in statements)
    return functions + 'int t(void)\n{\n' + body + '    return 0;\n}\n'


def add_standards(cases, compiler, cxx, include):
    suffix = '.cpp' if cxx else '.c'
    for standard in CXX_STANDARDS if cxx else C_STANDARDS:
        options = ['-std=' + standard] + WARNINGS + (CXX_WARNINGS if cxx else C_WARNINGS)
        # NULL in the snippets is C's way of writing it.
        quiet = [o for o in options if 'null' not in o and 'old-style' not in o]
        cases.add('the first program', compiler, ECHO, suffix, quiet, include, True)
        cases.add('everything at once', compiler, USES, suffix, quiet, include, True)
        for part in PARTS:
            alone = f'#include <{part}>\n#include <{part}>\nint unused_{suffix[1:]};\n'
            cases.add(f'{part} alone', compiler, alone, suffix, options, include, True)


def add_calls(cases, compiler, cxx, include):
    suffix, standard = ('.cpp', '-std=c++17') if cxx else ('.c', '-std=c11')
    options = [standard, '-Wall', '-Wextra', '-Wpedantic', '-Werror']
    for what, right, wrong, *must_say in calls(cxx):
        cases.add(what, compiler, snippet([wrong], cxx), suffix, options, include, False, *must_say,
                  once=not cxx and what in ONCE)
    right = [case[1] for case in calls(cxx)] + FINE + (CXX_FINE if cxx else C_FINE)
    # All right calls at once; on their own only to find the one that is not.
    compiled, _ = compiler.compile(snippet(right, cxx), suffix, options, include)
    if not compiled:
        cases.add('all right calls at once', compiler, snippet(right, cxx), suffix, options,
                  include, True)
    for call in [] if compiled else right:
        cases.add(call, compiler, snippet([call], cxx), suffix, options, include, True)


def add_readme(cases, found, include):
    """The README's first program compiles as it stands there, and so does what follows it, between
    what it takes for granted."""
    path = os.path.join(include, '..', 'README.md')
    if not os.path.exists(path):
        return
    with open(path, encoding='utf-8') as file:
        program, *samples = re.findall(r'```c\n(.*?)```', file.read(), re.DOTALL)
    cases_of = [('the program', program)]
    cases_of += [(f'sample {n}', README_AROUND.replace('SAMPLE', sample))
                 for n, sample in enumerate(samples, 1)]
    for compiler in found:
        for what, source in cases_of:
            cases.add(what + ' in README.md', compiler, source, '.c',
                      ['-std=gnu11'] + WARNINGS + C_WARNINGS, ['-I' + include], True)


def calls(cxx):
    return BOTH + (CXX_ONLY if cxx else C_ONLY)


def main(arguments):
    if len(arguments) != 3:
        print('usage: compile_test.py INCLUDE_DIR CC CXX', file=sys.stderr)
        return 2
    include, cc, cxx = arguments
    versions = [''] + [f'-{n}' for n in range(12, 24)]
    c_compilers = compilers(cc, ['gcc' + v for v in versions] + ['clang' + v for v in versions])
    cxx_compilers = compilers(cxx, ['g++' + v for v in versions] +
                              ['clang++' + v for v in versions])
    if not c_compilers or not cxx_compilers:
        print('no compiler new enough: GCC 12 or Clang 14 is needed', file=sys.stderr)
        return 1

    cases = Cases()
    add_readme(cases, c_compilers, include)
    for is_cxx, found in ((False, c_compilers), (True, cxx_compilers)):
        for compiler in found:
            add_standards(cases, compiler, is_cxx, ['-I' + include])
            # Installed headers are system headers to a compiler: it says less about them.
            for how in (['-I' + include], ['-isystem' + include]):
                add_calls(cases, compiler, is_cxx, how)
    wrong = cases.run()
    for text in wrong:
        print(text)
    names = ', '.join(c.name for c in c_compilers + cxx_compilers)
    print(f'{len(cases.cases)} cases, {len(wrong)} wrong; {names}')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
