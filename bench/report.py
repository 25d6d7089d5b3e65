#!/usr/bin/env python3
"""Compares whorl with what people use, and writes the page and the plots of it.

    report.py run BUILD_DIR [--quick] [--rounds R] [--seconds S] [--only SECTION,...] [--json FILE]
              [--docs DIR]
    report.py render FILE [--docs DIR]

`run` measures into one JSON file, with every run kept, and renders it; `render` makes the page,
DIR/COMPARISON.md, and DIR/plots/*.svg of such a file again, the same bytes each time. The plots are
gnuplot's; without it the page has none, and says so.

A quick run, or one of a part, is rendered into the build folder and not into docs, where only a
whole one belongs. Give it a quiet machine with two cores at least.
"""

import argparse
import json
import os
import sys

from report import page, plots

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def save(path, data):
    """Whole or not at all: a run of an hour is not lost to one that is stopped while it writes."""
    with open(path + '.new', 'w', encoding='utf-8') as f:
        json.dump(data, f, indent=1)
        f.write('\n')
    os.replace(path + '.new', path)


def render(data, docs):
    """Writes the page and its plots below `docs`; returns what was written."""
    folder = os.path.join(docs, 'plots')
    os.makedirs(folder, exist_ok=True)
    drawn, why_not = plots.draw(data, folder)
    path = os.path.join(docs, 'COMPARISON.md')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(page.page(data, drawn, why_not))
    return [path] + [os.path.join(folder, name) for name in drawn]


def run(args):
    from report import measure  # render needs nothing of what measuring does
    unknown = set(args.only or ()) - set(measure.SECTIONS)
    if unknown:
        sys.exit(f"report.py: no section '{sorted(unknown)[0]}'; there are: "
                 f"{' '.join(measure.SECTIONS)}")
    if not {0, 1} <= os.sched_getaffinity(0):
        sys.exit('report.py: needs CPUs 0 and 1, for the server and the load')
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.seconds = args.seconds or (0.5 if args.quick else 2.0)
    args.connections = [1, 64, 1000] if args.quick else [1, 8, 64, 1000, 8000]
    args.retries, args.patience = (0, 0) if args.quick else (2, 10)
    args.build = os.path.abspath(args.build)
    beside = os.path.join(args.build, 'bench', 'report')
    path = args.json or os.path.join(beside, 'report.json')
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    docs = args.docs or (beside if args.quick or args.only else os.path.join(ROOT, 'docs'))
    data = measure.measure(args, lambda data: save(path, data))
    print(f'report: all runs: {path}')
    for written in render(data, docs):
        print(f'report: wrote {written}')
    return 1 if data['failures'] else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    verbs = parser.add_subparsers(dest='verb', required=True)
    measuring = verbs.add_parser('run', help='measure and render')
    measuring.add_argument('build')
    measuring.add_argument('--quick', action='store_true',
                           help='a few minutes: shorter, fewer rounds, and fewer connections')
    measuring.add_argument('--rounds', type=int, help='5, or 2 when quick')
    measuring.add_argument('--seconds', type=float, help='measured in each run: 2, or 0.5')
    measuring.add_argument('--only', type=lambda t: t.split(','), metavar='SECTION,...')
    measuring.add_argument('--json', metavar='FILE', help='where all runs go')
    rendering = verbs.add_parser('render', help='the page and the plots of a JSON file')
    rendering.add_argument('json')
    for verb in (measuring, rendering):
        verb.add_argument('--docs', metavar='DIR', help='where the page and plots/ go')
    return parser.parse_args()


def main():
    args = parse()
    if args.verb == 'run':
        return run(args)
    with open(args.json, encoding='utf-8') as f:
        data = json.load(f)
    for written in render(data, args.docs or os.path.join(ROOT, 'docs')):
        print(f'report: wrote {written}')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit('report.py: stopped; what was measured until now is in the JSON file')
