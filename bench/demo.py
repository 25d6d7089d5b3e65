#!/usr/bin/env python3
"""Drives whorl's HTTP server with real clients, and the same load on a plain epoll server.

    demo.py BUILD_DIR [--seconds S] [--rounds R] [--connections 64,256] [--idle N] [--json FILE]

How: a server has a CPU to itself; wrk and the holder of the idle connections have others. In every
round each server is started, many idle connections are opened beside, then wrk loads it, once for
each number of busy connections. Which server goes first changes from round to round, so that what
changes on the machine meanwhile hits both alike. Ratios are taken within a round.

What is measured
    requests a second    answers that wrk got, over its own time
    latency              by wrk, each answer
    CPU seconds          of the server's process, all its threads, user and kernel, from before wrk
                         is started until it has ended, over the requests that wrk counted
    memory               resident memory and page tables of the server's process: the difference
                         that the idle connections made, each of which has been served once
    system calls         by the servers' own counters, before and after wrk

Only processes that this program started are signalled, by their id. Standard library only.
"""

import argparse
import http.client
import json
import os
import platform
import resource
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

START_TIMEOUT_S, STOP_TIMEOUT_S = 5, 15
IDLE_TIMEOUT_S = 30        # of both servers: the idle connections of a run must not get as old
SPARE_FDS = 512            # for everything in a server that is no idle connection
LOAD_CPUS_MAX = 2          # more load than a server on one CPU can take
DISTURBED_PCT, SATURATED_PCT = 5, 90
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Written by wrk itself when it has ended. It costs nothing a request: the request stays constant.
WRK_SCRIPT = '''
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        'figures {"requests":%d,"duration_us":%d,"p50_us":%.0f,"p99_us":%.0f,"p999_us":%.0f,' ..
        '"max_us":%.0f,"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        latency:percentile(99.9), latency.max, e.connect, e.read, e.write, e.status, e.timeout))
end
'''


class Failed(Exception):
    """Something did not do its part; the text says what, and how to go on."""


def say(text=''):
    print(text, flush=True)


# ---- processes ----

class Child:
    """A process that we started: its standard output by lines, its complaints kept."""

    running = []

    def __init__(self, name, command, cpus, **options):
        self.name = name
        self.rest = b''
        self.complaints = tempfile.TemporaryFile()
        self.selector = selectors.DefaultSelector()
        # A signal that comes between the start and the list would leave a process behind.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

        def become_child():
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if cpus:
                os.sched_setaffinity(0, cpus)
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE,
                                            stderr=self.complaints, preexec_fn=become_child,
                                            **options)
            Child.running.append(self)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.pid = self.process.pid
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def line(self, timeout_s):
        """The next line, or None at the end of the output."""
        deadline = time.monotonic() + timeout_s
        while b'\n' not in self.rest:
            if not self.selector.select(max(0, deadline - time.monotonic())):
                raise Failed(f'{self.name} said nothing for {timeout_s:g} s{self.complaint()}')
            got = os.read(self.process.stdout.fileno(), 65536)
            if not got:
                return None
            self.rest += got
        line, _, self.rest = self.rest.partition(b'\n')
        return line.decode(errors='replace')

    def line_with(self, word, timeout_s):
        """What follows the word in the line that begins with it."""
        while (line := self.line(timeout_s)) is not None:
            if line.startswith(word):
                return line[len(word):].strip()
        self.wait(STOP_TIMEOUT_S)
        raise Failed(f'{self.name} did not say "{word.strip()}"{self.complaint()}')

    def complaint(self):
        """How it ended, if it has, and what it said of it."""
        status = self.process.poll()
        ended = '' if status is None else f'; it ended with status {status}'
        self.complaints.seek(0)
        text = self.complaints.read()[-1500:].decode(errors='replace').strip()
        return f'{ended}; it says:\n{text}' if text else f'{ended}; it gave no reason'

    def wait(self, timeout_s):
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f'{self.name} does not end{self.complaint()}') from None

    def ask_to_end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def forget(self):
        """It has ended: gives back what it held here. Insists where it has not."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for held in (self.process.stdin, self.process.stdout, self.complaints, self.selector):
            if held:
                held.close()
        Child.running.remove(self)

    @staticmethod
    def end_all():
        """Newest first, so that no server waits for a client of ours."""
        for child in reversed(list(Child.running)):
            child.ask_to_end()
            try:
                child.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pass
            child.forget()


def parse_object(text, source):
    try:
        return json.loads(text)
    except ValueError:
        raise Failed(f'{source} printed what is no JSON: {text[:200]!r}') from None


def process_cpu_s(pid):
    """CPU seconds of all threads of a process, to the nanosecond: its CPU clock (see
    clock_getcpuclockid(3)); /proc only where that fails."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        with open(f'/proc/{pid}/stat', encoding='ascii') as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def kib_of(path, name):
    with open(path, encoding='ascii') as f:
        for line in f:
            if line.startswith(name + ':'):
                return int(line.split()[1])
    raise Failed(f'{path} has no {name}')


def process_memory_bytes(pid):
    """Resident memory and page tables. smaps_rollup counts page by page; VmRSS may be off by some
    hundred KiB, which matters over connections of some hundred bytes."""
    try:
        resident = kib_of(f'/proc/{pid}/smaps_rollup', 'Rss')
    except OSError:
        resident = kib_of(f'/proc/{pid}/status', 'VmRSS')
    return 1024 * (resident + kib_of(f'/proc/{pid}/status', 'VmPTE'))


def cpu_idle_s():
    """Idle seconds of each CPU. An io_uring wait may show as iowait: it is idle as well."""
    idle = {}
    with open('/proc/stat', encoding='ascii') as f:
        for line in f:
            if line.startswith('cpu') and line[3].isdigit():
                name, *ticks = line.split()
                idle[int(name[3:])] = (int(ticks[3]) + int(ticks[4])) / os.sysconf('SC_CLK_TCK')
    return idle


def children_cpu_s():
    """Of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# ---- one run ----

def siblings(cpu):
    """The CPUs that share a core with this one."""
    try:
        with open(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list',
                  encoding='ascii') as f:
            ranges = [part.split('-') for part in f.read().strip().split(',')]
    except OSError:
        return {cpu}
    return {n for r in ranges for n in range(int(r[0]), int(r[-1]) + 1)}


def choose_cpus():
    """(the server's, the load's); two empty sets where there is only one CPU."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return set(), set()
    server, others = allowed[0], allowed[1:]
    apart = [cpu for cpu in others if cpu not in siblings(server)]
    return {server}, set((apart or others)[:LOAD_CPUS_MAX])


class Server:
    """One of the two servers, running."""

    def __init__(self, name, command, cpus):
        environment = dict(os.environ, WHORL_WORKERS='1')
        self.child = Child(f'{name} ({os.path.basename(command[0])})', command, cpus,
                           stdin=subprocess.DEVNULL, env=environment)
        self.pid = self.child.pid
        self.address = self.child.line_with('listening on ', START_TIMEOUT_S)

    def syscalls(self):
        """How many system calls it has made, by its own count. Asking is a request more."""
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request('GET', '/status.json', headers={'Connection': 'close'})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise ValueError(f'status {answer.status}')
            status = json.loads(text)
            return status['ring']['enters'] if 'ring' in status else status['syscalls']
        except (OSError, ValueError, KeyError, http.client.HTTPException) as e:
            raise Failed(f'{self.child.name} does not tell its system calls at /status.json: '
                         f'{e!r}{self.child.complaint()}') from None
        finally:
            connection.close()

    def stop(self):
        """Asks it to end, as a service manager would; returns its last counters."""
        self.child.ask_to_end()
        last = {}
        while (line := self.child.line(STOP_TIMEOUT_S)) is not None:
            if line.startswith('{'):
                last = parse_object(line, self.child.name)
        if self.child.wait(STOP_TIMEOUT_S) != 0:
            raise Failed(f'{self.child.name} was asked to end{self.child.complaint()}')
        self.child.forget()
        return last


def open_idle(args, server):
    """Opens the idle connections; (their holder, bytes of the server's memory for each)."""
    server.syscalls()  # what a first request brings in is no connection's
    before = process_memory_bytes(server.pid)
    command = [os.path.join(args.build, 'bench', 'http', 'http_idle'), server.address,
               str(args.idle)]
    holder = Child('the holder of the idle connections', command, args.load_cpus,
                   stdin=subprocess.PIPE)
    holder.line_with('ready ', 60)
    return holder, (process_memory_bytes(server.pid) - before) / args.idle


def close_idle(args, holder, opened_s):
    """Ends the holder. The server must have kept all connections until now."""
    holder.process.stdin.close()
    lost = int(holder.line_with('lost ', STOP_TIMEOUT_S))
    holder.wait(STOP_TIMEOUT_S)
    holder.forget()
    if lost:
        raise Failed(f'the server closed {lost:,} of {args.idle:,} idle connections within '
                     f'{time.monotonic() - opened_s:.0f} s')


def run_wrk(args, server, connections):
    """Loads the server; a flat record of what came out."""
    threads = min(connections, max(1, len(args.load_cpus)))
    command = ['wrk', f'-t{threads}', f'-c{connections}', f'-d{args.seconds}s', '-s', args.script,
               f'http://{server.address}/']
    counted, idle = server.syscalls(), cpu_idle_s()
    wrk_cpu_s, cpu_s, start_s = children_cpu_s(), process_cpu_s(server.pid), time.monotonic()
    wrk = Child('wrk', command, args.load_cpus, stdin=subprocess.DEVNULL)
    figures = parse_object(wrk.line_with('figures ', args.seconds + 20), 'wrk')
    wrk.wait(STOP_TIMEOUT_S)
    took_s = time.monotonic() - start_s
    cpu_s, wrk_cpu_s = process_cpu_s(server.pid) - cpu_s, children_cpu_s() - wrk_cpu_s
    idle_now, counted = cpu_idle_s(), server.syscalls() - counted
    wrk.forget()
    if not figures['requests'] or any(figures['errors'].values()):
        raise Failed(f"wrk got {figures['requests']:,} answers from {server.child.name}, and "
                     f"errors: {figures['errors']}{server.child.complaint()}")

    def foreign(cpus, own_s):  # what others used of these CPUs, percent
        if not cpus:
            return 0.0
        free_s = sum(idle_now.get(cpu, 0) - idle.get(cpu, 0) for cpu in cpus)
        return max(0.0, 100 * (1 - (free_s + own_s) / (took_s * len(cpus))))

    requests = figures['requests']
    return {
        'rate': requests / (figures['duration_us'] / 1e6),
        'p50_us': figures['p50_us'], 'p99_us': figures['p99_us'], 'p999_us': figures['p999_us'],
        'max_us': figures['max_us'],
        'cpu_s_per_million': cpu_s / requests * 1e6,
        'syscalls_per_request': counted / requests,
        'requests': requests, 'seconds': took_s,
        'server_busy_pct': 100 * cpu_s / took_s,
        'wrk_busy_pct': 100 * wrk_cpu_s / took_s / max(1, len(args.load_cpus)),
        'foreign_pct': max(foreign(args.server_cpus, cpu_s), foreign(args.load_cpus, wrk_cpu_s)),
    }


def run_server(args, name, label):
    """Starts a server, does everything with it, stops it. {kind of load: record}"""
    server = Server(name, args.commands[name], args.server_cpus)
    opened_s = time.monotonic()
    records = {}
    holder, each = open_idle(args, server)
    records['idle'] = {'idle_bytes': each}
    say(f'{label} {args.idle:,} idle connections opened in {time.monotonic() - opened_s:.1f} s')
    for connections in args.connections:
        record = records[connections] = run_wrk(args, server, connections)
        say(f'{label} {connections:>4} busy beside them: {record["rate"]:>8,.0f} requests a '
            f'second, {record["cpu_s_per_million"]:.2f} CPU seconds a million')
    close_idle(args, holder, opened_s)
    records['exit'] = server.stop()
    return records


# ---- figures ----

# key, what it is called, how its value is shown; all but the first are better when smaller
ROWS = (
    ('rate', 'requests a second', '{:,.0f}'.format),
    ('p50_us', 'latency p50', lambda us: f'{us / 1000:.2f} ms'),
    ('p99_us', 'latency p99', lambda us: f'{us / 1000:.2f} ms'),
    ('p999_us', 'latency p99.9', lambda us: f'{us / 1000:.2f} ms'),
    ('cpu_s_per_million', 'CPU seconds per million requests', '{:.2f}'.format),
    ('syscalls_per_request', 'system calls per request', '{:.3f}'.format),
)
IDLE_ROWS = (('idle_bytes', 'memory per idle connection', '{:,.0f} bytes'.format),)


def ratio_text(value):
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'


class Results:
    """rounds[i][server][kind of load] is a record."""

    def __init__(self):
        self.rounds = []

    def values(self, server, load, key):
        return [r[server][load][key] for r in self.rounds]

    def median(self, server, load, key):
        return statistics.median(self.values(server, load, key))

    def ratios(self, load, key):
        pairs = zip(self.values('whorl', load, key), self.values('epoll', load, key))
        return [w / e for w, e in pairs if e > 0]

    def ratio(self, load, key):
        found = self.ratios(load, key)
        return statistics.median(found) if found else None

    def worst(self, key, loads):
        return max(v for load in loads for name in ('whorl', 'epoll')
                   for v in self.values(name, load, key))


def table_row(results, load, row):
    key, title, form = row
    ratios = results.ratios(load, key)
    spread = ''
    if ratios:
        spread = ratio_text(statistics.median(ratios))
        if len(ratios) > 1:
            spread = f'{spread:>5}  ({ratio_text(min(ratios))}..{ratio_text(max(ratios))})'
    return (f'  {title:<34}{form(results.median("whorl", load, key)):>14}'
            f'{form(results.median("epoll", load, key)):>14}   {spread}')


def print_table(args, results):
    say(f'\n{"":<36}{"whorl":>14}{"epoll":>14}   whorl/epoll')
    for connections in args.connections:
        say(f'{connections} busy connections beside {args.idle:,} idle ones')
        for row in ROWS:
            say(table_row(results, connections, row))
    say(f'{args.idle:,} idle connections')
    for row in IDLE_ROWS:
        say(table_row(results, 'idle', row))


def print_notes(args, results):
    say(f'''
Medians over the rounds; the ratio is taken in each round, then its median and
(lowest..highest). Of requests a second more is better, of all else less. CPU time is user
and kernel time of the server's process. System calls are what each server counted itself
while wrk ran: for whorl the calls that enter its ring, for epoll each call at its call
site. Memory is resident memory and page tables of the process; the kernel's own memory
for a socket is in neither.''')
    busy = {name: statistics.median(v for load in args.connections
                                    for v in results.values(name, load, 'server_busy_pct'))
            for name in ('whorl', 'epoll')}
    wrk = statistics.median(v for load in args.connections for name in busy
                            for v in results.values(name, load, 'wrk_busy_pct'))
    if args.server_cpus and wrk >= SATURATED_PCT and min(busy.values()) < SATURATED_PCT:
        say(f"wrk was the limit, not the servers: it used {wrk:.0f} % of its CPU, whorl "
            f"{busy['whorl']:.0f} %, epoll {busy['epoll']:.0f} %.\nThen requests a second says "
            'little, and CPU seconds per million says what a request costs.')
    foreign = results.worst('foreign_pct', args.connections)
    if foreign > DISTURBED_PCT:
        say(f'Other programs used up to {foreign:.0f} % of these CPUs meanwhile: the figures are '
            'rough;\nfor better ones close them and run this again.')


def compared(ratios, thing):
    """'12 % less CPU time than' and the like; no more than the rounds agree on."""
    if not ratios:
        return f'no {thing} against'
    ratio = statistics.median(ratios)
    if 0.98 < ratio < 1.02 or min(ratios) < 1 < max(ratios):
        return f'about as much {thing} as'
    if ratio >= 2:
        return f'{ratio_text(ratio)} times the {thing} of'
    return f'{abs(ratio - 1) * 100:.0f} % {"less" if ratio < 1 else "more"} {thing} than'


def print_meaning(args, results):
    load = args.connections[0]
    cpu = compared(results.ratios(load, 'cpu_s_per_million'), 'CPU time')
    calls = [f"{results.median(name, load, 'syscalls_per_request'):.2f}"
             for name in ('whorl', 'epoll')]
    idle = [f"{results.median(name, 'idle', 'idle_bytes'):,.0f}" for name in ('whorl', 'epoll')]
    roughly = ', roughly' if results.worst('foreign_pct', args.connections) > DISTURBED_PCT else ''
    say(f'''
In a sentence{roughly}: with {load} busy connections whorl takes {cpu}
the epoll server for a request, with {calls[0]} system calls instead of {calls[1]}, and
{idle[0]} bytes for an idle connection instead of {idle[1]}: with whorl each is a coroutine,
a stack of its own and plain sequential code; in the epoll server a struct and a state
machine written by hand.''')


def emit(out, record):
    if out:
        out.write(json.dumps(record) + '\n')
        out.flush()


def emit_summary(args, results, out):
    for load in args.connections + ['idle']:
        for key, title, _ in IDLE_ROWS if load == 'idle' else ROWS:
            emit(out, {'kind': 'summary', 'load': load, 'key': key, 'title': title,
                       'whorl': results.median('whorl', load, key),
                       'epoll': results.median('epoll', load, key),
                       'ratio': results.ratio(load, key)})


# ---- the whole ----

def parse():
    def count(text):
        value = int(text)
        if value < 1:
            raise ValueError
        return value

    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('build', metavar='BUILD_DIR')
    parser.add_argument('--seconds', type=count, default=4, help='of each run of wrk (4)')
    parser.add_argument('--rounds', type=count, default=3)
    parser.add_argument('--connections', type=lambda t: [count(n) for n in t.split(',')],
                        default=[64, 256], help='busy ones, a run for each (64,256)')
    parser.add_argument('--idle', type=count, default=10000, help='idle connections (10000)')
    parser.add_argument('--json', metavar='FILE', help='all runs and the table, an object a line')
    args = parser.parse_args()
    if args.seconds * len(args.connections) > IDLE_TIMEOUT_S - 8:
        parser.error(f'--seconds {args.seconds}, {len(args.connections)} times, is too long: the '
                     f'servers close connections that are idle for {IDLE_TIMEOUT_S} s')
    return args


def prepare(args):
    """Chooses CPUs and counts; complains about what is not there."""
    args.commands = {
        'whorl': [os.path.join(args.build, 'examples', 'http_server'), '--listen', '127.0.0.1:0',
                  '--stats'],
        'epoll': [os.path.join(args.build, 'bench', 'http', 'http_epoll'), '--listen',
                  '127.0.0.1:0', '--stats'],
    }
    needed = [command[0] for command in args.commands.values()]
    for path in needed + [os.path.join(args.build, 'bench', 'http', 'http_idle')]:
        if not os.access(path, os.X_OK):
            raise Failed(f'{path} is not there: ./dev build makes it')
    if not shutil.which('wrk'):
        raise Failed('wrk, which makes the load, is not installed: ./dev setup installs it')
    args.server_cpus, args.load_cpus = choose_cpus()
    if args.load_cpus:
        os.sched_setaffinity(0, args.load_cpus)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return
    most = hard * 3 // 4 - SPARE_FDS  # whorl's server keeps a quarter for what is no connection
    if most < 1:
        raise Failed(f'only {hard} descriptors are allowed: raise "ulimit -Hn" to 20000')
    if args.idle > most:
        say(f'only {hard:,} descriptors are allowed ("ulimit -Hn"): {most:,} idle connections '
            f'instead of {args.idle:,}')
        args.idle = most


def introduce(args):
    total_s = args.rounds * 2 * (args.seconds * len(args.connections) + 1.5)
    rounds = f'{args.rounds} rounds' if args.rounds > 1 else '1 round'
    say("whorl's HTTP server against one written by hand on epoll, each on one thread; client: wrk")
    if args.server_cpus:
        load = ', '.join(str(cpu) for cpu in sorted(args.load_cpus))
        say(f'server on CPU {min(args.server_cpus)}, wrk and the idle connections on CPU {load}; '
            f'{rounds}, about {total_s:.0f} s')
    else:
        say(f'there is only one CPU: server and wrk share it, nothing is pinned; {rounds}, about '
            f'{total_s:.0f} s')


def run_rounds(args, out):
    results = Results()
    names = list(args.commands)
    emit(out, {'kind': 'machine', 'cpus': os.cpu_count(), 'kernel': platform.release(),
               'arch': platform.machine(), 'idle': args.idle, 'seconds': args.seconds,
               'pinned': bool(args.server_cpus)})
    for number in range(args.rounds):
        records = {}
        for name in names if number % 2 == 0 else names[::-1]:
            label = f'round {number + 1}/{args.rounds}  {name}:'
            records[name] = run_server(args, name, label)
            for load, record in records[name].items():
                emit(out, dict(record, kind='run', round=number + 1, server=name, load=load))
        results.rounds.append(records)
    return results


def demonstrate(args):
    out = None
    with tempfile.NamedTemporaryFile('w', suffix='.lua') as script:
        script.write(WRK_SCRIPT)
        script.flush()
        args.script = script.name
        try:
            out = open(args.json, 'w', encoding='utf-8') if args.json else None
            prepare(args)
            introduce(args)
            results = run_rounds(args, out)
            print_table(args, results)
            print_notes(args, results)
            print_meaning(args, results)
            emit_summary(args, results, out)
        finally:
            for number in ENDING:  # what follows ends by itself
                signal.signal(number, signal.SIG_IGN)
            Child.end_all()
            if out:
                out.close()


def interrupted(number, frame):
    raise KeyboardInterrupt


def main():
    args = parse()
    for number in ENDING:
        signal.signal(number, interrupted)
    try:
        demonstrate(args)
    except Failed as failure:
        print(f'demo: {failure}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('demo: stopped; no process is left', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
