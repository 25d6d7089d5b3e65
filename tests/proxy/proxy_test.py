#!/usr/bin/env python3
"""proxy_test: the sentences of examples/proxy.c, with real peers on loopback.

    proxy_test.py PROXY SANITIZER [CASE...]

Each case starts a proxy of its own on a free port, before an upstream of its own: a socket of this
program, or socat. All that is waited for is an event, in at most PATIENCE_S.
"""

import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PATIENCE_S = 20
WORKERS = (1, 2, 8)

proxy_path, sanitizer = sys.argv[1:3]
sanitized = sanitizer != 'none'


class Wrong(Exception):
    pass


def check(condition, what):
    if not condition:
        raise Wrong(what)


# ---- the ends ----

def listener(backlog=128):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', 0))
    s.listen(backlog)
    s.settimeout(PATIENCE_S)
    return s


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()


def ending(s):
    """Reads to the end: 'end', or 'reset'; and what came before it."""
    got = bytearray()
    try:
        while True:
            data = s.recv(1 << 16)
            if not data:
                return 'end', bytes(got)
            got += data
    except ConnectionResetError:
        return 'reset', bytes(got)


def exchange(s, text, other):
    """Sends on one, receives on the other."""
    s.sendall(text)
    got = b''
    while len(got) < len(text):
        data = other.recv(len(text) - len(got))
        check(data, f'ended after {len(got)} of {len(text)} bytes')
        got += data
    check(got == text, 'other bytes')


def noise(size, seed):
    return random.Random(seed).randbytes(size)


class Proxy:
    """The program, under way."""

    def __init__(self, to, *options, descriptors=None):
        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        port = to if isinstance(to, int) else to.getsockname()[1]
        self.process = subprocess.Popen(
            [proxy_path, '--listen', '127.0.0.1:0', '--to', f'127.0.0.1:{port}', '--stats',
             *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=limit, env=dict(os.environ, WHORL_HOG_NS='-1'))
        line = self.process.stdout.readline()
        check(line.startswith('listening on 127.0.0.1:'), f'said {line!r}')
        self.port = int(line.rpartition(':')[2])

    def dial(self):
        s = socket.create_connection(('127.0.0.1', self.port), timeout=PATIENCE_S)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def listens(self):
        """Whether it does, without a newcomer: nobody else can have the address while it does."""
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('127.0.0.1', self.port))
            except OSError:
                return True
        return False

    def refuses(self):
        """Waits until nobody can connect any more."""
        end = time.monotonic() + PATIENCE_S
        while self.listens():
            if time.monotonic() > end:
                return False
        return True

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def end(self, status=0):
        """Its figures, once it has ended."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        check(self.process.returncode == status, f'ended with {self.process.returncode}: {err}')
        self.err = err
        return json.loads(out) if status == 0 and out else {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))

    def memory(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as f:
            fields = dict(line.split(':', 1) for line in f)
        return 1024 * sum(int(fields[name].split()[0]) for name in ('VmRSS', 'VmPTE'))


def joined(proxy, upstream):
    """A client, and what the upstream has of it. Through the proxy there is no telling whose is
    whose, but one at a time."""
    client = proxy.dial()
    server, _ = upstream.accept()
    server.settimeout(PATIENCE_S)
    return client, server


# ---- the cases ----

def both_ways():
    """Megabytes both ways at once, byte for byte, for several at a time"""
    size = 2_000_000 if sanitized else 8_000_000
    for workers in WORKERS:
        with listener() as upstream, Proxy(upstream, '--workers', workers) as proxy:
            failed, threads = [], []

            def send(s, seed):
                s.sendall(noise(size + seed, seed))
                s.shutdown(socket.SHUT_WR)

            def receive(s, seed):
                how, got = ending(s)
                right = hashlib.md5(noise(size + seed, seed)).digest()
                if how != 'end' or hashlib.md5(got).digest() != right:
                    failed.append((seed, how, len(got)))

            for i in range(3):
                client, server = joined(proxy, upstream)
                for work, s, seed in ((send, client, 2 * i), (receive, server, 2 * i),
                                      (send, server, 2 * i + 1), (receive, client, 2 * i + 1)):
                    threads.append(threading.Thread(target=work, args=(s, seed)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            check(not failed, f'{workers} workers: {failed}')
            proxy.signal()
            figures = proxy.end()
            check(figures['bytes_up'] == 3 * size + 6, figures)
            check(figures['bytes_down'] == 3 * size + 9, figures)
            check(figures['broken'] == figures['timeouts'] == 0, figures)


def with_socat():
    """socat on both sides: what goes there comes back, and the end with it"""
    text = noise(5_000_000, 1)
    with listener() as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(['socat', f'TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr',
                               'EXEC:cat'], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(('127.0.0.1', port), timeout=1).close()
                break
            except OSError:
                check(time.monotonic() < end, 'socat does not listen')
        with Proxy(port) as proxy:
            for _ in range(3):
                done = subprocess.run(['socat', '-t', '20', 'STDIO',
                                       f'TCP:127.0.0.1:{proxy.port}'], input=text,
                                      stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True)
                check(done.stdout == text, f'{len(done.stdout)} bytes came back')
    finally:
        server.terminate()
        server.wait()


def half_close():
    """An end of one side is passed on, and the other one goes on"""
    with listener() as upstream, Proxy(upstream) as proxy:
        for client_first in (True, False):
            client, server = joined(proxy, upstream)
            first, second = (client, server) if client_first else (server, client)
            exchange(first, b'request', second)
            first.shutdown(socket.SHUT_WR)
            check(second.recv(1) == b'', 'no end')
            for _ in range(3):
                exchange(second, noise(50000, 2), first)
            second.close()
            check(ending(first) == ('end', b''), 'no end of the answer')
            first.close()


def resets():
    """A reset of one side is passed on as one, not as an end"""
    with listener() as upstream, Proxy(upstream) as proxy:
        for of_client in (True, False):
            client, server = joined(proxy, upstream)
            exchange(client, b'x', server)
            reset(client if of_client else server)
            how, got = ending(server if of_client else client)
            check(how == 'reset' and not got, f'{how}, {got!r}')
        proxy.signal()
        check(proxy.end()['broken'] == 2, 'not counted')


def refused():
    """Nobody to connect to: the client sees a reset, and it is said once"""
    with listener() as free:
        port = free.getsockname()[1]
    with Proxy(port) as proxy:
        for _ in range(3):
            try:
                with proxy.dial() as client:
                    how = ending(client)
            except ConnectionResetError:  # it came before the connect was through
                how = 'reset', b''
            check(how == ('reset', b''), 'no reset')
        proxy.signal()
        check(proxy.end()['unreached'] == 3, 'not counted')
        check(proxy.err.count('cannot connect to') == 1, proxy.err)


def dead():
    """An upstream that does not answer is given up after the connect timeout"""
    with listener(backlog=0) as upstream:
        waiting = []
        for _ in range(3):  # one more than it takes is not answered
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(upstream.getsockname())
            waiting.append(s)
        with Proxy(upstream, '--connect-timeout-ms', 300) as proxy:
            start = time.monotonic()
            with proxy.dial() as client:
                how = ending(client)
                took = time.monotonic() - start
            check(how == ('reset', b''), how)
            check(took >= 0.3, f'after {took:.3f} s')
            proxy.signal()
            check(proxy.end()['unreached'] == 1, 'not counted')
        for s in waiting:
            s.close()


def idle():
    """The idle timeout counts from what moved last in either direction"""
    for from_client in (True, False):
        with listener() as upstream, Proxy(upstream, '--idle-timeout-ms', 600) as proxy:
            client, server = joined(proxy, upstream)
            start = time.monotonic()
            for _ in range(6):
                time.sleep(0.2)  # time itself
                exchange(*((client, b'x', server) if from_client else (server, b'x', client)))
                last = time.monotonic()
            check(last - start > 1.1, 'too fast to say anything')
            check(ending(client) == ('reset', b''), 'no reset')
            check(time.monotonic() - last >= 0.59, 'too early')
            check(ending(server) == ('reset', b''), 'no reset of the other side')
            proxy.signal()
            check(proxy.end()['timeouts'] == 1, 'not counted')


def total():
    """The total timeout ends one that is busy, too"""
    with listener() as upstream, \
            Proxy(upstream, '--total-timeout-ms', 500, '--idle-timeout-ms', 0) as proxy:
        start = time.monotonic()
        client, server = joined(proxy, upstream)
        try:
            while True:
                exchange(client, noise(10000, 3), server)
                check(time.monotonic() - start < PATIENCE_S, 'it goes on')
        except (ConnectionError, Wrong):
            took = time.monotonic() - start
        check(0.49 <= took < 5, f'after {took:.3f} s')


def many():
    """Hundreds at once, on one worker and on several"""
    count = 100 if sanitized else 400
    for workers in WORKERS:
        with listener(1024) as upstream, Proxy(upstream, '--workers', workers) as proxy:
            clients = [proxy.dial() for _ in range(count)]
            servers = {}
            for i, client in enumerate(clients):
                client.sendall(struct.pack('I', i))
            for _ in clients:
                server, _ = upstream.accept()
                server.settimeout(PATIENCE_S)
                servers[struct.unpack('I', server.recv(4, socket.MSG_WAITALL))[0]] = server
            check(sorted(servers) == list(range(count)), 'not all came')
            order = random.Random(4)
            for _ in range(2 * count):
                i = order.randrange(count)
                size = order.choice((1, 100, 5000, 60000))
                exchange(clients[i], noise(size, i), servers[i])
                exchange(servers[i], noise(size, i + 1), clients[i])
            for i, client in enumerate(clients):
                client.close() if i % 2 else servers[i].close()
            for i, client in enumerate(clients):
                check(ending(servers[i] if i % 2 else client) == ('end', b''), f'{i}: no end')
                (servers[i] if i % 2 else client).close()
            proxy.signal()
            figures = proxy.end()
            check(figures['connections'] == count and figures['broken'] == 0, figures)


def few_descriptors():
    """With few descriptors the others wait, and all are served"""
    with listener() as upstream, Proxy(upstream, descriptors=50) as proxy:
        clients = [proxy.dial() for _ in range(30)]
        for i, client in enumerate(clients):
            client.sendall(bytes([i]))
        for _ in clients:
            server, _ = upstream.accept()
            server.settimeout(PATIENCE_S)
            client = clients[server.recv(1)[0]]
            server.sendall(b'y')
            server.close()
            client.shutdown(socket.SHUT_WR)
            check(ending(client) == ('end', b'y'), 'not served')
        proxy.signal()
        figures = proxy.end()
        check(figures['connections'] == 30 and figures['unreached'] == 0, figures)


def slow_receivers():
    """Bytes that wait for slow receivers take descriptors; who is let in has enough of them"""
    with listener() as upstream, Proxy(upstream, descriptors=100) as proxy:
        clients = [proxy.dial() for _ in range(30)]
        servers = []
        for client in clients:
            client.setblocking(False)
        while True:  # until nobody can be let in, and buffers and pipes are full
            ready = select.select([upstream], clients, [], 0.2)
            if not ready[0] and not ready[1]:
                break
            if ready[0]:
                servers.append(upstream.accept()[0])
            for client in ready[1]:
                client.send(bytes(1 << 16))
        check(len(servers) == 10, f'{len(servers)} are let in')
        for s in clients + servers:
            s.close()
        proxy.signal()
        figures = proxy.end()
        check(figures['unreached'] == 0 and figures['shed'] == 0, figures)


def no_descriptors():
    """Without any left newcomers see an end, and later ones are served again"""
    with listener() as upstream, \
            Proxy(upstream, '--max-connections', 1000, descriptors=40) as proxy:
        clients = [proxy.dial() for _ in range(60)]
        ended = []
        while len(ended) < 30:
            ready = select.select([c for c in clients if c not in ended], [], [], PATIENCE_S)[0]
            check(ready, f'only {len(ended)} were told')
            for client in ready:
                check(ending(client)[1] == b'', 'bytes from nowhere')
                ended.append(client)
        for client in clients:
            client.close()
        end = time.monotonic() + PATIENCE_S
        while True:  # until the last of the others have gone
            upstream.settimeout(1)
            client = proxy.dial()
            client.sendall(b'later')
            try:
                while True:
                    server, _ = upstream.accept()
                    server.settimeout(PATIENCE_S)
                    if server.recv(5, socket.MSG_WAITALL) == b'later':
                        return
            except TimeoutError:
                check(time.monotonic() < end, 'not served again')
            client.close()


def in_good_order():
    """SIGTERM: newcomers are refused, the connected go on, and then it ends"""
    for number in (signal.SIGTERM, signal.SIGINT):
        with listener() as upstream, Proxy(upstream, '--workers', 2) as proxy:
            client, server = joined(proxy, upstream)
            exchange(client, b'before', server)
            proxy.signal(number)
            check(proxy.refuses(), 'newcomers are let in')
            exchange(client, noise(200000, 5), server)
            exchange(server, noise(200000, 6), client)
            client.close()
            check(ending(server) == ('end', b''), 'no end')
            server.close()
            check(proxy.end()['cut'] == 0, 'cut')


def grace():
    """Who goes on for longer than the grace is cut, by a reset; a second signal does it at once"""
    for second in (False, True):
        ms = 20000 if second else 300
        with listener() as upstream, Proxy(upstream, '--grace-ms', ms) as proxy:
            client, server = joined(proxy, upstream)
            exchange(client, b'before', server)
            start = time.monotonic()
            proxy.signal()
            if second:
                check(proxy.refuses(), 'newcomers are let in')
                proxy.signal()
            check(ending(client) == ('reset', b''), 'no reset')
            check(ending(server) == ('reset', b''), 'no reset')
            took = time.monotonic() - start
            check(took < 10 if second else took >= 0.3, f'after {took:.3f} s')
            proxy.end()


def memory():
    """An idle pair holds two descriptors, and no buffer or pipe"""
    count = 400
    with listener(1024) as upstream, Proxy(upstream) as proxy:
        pairs = [joined(proxy, upstream)]
        exchange(pairs[0][0], noise(100000, 7), pairs[0][1])
        before, fds = proxy.memory(), proxy.descriptors()
        for _ in range(count):
            pairs.append(joined(proxy, upstream))
        for client, server in pairs:  # large pieces, so that pipes were used
            exchange(client, noise(50000, 8), server)
            exchange(server, noise(50000, 9), client)
        each = (proxy.memory() - before) / count
        print(f'  an idle pair: {each:.0f} bytes of memory')
        check(proxy.descriptors() - fds <= 2 * count + 8, f'{proxy.descriptors() - fds} more')
        check(sanitized or each < 16384, 'more than it should')


def options():
    """What it cannot do it says, and ends"""
    def run(*arguments):
        return subprocess.run([proxy_path, *arguments], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE, timeout=PATIENCE_S)
    check(run('--help').returncode == 0, '--help')
    for arguments in ((), ('--listen', ':0'), ('--listen', ':0', '--to', ':1', '--workers', 'x'),
                      ('--listen', ':0', '--to', ':1', 'more'), ('--nothing',)):
        done = run(*arguments)
        check(done.returncode == 2 and done.stderr, f'{arguments}: {done}')
    with listener() as taken:
        done = run('--listen', f'127.0.0.1:{taken.getsockname()[1]}', '--to', '127.0.0.1:1')
        check(done.returncode == 1 and 'cannot listen' in done.stderr, done)


CASES = (both_ways, half_close, resets, refused, dead, idle, total, many, few_descriptors,
         slow_receivers, no_descriptors, in_good_order, grace, memory, options, with_socat)


def main():
    names = sys.argv[3:]
    failed = 0
    for case in CASES:
        if names and case.__name__ not in names:
            continue
        if case is with_socat and not shutil.which('socat'):
            print(f'skip  {case.__doc__}: socat is not installed')
            continue
        start = time.monotonic()
        try:
            case()
            print(f'ok    {case.__doc__} ({time.monotonic() - start:.1f} s)', flush=True)
        except (Wrong, OSError, subprocess.SubprocessError) as error:
            failed += 1
            print(f'FAIL  {case.__doc__}: {type(error).__name__} {error}', flush=True)
    return failed > 0


if __name__ == '__main__':
    sys.exit(main())
