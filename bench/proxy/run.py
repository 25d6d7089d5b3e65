#!/usr/bin/env python3
"""Compares TCP proxies on loopback: whorl's by splice, the same through a buffer, and socat.

    run.py BUILD_DIR [--rounds R] [--connections 1,16] [--size 65536] [--mb 2000]
           [--round-trips 40000] [--only NAME,...] [--json FILE]

How: the proxy has CPU 0 to itself; who sends and who receives share CPU 1. In every round each
proxy is started anew for each load, in an order that rotates, so that what changes on the machine
in between hits all alike. Ratios are taken within a round; what is printed is the median over the
rounds, with (min..max).

    stream      each connection sends messages of --size bytes one way, --mb megabytes in all
    exchange    each connection sends 64 bytes, which come back, and so on

    whorl           examples/proxy
    whorl-buffer    the same program with splice masked: receives and sends, 64 KiB at most
    socat           socat -b 65536, a process a connection, with splice(2) nowhere

What is measured: bytes (or round trips) over the CPU time, user and system, of the proxy's whole
life with all its processes, as wait4(2) says. The network's work on CPU 0 is in it, as far as it is
done while the proxy runs; that which the kernel leaves to ksoftirqd is not.

Only processes that this program started are signalled, by their id. Standard library only.
"""

import argparse
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

PROXY_CPU, PEERS_CPU = 0, 1
START_TIMEOUT_S, RUN_TIMEOUT_S = 5, 120
MESSAGE = 64
BIN = bytearray(1 << 20)
NAMES = ('whorl', 'whorl-buffer', 'socat')


class Failed(Exception):
    """A run that gave no figures; the text says why."""


def listener():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', 0))
    s.listen(128)
    s.settimeout(START_TIMEOUT_S)
    return s


def no_delay(s):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(RUN_TIMEOUT_S)
    return s


# ---- the proxy ----

class Proxy:
    def __init__(self, build, name, to):
        with listener() as s:
            self.port = s.getsockname()[1]
        env = dict(os.environ, WHORL_WORKERS='1')
        if name == 'whorl-buffer':
            env['WHORL_MASK'] = 'splice'
        if name == 'socat':
            command = ['socat', '-b', '65536',
                       f'TCP-LISTEN:{self.port},bind=127.0.0.1,reuseaddr,fork,nodelay',
                       f'TCP:127.0.0.1:{to},nodelay']
        else:
            command = [os.path.join(build, 'examples', 'proxy'), '--listen',
                       f'127.0.0.1:{self.port}', '--to', f'127.0.0.1:{to}']
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL,
                                        preexec_fn=lambda: os.sched_setaffinity(0, {PROXY_CPU}))
        self.wait_until_listening()

    def wait_until_listening(self):
        """Nobody else can have the address then; a connection would be one to serve."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind(('127.0.0.1', self.port))
                except OSError:
                    return
            time.sleep(0.002)  # nothing tells when a socket begins to listen: ask again
        raise Failed('does not listen')

    def children(self):
        with open(f'/proc/{self.process.pid}/task/{self.process.pid}/children',
                  encoding='ascii') as f:
            return f.read().split()

    def end(self):
        """Ends it, in good order; returns its CPU seconds."""
        end = time.monotonic() + START_TIMEOUT_S
        while self.children() and time.monotonic() < end:
            time.sleep(0.002)  # until it has waited for its own processes
        self.process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = status
        return usage.ru_utime + usage.ru_stime

    def kill(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()


# ---- the peers, in processes of their own ----

def in_child(work):
    """Runs work in a child on the peers' core; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.sched_setaffinity(0, {PEERS_CPU})
        status = 0 if work() else 1
    finally:
        os._exit(status)


def send_all(sockets, args):
    """Messages on all of them in turn, each a whole one when there is room."""
    message, each = bytes(args.size), args.mb * 1000000 // len(sockets)
    left = {}
    poll = select.poll()
    for s in sockets:
        s.setblocking(False)
        left[s.fileno()] = [s, each]
        poll.register(s, select.POLLOUT)
    while left:
        for fd, _ in poll.poll(RUN_TIMEOUT_S * 1000):
            s, rest = left[fd]
            try:
                left[fd][1] -= s.send(message[:min(rest, args.size)])
            except BlockingIOError:
                continue
            if not left[fd][1]:
                poll.unregister(fd)
                del left[fd]
                s.shutdown(socket.SHUT_WR)
    return True


def drop_all(sockets, args):
    """Reads all to the end; TCP drops the bytes and copies none (MSG_TRUNC)."""
    open_, total = {s.fileno(): s for s in sockets}, 0
    poll = select.poll()
    for s in sockets:
        poll.register(s, select.POLLIN)
    while open_:
        for fd, _ in poll.poll(RUN_TIMEOUT_S * 1000):
            n = open_[fd].recv_into(BIN, len(BIN), socket.MSG_TRUNC)
            total += n
            if not n:
                poll.unregister(fd)
                open_.pop(fd).close()
    return total == args.mb * 1000000 // len(sockets) * len(sockets)


def ask_all(sockets, args):
    message = bytes(MESSAGE)
    for _ in range(args.round_trips // len(sockets)):
        for s in sockets:
            s.send(message)
        for s in sockets:
            if len(s.recv(MESSAGE, socket.MSG_WAITALL)) != MESSAGE:
                return False
    for s in sockets:
        s.close()
    return True


def answer_all(sockets, _):
    open_ = {s.fileno(): s for s in sockets}
    poll = select.poll()
    for s in sockets:
        poll.register(s, select.POLLIN)
    while open_:
        for fd, _ in poll.poll(RUN_TIMEOUT_S * 1000):
            message = open_[fd].recv(MESSAGE)
            if message:
                open_[fd].send(message)
            else:
                poll.unregister(fd)
                open_.pop(fd).close()
    return True


LOADS = {'stream': (send_all, drop_all), 'exchange': (ask_all, answer_all)}


def run_once(args, name, load, connections):
    """Starts a proxy, loads it, ends it; returns a flat record."""
    client_work, server_work = LOADS[load]
    with listener() as upstream:
        proxy = Proxy(args.build, name, upstream.getsockname()[1])
        pids, clients, servers = [], [], []
        try:
            for _ in range(connections):
                clients.append(no_delay(socket.create_connection(('127.0.0.1', proxy.port))))
                servers.append(no_delay(upstream.accept()[0]))
            start = time.monotonic()

            def serve():
                for s in clients:
                    s.close()
                return server_work(servers, args)

            def ask():
                for s in servers:
                    s.close()
                return client_work(clients, args)
            pids += [in_child(serve), in_child(ask)]
            for s in clients + servers:
                s.close()
            for pid in list(pids):
                status = os.waitpid(pid, 0)[1]
                pids.remove(pid)
                if status:
                    raise Failed('not all of it arrived')
            wall_s = time.monotonic() - start
            cpu_s = proxy.end()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            proxy.kill()
    amount = args.mb / 1000 if load == 'stream' else args.round_trips
    return {'proxy': name, 'load': load, 'connections': connections, 'size': args.size,
            'cpu_s': cpu_s, 'wall_s': wall_s, 'per_cpu_s': amount / cpu_s,
            'per_s': amount / wall_s}


# ---- rounds and the table ----

def spread(values):
    return f'{statistics.median(values):10.4g} ({min(values):.4g}..{max(values):.4g})'


def print_table(args, records):
    for load in LOADS:
        for connections in args.connections:
            what = (f'stream, messages of {args.size} bytes: GB per CPU second'
                    if load == 'stream' else
                    f'exchange, {MESSAGE} bytes: round trips per CPU second')
            print(f'\n{what}, {connections} connection{"s" if connections > 1 else ""}')
            of = {name: [r for r in records if (r['proxy'], r['load'], r['connections']) ==
                         (name, load, connections)] for name in args.names}
            base = of.get('whorl-buffer') or []
            for name in args.names:
                if not of[name]:
                    continue
                line = f'  {name:14}{spread([r["per_cpu_s"] for r in of[name]]):36}'
                if base and name != 'whorl-buffer' and len(base) == len(of[name]):
                    ratios = [a['per_cpu_s'] / b['per_cpu_s'] for a, b in zip(of[name], base)]
                    line += f'  x {spread(ratios).strip()} of whorl-buffer'
                print(line)


def parse():
    parser = argparse.ArgumentParser(usage=__doc__.split('\n\n')[1].strip())
    parser.add_argument('build')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--connections', default='1,16',
                        type=lambda text: [int(n) for n in text.split(',')])
    parser.add_argument('--size', type=int, default=65536)
    parser.add_argument('--mb', type=int, default=2000)
    parser.add_argument('--round-trips', type=int, default=40000)
    parser.add_argument('--only', default=','.join(NAMES))
    parser.add_argument('--json')
    args = parser.parse_args()
    args.names = args.only.split(',')
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f'no proxy is called {unknown[0]}: {", ".join(NAMES)}')
    if 'socat' in args.names and not shutil.which('socat'):
        print('proxy: without socat, which is not installed (./dev setup test)', file=sys.stderr)
        args.names.remove('socat')
    return args


def main():
    args = parse()
    if os.cpu_count() < 2:
        print('proxy: needs two cores', file=sys.stderr)
        return 1
    records = []
    out = open(args.json, 'w', encoding='utf-8') if args.json else None
    try:
        for number in range(args.rounds):
            names = args.names[number % len(args.names):] + args.names[:number % len(args.names)]
            for load in LOADS:
                for connections in args.connections:
                    for name in names:
                        record = dict(run_once(args, name, load, connections), round=number + 1)
                        records.append(record)
                        if out:
                            print(json.dumps(record), file=out, flush=True)
            print(f'round {number + 1}/{args.rounds}', file=sys.stderr)
    except (Failed, OSError) as failure:
        print(f'proxy: {name}, {load}: {failure}', file=sys.stderr)
        return 1
    finally:
        if out:
            out.close()
    print_table(args, records)
    return 0


if __name__ == '__main__':
    sys.exit(main())
