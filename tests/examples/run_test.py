#!/usr/bin/env python3
"""run_test: an example does what examples/README.md says it does, and prints what it should.

    run_test.py NAME PROGRAM

The example has to end with 0, which it does only when it has checked its own claim. What it prints
is compared here: a word for each line, as a regular expression where the line is not the same in
every run, and as a set where the order is not. On standard error there must be nothing, but where
said.
"""

import re
import subprocess
import sys

FIBONACCI = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
RATE = r'(?: \d+){10} ms, the rate held'
DEADLOCK = r'whorl: .*deadlock'


def primes(count):
    found = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found


def in_rows(numbers, width):
    for i in range(0, len(numbers), width):
        yield ' '.join(str(n) for n in numbers[i:i + width])


# Lines as they are, in their order.
EXACT = {
    'bank': ['hasty:    100 deposits of 1 make 1',
             'locked:   100 deposits of 1 make 100',
             'straight: 100 deposits of 1 make 100'],
    'ctx_tree': ['request 1: Operation canceled (cause: Disk quota exceeded)',
                 'request 2: goes on',
                 'request 2: Operation canceled (cause: Cannot send after transport endpoint '
                 'shutdown)',
                 'an hour in a block of 20 ms: 20 ms',
                 'the sleep: Connection timed out (cause: Connection timed out)',
                 'the user is ada, further in grace, outside nobody',
                 'the work: Operation canceled (cause: Operation canceled)',
                 'the clean-up, unshielded: Operation canceled',
                 'the clean-up, shielded: Success'],
    'fan': ['all good:    done, the sum is 2870',
            'order 5 bad: Bad message, 4 others were cancelled'],
    'leak': ['timeout:  done, 0 stayed',
             'select:   done, 0 stayed',
             'context:  done, 0 stayed',
             'no cure:  done, 1 stayed',
             'the end of the run ended what stayed: yes'],
    'loopvar': ['value:     0 1 2 3',
                'address:   4 4 4 4'],
    'philosophers': ['left fork first:  0 meals, deadlock',
                     'lower fork first: 100 meals, no deadlock'],
    'pingpong': ['ping 1', 'pong 2', 'ping 3', 'pong 4', 'ping 5', 'pong 6', 'ping 7',
                 'pong lets 8 go', 'ping waited in vain'],
    'quit': [str(n) for n in FIBONACCI] + ['quit'],
    'shell': ['      3 plum',
              '      2 apple',
              'the pipeline: done',
              'the endless one: Connection timed out',
              'processes left: none'],
    'sieve': list(in_rows(primes(100), 10)),
    'waitgroup': ['waiting, 0 done'] + [f'worker {i} starts' for i in range(5)] +
                 ['all 5 done, the sum of their squares is 30'],
    'worker_pool': ['by hand:      3 workers, 9 jobs, the sum of the results is 90',
                    'with wh_pool: 3 workers, 9 jobs, the sum of the results is 90'],
}

# Lines in any order.
UNORDERED = {
    'say': ['hello'] * 5 + ['world'] * 5,
}

# Regular expressions, in the order of the lines.
PATTERNS = {
    'images': [rf'\[{i}/8\] \S+/half-\d\.png: (\d+)x128 -> (\d+)x64, \d+ bytes'
               for i in range(1, 9)] + ['8 pictures written and verified'],
    'rate_limit': ['evenly:' + RATE, 'in bursts:' + RATE],
}

# What must be found on standard error.
SAYS = {
    'philosophers': [DEADLOCK] + [f'deadlocked: .*{name}' for name in (
        'Hypatia', 'Plato', 'Zeno', 'Diotima', 'Thales')],
}


def complaints(name, lines):
    """What is wrong with what the example printed."""
    if name in EXACT:
        if lines != EXACT[name]:
            yield 'expected these lines:\n' + '\n'.join(EXACT[name])
    elif name in UNORDERED:
        if sorted(lines) != sorted(UNORDERED[name]):
            yield 'expected these lines, in any order:\n' + '\n'.join(UNORDERED[name])
    elif name in PATTERNS:
        if len(lines) != len(PATTERNS[name]):
            yield f'expected {len(PATTERNS[name])} lines'
        for line, pattern in zip(lines, PATTERNS[name]):
            if not re.fullmatch(pattern, line):
                yield f'"{line}" does not match {pattern}'
    else:
        yield f'nothing is known of what {name} prints: say it in {sys.argv[0]}'


def complaints_of_errors(name, text):
    if name not in SAYS and text:
        yield 'expected nothing on standard error'
    for pattern in SAYS.get(name, []):
        if not re.search(pattern, text):
            yield f'expected {pattern} on standard error'


def main(name, program):
    end = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         check=False)
    found = list(complaints(name, end.stdout.splitlines()))
    found += complaints_of_errors(name, end.stderr)
    if end.returncode != 0:
        found.append(f'it ended with {end.returncode}')
    if found:
        print(f'{name} printed\n{end.stdout}{end.stderr}')
    for complaint in found:
        print(f'{name}: {complaint}')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
