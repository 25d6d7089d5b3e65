#!/usr/bin/env python3
"""Compares echo servers over TCP on loopback: epoll by hand, io_uring by hand, whorl.

    run.py BUILD_DIR [--rounds R] [--seconds S] [--connections 1,8,64,1000,8000] [--size 64]
           [--depth 1] [--workers 1] [--only NAME,...] [--add NAME=COMMAND] [--json FILE]

How: the server has CPU 0 to itself, the load generator CPU 1. In every round each server runs once
for each number of connections, in an order that rotates and turns round from one round to the next,
so that what changes on the machine in between hits all alike. Ratios are taken within a round; what
is printed is the median over the rounds, with (min..max). A run in which the server or the load
generator had to wait for its core more than --calm percent of the time, because others ran there,
is repeated, at most --retries times, and the calmest is kept; before each run both cores must have
been idle for a moment, or --patience seconds have passed.

With --workers N whorl is compared with itself, on cores 0 to N-1, with the load generator on the
next one if there is one, else on the last of them, where it takes its share:
    whorl               a listener a worker (SO_REUSEPORT)
    whorl-one           one worker accepts all: the others take what it has not begun to serve
    whorl-one-migrate   the same, and connections move to a worker that has nothing to do

What is measured
    messages/s          by the load generator, answers in the window that were right in every byte
    messages/CPU-second the same over the CPU time of the server process in that window, all its
                        threads, and of ksoftirqd on its core; read when the load generator says
                        'measuring' and 'done'
    syscalls/message    all system calls of the server's whole life (set-up, accept, close too), by
                        its own count, over all answers of its whole life (warm-up too)
    worst               mean round trip of the connection that got the fewest answers
    busy                share of the window that the server and the load generator used their core

Only processes that this program started are signalled, by their id. Standard library only.
"""

import argparse
import json
import os
import resource
import selectors
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from measuring import (STOP_TIMEOUT_S, Failed, calmest, cpu_s, emit, free_port, machine, spread,
                       stop, waited_s)

SERVER_CPU = 0  # the first of them
START_TIMEOUT_S, RUN_TIMEOUT_S = 5, 60
URING = ('uring', 'uring-spin', 'uring-multishot')
DEFAULT = ('epoll', 'uring', 'uring-spin', 'whorl')
SEVERAL = ('whorl', 'whorl-one', 'whorl-one-migrate')


def servers(build, workers=1):
    """Name -> command; ADDR stands for the address."""
    bench = os.path.join(build, 'bench', 'echo')
    echo = [os.path.join(build, 'examples', 'echo'), 'ADDR', '--workers', str(workers)]
    epoll, uring = os.path.join(bench, 'echo_epoll'), os.path.join(bench, 'echo_uring')
    return {
        'epoll': [epoll, 'ADDR'],
        'epoll-level': [epoll, 'ADDR', '--level'],
        'epoll-spin': [epoll, 'ADDR', '--spin', '50'],
        'uring': [uring, 'ADDR'],
        'uring-spin': [uring, 'ADDR', '--spin', '50'],
        'uring-multishot': [uring, 'ADDR', '--recv', 'multishot'],
        'whorl': echo,
        'whorl-one': echo + ['--one-listener'],
        'whorl-one-migrate': echo + ['--one-listener', '--migrate'],
    }


# ---- one run ----

def wait_until_listening(process, port):
    """Returns when a connection succeeds; a server that has ended or does not come is an error."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            socket.create_connection(('127.0.0.1', port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise Failed(f'ended at once with status {process.returncode}') from None
            time.sleep(0.002)  # nothing tells when a socket begins to listen: ask again
    raise Failed(f'does not listen after {START_TIMEOUT_S} s')


def softirq_threads():
    """Core -> pid of its ksoftirqd, the kernel thread that takes over a core's network work when
    there is much of it; empty where the kernel's threads are not visible."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/comm', encoding='ascii', errors='replace') as f:
                name, _, core = f.read().strip().partition('/')
        except OSError:
            continue
        if name == 'ksoftirqd' and core.isdigit():
            found[int(core)] = int(pid)
    return found


def core_idle_s():
    """Idle seconds of each core. An io_uring wait may show as iowait: it is idle as well."""
    idle = {}
    with open('/proc/stat', encoding='ascii') as f:
        for line in f:
            if line.startswith('cpu') and line[3].isdigit():
                name, *ticks = line.split()
                idle[int(name[3:])] = (int(ticks[3]) + int(ticks[4])) / os.sysconf('SC_CLK_TCK')
    return idle


class Lines:
    """The lines of a pipe, with a deadline."""

    def __init__(self, pipe):
        self.fd, self.rest = pipe.fileno(), b''
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)

    def next(self, deadline):
        """The next line, or None at the end."""
        while b'\n' not in self.rest:
            if not self.selector.select(max(0, deadline - time.monotonic())):
                raise Failed('the load generator does not come to an end')
            got = os.read(self.fd, 65536)
            if not got:
                return None
            self.rest += got
        line, _, self.rest = self.rest.partition(b'\n')
        return line.decode()

    def close(self):
        self.selector.close()


def last_json(text):
    for line in reversed(text.splitlines()):
        if line.startswith('{'):
            try:
                return json.loads(line)
            except ValueError:
                return {}
    return {}


def run_load(args, port, connections, pid):
    """Runs the load generator to its end; returns its figures and the server's CPU time."""
    command = [os.path.join(args.build, 'bench', 'echo', 'loadgen'), '--port', str(port),
               '--connections', str(connections), '--size', str(args.size), '--depth',
               str(args.depth), '--warmup', str(args.warmup), '--seconds', str(args.seconds),
               '--cpu', str(args.load_cpu), '--engine', args.engine, '--json']
    marks = {}
    softirq = args.softirq.get(SERVER_CPU)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as load:
        lines = Lines(load.stdout)
        try:
            deadline = time.monotonic() + args.warmup + args.seconds + RUN_TIMEOUT_S
            figures = None
            while (line := lines.next(deadline)) is not None:
                if line in ('measuring', 'done'):
                    marks[line] = [cpu_s(pid), cpu_s(softirq), waited_s(pid),
                                   waited_s(load.pid)]
                elif line.startswith('{'):
                    figures = json.loads(line)
        finally:
            lines.close()
            stop(load)
        complaint = load.stderr.read().decode().strip()
    if load.returncode or not figures or len(marks) != 2:
        raise Failed(complaint or f'load generator: status {load.returncode}')
    own_s, softirq_s, server_waited_s, load_waited_s = (
        end - begin for begin, end in zip(marks['measuring'], marks['done']))
    figures['cpu_s'] = own_s + softirq_s
    figures['softirq_s'] = softirq_s
    figures['waited_pct'] = 100 * max(server_waited_s, load_waited_s) / figures['seconds']
    return figures


def run_once(args, name, command, connections):
    """Starts a server, loads it, stops it; returns a flat record."""
    port = free_port()
    command = [word.replace('ADDR', f'127.0.0.1:{port}') for word in command]
    env = {name: value for name, value in os.environ.items() if name != 'WHORL_WORKERS'}
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        server = subprocess.Popen(command, stdout=out, stderr=err, env=env, preexec_fn=lambda:
                                  os.sched_setaffinity(0, args.server_cpus))
        ended = False
        try:
            wait_until_listening(server, port)
            figures = run_load(args, port, connections, server.pid)
            if server.poll() is not None:
                raise Failed(f'the server ended by itself with status {server.returncode}')
            ended = stop(server)
        except Failed as failure:
            stop(server)
            err.seek(0)
            raise Failed(f'{failure} {err.read()[-400:]}'.strip()) from None
        finally:
            stop(server)
        out.seek(0)
        counters = last_json(out.read())
    if not ended:
        print(f'  {name}: did not end on SIGTERM in {STOP_TIMEOUT_S} s, killed', file=sys.stderr)
    record = {'server': name, 'connections': connections}
    record.update((k, v) for k, v in figures.items() if k not in record)
    record['busy_pct'] = 100 * figures['cpu_s'] / figures['seconds']
    record['load_busy_pct'] = 100 * figures['loadgen_cpu_s'] / figures['seconds']
    record['per_cpu_s'] = figures['messages'] / figures['cpu_s'] if figures['cpu_s'] else None
    if counters.get('syscalls') and figures['messages_total']:
        record['syscalls_per_message'] = counters['syscalls'] / figures['messages_total']
    record['counters'] = counters
    return record


def wait_for_calm(args):
    """Waits, at most --patience seconds, until both cores have been idle for a moment."""
    end = time.monotonic() + args.patience
    moment_s = 0.2
    while time.monotonic() < end:
        before = core_idle_s()
        time.sleep(moment_s)
        after = core_idle_s()
        if all(after[c] - before[c] >= 0.9 * moment_s for c in args.server_cpus | {args.load_cpu}):
            return


def run_calm(args, name, command, connections):
    """run_once, repeated while other processes disturb it; the calmest counts. Where server and
    load generator share a core, they disturb each other."""
    if args.load_cpu in args.server_cpus:
        wait_for_calm(args)
        return dict(run_once(args, name, command, connections), disturbed=False)
    def run():
        wait_for_calm(args)
        return run_once(args, name, command, connections)
    return calmest(run, args)


# ---- figures ----

def short(value):
    """A number in three or four figures."""
    for unit, factor in (('M', 1e6), ('k', 1e3)):
        if value >= 10 * factor or (unit == 'M' and value >= factor):
            return f'{value / factor:.1f}{unit}'
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


class Results:
    """records[round][connections][server]"""

    def __init__(self):
        self.rounds = []

    def add(self, number, record):
        while len(self.rounds) <= number:
            self.rounds.append({})
        self.rounds[number].setdefault(record['connections'], {})[record['server']] = record

    def values(self, connections, server, key):
        return [r[connections][server].get(key) for r in self.rounds
                if server in r.get(connections, {})]

    def ratios(self, connections, server, key, against):
        """server / the best of `against` for each round that has both. Best: the most messages; for
        times (microseconds) the least."""
        best = min if key.endswith('_us') else max
        ratios = []
        for r in self.rounds:
            runs = r.get(connections, {})
            other = [runs[a][key] for a in against if a in runs and runs[a].get(key)]
            if other and server in runs and runs[server].get(key):
                ratios.append(runs[server][key] / best(other))
        return ratios


def print_table(results, connections, names, args):
    print(f'\n{connections} connections, {args.size} bytes, depth {args.depth}: '
          f'median (min..max) of {len(results.rounds)} rounds')
    row = '  {:<18}{:>25}{:>25}{:>9}{:>9}{:>24}{:>9}{:>9}{:>9}{:>11}'
    print(row.format('server', 'messages/s', 'messages/CPU-second', 'sys/msg', 'p50 us', 'p99 us',
                     'p99.9 us', 'max us', 'worst us', 'busy s/l %'))
    for name in names:
        def of(key, form=short):
            values = [v for v in results.values(connections, name, key) if v is not None]
            return form(statistics.median(values)) if values else '-'
        if not results.values(connections, name, 'rate'):
            continue
        print(row.format(
            name, spread(results.values(connections, name, 'rate'), short),
            spread(results.values(connections, name, 'per_cpu_s'), short),
            of('syscalls_per_message', '{:.3f}'.format), of('p50_us'),
            spread(results.values(connections, name, 'p99_us'), short), of('p999_us'), of('max_us'),
            of('worst_mean_us'),
            of('busy_pct', '{:.0f}'.format) + '/' + of('load_busy_pct', '{:.0f}'.format)))


def print_ratios_to_first(results, connections, names):
    two = '{:.2f}'.format
    row = '  {:<20}{:>22}{:>22}{:>22}'
    print(row.format('ratio, by round', 'messages/s', 'per CPU-s', 'p99') + f'  / {names[0]}')
    for name in names[1:]:
        print(row.format(name, *(spread(results.ratios(connections, name, key, names[:1]), two)
                                 for key in ('rate', 'per_cpu_s', 'p99_us'))))


def print_ratios(results, connections, names):
    two = '{:.2f}'.format
    head = False
    row = '  {:<16}{:>22}{:>22}{:>22}{:>22}{:>22}{:>22}'
    for name in names:
        if name == 'epoll':
            continue
        uring = [u for u in URING if u != name]
        cells = [spread(results.ratios(connections, name, key, against), two)
                 for key, against in (('rate', ['epoll']), ('per_cpu_s', ['epoll']),
                                      ('p99_us', ['epoll']), ('worst_mean_us', ['epoll']),
                                      ('rate', uring), ('per_cpu_s', uring))]
        if set(cells) == {'-'}:
            continue
        if not head:
            head = True
            print(row.format('ratio, by round', 'messages/s /epoll', 'per CPU-s /epoll',
                             'p99 /epoll', 'worst /epoll', 'messages/s /uring',
                             'per CPU-s /uring'))
        print(row.format(name, *cells))
    if head:
        print('  (/uring: the best other io_uring server by hand in the round)')


def targets(results):
    """Yields (text, figure, limit, at_least) for what was measured of whorl."""
    def median(connections, key, against):
        found = results.ratios(connections, 'whorl', key, against)
        return statistics.median(found) if found else None

    def plain(connections, key):
        found = [v for v in results.values(connections, 'whorl', key) if v is not None]
        return statistics.median(found) if found else None

    sizes = sorted({c for r in results.rounds for c in r})
    for n in sizes:
        if n >= 8:
            yield f'messages/CPU-s over the best io_uring by hand at {n}', \
                median(n, 'per_cpu_s', URING), 0.97, True
        if n >= 64:
            yield f'messages/CPU-s over epoll at {n}', median(n, 'per_cpu_s', ['epoll']), 1.15, True
        if n == 1:
            yield 'messages/s over epoll at 1', median(n, 'rate', ['epoll']), 2.0, True
            yield 'messages/CPU-s over epoll at 1', median(n, 'per_cpu_s', ['epoll']), 1.0, True
        yield f'p99 over epoll at {n}', median(n, 'p99_us', ['epoll']), 1.0, False
        yield f'worst connection over epoll at {n}', \
            median(n, 'worst_mean_us', ['epoll']), 1.0, False
        if n in (64, 1000):
            yield f'system calls a message at {n}', plain(n, 'syscalls_per_message'), \
                0.07 if n == 64 else 0.15, False


def print_targets(results, out):
    found = [t for t in targets(results) if t[1] is not None]
    if not found:
        return
    print('\ntargets for whorl (medians)')
    for text, figure, limit, at_least in found:
        met = figure >= limit if at_least else figure <= limit
        verdict = 'met' if met else f'missed by {abs(figure - limit):.3f}'
        sign = '>=' if at_least else '<='
        print(f'  {text:<58}{figure:8.3f}  {sign} {limit:<6}{verdict}')
        emit(out, {'kind': 'target', 'text': text, 'figure': figure, 'limit': limit,
                   'at_least': at_least, 'met': met})


# ---- options ----

def numbers(text):
    return [int(n) for n in text.split(',')]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], epilog='servers: '
                                     + ' '.join(servers('')) + '; without --only: '
                                     + ' '.join(DEFAULT))
    parser.add_argument('build')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2.0, help='measured in each run')
    parser.add_argument('--warmup', type=float, default=0.5)
    parser.add_argument('--connections', type=numbers, default=[1, 8, 64, 1000, 8000])
    parser.add_argument('--size', type=int, default=64, help='bytes a message')
    parser.add_argument('--depth', type=int, default=1, help='messages on the way, a connection')
    parser.add_argument('--workers', type=int, default=1, metavar='N',
                        help="of whorl's servers, which with more than 1 are compared with each "
                             'other')
    parser.add_argument('--engine', choices=('uring', 'epoll'), default='uring',
                        help='of the load generator; with epoll it is the bottleneck')
    parser.add_argument('--only', type=lambda t: t.split(','), help='the servers to run')
    parser.add_argument('--add', action='append', default=[], metavar='NAME=COMMAND',
                        help='one more server; ADDR in the command becomes HOST:PORT, BUILD the '
                             'build directory')
    parser.add_argument('--calm', type=float, default=5.0, metavar='PERCENT',
                        help='of the time, that a run may wait for its core')
    parser.add_argument('--retries', type=int, default=2, help='for a run that was disturbed')
    parser.add_argument('--patience', type=float, default=10, metavar='S',
                        help='how long to wait before each run for both cores to be idle')
    parser.add_argument('--json', metavar='FILE',
                        help='all runs, failures and targets, one object a line')
    return parser.parse_args()


def choose(args):
    """Name -> command of the servers to run, or exit with what is missing."""
    known = servers(args.build, args.workers)
    added = []
    for text in args.add:
        name, _, command = text.partition('=')
        known[name] = shlex.split(command.replace('BUILD', args.build))
        added.append(name)
    chosen = {}
    wanted = list(args.only or (SEVERAL if args.workers > 1 else DEFAULT))
    for name in wanted + [a for a in added if a not in wanted]:
        if name not in known:
            sys.exit(f"run.py: no server '{name}'; there are: {' '.join(known)}")
        if os.access(known[name][0], os.X_OK):
            chosen[name] = known[name]
        elif args.only:
            sys.exit(f'run.py: {known[name][0]} is not there: build it first')
        else:
            print(f'leaving out {name}: {known[name][0]} is not there')
    if not chosen:
        sys.exit(f'run.py: no server in {args.build}: build first')
    return chosen


def raise_fd_limit():
    """For the servers, which inherit it: not all of them do it themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped
    args = parse()
    chosen = choose(args)
    raise_fd_limit()
    cpus = os.sched_getaffinity(0)
    args.server_cpus = set(range(SERVER_CPU, SERVER_CPU + args.workers))
    args.load_cpu = max(args.server_cpus) + 1
    if args.workers > 1 and args.load_cpu not in cpus:
        args.load_cpu -= 1
    if not args.server_cpus | {args.load_cpu} <= cpus:
        sys.exit(f'run.py: needs CPUs 0 to {args.load_cpu}, for the server and the load generator')
    args.softirq = softirq_threads()
    names, results, failures, disturbed = list(chosen), Results(), 0, 0
    runs = args.rounds * len(args.connections) * len(names)
    about = machine()
    print(f"{about['model']}, {about['cpus']} CPUs, Linux {about['kernel']}, TCP "
          f"{about['congestion']}; {runs} runs of {args.seconds} s, at least "
          f"{runs * (args.seconds + args.warmup + 0.2) / 60:.0f} minutes; loadgen on {args.engine}")
    out = open(args.json, 'w', encoding='utf-8') if args.json else None
    emit(out, about)
    try:
        for number in range(args.rounds):
            turn = number // 2 % len(names)
            order = (names[turn:] + names[:turn])[::-1 if number % 2 else 1]
            for connections in args.connections:
                for name in order:
                    try:
                        record = run_calm(args, name, chosen[name], connections)
                    except Failed as failure:
                        failures += 1
                        print(f'  {name} at {connections}: {failure}', file=sys.stderr)
                        emit(out, {'kind': 'failure', 'server': name, 'connections': connections,
                                   'round': number, 'why': str(failure)})
                        continue
                    disturbed += record['disturbed']
                    results.add(number, record)
                    emit(out, dict(record, kind='run', round=number))
            print(f'round {number + 1} of {args.rounds} done', file=sys.stderr)
    except KeyboardInterrupt:
        print('stopped: what was measured until now', file=sys.stderr)
    for connections in args.connections:
        print_table(results, connections, names, args)
        (print_ratios if args.workers == 1 else print_ratios_to_first)(results, connections, names)
    if args.workers == 1:
        print_targets(results, out)
    if disturbed:
        print(f'\n{disturbed} of {runs} runs were disturbed: each time they were tried, others had '
              f'the core for more than {args.calm:g} % of the time')
    if failures:
        print(f'{failures} runs failed')
    if out:
        out.close()
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
