"""client.py: the server as a child process, and clients that speak the protocol byte-wise.

Every wait is for an event and bounded by PATIENCE_S: a test that waits in vain fails.
"""

import os
import resource
import select
import signal
import socket
import struct
import subprocess
import time

PATIENCE_S = 20


class Broken(Exception):
    """The connection has ended, or what came is no answer."""


class Error(str):
    """An answer that says what was wrong."""


def encode(*words):
    """A request as an array of strings."""
    parts = [b'*%d\r\n' % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            word = str(word).encode()
        parts.append(b'$%d\r\n%s\r\n' % (len(word), word))
    return b''.join(parts)


class Client:
    def __init__(self, port, receive_buffer=0):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(('127.0.0.1', port))
        self.buffer = b''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Ends the connection with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def some(self):
        """Receives some more; False at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b''
        self.buffer += data
        return bool(data)

    def line(self):
        while b'\r\n' not in self.buffer:
            if not self.some():
                raise Broken(f'ended within {self.buffer!r}')
        line, _, self.buffer = self.buffer.partition(b'\r\n')
        return line

    def exactly(self, count):
        pieces, have = [self.buffer], len(self.buffer)
        while have < count:
            self.buffer = b''
            if not self.some():
                raise Broken('ended within a string')
            pieces.append(self.buffer)
            have += len(self.buffer)
        data = b''.join(pieces)
        self.buffer = data[count:]
        return data[:count]

    def answer(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b'+':
            return rest.decode()
        if kind == b'-':
            return Error(rest.decode())
        if kind == b':':
            return int(rest)
        if kind == b'$':
            return None if rest == b'-1' else self.exactly(int(rest) + 2)[:-2]
        if kind == b'*':
            return None if rest == b'-1' else [self.answer() for _ in range(int(rest))]
        raise Broken(f'no answer begins with {line!r}')

    def ask(self, *words):
        self.send(encode(*words))
        return self.answer()

    def rest(self):
        """All that comes until the connection ends."""
        while self.some():
            pass
        data, self.buffer = self.buffer, b''
        return data

    def ended(self):
        """Waits for the end; whether nothing came before it."""
        return self.rest() == b''

    def quiet(self):
        """Nothing is to be read."""
        return not self.buffer and not select.select([self.socket], [], [], 0)[0]


class Server:
    """Runs the server on a free port, and stops it: it has to end well."""

    def __init__(self, path, options=(), descriptors=0, environment=None):
        def limit():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        env = dict(os.environ, WHORL_HOG_NS='-1')  # the machine may be busy
        env.pop('WHORL_WORKERS', None)
        env.update(environment or {})
        self.process = subprocess.Popen([path, '--port', '0', *map(str, options)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=env, preexec_fn=limit)
        line = self.process.stdout.readline()
        if not line.startswith('listening on 127.0.0.1:'):
            self.process.kill()
            raise Broken(f'the server said {line!r} {self.process.communicate()[1]}')
        self.port = int(line.rpartition(':')[2])
        self.said = ''

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if self.process.returncode is not None:
            return
        if failure:
            self.process.kill()
            print(self.process.communicate()[1])
        else:
            status = self.stop()
            assert status == 0, f'ended with {status}: {self.said}'

    def client(self, **options):
        return Client(self.port, **options)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self):
        self.said += self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode

    def stop(self):
        self.signal()
        return self.wait()

    def listens(self):
        try:
            socket.create_connection(('127.0.0.1', self.port), timeout=PATIENCE_S).close()
            return True
        except OSError:
            return False

    def info(self, name):
        """A figure of INFO."""
        with self.client() as client:
            return self.figure(client, name)

    @staticmethod
    def figure(client, name):
        answer = client.ask('INFO')
        if isinstance(answer, Error):
            raise Broken(answer)
        for line in answer.decode().split('\r\n'):
            if line.startswith(name + ':'):
                return int(line.partition(':')[2])
        raise Broken(f'no {name}')

    def resident_bytes(self):
        with open(f'/proc/{self.process.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGESIZE')


def until(condition):
    """Asks until it holds; fails when it never does. Returns how long that took, in seconds."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < PATIENCE_S, 'never holds'
    return time.monotonic() - begin
