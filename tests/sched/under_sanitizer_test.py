#!/usr/bin/env python3
"""under_sanitizer_test: a program under a sanitizer, and the library that it loads.

    under_sanitizer_test.py BUILD_DIR CC none|address|thread

A library built for a sanitizer brings the program under it by what pkg-config says alone. A program
under a sanitizer that the library was not built for runs, and is told that the reports which it
waits for will not come.
"""

import os
import subprocess
import sys
import tempfile
import unittest

NAMES = {'address': 'AddressSanitizer', 'thread': 'ThreadSanitizer'}
TOLD = 'the whorl it loaded is not'

PROGRAM = '''
#include <whorl.h>
#include <stdio.h>
static int app(void *arg) { (void)arg; return wh_sleep(1); }
int main(void)
{
    int rc = wh_run(app, NULL, NULL) || wh_run(app, NULL, NULL);
#if defined(__SANITIZE_ADDRESS__)
    puts("address");
#elif defined(__SANITIZE_THREAD__)
    puts("thread");
#else
    puts("none");
#endif
    return rc;
}
'''

build, compiler, sanitizer = sys.argv[1:]
build = os.path.abspath(build)


def flags(folder, *what):
    environment = dict(os.environ, PKG_CONFIG_PATH=os.path.join(build, folder))
    return subprocess.run(['pkg-config', *what, 'whorl'], env=environment, check=True,
                          stdout=subprocess.PIPE, text=True).stdout.split()


def run(*options):
    """What the program printed and said; None when it cannot be built."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, 'p.c'), os.path.join(folder, 'p')
        with open(source, 'w', encoding='utf-8') as file:
            file.write(PROGRAM)
        words = [compiler, '-g', source, '-o', program, *options, '-Wl,-rpath,' + build,
                 *flags('meson-uninstalled', '--cflags', '--libs')]
        made = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        if made.returncode:
            print(made.stdout)
            return None
        ran = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             check=False, timeout=60)
        assert ran.returncode == 0, ran
        return ran.stdout.strip(), ran.stderr


class Sanitizer(unittest.TestCase):
    def test_what_pkg_config_says_suffices(self):
        under, said = run()
        self.assertEqual(under, sanitizer)
        self.assertEqual(said, '')

    def test_what_is_installed_says_the_same_and_where_the_library_is(self):
        for what in ('--cflags', '--libs'):
            said = ' '.join(flags('meson-private', what))
            self.assertEqual('-fsanitize=' in said, sanitizer != 'none', said)
            if sanitizer != 'none':
                self.assertIn('-fsanitize=' + sanitizer, said)
        said = ' '.join(flags('meson-private', '--libs'))
        self.assertEqual('-Wl,-rpath,' in said, sanitizer != 'none', said)

    @unittest.skipIf(sanitizer != 'none', 'the two do not go together')
    def test_a_plain_library_tells_a_program_under_a_sanitizer_once(self):
        for kind, name in NAMES.items():
            made = run('-fsanitize=' + kind)
            if made is None:
                self.skipTest(f'{compiler} has no {name} here')
            under, said = made
            self.assertEqual(under, kind)
            self.assertEqual(said.count(TOLD), 1, said)
            self.assertIn(name, said)
            self.assertIn('-Dsanitizer=' + kind, said)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
