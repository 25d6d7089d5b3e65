#!/usr/bin/env python3
"""Holds very many TCP connections on loopback at once, each with a coroutine in a read with an idle
deadline, and says what that costs.

    run.py BUILD_DIR [--connections N] [--processes P] [--workers W] [--rate R] [--seconds S]
           [--direct] [--json FILE]

What happens
    1. P server processes listen on one port (SO_REUSEPORT); bare clients in one more process
       connect from several addresses of 127/8, no faster than the servers accept.
    2. All idle for three seconds: memory, and the servers' CPU time.
    3. R times a second (a thousandth of the connections, if not said) one of them, chosen by
       chance, exchanges a message of 64 bytes; until the deadline.
    4. The deadline of all the reads comes, in one instant: each handler ends and closes.
    5. The clients look whether each connection has come to its end.

Connections beyond what the process may have descriptors for (ulimit -n) are direct descriptors, of
which every worker has as many as that limit; W is as many workers as that takes, if not said.

What is measured
    user memory     resident set and page tables of the server processes (VmRSS, VmPTE), less what
                    they had before the first connection
    kernel memory   what became of MemAvailable less what all processes took: both ends of a
                    connection, and whatever else the machine did meanwhile

Exit status: 0 only if all were connected, answered, fired and closed. Standard library only.
"""

import argparse
import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from measuring import Failed, cpu_s, free_port

FIGURES = ('accepted', 'open', 'shed', 'starved', 'cut', 'drain_began_ns', 'ready', 'begun',
           'fired', 'messages', 'direct', 'connected', 'exchanged', 'seen_end')  # struct shared
IDLE_S = 3.0
FILL_PER_S = 9000          # slower than any machine we have seen
KERNEL_BYTES, USER_BYTES = 6700, 5300
WORKERS_MAX = 60
KERNEL_MIN = 50000         # connections, for MemAvailable to say something
TABLE_SHARE = 0.93         # of a worker's table: the kernel spreads connections by chance


class Shared:
    """The page that a server and the clients write their figures to."""

    def __init__(self):
        fd, self.path = tempfile.mkstemp(prefix='whorl-c1m-')
        os.ftruncate(fd, 4096)
        self.map = mmap.mmap(fd, 4096)
        os.close(fd)

    def __getattr__(self, name):
        return struct.unpack_from('Q', self.map, 8 * FIGURES.index(name))[0]

    def remove(self):
        self.map.close()
        os.unlink(self.path)


def say(text):
    print(text, flush=True)


def status_bytes(pid):
    total = 0
    with open('/proc/%d/status' % pid) as f:
        for line in f:
            if line.startswith(('VmRSS:', 'VmPTE:')):
                total += int(line.split()[1]) * 1024
    return total


def available_bytes():
    with open('/proc/meminfo') as f:
        for line in f:
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
    raise Failed('/proc/meminfo has no MemAvailable')


def plan(options):
    """Workers and whether direct descriptors are needed; or what is missing."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    each = -(-options.connections // options.processes)
    direct = options.direct or each * (1.1 if options.processes > 1 else 1) + 200 > limit
    workers = options.workers or len(os.sched_getaffinity(0))
    if direct:
        needed = int(each / (limit * TABLE_SHARE)) + 1
        if not options.workers:
            workers = max(workers, needed)
        if workers < needed or workers > WORKERS_MAX:
            raise Failed('%d connections a process need %d workers of %d descriptors each, and %s: '
                         'raise ulimit -n (hard) to %d, or take --processes %d' %
                         (each, needed, limit, 'there are %d' % workers if options.workers else
                          'there may be %d' % WORKERS_MAX, each + 1000,
                          -(-options.connections // int(8 * limit * TABLE_SHARE))))
    need = options.connections * (KERNEL_BYTES + USER_BYTES)
    if need > available_bytes():
        raise Failed('%d connections take about %.1f GB of memory, and %.1f GB are available' %
                     (options.connections, need / 1e9, available_bytes() / 1e9))
    with open('/proc/sys/fs/file-nr') as f:
        used, _, most = map(int, f.read().split())
    if most - used < 2 * options.connections + 1000:
        raise Failed('too few files for the machine: sysctl fs.file-max=%d' %
                     (used + 2 * options.connections + 1000))
    return workers, direct


def wait_for(what, holds, limit_s, procs, step_s=0.005):
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > limit_s:
            raise Failed('%s: not after %.0f s' % (what, limit_s))
        for proc in procs:
            if proc.poll() is not None:
                raise Failed('%s: process %s has ended with %s' %
                             (what, os.path.basename(proc.args[0]), proc.returncode))
        time.sleep(step_s)
    return time.monotonic()


def measure(build, options, shareds, procs):
    workers, direct = plan(options)
    n, folder = options.connections, os.path.join(build, 'bench', 'c1m')
    port = free_port()
    fill_s = n / FILL_PER_S + 3
    begin = time.monotonic()
    deadline = begin + fill_s + IDLE_S + options.seconds + 2
    paths = [s.path for s in shareds]
    for shared in shareds:
        procs.append(subprocess.Popen([
            os.path.join(folder, 'c1m_server'), str(port), str(workers), str(int(deadline * 1e9)),
            str(int(direct)), shared.path]))
    servers = list(procs)
    wait_for('listening', lambda: all(s.ready for s in shareds), 30, procs)
    before = sum(status_bytes(p.pid) for p in servers)
    memory_before = available_bytes()
    rate = options.rate or n / 1000
    client = subprocess.Popen(
        [os.path.join(folder, 'c1m_client'), str(port), str(n), str(rate),
         str(int((deadline - 1) * 1e9)), *paths],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    procs.append(client)
    client_before = status_bytes(client.pid)

    # 1
    first = wait_for('connecting', lambda: sum(s.begun for s in shareds), 30, procs, 0.001)
    full = wait_for('connecting', lambda: sum(s.begun for s in shareds) == n, fill_s, procs)
    if client.stdout.readline() != 'connected\n':
        raise Failed('the clients did not connect')
    result = {'connections': n, 'processes': options.processes, 'workers': workers,
              'direct': sum(s.direct for s in shareds), 'accept_s': full - first}
    # 2
    time.sleep(1)
    user = sum(status_bytes(p.pid) for p in servers) - before
    clients = status_bytes(client.pid) - client_before
    cpu = sum(cpu_s(p.pid) for p in servers)
    time.sleep(IDLE_S - 1)
    result['idle_cpu_percent'] = 100 * (sum(cpu_s(p.pid) for p in servers) - cpu) / (IDLE_S - 1)
    result['user_bytes'] = user / n
    result['kernel_bytes'] = (memory_before - available_bytes() - user - clients) / n
    if any(s.fired for s in shareds):
        raise Failed('connecting took too long: deadlines have come')
    # 3
    client.stdin.write('exchange\n')
    client.stdin.flush()
    result.update(json.loads(client.stdout.readline()))
    result['user_bytes_after'] = (sum(status_bytes(p.pid) for p in servers) - before) / n
    if sum(s.open for s in shareds) != n:
        raise Failed('%d of %d connections were left before the deadline' %
                     (sum(s.open for s in shareds), n))
    # 4
    cpu = sum(cpu_s(p.pid) for p in servers)
    closed = wait_for('closing', lambda: not any(s.open for s in shareds),
                      deadline - time.monotonic() + 30 + n / 5000, procs)
    result['close_s'] = closed - deadline
    result['close_cpu_s'] = sum(cpu_s(p.pid) for p in servers) - cpu
    result['fired'] = sum(s.fired for s in shareds)
    # 5
    client.stdin.write('look\n')
    client.stdin.flush()
    client.stdout.readline()
    result['seen_end'] = shareds[0].seen_end
    client.stdin.write('end\n')
    client.stdin.flush()
    return result


def report(r):
    n = r['connections']
    say('%d connections, %d server process%s of %d workers, %s' % (
        n, r['processes'], 'es' if r['processes'] > 1 else '', r['workers'],
        '%d direct descriptors' % r['direct'] if r['direct'] else 'plain descriptors'))
    say('  user memory a connection    %6.0f bytes (%.0f after the messages)' %
        (r['user_bytes'], r['user_bytes_after']))
    if n < KERNEL_MIN:
        say('  kernel memory a connection  too little to tell from what else the machine did')
    else:
        say('  kernel memory a connection  %6.0f bytes, both ends' % r['kernel_bytes'])
    say('  CPU while all are idle      %6.2f %% of a core' % r['idle_cpu_percent'])
    say('  to accept all               %6.2f s (%.0f a second)' %
        (r['accept_s'], n / max(r['accept_s'], 1e-9)))
    shown = ['p50 %.0f us' % r['p50_us']]
    if r['exchanges'] >= 1000:
        shown.append('p99 %.0f us' % r['p99_us'])
    if r['exchanges'] >= 10000:
        shown.append('p99.9 %.0f us' % r['p999_us'])
    say('  a message there and back    %s, worst %.0f us (%d exchanged)' %
        (', '.join(shown), r['max_us'], r['exchanges']))
    say('  all deadlines fired, closed %6.2f s after that instant (%.0f a second, %.1f CPU s)' %
        (r['close_s'], n / max(r['close_s'], 1e-9), r['close_cpu_s']))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('build')
    parser.add_argument('--connections', type=int, default=1000000)
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--workers', type=int, default=0)
    parser.add_argument('--direct', action='store_true', help='also where they are not needed')
    parser.add_argument('--rate', type=float, default=0, help='messages a second')
    parser.add_argument('--seconds', type=float, default=10, help='of messages, at least')
    parser.add_argument('--json')
    options = parser.parse_args()
    if options.connections < 1 or not 1 <= options.processes <= 64 or options.workers < 0:
        parser.error('a number is out of its range')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that processes are ended
    shareds, procs = [Shared() for _ in range(options.processes)], []
    try:
        result = measure(options.build, options, shareds, procs)
        report(result)
        if options.json:
            with open(options.json, 'w') as f:
                json.dump(result, f, indent=1)
                f.write('\n')
        n = options.connections
        if result['fired'] != n or result['seen_end'] != n or result['wrong'] or \
                not result['exchanges']:
            raise Failed('of %d connections %d came to their deadline, %d clients saw the end, and '
                         '%d messages went wrong' % (n, result['fired'], result['seen_end'],
                                                     result['wrong']))
    except KeyboardInterrupt:
        return 130
    except (Failed, OSError) as error:
        print('c1m: %s' % error, file=sys.stderr)
        return 1
    finally:
        for proc in procs:
            if proc.poll() is None:
                proc.terminate()
        for proc in procs:
            proc.wait()
        for shared in shareds:
            shared.remove()
    return 0


if __name__ == '__main__':
    sys.exit(main())
