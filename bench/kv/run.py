#!/usr/bin/env python3
"""Compares key-value servers under redis-benchmark: redis-server and whorl's examples/kv_server.

    run.py BUILD_DIR [--rounds R] [--tests set,get] [--depths 1,16] [--connections 50]
           [--requests 200000] [--keys 100000] [--add NAME=COMMAND] [--json FILE]

How: all servers run from the beginning to the end, one thread each, on CPU 0; redis-benchmark, one
thread, on CPU 1, drives one of them at a time and the others sleep. They hold the same keys. In
every round each server runs each test once at each depth (of the pipeline), in an order that
rotates, so that what changes on the machine in between hits all alike. Ratios are taken within a
round; what is printed is the median over the rounds, with (min..max). A run in which the server or
redis-benchmark had to wait for its core more than --calm percent of the time, because others ran
there, is repeated, at most --retries times, and the calmest is kept.

What is measured
    requests/s          as redis-benchmark says
    requests/CPU-second the requests over the CPU time of the server's process meanwhile
    p50, p99            as redis-benchmark says
    busy                share of the time that the server used its core

redis-server is run without saving and with one thread for I/O. Where it is not installed (package
redis-server), that is said, and whorl's figures stand alone.

Only processes that this program started are signalled, by their id. Standard library only.
"""

import argparse
import csv
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from measuring import Failed, calmest, cpu_s, emit, free_port, machine, spread, stop, waited_s

SERVER_CPU, LOAD_CPU = 0, 1
START_TIMEOUT_S, RUN_TIMEOUT_S = 5, 300
REDIS = 'redis-server --port PORT --bind 127.0.0.1 --save "" --appendonly no --io-threads 1 ' \
        '--daemonize no --dir DIR'
TARGET = 1.2  # of redis-server's requests a CPU second, at depth 1


# ---- processes ----

def pinned(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


class Server:
    def __init__(self, name, command, folder):
        self.name, self.port = name, free_port()
        words = [w.replace('PORT', str(self.port)).replace('DIR', folder) for w in command]
        self.log = tempfile.TemporaryFile('w+')
        env = {name: value for name, value in os.environ.items() if name != 'WHORL_WORKERS'}
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log, env=env,
                                        preexec_fn=pinned(SERVER_CPU))
        try:
            self.wait_until_listening()
        except Failed:
            self.stop()
            raise

    def wait_until_listening(self):
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            try:
                socket.create_connection(('127.0.0.1', self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.002)  # nothing tells when a socket begins to listen: ask again
        self.log.seek(0)
        raise Failed(f'{self.name} does not listen: {self.log.read()[-400:]}')

    def stop(self):
        if not stop(self.process):
            print(f'  {self.process.args[0]} did not end on SIGTERM, killed', file=sys.stderr)
        self.log.close()


# ---- one run ----

def benchmark(args, server, test, depth, requests):
    """Runs redis-benchmark to its end; returns a flat record."""
    command = ['redis-benchmark', '-p', str(server.port), '-t', test, '-n', str(requests), '-c',
               str(args.connections), '-P', str(depth), '-r', str(args.keys), '-d',
               str(args.size), '--csv']
    pid = server.process.pid
    before = cpu_s(pid), waited_s(pid), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=pinned(LOAD_CPU)) as load:
        try:
            # Its own figures are gone once it has been waited for.
            os.waitid(os.P_PID, load.pid, os.WEXITED | os.WNOWAIT)
            load_waited_s = waited_s(load.pid)
            out, err = load.communicate(timeout=RUN_TIMEOUT_S)
        finally:
            stop(load)
    after = cpu_s(pid), waited_s(pid), time.monotonic()
    if server.process.poll() is not None:
        raise Failed(f'the server ended with status {server.process.returncode}')
    rows = list(csv.DictReader(out.splitlines()))
    if load.returncode or len(rows) != 1:
        raise Failed(f'redis-benchmark: status {load.returncode} {(out + err)[-400:]}')
    row = rows[0]
    used_s, seconds = after[0] - before[0], after[2] - before[2]
    return {'server': server.name, 'test': test, 'depth': depth, 'requests': requests,
            'rate': float(row['rps']), 'p50_ms': float(row['p50_latency_ms']),
            'p99_ms': float(row['p99_latency_ms']), 'cpu_s': used_s, 'seconds': seconds,
            'per_cpu_s': requests / used_s, 'busy_pct': 100 * used_s / seconds,
            'waited_pct': 100 * max(after[1] - before[1], load_waited_s) / seconds}


def benchmark_calm(args, server, test, depth):
    """benchmark, repeated while other processes disturb it; the calmest counts."""
    requests = args.requests * (1 if depth == 1 else 5)
    return calmest(lambda: benchmark(args, server, test, depth, requests), args)


# ---- figures ----

def thousands(value):
    return f'{value / 1000:.1f}k'


def two(value):
    return f'{value:.2f}'


def values(records, key, **wanted):
    return [r[key] for r in records if all(r[k] == v for k, v in wanted.items())]


def ratios(records, key, server, against, **wanted):
    """Of the two servers, round by round."""
    found = []
    for number in sorted({r['round'] for r in records}):
        own = values(records, key, server=server, round=number, **wanted)
        other = values(records, key, server=against, round=number, **wanted)
        if own and other:
            found.append(own[0] / other[0])
    return found


def print_table(records, names, args):
    rounds = len({r['round'] for r in records})
    row = '  {:<16}{:>26}{:>26}{:>10}{:>10}{:>8}{:>20}{:>20}'
    for depth in args.depths:
        for test in args.tests:
            where = {'test': test, 'depth': depth}
            print(f'\n{test.upper()}, depth {depth}, {args.connections} connections, {args.keys} '
                  f'keys, {args.size} bytes: median (min..max) of {rounds} rounds')
            print(row.format('server', 'requests/s', 'requests/CPU-second', 'p50 ms', 'p99 ms',
                             'busy %', f'per CPU-s /{names[0]}', f'req/s /{names[0]}'))
            for name in names:
                if not values(records, 'rate', server=name, **where):
                    continue
                def of(key, form):
                    return spread(values(records, key, server=name, **where), form)
                def against(key):
                    return '' if name == names[0] else \
                        spread(ratios(records, key, name, names[0], **where), two)
                def middle(key, form):
                    return form(statistics.median(values(records, key, server=name, **where)))
                print(row.format(name, of('rate', thousands), of('per_cpu_s', thousands),
                                 middle('p50_ms', two), middle('p99_ms', two),
                                 middle('busy_pct', '{:.0f}'.format), against('per_cpu_s'),
                                 against('rate')))


def print_targets(records, args, out):
    for test in args.tests:
        found = ratios(records, 'per_cpu_s', 'whorl', 'redis', test=test, depth=1)
        if test not in ('set', 'get') or not found:
            continue
        figure = statistics.median(found)
        met = figure >= TARGET
        print(f"\ntarget: {test.upper()} a CPU second over redis-server's at depth 1: {figure:.2f} "
              f">= {TARGET}: {'met' if met else f'missed by {TARGET - figure:.2f}'}")
        emit(out, {'kind': 'target', 'test': test, 'figure': figure, 'limit': TARGET, 'met': met})


# ---- options ----

def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('build')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--tests', type=lambda t: t.split(','), default=['set', 'get'],
                        help="of redis-benchmark's -t")
    parser.add_argument('--depths', type=lambda t: [int(n) for n in t.split(',')],
                        default=[1, 16])
    parser.add_argument('--connections', type=int, default=50)
    parser.add_argument('--requests', type=int, default=200000,
                        help='in a run; five times as many where the depth is not 1')
    parser.add_argument('--keys', type=int, default=100000)
    parser.add_argument('--size', type=int, default=3, help='bytes a value')
    parser.add_argument('--add', action='append', default=[], metavar='NAME=COMMAND',
                        help='one more server; PORT in the command becomes its port, BUILD the '
                             'build directory')
    parser.add_argument('--calm', type=float, default=5.0, metavar='PERCENT',
                        help='of the time, that a run may wait for its core')
    parser.add_argument('--retries', type=int, default=2, help='for a run that was disturbed')
    parser.add_argument('--json', metavar='FILE', help='all runs and targets, one object a line')
    return parser.parse_args()


def commands(args):
    """Name -> command of the servers to run, the one to compare with first; or exit with what is
    missing."""
    if not shutil.which('redis-benchmark'):
        sys.exit('run.py: redis-benchmark is missing: install redis-tools (Fedora: valkey or redis,'
                 ' Arch: valkey or redis)')
    whorl = os.path.join(args.build, 'examples', 'kv_server')
    if not os.access(whorl, os.X_OK):
        sys.exit(f'run.py: {whorl} is not there: build it first')
    chosen = {}
    if shutil.which('redis-server'):
        chosen['redis'] = shlex.split(REDIS)
    else:
        print('redis-server is missing (package redis-server): nothing to compare with')
    chosen['whorl'] = [whorl, '--port', 'PORT']
    for text in args.add:
        name, _, command = text.partition('=')
        chosen[name] = shlex.split(command.replace('BUILD', args.build))
    return chosen


def version(command):
    try:
        return subprocess.run([command, '--version'], stdout=subprocess.PIPE, text=True,
                              check=False).stdout.strip()
    except OSError:
        return ''


def run_all(args, servers, records, out):
    """Adds to the records. Returns how many runs failed."""
    failures = 0
    for server in servers:
        benchmark(args, server, 'set', 16, 3 * args.keys)
    for number in range(args.rounds):
        turn = number % len(servers)
        for depth in args.depths:
            for test in args.tests:
                for server in servers[turn:] + servers[:turn]:
                    try:
                        record = benchmark_calm(args, server, test, depth)
                    except Failed as failure:
                        failures += 1
                        print(f'  {server.name}: {failure}', file=sys.stderr)
                        continue
                    record['round'] = number
                    records.append(record)
                    emit(out, dict(record, kind='run'))
        print(f'round {number + 1} of {args.rounds} done', file=sys.stderr)
    return failures


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped
    args = parse()
    if not {SERVER_CPU, LOAD_CPU} <= os.sched_getaffinity(0):
        sys.exit('run.py: needs CPUs 0 and 1, for the server and redis-benchmark')
    chosen = commands(args)
    about = machine(redis_server=version('redis-server'),
                    redis_benchmark=version('redis-benchmark'))
    print(f"{about['model']}, {about['cpus']} CPUs, Linux {about['kernel']}; "
          f"{about['redis_server'] or 'no redis-server'}")
    out = open(args.json, 'w', encoding='utf-8') if args.json else None
    emit(out, about)
    servers, records, failures = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, command in chosen.items():
                servers.append(Server(name, command, folder))
            failures = run_all(args, servers, records, out)
        except KeyboardInterrupt:
            print('stopped: what was measured until now', file=sys.stderr)
        except Failed as failure:
            sys.exit(f'run.py: {failure}')
        finally:
            for server in servers:
                server.stop()
    print_table(records, list(chosen), args)
    print_targets(records, args, out)
    disturbed = sum(r['disturbed'] for r in records)
    if disturbed:
        print(f'\n{disturbed} of {len(records)} runs were disturbed: each time they were tried, '
              f'others had the core for more than {args.calm:g} % of the time')
    if failures:
        print(f'{failures} runs failed')
    if out:
        out.close()
    return 1 if failures or not records else 0


if __name__ == '__main__':
    sys.exit(main())
