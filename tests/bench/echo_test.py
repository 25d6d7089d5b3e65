#!/usr/bin/env python3
"""The options of examples/echo that the comparison uses: a deadline on every operation, a buffer.

    echo_test.py ECHO
"""

import os
import signal
import socket
import subprocess
import sys
import time
import unittest

ECHO = ''
TIMEOUT_S = 30


class Echo(unittest.TestCase):
    def start(self, *options):
        """A connection to a server of its own."""
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        environment = dict(os.environ, WHORL_WORKERS='1')
        server = subprocess.Popen([ECHO, f'127.0.0.1:{port}', *options], env=environment,
                                  stdout=subprocess.PIPE)

        def end():
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=TIMEOUT_S)
        self.addCleanup(end)
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                peer = socket.create_connection(('127.0.0.1', port), timeout=TIMEOUT_S)
                break
            except ConnectionRefusedError:  # nothing tells when it listens: ask again
                if time.monotonic() > until or server.poll() is not None:
                    raise
        self.addCleanup(peer.close)
        return peer

    def exchange(self, peer, message):
        peer.sendall(message)
        got = b''
        while len(got) < len(message):
            part = peer.recv(65536)
            self.assertTrue(part, 'closed')
            got += part
        self.assertEqual(got, message)

    def test_a_connection_that_says_nothing_until_the_deadline_is_closed(self):
        peer = self.start('--deadline-ms', '100')
        start_s = time.monotonic()
        self.assertEqual(peer.recv(1), b'')
        self.assertGreaterEqual(time.monotonic() - start_s, 0.05)

    def test_each_operation_has_a_deadline_of_its_own(self):
        peer = self.start('--deadline-ms', '4000')
        until = time.monotonic() + 5
        while time.monotonic() < until:  # longer than one of them
            self.exchange(peer, b'still here')

    def test_a_large_buffer_takes_large_messages(self):
        peer = self.start('--buffer', '65536')
        self.exchange(peer, os.urandom(200000))
        self.exchange(peer, b'small')

    def test_wrong_options_are_refused(self):
        for options in (['--deadline-ms', '0'], ['--buffer'], ['--buffer', 'many'],
                        ['--workers', '61'], ['--nothing']):
            done = subprocess.run([ECHO, '127.0.0.1:1', *options], capture_output=True, text=True,
                                  check=False, timeout=TIMEOUT_S)
            self.assertEqual(done.returncode, 2, options)
            self.assertIn('usage: echo', done.stderr)


if __name__ == '__main__':
    ECHO = sys.argv.pop(1)
    unittest.main()
