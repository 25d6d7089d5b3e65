#!/usr/bin/env python3
"""style_test: tools/style.py finds what it is to find, at the right line, and nothing else.

Each case writes a small tree, in which one thing is wrong, and says which breaches must come out.
The words that style.py looks for are put together here from pieces, because it reads this file too.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', 'style.py')
spec = importlib.util.spec_from_file_location('style', TOOL)
style = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(style)

HEAD = '/* sample: a file. */\n'


class Trees(unittest.TestCase):
    def found(self, files):
        """The breaches in a tree of these files, as "path:line: what"."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, 'w', encoding='utf-8') as file:
                    file.write(text)
            count, breaches = style.check(root)
        self.assertEqual(count, len(files))
        for breach in breaches:
            self.assertTrue(breach.cure)
        return [f'{b.path}:{b.line}: {b.what}' for b in breaches]

    def one(self, where, what, files):
        """Exactly one breach, at this place and of this kind."""
        found = self.found(files)
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(where + ': '), found)
        self.assertIn(what, found[0])

    def none(self, files):
        self.assertEqual(self.found(files), [])


class Lines(Trees):
    def test_a_tab_is_found(self):
        self.one('base/a.c:2', 'a tab', {'base/a.c': HEAD + 'int\ta;\n'})

    def test_space_at_the_end_is_found_in_every_kind_of_file(self):
        self.one('base/a.c:2', 'space', {'base/a.c': HEAD + 'int a; \n'})
        self.one('docs/a.md:1', 'space', {'docs/a.md': 'text \n'})
        self.one('base/meson.build:1', 'space', {'base/meson.build': "sources += files('a.c') \n"})

    def test_a_line_is_at_most_100_columns_wide(self):
        comment = '/* ' + 'x' * 94 + ' */\n'
        self.none({'base/a.c': comment})
        self.one('base/a.c:1', '101 columns', {'base/a.c': comment.replace('x ', 'xx ')})

    def test_columns_are_characters_and_not_bytes(self):
        self.none({'base/a.c': '/* ' + '\u00e9' * 94 + ' */\n'})

    def test_shell_may_be_wider_and_prose_is_not_measured(self):
        self.none({'tools/a.sh': '# ' + 'x' * 110 + '\n', 'docs/a.md': 'x' * 300 + '\n'})
        self.one('tools/a.sh:1', '122 columns', {'tools/a.sh': '# ' + 'x' * 120 + '\n'})

    def test_the_last_line_ends(self):
        self.one('base/a.c:2', 'no newline', {'base/a.c': HEAD + 'int a;'})

    def test_a_file_has_at_most_800_lines(self):
        self.none({'base/a.c': HEAD + 'int a;\n' * 799})
        self.one('base/a.c:801', '801 lines', {'base/a.c': HEAD + 'int a;\n' * 800})

    def test_what_was_left_undone_is_found_in_code_and_comments(self):
        for word in ('TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'):
            self.one('base/a.c:2', word, {'base/a.c': HEAD + f'/* {word}: later */\n'})
            self.one('tools/a.py:2', word, {'tools/a.py': f'# a\nprint("{word}")\n'})
        self.none({'base/a.c': HEAD + '/* X' + 'XXL, TO' + 'DOS */\n'})

    def test_places_on_one_machine_are_found(self):
        for place in ('/ho' + 'me/someone', '/wo' + 'rk/tree', '/Us' + 'ers/someone'):
            self.one('tools/a.py:2', 'one machine', {'tools/a.py': f'# a\np = "{place}"\n'})
        self.one('docs/a.md:1', 'one machine', {'docs/a.md': 'see http://ci.build.inter' + 'nal\n'})
        self.none({'docs/a.md': 'a/ho' + 'me/b, ~/wo' + 'rk/x, /tmp/x, /proc/self/fd\n'})

    def test_addresses_are_loopback_or_for_examples(self):
        self.none({'base/a.c': HEAD + '/* 127.0.0.1 0.0.0.0 192.0.2.7 203.0.113.9 256.1.1.1 */\n'})
        self.one('base/a.c:2', "someone's", {'base/a.c': HEAD + '/* 10.' + '0.0.1 */\n'})


class Files(Trees):
    def test_a_head_comment_is_required(self):
        self.one('base/a.c:1', 'head of the file', {'base/a.c': 'int a;\n'})
        self.one('base/a.h:2', 'head of the file', {'base/a.h': '\nint a;\n'})
        self.one('tools/a.sh:2', 'head of the file', {'tools/a.sh': '#!/bin/sh\ntrue\n'})
        self.one('tools/a.py:1', 'head of the file', {'tools/a.py': 'import os\n'})

    def test_a_script_has_its_head_comment_after_the_first_line(self):
        self.none({'tools/a.sh': '#!/bin/sh\n#\n# a: does it\n',
                   'tools/a.py': '#!/usr/bin/env python3\n"""a: does it."""\n'})

    def test_an_empty_file_is_found(self):
        self.one('base/a.c:1', 'empty', {'base/a.c': '\n'})

    def test_double_underscores_are_found_in_names_of_our_own(self):
        self.one('base/a.c:2', 'my__name', {'base/a.c': HEAD + 'int my__name;\n'})
        self.one('base/a.c:2', '__mine', {'base/a.c': HEAD + 'int __mine;\n'})

    def test_double_underscores_of_others_are_left_alone(self):
        self.none({'base/a.c': HEAD + '''
__attribute__((cold)) int a(int b)
{
    __builtin_prefetch(&b);
    __atomic_load_n(&b, __ATOMIC_RELAXED);
    __sanitizer_start_switch_fiber(0, 0, 0);
    __cxa_get_globals();
    struct __kernel_timespec ts = {0};
    const char *file = __FILE__;
    __asm__ volatile("pause");
    return __extension__({ sizeof(__typeof__(b)); });
}
'''})

    def test_double_underscores_in_strings_and_comments_are_no_names(self):
        self.none({'base/a.c': HEAD + 'const char *a = "x__y"; /* x__y */ // x__y\n'})

    def test_names_that_begin_like_the_c_librarys_are_found(self):
        self.one('base/a.c:2', 'sched_run', {'base/a.c': HEAD + 'void sched_run(void);\n'})
        self.none({'base/a.c': HEAD + 'int a(void)\n{\n    return sched_yield();\n}\n'})

    def test_an_ordering_names_its_partner(self):
        op = '    return __atomic_load_n(&a, __ATOMIC_ACQUIRE);\n'
        self.one('base/a.c:2', 'without its partner', {'base/a.c': HEAD + op})
        self.none({'base/a.c': HEAD + '/* acquire: pairs with the release in b() */\n' + op})
        self.none({'base/a.c': HEAD + '/* acquire: pairs\n * with the release in b() */\n' + op})
        self.one('base/a.c:10', 'without its partner',
                 {'base/a.c': HEAD + '/* acquire: pairs with b() */\n' + '\n' * 7 + op})

    def test_relaxed_needs_no_partner(self):
        self.none({'base/a.c': HEAD + 'int b = __atomic_load_n(&a, __ATOMIC_RELAXED);\n'})

    def test_orderings_that_are_not_written_out_are_found_too(self):
        self.one('base/a.c:2', 'partner', {'base/a.c': HEAD + 'int b = atomic_load(&a);\n'})
        self.one('base/a.c:2', 'partner',
                 {'base/a.c': HEAD + 'int b = __sync_fetch_and_add(&a, 1);\n'})
        self.one('tests/a.cpp:2', 'partner',
                 {'tests/a.cpp': HEAD + 'int b = a.load(std::memory_order_acquire);\n'})

    def test_no_sleep_in_tests(self):
        for call in ('sle' + 'ep(1)', 'usle' + 'ep(1)', 'std::this_thread::sleep_' + 'for(x)'):
            self.one('tests/a/a.cpp:2', 'in a test',
                     {'tests/a/a.cpp': HEAD + f'void a() {{ {call}; }}\n'})
        self.one('tests/a/a.py:2', 'in a test', {'tests/a/a.py': '# a\ntime.sle' + 'ep(1)\n'})
        self.none({'tests/a/a.cpp': HEAD + '/* time itself: a clock is tested */\n' +
                   'void a() { sle' + 'ep(1); }\n'})
        self.none({'tests/a/a.cpp': HEAD + 'int a = wh_sle' + 'ep(1);\n',
                   'bench/a.c': HEAD + 'void a() { sle' + 'ep(1); }\n'})

    def test_a_literal_is_skipped_whole(self):
        self.none({'tests/a.cpp': HEAD + 'auto a = R"(x__y "\n sle' + 'ep(1))"; char b = \'"\';\n'})
        self.one('tests/a.cpp:2', 'x__y', {'tests/a.cpp': HEAD + 'char b = \'"\'; int x__y;\n'})


class PublicHeaders(Trees):
    def header(self, text):
        return {'include/whorl/a.h': HEAD + text}

    def test_a_declaration_has_a_comment_before_it(self):
        self.none(self.header('\n/* Does it. */\nWH_API int wh_a(void);\n'))
        self.one('include/whorl/a.h:3', 'without a comment',
                 self.header('\nWH_API int wh_a(void);\n'))

    def test_a_comment_serves_its_block_and_no_other(self):
        self.none(self.header(
            '\n/* a(2), b(2). */\nWH_API int wh_a(void);\nWH_API int wh_b(void);\n'))
        self.one('include/whorl/a.h:6', 'without a comment', self.header(
            '\n/* Does it. */\nWH_API int wh_a(void);\n\nWH_API int wh_b(void);\n'))

    def test_types_count_and_their_fields_do_not(self):
        self.one('include/whorl/a.h:3', 'without a comment',
                 self.header('\ntypedef struct wh_a {\n    int b;\n} wh_a;\n'))
        self.none(self.header('\n/* An a. */\nstruct wh_a {\n    int b;\n\n    int c;\n};\n'))

    def test_a_bare_announcement_is_no_declaration(self):
        self.none(self.header('\nstruct wh_a;\n'))

    def test_what_macros_stand_on_needs_none(self):
        self.none(self.header('\nWH_API int wh_a_(int b);\n'))
        self.none(self.header('\n/* ---- Not for users, not for direct use. ---- */\n\n'
                              'struct wh_a {\n    int b;\n};\n'))

    def test_they_include_whorl_and_the_system_only(self):
        self.none({'include/whorl/a.h': HEAD + '#include <whorl/b.h>\n#include <sys/uio.h>\n',
                   'include/whorl/b.h': HEAD})
        self.one('include/whorl/a.h:2', 'in quotes',
                 {'include/whorl/a.h': HEAD + '#include "b.h"\n', 'include/whorl/b.h': HEAD})
        self.one('include/whorl/a.h:2', '<liburing.h>',
                 self.header('#include <liburing.h>\n'))
        self.one('include/whorl/a.h:2', 'in quotes',
                 {'include/whorl/a.h': HEAD + '#include "base/b.h"\n', 'base/b.h': HEAD})


class Includes(Trees):
    def test_every_arrow_that_is_allowed_passes(self):
        for room, lower in style.LOWER.items():
            if room == 'include':
                continue
            for other in sorted(lower):
                line, target = f'#include "{other}/b.h"\n', f'{other}/b.h'
                if other == 'include':
                    line, target = '#include <whorl/b.h>\n', 'include/whorl/b.h'
                self.none({f'{room}/a.c': HEAD + line, target: HEAD})

    def test_every_arrow_that_is_not_fails(self):
        rooms = set(style.LOWER) - {'include'}
        for room in sorted(rooms):
            for other in sorted(rooms - {room} - style.LOWER[room]):
                self.one(f'{room}/a.c:2', f'{room}/ includes',
                         {f'{room}/a.c': HEAD + f'#include "{other}/b.h"\n', f'{other}/b.h': HEAD})

    def test_a_low_room_does_not_know_the_public_headers(self):
        self.one('uring/a.c:2', 'uring/ includes',
                 {'uring/a.c': HEAD + '#include <whorl/b.h>\n', 'include/whorl/b.h': HEAD})

    def test_the_table_itself_points_down(self):
        graph = {room: [(1, lower) for lower in sorted(below)]
                 for room, below in style.LOWER.items()}
        self.assertEqual([str(b) for b in style.cycles(graph)], [])

    def test_tests_and_benchmarks_may_look_anywhere(self):
        self.none({'tests/sched/a.cpp': HEAD + '#include "uring/b.h"\n',
                   'bench/a.c': HEAD + '#include "uring/b.h"\n', 'uring/b.h': HEAD})

    def test_no_source_includes_a_source(self):
        self.one('base/a.c:2', 'includes the source', {'base/a.c': HEAD + '#include "base/b.c"\n',
                                                       'base/b.c': HEAD})
        self.one('tests/a.cpp:2', 'includes the source',
                 {'tests/a.cpp': HEAD + '#include "base/b.c"\n', 'base/b.c': HEAD})

    def test_a_circle_is_found(self):
        self.one('base/b.h:2', 'base/a.h -> base/b.h -> base/a.h',
                 {'base/a.h': HEAD + '#include "base/b.h"\n',
                  'base/b.h': HEAD + '#include "base/a.h"\n'})

    def test_a_header_beside_the_file_is_found_without_its_folder(self):
        self.one('bench/echo/b.h:2', 'circle', {'bench/echo/a.h': HEAD + '#include "b.h"\n',
                                                'bench/echo/b.h': HEAD + '#include "a.h"\n'})

    def test_an_include_in_a_comment_is_none(self):
        self.none({'base/a.c': HEAD + '/*\n#include "sched/b.h"\n*/\n', 'sched/b.h': HEAD})

    def test_a_new_room_must_be_entered_in_the_table(self):
        self.one('cellar/a.c:1', 'not in the table', {'cellar/a.c': HEAD})


class Program(Trees):
    def run_on(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, 'w', encoding='utf-8') as file:
                    file.write(text)
            return subprocess.run([sys.executable, '-B', TOOL, root], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)

    def test_it_exits_with_1_and_prints_file_line_and_cure(self):
        end = self.run_on({'base/a.c': HEAD + 'int a; \n'})
        self.assertEqual(end.returncode, 1)
        self.assertIn('base/a.c:2: space at the end of the line; delete it\n', end.stdout)

    def test_it_exits_with_0_when_all_is_well(self):
        self.assertEqual(self.run_on({'base/a.c': HEAD}).returncode, 0)

    def test_a_tree_without_sources_is_an_error(self):
        self.assertEqual(self.run_on({'a.bin': 'x'}).returncode, 2)


if __name__ == '__main__':
    unittest.main()
