"""The page of a comparison: Markdown from the JSON of bench/report.py, the same for the same JSON.

A section that was not measured has no heading; what was left out stands at the end with the reason.
Every server that was measured has its row, whatever it says of whorl.
"""

from report.figures import groups, median, ratios, short, spread, values

PICTURES = {
    'echo-rate.svg': 'messages a second against connections',
    'echo-cpu.svg': 'messages a CPU second against connections',
    'echo-latency.svg': 'percentiles of the round trip',
    'memory.svg': 'memory of an idle connection',
    'micro.svg': 'the micro benchmarks',
}
DISTURBED_PCT = 5


def two(value):
    return f'{value:.2f}'


def table(head, rows):
    def line(cells):
        return '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in cells) + ' |'
    return [line(head), line(['---'] * len(head))] + [line(row) for row in rows] + ['']


def picture(name, drawn):
    return [f'![{PICTURES[name]}](plots/{name})', ''] if name in drawn else []


def ranked(by_server, key):
    """The servers, the best median first; those without that figure last."""
    def rank(item):
        middle = median(values(item[1], key))
        return (middle is None, -(middle or 0), str(item[0]))
    return sorted(by_server.items(), key=rank)


def against_whorl(by_server, runs, key):
    """whorl's figure over the server's, by round; above 1 whorl does more."""
    ours = by_server.get('whorl')
    return spread(ratios(ours, runs, key), two) if ours and runs is not ours else '-'


def servers_table(runs, unit):
    by_server = {name: found for (name,), found in groups(runs, 'server').items()}
    rows = []
    for name, found in ranked(by_server, 'per_cpu_s'):
        rows.append([
            name, spread(values(found, 'per_cpu_s')),
            against_whorl(by_server, found, 'per_cpu_s'), spread(values(found, 'rate')),
            *(spread(values(found, key)[:1] and [median(values(found, key))])
              for key in ('p50_us', 'p90_us', 'p99_us', 'p999_us')),
            spread([median(values(found, 'busy_pct'))], '{:.0f}'.format)
            if values(found, 'busy_pct') else '-'])
    return table(['server', f'{unit} a CPU second', 'whorl / it', f'{unit} a second', 'p50 us',
                  'p90 us', 'p99 us', 'p99.9 us', 'busy %'], rows)


def by_load(runs, unit='messages'):
    """A table for each load."""
    text = []
    for (connections, size, depth), found in groups(runs, 'connections', 'size', 'depth').items():
        what = [f'{connections:,} connection{"s" if connections != 1 else ""}']
        what += [f'{size:,} bytes'] if size else []
        what += [f'{depth} on the way each'] if depth and depth > 1 else []
        text += [f'**{", ".join(what)}**', ''] + servers_table(found, unit)
    return text


# ---- the sections ----

def echo(runs, drawn):
    return ['## Echo, 64 bytes', '',
            '`epoll` and `uring` are the servers by hand in `bench/echo`, the others those in '
            '`bench/peers`. `whorl` and `uring` look for work for up to 50 us before they sleep, '
            'which is most of what they gain at one connection; `epoll` sleeps at once, '
            '`epoll-spin` looks as long as they do.',
            ''] + picture('echo-rate.svg', drawn) + \
        picture('echo-cpu.svg', drawn) + picture('echo-latency.svg', drawn) + by_load(runs)


def pipelined(runs, _):
    return ['## Echo, pipelined', '',
            'Each connection keeps as many messages on the way; a server may receive several at '
            'once.', ''] + by_load(runs)


def large(runs, _):
    return ['## Echo, larger messages', '',
            'Each server with a buffer of 64 KiB a connection, libuv and epoll with their own.',
            ''] + by_load(runs)


def deadline(runs, _):
    text = ['## The cost of a deadline', '',
            'The same server with a deadline on every receive and every send, over itself without: '
            'CPU time a message more, by round. None of them is ever reached. Below 0 the one with '
            'deadlines was the faster, which says how exact this is.', '']
    rows = []
    for (connections,), found in groups(runs, 'connections').items():
        by_server = {name: some for (name,), some in groups(found, 'server').items()}
        for name, plain in by_server.items():
            armed = by_server.get(f'{name}-deadline')
            if armed:
                cost = [100 * (r - 1) for r in ratios(plain, armed, 'per_cpu_s')]
                rows.append([f'{connections:,}', name, spread(cost, '{:.1f} %'.format),
                             spread(values(plain, 'per_cpu_s')),
                             spread(values(armed, 'per_cpu_s'))])
    return text + table(['connections', 'server', 'cost', 'messages a CPU second without', 'with'],
                        rows)


def memory(runs, drawn):
    rows = []
    by_server = {name: found for (name,), found in groups(runs, 'server').items()}
    for name, found in sorted(by_server.items(),
                              key=lambda item: (median(values(item[1], 'bytes')), item[0])):
        rows.append([name, spread(values(found, 'bytes'), '{:,.0f}'.format)])
    counts = sorted({run['connections'] for run in runs})
    return ['## Memory of an idle connection', '',
            f'Resident memory and page tables of the process, over '
            f'{" and ".join(f"{n:,}" for n in counts)} connections that have been served once and '
            'are idle. What the kernel holds for a socket is the same for all and not in it.',
            ''] + picture('memory.svg', drawn) + table(['server', 'bytes each'], rows)


def http(runs, _):
    return ['## HTTP', '',
            'A small answer with keep-alive, driven by wrk with one thread; one worker each, '
            'access log off.', ''] + by_load(runs, 'requests')


def kv(runs, _):
    text = ['## Key-value', '',
            'Driven by redis-benchmark with one thread; one thread each. whorl\'s server asks its '
            'allocator for huge pages, which redis-server switches off for itself.', '']
    for (test, depth), found in groups(runs, 'test', 'depth').items():
        by_server = {name: some for (name,), some in groups(found, 'server').items()}
        rows = [[name, spread(values(some, 'per_cpu_s')),
                 against_whorl(by_server, some, 'per_cpu_s'), spread(values(some, 'rate')),
                 spread(values(some, 'p50_ms')), spread(values(some, 'p99_ms'))]
                for name, some in ranked(by_server, 'per_cpu_s')]
        text += [f'**{str(test).upper()}, pipeline of {depth}**', '']
        text += table(['server', 'requests a CPU second', 'whorl / it', 'requests a second',
                       'p50 ms', 'p99 ms'], rows)
    return text


def proxy(runs, _):
    text = ['## Proxy', '',
            'A TCP proxy between two peers: a stream of large messages one way in GB, and 64 bytes '
            'there and back in round trips.', '']
    for (load, connections), found in groups(runs, 'load', 'connections').items():
        by_proxy = {name: some for (name,), some in groups(found, 'proxy').items()}
        unit = 'GB' if load == 'stream' else 'round trips'
        rows = [[name, spread(values(some, 'per_cpu_s')),
                 against_whorl(by_proxy, some, 'per_cpu_s'), spread(values(some, 'per_s'))]
                for name, some in ranked(by_proxy, 'per_cpu_s')]
        text += [f'**{load}, {connections} connection{"s" if connections != 1 else ""}**', '']
        text += table(['proxy', f'{unit} a CPU second', 'whorl / it', f'{unit} a second'], rows)
    return text


def micro(runs, drawn):
    rows = [[f'`{name}`', unit, spread(values(found, 'median')),
             short(min(values(found, 'min')))]
            for (name, unit), found in groups(runs, 'bench', 'unit').items()]
    return ['## Micro benchmarks of whorl', '',
            'What each measures is said where it stands, in `bench/`; `./dev bench NAME` runs it.',
            ''] + picture('micro.svg', drawn) + \
        table(['benchmark', 'unit', 'median', 'least'], rows)


SECTIONS = {'echo': echo, 'pipelined': pipelined, 'large': large, 'deadline': deadline,
            'memory': memory, 'http': http, 'kv': kv, 'proxy': proxy, 'micro': micro}


# ---- the frame ----

def the_machine(data):
    about = data.get('machine', {})
    names = (('cpu', 'processor'), ('cores', 'cores'), ('virtual', 'virtual machine'),
             ('memory_gib', 'memory, GiB'), ('governor', 'frequency governor'),
             ('kernel', 'kernel'), ('system', 'system'), ('congestion', 'TCP congestion control'),
             ('load_before', 'load average before'), ('date', 'date'))
    yes_no = {True: 'yes', False: 'no'}
    rows = [[text, yes_no.get(about[key], about[key]) if isinstance(about[key], bool)
             else about[key]] for key, text in names if about.get(key) is not None]
    rows += [[name, version] for name, version in sorted(data.get('versions', {}).items())]
    return ['## The machine', ''] + table(['what', 'which'], rows)


def how(data):
    options = data.get('options', {})
    runs = [run for found in data.get('sections', {}).values() for run in found]
    watched = [run for run in runs if 'disturbed' in run]
    disturbed = sum(1 for run in watched if run['disturbed'])
    text = [
        'Everything runs on one machine over loopback: the server alone on one core, what loads it '
        'on another. The servers take turns within a round, and the order turns round from one to '
        'the next; ratios are taken within a round. A cell is the median of the rounds with '
        '(least..most); percentiles are the median alone. `whorl / it` above 1: whorl does more '
        'for the same CPU time; below 1: it does less. A server that is not near 100 % busy was '
        'not the limit of its messages a second: its messages a CPU second count.', '',
        f"{options.get('rounds', '?')} rounds, {options.get('seconds', '?')} s a run."]
    if watched:
        text[-1] += (f' {disturbed} of {len(watched)} runs were disturbed: others had the core for '
                     f'more than {DISTURBED_PCT} % of the time.')
        if len(watched) < len(runs):
            text[-1] += f' In the other {len(runs) - len(watched)} that was not watched.'
    if options.get('quick'):
        text += ['', '**This was a quick run: it shows that the measurement works, and is too '
                 'short to compare anything by.**']
    return text + ['']


def what_is_missing(data, why_no_plots):
    missing = [f"- {item['what']}: {item['why']}" for item in data.get('left_out', [])]
    missing += [f'- the plots: {why_no_plots}'] if why_no_plots else []
    failed = [f"- {item['section']}: {item['what']}: {item['why']}"
              for item in data.get('failures', [])]
    text = ['## Left out', ''] + missing + [''] if missing else []
    return text + (['## Failed runs', ''] + failed + [''] if failed else [])


def page(data, drawn=(), why_no_plots=''):
    """The page. drawn: the pictures there are; why_no_plots: why there are none, if so."""
    if data.get('format') != 1:
        raise SystemExit(f"report.py: the JSON is of format {data.get('format')}, not 1")
    text = ['# Comparison', '',
            'Written by `./dev bench report` from the runs it made; do not edit it, run it again. '
            'What the project thinks of its figures stands in [BENCHMARKS.md](BENCHMARKS.md), the '
            'servers in `bench/echo`, `bench/peers` and `bench/http`.', '']
    text += how(data) + the_machine(data)
    sections = data.get('sections', {})
    for name, write in SECTIONS.items():
        if sections.get(name):
            text += write(sections[name], drawn)
    text += what_is_missing(data, why_no_plots)
    return '\n'.join(text).rstrip('\n') + '\n'
