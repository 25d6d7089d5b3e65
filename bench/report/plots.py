"""The plots of a comparison, drawn by gnuplot: the same SVG for the same JSON and gnuplot.

Data go in as here-documents of the script, so that there is one input and no file beside it.
"""

import os
import re
import shutil
import subprocess

from report.figures import groups, median, values

WIDTH, HEIGHT = 800, 480
# Fixed for each server, so that the plots of one page agree; whorl in the strongest.
COLOURS = {'whorl': '#c0392b', 'epoll': '#2c3e50', 'uring': '#7f8c8d', 'go': '#00a0c6',
           'tokio': '#d68910', 'monoio': '#8e44ad', 'libuv': '#27ae60', 'asio': '#2e59a8',
           'epoll-spin': '#aab7c4'}
OTHER_COLOUR = '#555555'
PERCENTILES = (('p50_us', 'p50'), ('p90_us', 'p90'), ('p99_us', 'p99'), ('p999_us', 'p99.9'))
LATENCY_AT = 64


def quoted(text):
    """A string of gnuplot; enhanced text is off, so nothing else is special."""
    return '"' + re.sub(r'[\\"$]', '', str(text)) + '"'


def head(title, height=HEIGHT):
    return [f'set terminal svg size {WIDTH},{height} noenhanced font "sans,13" background "white"',
            'set encoding utf8', f'set title {quoted(title)}', 'set grid ytics lc rgb "#dddddd"',
            'set key outside right top', 'set tics nomirror', 'set border 3']


def by_server(runs):
    """The servers in the order of COLOURS, then the others by name."""
    found = {name: some for (name,), some in groups(runs, 'server').items()}
    order = list(COLOURS)
    return sorted(found.items(), key=lambda item: (
        order.index(item[0]) if item[0] in order else len(order), item[0]))


def block(number, rows):
    return [f'$data{number} << EOD'] + rows + ['EOD']


def lines_plot(text, curves):
    """curves: (server, rows of "x median least most")."""
    for number, (_, rows) in enumerate(curves):
        text += block(number, rows)
    parts = []
    for number, (name, _) in enumerate(curves):
        look = f'lc rgb "{COLOURS.get(name, OTHER_COLOUR)}" lw {3 if name == "whorl" else 1.5}'
        parts.append(f'$data{number} using 1:2:3:4 with yerrorlines pt 7 ps 0.4 {look} '
                     f'title {quoted(name)}')
    return '\n'.join(text + ['plot ' + ', \\\n     '.join(parts)]) + '\n'


def against_connections(runs, key, title, label):
    text = head(title) + ['set logscale x', 'set xlabel "connections"',
                          f'set ylabel {quoted(label)}', 'set format y "%.0s%c"',
                          'set yrange [0:*]']
    ticks = sorted({run['connections'] for run in runs})
    text.append('set xtics (' + ', '.join(f'"{n}" {n}' for n in ticks) + ')')
    curves = []
    for name, found in by_server(runs):
        rows = []
        for (n,), some in sorted(groups(found, 'connections').items()):
            of = values(some, key)
            if of:
                rows.append(f'{n} {median(of):.6g} {min(of):.6g} {max(of):.6g}')
        if rows:
            curves.append((name, rows))
    return lines_plot(text, curves) if curves else None


def latency(runs):
    counts = sorted({run['connections'] for run in runs})
    at = min(counts, key=lambda n: (abs(n - LATENCY_AT), n))
    text = head(f'Round trip of 64 bytes at {at} connections') + [
        'set logscale y', 'set ylabel "microseconds"', 'set xrange [-0.3:3.3]',
        'set xtics (' + ', '.join(f'"{name}" {i}' for i, (_, name) in enumerate(PERCENTILES)) + ')']
    curves = []
    for name, found in by_server([run for run in runs if run['connections'] == at]):
        rows = []
        for i, (key, _) in enumerate(PERCENTILES):
            of = values(found, key)
            if of and min(of) > 0:
                rows.append(f'{i} {median(of):.6g} {min(of):.6g} {max(of):.6g}')
        if rows:
            curves.append((name, rows))
    return lines_plot(text, curves) if curves else None


def bars(text, entries):
    """entries: (name, colour, median, least, most), one bar each, from the top."""
    count = len(entries)
    rows = [f'{middle:.6g} {count - i} {low:.6g} {high:.6g} 0x{colour[1:]}'
            for i, (_, colour, middle, low, high) in enumerate(entries)]
    names = ', '.join(f'{quoted(name)} {count - i}' for i, (name, *_) in enumerate(entries))
    text += ['unset key', 'set grid noytics xtics lc rgb "#dddddd"', f'set ytics ({names})',
             f'set yrange [0.4:{count + 0.6}]', 'set style fill solid 0.85 noborder']
    text += block(0, rows)
    text.append('plot $data0 using (0):2:(left):1:($2-0.35):($2+0.35):5 with boxxyerror '
                'lc rgb variable, '
                '$data0 using 1:2:3:4 with xerrorbars pt 7 ps 0.3 lc rgb "#222222"')
    return '\n'.join(text) + '\n'


def memory(runs):
    entries = []
    for name, found in by_server(runs):
        of = values(found, 'bytes')
        entries.append((name, COLOURS.get(name, OTHER_COLOUR), median(of), min(of), max(of)))
    entries.sort(key=lambda entry: (entry[2], entry[0]))
    text = head('User memory of an idle connection') + [
        'set xlabel "bytes"', 'left = 0', 'set xrange [0:*]', 'set format x "%.0s%c"']
    return bars(text, entries)


def micro(runs):
    entries = []
    for (name, unit), found in groups(runs, 'bench', 'unit').items():
        of = values(found, 'median')
        if unit == 'ns' and of and min(of) > 0:
            least = min(values(found, 'min') + of)
            entries.append((name, COLOURS['whorl'], median(of), max(least, 1e-3), max(of)))
    if not entries:
        return None
    text = head('Micro benchmarks of whorl: median, from the least', 120 + 20 * len(entries)) + [
        'set xlabel "nanoseconds"', 'set logscale x', 'left = 0.1', 'set xrange [0.1:*]']
    return bars(text, entries)


def scripts(data):
    """{file name: script} for what was measured."""
    sections = data.get('sections', {})
    runs = sections.get('echo')
    found = {}
    if runs:
        found['echo-rate.svg'] = against_connections(
            runs, 'rate', 'Echo, 64 bytes, one core', 'messages a second')
        found['echo-cpu.svg'] = against_connections(
            runs, 'per_cpu_s', 'Echo, 64 bytes, one core', 'messages a CPU second')
        found['echo-latency.svg'] = latency(runs)
    if sections.get('memory'):
        found['memory.svg'] = memory(sections['memory'])
    if sections.get('micro'):
        found['micro.svg'] = micro(sections['micro'])
    return {name: script for name, script in found.items() if script}


def draw(data, folder):
    """(names of the plots drawn into the folder, why there are none)"""
    wanted = scripts(data)
    if not wanted:
        return [], ''
    gnuplot = shutil.which('gnuplot')
    if not gnuplot:
        return [], 'gnuplot is not installed (Debian: gnuplot-nox, Fedora: gnuplot-minimal, ' \
                   'Arch: gnuplot)'
    for name, script in wanted.items():
        done = subprocess.run([gnuplot], input=script, capture_output=True, text=True, check=False,
                              env=dict(os.environ, LC_ALL='C.UTF-8'))
        if done.returncode or not done.stdout.rstrip().endswith('</svg>'):
            raise SystemExit(f'report.py: gnuplot, {name}: {done.stderr.strip()}')
        with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
            f.write(done.stdout)
    return list(wanted), ''
