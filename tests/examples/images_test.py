#!/usr/bin/env python3
"""images_test: the example images with files of ours.

    images_test.py PROGRAM

The files are written and read here without libpng, so that the example is not its own judge.
"""

import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

PROGRAM = sys.argv.pop(1)
SIGNATURE = b'\x89PNG\r\n\x1a\n'


def chunk(kind, data):
    return (struct.pack('>I', len(data)) + kind + data +
            struct.pack('>I', zlib.crc32(kind + data)))


def png(width, height, color):
    """A grey PNG, 8 bits, in which color(x, y) says how bright it is."""
    rows = b''.join(bytes([0] + [color(x, y) for x in range(width)]) for y in range(height))
    return (SIGNATURE + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)) +
            chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def size_of(path):
    with open(path, 'rb') as file:
        head = file.read(24)
    assert head[:8] == SIGNATURE, head
    return struct.unpack('>II', head[16:])


class Images(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        os.mkdir(self.path('out'))

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, data):
        with open(self.path(name), 'wb') as file:
            file.write(data)
        return self.path(name)

    def run_images(self, *files, largest=None):
        """largest: how many bytes a file may have."""
        def limit():
            if largest:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        return subprocess.run([PROGRAM, self.path('out'), *files], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False, preexec_fn=limit)

    def test_pictures_of_every_size_are_halved(self):
        sizes = [(1, 1), (2, 2), (3, 5), (640, 480), (1, 1000), (1000, 1), (17, 16)] * 3
        files = [self.write(f'{i}.png', png(w, h, lambda x, y: (x + y) % 256))
                 for i, (w, h) in enumerate(sizes)]
        end = self.run_images(*files)
        self.assertEqual((end.returncode, end.stderr), (0, ''))
        self.assertIn(f'{len(sizes)} pictures written and verified\n', end.stdout)
        for i, (w, h) in enumerate(sizes):
            self.assertEqual(size_of(self.path(f'out/{i}.png')), ((w + 1) // 2, (h + 1) // 2))

    def test_what_exists_is_not_overwritten(self):
        file = self.write('a.png', png(8, 8, lambda x, y: x * y))
        self.write('out/a.png', b'precious')
        end = self.run_images(file)
        self.assertEqual(end.returncode, 1)
        self.assertIn('save ' + self.path('out/a.png') + ': File exists', end.stderr)
        with open(self.path('out/a.png'), 'rb') as kept:
            self.assertEqual(kept.read(), b'precious')

    def test_the_first_bad_file_ends_all(self):
        good = [self.write(f'{i}.png', png(64, 64, lambda x, y: x)) for i in range(20)]
        for data in (b'', b'no picture', png(64, 64, lambda x, y: x)[:-30]):
            bad = self.write('bad.png', data)
            end = self.run_images(bad, *good)
            self.assertEqual(end.returncode, 1)
            self.assertIn('load ' + bad + ': Bad message', end.stderr)
            self.assertEqual(end.stderr.count('stopped'), 1)
            self.assertNotIn('verified', end.stdout)
            for name in os.listdir(self.path('out')):
                os.unlink(self.path('out/' + name))

    def test_half_a_picture_is_not_left(self):
        draw = random.Random(1)
        files = [self.write(f'{i}.png', png(200, 200, lambda x, y: draw.randrange(256)))
                 for i in range(4)]
        end = self.run_images(*files, largest=4096)
        self.assertEqual(end.returncode, 1)
        self.assertRegex(end.stderr, r'save \S+: File too large')
        self.assertEqual(os.listdir(self.path('out')), [])
        end = self.run_images(*files)
        self.assertEqual((end.returncode, end.stderr), (0, ''))

    def test_a_file_that_is_not_there_is_named(self):
        end = self.run_images(self.path('none.png'))
        self.assertEqual(end.returncode, 1)
        self.assertIn('none.png: No such file or directory', end.stderr)


if __name__ == '__main__':
    unittest.main()
