#!/usr/bin/env python3
"""The page and the plots of a comparison: what a small JSON file is rendered to."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'bench')
SVG = '{http://www.w3.org/2000/svg}'


def echo_run(server, number, per_cpu_s, connections=64, **more):
    return dict({'kind': 'run', 'server': server, 'round': number, 'connections': connections,
                 'size': 64, 'depth': 1, 'rate': per_cpu_s / 2, 'per_cpu_s': per_cpu_s,
                 'p50_us': 100.0, 'p90_us': 150.0, 'p99_us': 220.0, 'p999_us': 400.0,
                 'busy_pct': 50.0, 'disturbed': False}, **more)


DATA = {
    'format': 1,
    'machine': {'cpu': 'A | processor', 'cores': 2, 'virtual': True, 'kernel': 'Linux 6.0'},
    'versions': {'whorl': '1.2.3 abcdef', 'go': 'go1.99'},
    'options': {'quick': False, 'rounds': 3, 'seconds': 2.0},
    'sections': {
        'echo': [echo_run(server, number, figure, connections)
                 for connections in (1, 64)
                 for server, figures in (('whorl', (100e3, 120e3, 90e3)),
                                         ('epoll', (200e3, 120e3, 100e3)),
                                         ('go', (50e3, 60e3, 45e3)))
                 for number, figure in enumerate(figures)],
        'deadline': [echo_run('whorl', 0, 100e3), echo_run('whorl-deadline', 0, 80e3),
                     echo_run('whorl', 1, 110e3), echo_run('whorl-deadline', 1, 110e3),
                     echo_run('whorl', 2, 100e3), echo_run('whorl-deadline', 2, 125e3)],
        'memory': [{'server': 'whorl', 'round': 0, 'connections': 1000, 'bytes': 4800.0},
                   {'server': 'epoll', 'round': 0, 'connections': 1000, 'bytes': 32.0}],
        'http': [{'server': 'nginx', 'round': 0, 'connections': 256, 'rate': 40e3,
                  'per_cpu_s': 50e3, 'p50_us': 5000, 'p99_us': 9000, 'p999_us': 11000},
                 {'server': 'whorl', 'round': 0, 'connections': 256, 'rate': 60e3,
                  'per_cpu_s': 75e3, 'p50_us': 4000, 'p99_us': 8000, 'p999_us': 9000}],
        'kv': [{'server': 'whorl', 'test': 'get', 'depth': 1, 'round': 0, 'rate': 20e3,
                'per_cpu_s': 30e3, 'p50_ms': 0.2, 'p99_ms': 0.9}],
        'proxy': [{'proxy': 'whorl', 'load': 'stream', 'connections': 16, 'size': 65536,
                   'round': 1, 'per_cpu_s': 4.0, 'per_s': 2.0},
                  {'proxy': 'socat', 'load': 'stream', 'connections': 16, 'size': 65536,
                   'round': 1, 'per_cpu_s': 2.0, 'per_s': 1.0}],
        'micro': [{'bench': 'yield_switch', 'unit': 'ns', 'min': 4.5, 'median': 5.25, 'runs': 15,
                   'round': 0},
                  {'bench': 'parked_1m', 'unit': 'bytes', 'min': 4826, 'median': 4826, 'runs': 1,
                   'round': 0}],
    },
    'left_out': [{'what': 'monoio', 'why': 'cargo is not installed'}],
    'failures': [{'section': 'echo', 'what': 'uring at 8000', 'why': 'no descriptors'}],
}


def rows_after(page, title):
    """The cells of the first table after the line, without its head."""
    lines = page[page.index(title):].split('\n')
    first = next(i for i, line in enumerate(lines) if line.startswith('| '))
    rows = []
    for line in lines[first + 2:]:
        if not line.startswith('|'):
            break
        rows.append([cell.strip() for cell in line.strip('|').split(' | ')])
    return rows


class Rendering(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def run_it(self, data, path=None):
        """The process, once it has ended. path: the PATH it gets."""
        source = os.path.join(self.folder.name, 'report.json')
        with open(source, 'w', encoding='utf-8') as f:
            json.dump(data, f)
        environment = dict(os.environ, PATH=path) if path is not None else None
        return subprocess.run(
            [sys.executable, '-B', os.path.join(BENCH, 'report.py'), 'render', source, '--docs',
             self.folder.name], capture_output=True, text=True, check=False, env=environment)

    def render(self, data, path=None):
        """{name: text} of what was written."""
        shutil.rmtree(os.path.join(self.folder.name, 'plots'), ignore_errors=True)
        done = self.run_it(data, path)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = {}
        for name in ['COMPARISON.md'] + [os.path.join('plots', p) for p in os.listdir(
                os.path.join(self.folder.name, 'plots'))]:
            with open(os.path.join(self.folder.name, name), encoding='utf-8') as f:
                found[name] = f.read()
        return found

    def page(self, data):
        return self.render(data)['COMPARISON.md']

    def test_a_table_has_every_server_with_medians_spread_and_ratios_by_round(self):
        rows = rows_after(self.page(DATA), '**64 connections, 64 bytes**')
        self.assertEqual([row[0] for row in rows], ['epoll', 'whorl', 'go'])
        self.assertEqual(rows[0][1:4], ['120.0k (100.0k..200.0k)', '0.90 (0.50..1.00)',
                                        '60.0k (50.0k..100.0k)'])
        self.assertEqual(rows[1][1:3], ['100.0k (90.0k..120.0k)', '-'])
        self.assertEqual(rows[2][2], '2.00 (2.00..2.00)')
        self.assertEqual(rows[1][4:], ['100', '150', '220', '400', '50'])

    def test_the_cost_of_a_deadline_is_taken_within_a_round(self):
        rows = rows_after(self.page(DATA), '## The cost of a deadline')
        self.assertEqual(rows[0][:3], ['64', 'whorl', '0.0 % (-20.0 %..25.0 %)'])

    def test_the_other_sections_have_their_tables(self):
        page = self.page(DATA)
        self.assertEqual(rows_after(page, '## Memory'), [['epoll', '32'], ['whorl', '4,800']])
        self.assertEqual([row[:3] for row in rows_after(page, '## HTTP')],
                         [['whorl', '75.0k', '-'], ['nginx', '50.0k', '1.50']])
        self.assertEqual(rows_after(page, '**GET, pipeline of 1**')[0][:2], ['whorl', '30.0k'])
        self.assertEqual(rows_after(page, '**stream, 16 connections**')[1],
                         ['socat', '2.00', '2.00', '1.00'])
        self.assertEqual(rows_after(page, '## Micro')[0], ['`yield_switch`', 'ns', '5.25', '4.50'])

    def test_the_machine_and_what_was_left_out_are_said(self):
        page = self.page(DATA)
        self.assertIn('| processor | A \\| processor |', page)
        self.assertIn('| virtual machine | yes |', page)
        self.assertIn('| go | go1.99 |', page)
        self.assertIn('- monoio: cargo is not installed', page)
        self.assertIn('- echo: uring at 8000: no descriptors', page)
        self.assertRegex(page, r'0 of 24 runs were disturbed: .* In the other \d+ that was not')

    def test_a_quick_or_disturbed_run_is_called_so(self):
        data = copy.deepcopy(DATA)
        self.assertNotIn('quick run', self.page(data))
        data['options']['quick'] = True
        data['sections']['echo'][0]['disturbed'] = True
        page = self.page(data)
        self.assertIn('This was a quick run', page)
        self.assertIn('1 of 24 runs were disturbed', page)

    def test_a_missing_section_or_server_leaves_the_others(self):
        data = copy.deepcopy(DATA)
        data['sections'] = {'echo': [r for r in DATA['sections']['echo'] if r['server'] == 'go'],
                            'http': []}
        page = self.page(data)
        self.assertEqual(rows_after(page, '**1 connection, 64 bytes**')[0][:3],
                         ['go', '50.0k (45.0k..60.0k)', '-'])
        for absent in ('## HTTP', '## Memory', '## Micro', 'memory.svg', 'micro.svg'):
            self.assertNotIn(absent, page)

    def test_no_section_at_all_is_a_page_that_says_why(self):
        data = {'format': 1, 'sections': {}, 'left_out': [{'what': 'section echo', 'why': 'x'}]}
        found = self.render(data)
        self.assertIn('- section echo: x', found['COMPARISON.md'])
        self.assertEqual(list(found), ['COMPARISON.md'])

    def test_a_run_without_a_message_has_no_ratio(self):
        data = copy.deepcopy(DATA)
        for run in data['sections']['echo']:
            if run['server'] == 'epoll' and run['round'] == 0:
                run['per_cpu_s'] = 0.0
        rows = rows_after(self.page(data), '**64 connections, 64 bytes**')
        self.assertEqual(dict((r[0], r[2]) for r in rows)['epoll'], '0.95 (0.90..1.00)')

    def test_a_file_of_another_format_is_refused(self):
        done = self.run_it(dict(DATA, format=2))
        self.assertEqual(done.returncode, 1)
        self.assertIn('format 2', done.stderr)

    def test_without_gnuplot_the_page_has_no_plots_and_says_so(self):
        found = self.render(DATA, path='')
        self.assertEqual(list(found), ['COMPARISON.md'])
        self.assertIn('gnuplot is not installed', found['COMPARISON.md'])
        self.assertNotIn('.svg', found['COMPARISON.md'])
        self.assertIn('| whorl | 4,800 |', found['COMPARISON.md'])

    @unittest.skipUnless(shutil.which('gnuplot'), 'gnuplot is not installed')
    def test_the_plots_are_drawn_from_the_figures_and_the_page_shows_each(self):
        found = self.render(DATA)
        self.assertEqual({os.path.basename(n) for n in found if n.endswith('.svg')},
                         {'echo-rate.svg', 'echo-cpu.svg', 'echo-latency.svg', 'memory.svg',
                          'micro.svg'})
        for name, text in found.items():
            if not name.endswith('.svg'):
                continue
            root = xml.etree.ElementTree.fromstring(text)
            self.assertEqual(root.tag, SVG + 'svg')
            words = {''.join(t.itertext()).strip() for t in root.iter(SVG + 'text')}
            self.assertTrue(words & {'whorl', 'yield_switch'}, (name, words))
            self.assertIn(f'](plots/{os.path.basename(name)})', found['COMPARISON.md'])
        self.assertNotIn('parked_1m', found[os.path.join('plots', 'micro.svg')])  # not in ns

    @unittest.skipUnless(shutil.which('gnuplot'), 'gnuplot is not installed')
    def test_the_same_figures_give_the_same_bytes(self):
        first = self.render(DATA)
        self.assertEqual(first, self.render(json.loads(json.dumps(DATA))))
        data = copy.deepcopy(DATA)
        data['sections']['memory'][0]['bytes'] = 9600.0
        changed = self.render(data)
        self.assertNotEqual(first['plots/memory.svg'], changed['plots/memory.svg'])
        self.assertEqual(first['plots/micro.svg'], changed['plots/micro.svg'])


if __name__ == '__main__':
    unittest.main()
