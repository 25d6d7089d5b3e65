"""What the figures were measured on: the machine, and the versions of what was compared."""

import os
import platform
import re
import shutil
import subprocess
import time


def read(path):
    try:
        with open(path, encoding='utf-8', errors='replace') as f:
            return f.read().strip()
    except OSError:
        return ''


def first_line(command, pattern='(.*)'):
    """The part of what a program says of its version, or '' where it is not installed."""
    if not shutil.which(command[0]):
        return ''
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    found = re.search(pattern, done.stdout + done.stderr)
    return found.group(1).strip() if found else ''


def find(name):
    """A program, also one that only root has in its PATH."""
    return shutil.which(name) or shutil.which(name, path='/usr/local/sbin:/usr/sbin:/sbin')


def system():
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', read('/etc/os-release'), re.MULTILINE)
    return found.group(1) if found else platform.system()


def describe():
    """Plain values only: this goes into the JSON as it is."""
    cpuinfo = read('/proc/cpuinfo')
    models = re.findall(r'^(?:model name|Model)\s*:\s*(.*)$', cpuinfo, re.MULTILINE)
    memory = re.search(r'^MemTotal:\s*(\d+)', read('/proc/meminfo'), re.MULTILINE)
    governor = read('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor')
    return {
        'cpu': models[0] if models else platform.machine(),
        'cores': os.cpu_count(),
        'memory_gib': round(int(memory.group(1)) / 2**20, 1) if memory else None,
        'virtual': 'hypervisor' in cpuinfo.split(),
        'governor': governor or 'not to be seen',
        'kernel': f'{platform.system()} {platform.release()}',
        'arch': platform.machine(),
        'system': system(),
        'congestion': read('/proc/sys/net/ipv4/tcp_congestion_control'),
        'load_before': round(os.getloadavg()[0], 2),
        'date': time.strftime('%Y-%m-%d %H:%M'),
    }


def versions(root):
    """Name -> version, of what is here; the peers say their own."""
    nginx, redis = find('nginx'), find('redis-server')
    found = {
        'whorl': ' '.join(filter(None, [
            read(os.path.join(root, 'VERSION')),
            first_line(['git', '-C', root, 'rev-parse', '--short', 'HEAD'])])),
        'compiler': first_line(['cc', '--version']),
        'liburing': first_line(['pkg-config', '--modversion', 'liburing']),
        'wrk': first_line(['wrk', '-v'], r'wrk ([^\s\[]+)'),
        'nginx': first_line([nginx, '-v'], r'nginx/(\S+)') if nginx else '',
        'redis-server': first_line([redis, '--version'], r'v=(\S+)') if redis else '',
        'gnuplot': first_line(['gnuplot', '--version'], r'gnuplot (.*)'),
    }
    return {name: version for name, version in found.items() if version}
