"""Measures everything: a section is a list of flat records, one a run, kept as it came.

The idea: what has a script of its own (bench/echo/run.py, bench/kv/run.py, bench/proxy/run.py) is
run by it; what has none is measured here, in the same way: the server on one core, the load on
another, the order of the servers turned round from one round to the next. A section that cannot
be measured is left out with the reason, and so is a server; one run that fails is a failure in
the JSON, and the others count.
"""

import importlib.util
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from report import machine

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(BENCH)
PYTHON = [sys.executable, '-B']
CONNECTIONS_HTTP = 256
DEADLINE_MS = 30000  # armed on each operation, and never reached
LARGE_BUFFER = 65536
SPARE_FDS = 256
MICRO_QUICK = ('switch_call', 'yield_switch', 'spawn_join', 'chan_unbuffered', 'select_4_ready',
               'mutex_uncontended', 'ctx_cancel', 'deadline_scope', 'recv_deadline_pingpong')

NGINX = '''
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 1000000000;
    default_type text/plain;
    server {{
        listen {address};
        location / {{ return 200 "Hello from whorl\\n"; }}
    }}
}}
'''


class LeftOut(Exception):
    """A section or server that cannot be had here; the text says why."""


def module(path):
    """A script of bench/ as a module; several are called run.py."""
    name = path.replace('/', '_').removesuffix('.py')
    spec = importlib.util.spec_from_file_location(name, os.path.join(BENCH, path))
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


echo, demo = module('echo/run.py'), module('demo.py')
peers = module('peers/build.py')


class Report:
    """What has been measured until now."""

    def __init__(self, args):
        self.args = args
        self.sections, self.left_out, self.failures = {}, [], []
        self.peers = {}

    def leave_out(self, what, why):
        print(f'report: left out {what}: {why}', flush=True)
        self.left_out.append({'what': what, 'why': why})

    def fail(self, section, what, why):
        print(f'report: {section}: {what} failed: {why}', file=sys.stderr, flush=True)
        self.failures.append({'section': section, 'what': what, 'why': why})


def rounds_of(names, count):
    """(round, name), a round forwards and the next backwards: A B C, C B A, ..."""
    for number in range(count):
        for name in list(names)[::-1 if number % 2 else 1]:
            yield number, name


# ---- what has a script of its own ----

def run_script(report, section, script, options):
    """Runs a script that writes its runs to --json, one object a line, and collects them."""
    path = os.path.join(BENCH, script)
    if not os.path.exists(path):
        raise LeftOut(f'bench/{script} is not there')
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, 'json')
        command = PYTHON + [path, report.args.build, '--json', out] + options
        # Its output is a table, which the page has too; its complaints are shown as they come.
        with subprocess.Popen(command, stdout=subprocess.DEVNULL,
                              stdin=subprocess.DEVNULL) as child:
            try:
                status = child.wait()
            except KeyboardInterrupt:
                child.send_signal(signal.SIGTERM)  # it has servers of its own to stop
                child.wait(60)
                raise
        records = []
        if os.path.exists(out):
            with open(out, encoding='utf-8') as f:
                records = [json.loads(line) for line in f if line.startswith('{')]
    for record in records:
        if record.get('kind') == 'failure':
            report.fail(section, f"{record['server']} at {record['connections']}", record['why'])
    runs = [r for r in records if r.get('kind', 'run') == 'run']
    if not runs:
        raise LeftOut(f'bench/{script} ended with status {status} and no figures')
    return runs


def echo_servers(report, large=False):
    """Name -> command as --add takes it. Large: with buffers that hold the largest message."""
    more = f' --buffer {LARGE_BUFFER}' if large else ''
    found = {'whorl': 'BUILD/examples/echo ADDR' + more,
             'epoll': 'BUILD/bench/echo/echo_epoll ADDR',
             'uring': 'BUILD/bench/echo/echo_uring ADDR --spin 50' + more}
    for name, (program, _) in report.peers.items():
        found[name] = f'{program} ADDR' + ('' if name == 'libuv' else more)
    return found


def run_echo(report, section, servers, rounds, **options):
    args = report.args
    command = ['--rounds', str(rounds), '--seconds', str(args.seconds), '--only',
               ','.join(servers), '--warmup', str(min(0.5, args.seconds / 2)),
               '--retries', str(args.retries), '--patience', str(args.patience)]
    for name, value in options.items():
        command += [f'--{name}', str(value)]
    for name, server in servers.items():
        command += ['--add', f'{name}={server}']
    return run_script(report, section, 'echo/run.py', command)


def connections_of(report, wanted):
    """Those that the descriptors of a process allow."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = [n for n in wanted if n + SPARE_FDS <= limit]
    for n in wanted:
        if n not in allowed:
            report.leave_out(f'{n} connections', f'a process may have {limit} descriptors here')
    return ','.join(map(str, allowed))


def measure_echo(report):
    wanted = connections_of(report, report.args.connections)
    servers = echo_servers(report)
    servers['epoll-spin'] = servers['epoll'] + ' --spin 50'  # what of the figures is the spinning
    return run_echo(report, 'echo', servers, report.args.rounds, connections=wanted)


def measure_pipelined(report):
    return run_echo(report, 'pipelined', echo_servers(report), report.args.rounds,
                    connections=64, depth=16)


def measure_large(report):
    runs = []
    for size in (4096, 65536):
        runs += run_echo(report, 'large', echo_servers(report, large=True), report.args.rounds,
                         connections=64, size=size)
    return runs


def measure_deadline(report):
    """Each server that can, with and without; more rounds, because the difference is small."""
    servers = echo_servers(report)
    both = {}
    for name in ('whorl', 'go', 'tokio'):
        if name in servers:
            both[name] = servers[name]
            both[name + '-deadline'] = f'{servers[name]} --deadline-ms {DEADLINE_MS}'
    return run_echo(report, 'deadline', both, 2 * report.args.rounds, connections='64,1000')


def measure_kv(report):
    requests = 20000 if report.args.quick else 200000
    return run_script(report, 'kv', 'kv/run.py', [
        '--rounds', str(report.args.rounds), '--requests', str(requests),
        '--retries', str(report.args.retries)])


def measure_proxy(report):
    options = ['--rounds', str(report.args.rounds)]
    if report.args.quick:
        options += ['--mb', '200', '--round-trips', '4000']
    return run_script(report, 'proxy', 'proxy/run.py', options)


# ---- what is measured here ----

class Server:
    """A server that listens on an address of its own, on the first core. What it needs to know of
    the address apart from its command, `prepare` writes."""

    def __init__(self, command, prepare=None):
        self.port = echo.free_port()
        self.address = f'127.0.0.1:{self.port}'
        self.said = ''
        words = [w.replace('ADDR', self.address) for w in command]
        if prepare:
            prepare(self.address)
        self.complaints = tempfile.TemporaryFile('w+')
        environment = dict(os.environ, WHORL_WORKERS='1')
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.complaints,
            env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {0}))
        try:
            echo.wait_until_listening(self.process, self.port)
        except echo.Failed as failure:
            self.stop()
            raise echo.Failed(f'{failure} {self.said}') from None

    def pids(self):
        """With its children: nginx serves by a process of its own."""
        pid = self.process.pid
        children = machine.read(f'/proc/{pid}/task/{pid}/children').split()
        return [pid] + [int(child) for child in children]

    def cpu_s(self):
        softirq = echo.softirq_threads().get(0)
        return sum(map(echo.cpu_s, self.pids())) + echo.cpu_s(softirq)

    def memory_bytes(self):
        return sum(map(demo.process_memory_bytes, self.pids()))

    def stop(self):
        echo.stop(self.process)
        self.complaints.seek(0)
        self.said = self.complaints.read()[-400:].strip()
        self.complaints.close()


def exchange(peer, message):
    peer.sendall(message)
    got = b''
    while len(got) < len(message):
        part = peer.recv(len(message) - len(got))
        if not part:
            raise echo.Failed('the server closed a connection')
        got += part
    if got != message:
        raise echo.Failed('the answer was wrong')


def idle_memory(command, count):
    """Bytes that each of `count` connections costs the server's process, once served and idle."""
    server, clients = Server(command), []
    try:
        for _ in range(count):
            client = socket.create_connection(('127.0.0.1', server.port), timeout=10)
            clients.append(client)
            exchange(client, b'm' * 64)
            if len(clients) == 1:
                before = server.memory_bytes()  # what a first connection brings in is no other's
        return (server.memory_bytes() - before) / (count - 1)
    finally:
        for client in clients:
            client.close()
        server.stop()


def measure_memory(report):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = min(1000 if report.args.quick else 10000, limit - SPARE_FDS)
    servers = echo_servers(report)
    runs = []
    for number, name in rounds_of(servers, min(3, report.args.rounds)):
        command = servers[name].replace('BUILD', report.args.build).split()
        try:
            each = idle_memory(command, count)
        except (echo.Failed, OSError) as failure:
            report.fail('memory', name, str(failure))
            continue
        runs.append({'server': name, 'round': number, 'connections': count, 'bytes': each})
    return runs


def micro_names(program):
    names = subprocess.run([program, '--list'], capture_output=True, text=True,
                           check=True).stdout.split()
    # These have two workers: pinned to one core they would measure its scheduler.
    two = [n for n in names if n.endswith('_2w') or n in ('spawn_stolen', 'wake_remote',
                                                           'steal_fanout')]
    return [n for n in names if n not in two], two


def measure_micro(report):
    program = os.path.join(report.args.build, 'bench', 'whorl-bench')
    if not os.access(program, os.X_OK):
        raise LeftOut(f'{program} is not there')
    one, two = micro_names(program)
    commands = [[program, '--json', '--cpu', '0'] + one, [program, '--json'] + two]
    if report.args.quick:
        commands = [[program, '--json', '--cpu', '0'] + [n for n in MICRO_QUICK if n in one]]
    runs = []
    for number in range(1 if report.args.quick else min(3, report.args.rounds)):
        for command in commands:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                report.fail('micro', os.path.basename(program), f'status {done.returncode}')
            runs += [dict(json.loads(line), round=number) for line in done.stdout.splitlines()
                     if line.startswith('{')]
    return runs


def http_servers(report, folder):
    build = report.args.build
    found = {'whorl': [f'{build}/examples/http_server', '--listen', 'ADDR', '--workers', '1'],
             'epoll': [f'{build}/bench/http/http_epoll', '--listen', 'ADDR']}
    nginx = machine.find('nginx')
    if nginx:
        found['nginx'] = [nginx, '-p', folder, '-e', f'{folder}/error', '-c', f'{folder}/conf',
                          '-g', 'daemon off;']
    else:
        report.leave_out('nginx', 'nginx is not installed (Debian: nginx-light)')
    return found


def load_http(server, seconds, script):
    """wrk on the second core; a flat record."""
    command = ['wrk', '-t1', f'-c{CONNECTIONS_HTTP}', f'-d{seconds}s', '-s', script,
               f'http://{server.address}/']
    before_s, start_s = server.cpu_s(), time.monotonic()
    wrk = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                         timeout=seconds + 60, check=False,
                         preexec_fn=lambda: os.sched_setaffinity(0, {1}))
    cpu_s, took_s = server.cpu_s() - before_s, time.monotonic() - start_s
    lines = [line for line in wrk.stdout.splitlines() if line.startswith('figures ')]
    figures = json.loads(lines[-1].partition(' ')[2]) if lines else {}
    if not figures.get('requests') or any(figures['errors'].values()):
        raise echo.Failed(f"wrk: status {wrk.returncode}, {figures.get('errors')}")
    return {'connections': CONNECTIONS_HTTP, 'seconds': took_s, 'requests': figures['requests'],
            'rate': figures['requests'] / (figures['duration_us'] / 1e6),
            'per_cpu_s': figures['requests'] / cpu_s, 'p50_us': figures['p50_us'],
            'p99_us': figures['p99_us'], 'p999_us': figures['p999_us'],
            'busy_pct': 100 * cpu_s / took_s}


def run_http(name, command, seconds, folder, script):
    def write_configuration(address):
        with open(os.path.join(folder, 'conf'), 'w', encoding='utf-8') as f:
            f.write(NGINX.format(folder=folder, address=address))
    server = Server(command, write_configuration if name == 'nginx' else None)
    try:
        return load_http(server, seconds, script)
    finally:
        server.stop()


def measure_http(report):
    if not shutil.which('wrk'):
        raise LeftOut('wrk is not installed')
    seconds = max(1, round(report.args.seconds))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # nginx serves by a user of its own
        script = os.path.join(folder, 'wrk.lua')
        with open(script, 'w', encoding='utf-8') as f:
            f.write(demo.WRK_SCRIPT)
        servers = http_servers(report, folder)
        for number, name in rounds_of(servers, report.args.rounds):
            try:
                record = run_http(name, servers[name], seconds, folder, script)
            except (echo.Failed, OSError, subprocess.TimeoutExpired) as failure:
                report.fail('http', name, str(failure))
                continue
            runs.append(dict(record, server=name, round=number))
    if not runs:
        raise LeftOut('no server gave figures')
    return runs


# ---- all of it ----

SECTIONS = {
    'echo': measure_echo,
    'pipelined': measure_pipelined,
    'large': measure_large,
    'deadline': measure_deadline,
    'memory': measure_memory,
    'http': measure_http,
    'kv': measure_kv,
    'proxy': measure_proxy,
    'micro': measure_micro,
}
PEERS_FOR = {'echo', 'pipelined', 'large', 'deadline', 'memory'}  # the sections with echo servers


def measure(args, save):
    """Measures the sections that are asked for; save(data) is called after each."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped
    echo.raise_fd_limit()
    report = Report(args)
    data = {'format': 1, 'machine': machine.describe(), 'versions': machine.versions(ROOT),
            'options': {'quick': args.quick, 'rounds': args.rounds, 'seconds': args.seconds},
            'sections': report.sections, 'left_out': report.left_out,
            'failures': report.failures}
    chosen = args.only or list(SECTIONS)
    if PEERS_FOR & set(chosen):
        print('report: building the echo servers of other runtimes', flush=True)
        report.peers, missing = peers.build_all(args.build)
        for name, why in missing.items():
            report.leave_out(name, why)
        data['versions'].update((name, v) for name, (_, v) in report.peers.items())
    for name in chosen:
        start_s = time.monotonic()
        print(f'report: {name}', flush=True)
        try:
            report.sections[name] = SECTIONS[name](report)
        except LeftOut as reason:
            report.leave_out(f'section {name}', str(reason))
        except KeyboardInterrupt:
            report.leave_out(f'section {name}', 'it was stopped')
            save(data)
            raise
        print(f'report: {name}: {len(report.sections.get(name, []))} runs in '
              f'{time.monotonic() - start_s:.0f} s', flush=True)
        save(data)
    return data
