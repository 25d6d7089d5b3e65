"""measuring.py: what the scripts that compare servers have in common. Standard library only."""

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import time

STOP_TIMEOUT_S = 10


class Failed(Exception):
    """A run that gave no figures; the text says why."""


# ---- processes ----

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def cpu_s(pid):
    """CPU seconds of all threads of a process, to the nanosecond: its CPU clock (see
    clock_getcpuclockid(3)); /proc/PID/stat, to the tick, only where that fails."""
    try:
        return time.clock_gettime(~pid << 3 | 2) if pid else 0.0
    except OSError:
        with open(f'/proc/{pid}/stat', encoding='ascii') as f:
            fields = f.read().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def waited_s(pid):
    """Seconds that the threads of a process could have run, and something else did."""
    total_ns = 0
    try:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/schedstat', encoding='ascii') as f:
                total_ns += int(f.read().split()[1])
    except (OSError, IndexError):
        pass  # a kernel without these figures: nothing is then called disturbed
    return total_ns / 1e9


def stop(process):
    """Ends a process we started: asks, and after a while insists. Whether asking was enough."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def calmest(run_once, args):
    """Of runs that are repeated, at most args.retries times, while other processes disturb them
    for more than args.calm percent of the time."""
    best = None
    for _ in range(args.retries + 1):
        record = run_once()
        if best is None or record['waited_pct'] < best['waited_pct']:
            best = record
        if best['waited_pct'] <= args.calm:
            break
    best['disturbed'] = best['waited_pct'] > args.calm
    return best


# ---- figures ----

def spread(values, form):
    """'median (min..max)' of the values that are there."""
    values = [v for v in values if v is not None]
    if not values:
        return '-'
    median = form(statistics.median(values))
    return median if len(values) == 1 else f'{median} ({form(min(values))}..{form(max(values))})'


def emit(out, record):
    """A line of the file of records, if there is one."""
    if out:
        out.write(json.dumps(record) + '\n')
        out.flush()


def machine(**more):
    def read(path):
        try:
            with open(path, encoding='ascii', errors='replace') as f:
                return f.read().strip()
        except OSError:
            return ''
    model = [line.partition(':')[2].strip() for line in read('/proc/cpuinfo').splitlines()
             if line.startswith('model name')]
    return {'kind': 'machine', 'cpus': os.cpu_count(), 'model': model[0] if model else '',
            'kernel': platform.release(), 'arch': platform.machine(),
            'congestion': read('/proc/sys/net/ipv4/tcp_congestion_control'),
            'date': time.strftime('%Y-%m-%d %H:%M'), **more}
