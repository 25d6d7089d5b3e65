#!/usr/bin/env python3
"""peers_test.py: the HTTP example under clients and attacks of others, and on networks that fail.

    peers_test.py HTTP_SERVER SANITIZER [CASE...]

h2load in HTTP/1 mode, wrk and curl get right answers to all they ask. The four attacks of
slowhttptest leave the server answering others in under 100 ms. In a network namespace of the test's
own (unshare(1), as root or where users may) a network delays, loses and turns packets round (netem,
where the kernel has it), or is gone for a while: what is received is whole. What is not installed,
or not allowed here, is said and left out; the exit status is 77 when that is everything.
"""

import hashlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 30
ANSWER_S = 0.1  # of the issue: others are answered in less, whatever the attack
ATTACK_S = 6
BODY = 300000

server_path, sanitizer = sys.argv[1:3]
plain = sanitizer == 'none'


class Wrong(Exception):
    pass


class Absent(Exception):
    """What the case needs is not here."""


def check(condition, what):
    if not condition:
        raise Wrong(what)


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Absent('%s is not installed' % tool)


class Server:
    """http_server on a free port, with a file of BODY bytes; `inside` are words before its own."""

    def __init__(self, *options, inside=()):
        self.folder = tempfile.TemporaryDirectory(prefix='whorl-peers-')
        self.bytes = bytes(i * 7 % 251 for i in range(BODY))
        with open(os.path.join(self.folder.name, 'file'), 'wb') as f:
            f.write(self.bytes)
        self.process = subprocess.Popen(
            [*inside, server_path, '--listen', '127.0.0.1:0', '--workers', '2', '--root',
             self.folder.name, *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        line = self.process.stdout.readline()
        found = re.search(r'listening on 127\.0\.0\.1:(\d+)', line)
        check(found, 'the server said: %s' % line)
        self.port = int(found.group(1))
        self.url = 'http://127.0.0.1:%d' % self.port

    def get(self, path='/', timeout=PATIENCE_S):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            connection.request('GET', path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.send_signal(signal.SIGTERM)
        try:
            text, _ = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Wrong('the server did not end') from None
        finally:
            self.folder.cleanup()
        if not error[0]:
            check(self.process.returncode == 0,
                  'the server ended with %d:\n%s' % (self.process.returncode, text))


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=PATIENCE_S + ATTACK_S)
    check(done.returncode == 0,
          '%s ended with %d:\n%s' % (command[0], done.returncode, done.stdout))
    return done.stdout


# ---- clients ----

def h2load():
    need('h2load')
    with Server() as server:
        text = run('h2load', '--h1', '-n', '5000', '-c', '50', '-m', '1', server.url + '/')
        found = re.search(r'(\d+) succeeded, (\d+) failed, (\d+) errored', text)
        check(found and found.groups() == ('5000', '0', '0'), text)
        check('5000 2xx' in text, text)


def wrk():
    need('wrk')
    with Server() as server:
        text = run('wrk', '-t', '2', '-c', '100', '-d', '2s', server.url + '/file')
        check('Socket errors' not in text, text)
        text = run('wrk', '-t', '2', '-c', '100', '-d', '2s', server.url + '/')
        check('Socket errors' not in text and 'Non-2xx' not in text, text)


def curl():
    need('curl')
    with Server() as server:
        with tempfile.NamedTemporaryFile() as got:
            url = server.url + '/files/file'
            run('curl', '-sS', '--fail', '-o', got.name, url)
            check(got.read() == server.bytes, 'another file')
            text = run('curl', '-sS', '--fail', '-H', 'Expect: 100-continue', '--data-binary',
                       'x' * 5000, server.url + '/echo')
            check(text == 'x' * 5000, 'another echo')
            text = run('curl', '-sS', '-I', server.url + '/')
            check('200 OK' in text, text)
            # One connection for all of them.
            text = run('curl', '-sSv', *[server.url + '/'] * 5, *['-o', '/dev/null'] * 5)
            used = len(re.findall('Re-using existing .*connection', text))
            check(used == 4, f'the connection was used again {used} times, not 4: {text}')


# ---- attacks ----

def under_attack(server, *options):
    """How long others waited for their answers while slowhttptest was at it."""
    attack = subprocess.Popen(
        ['slowhttptest', '-c', '400', '-r', '400', '-i', '1', '-l', str(ATTACK_S), '-p', '2',
         *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited = []
    try:
        while attack.poll() is None:
            begin = time.monotonic()
            status, _ = server.get()
            waited.append(time.monotonic() - begin)
            check(status == 200, 'others are answered %d' % status)
            check(len(waited) < 100000, 'the attack does not end')
            time.sleep(0.01)  # time itself: a client that comes now and then
    finally:
        if attack.poll() is None:
            attack.kill()
        attack.wait()
    check(len(waited) > 20, 'no more than %d were answered' % len(waited))
    return sorted(waited)


def attack(*options):
    need('slowhttptest')
    with Server() as server:
        options = [option.replace('URL', server.url) for option in options]
        waited = under_attack(server, *options)
        late = waited[int(len(waited) * 0.99)]  # one in a hundred may have met another process
        if plain:
            check(late < ANSWER_S, 'others waited %.0f ms (the median %.1f ms) for their answer' %
                  (late * 1000, waited[len(waited) // 2] * 1000))
        status, body = server.get('/files/file')
        check((status, body) == (200, server.bytes), 'afterwards it is not what it was')


def slow_headers():
    attack('-H', '-u', 'URL/')


def slow_body():
    attack('-B', '-u', 'URL/echo', '-s', '8192', '-x', '10')


def ranges():
    attack('-R', '-u', 'URL/files/file', '-a', '10', '-b', '3000')


def slow_read():
    attack('-X', '-u', 'URL/files/file', '-w', '10', '-y', '20', '-n', '1', '-z', '5', '-k', '3')


# ---- networks ----

# In the namespace: brings the loopback up, has it as `$1` says, and fetches the file $3 times. Who
# fetches begins to read late, so that the network can be gone for $5 seconds in the middle.
FETCH = r'''
ip link set lo up || exit 99
if [ -n "$1" ]; then tc qdisc add dev lo root netem $1 || exit 98; fi
"$4" --listen 127.0.0.1:0 --workers 2 --root "$2" --idle-timeout-ms 60000 >"$2/said" 2>&1 &
server=$!
trap 'kill $server' EXIT
while ! grep -q "listening on" "$2/said"; do kill -0 $server || exit 97; sleep 0.01; done
url=http://$(sed -n 's/^listening on //p' "$2/said")/files/file
for i in $(seq "$3"); do
    curl -sS --fail --max-time 25 "$url" | { sleep 0.7; sha256sum; } | cut -d' ' -f1 &
    fetches="$fetches $!"
done >"$2/sums"
if [ -n "$5" ]; then sleep 0.5; ip link set lo down; sleep "$5"; ip link set lo up; fi
wait $fetches
'''


def fetch_in_namespace(netem, times, down_s=''):
    need('unshare', 'ip', 'curl')
    may = subprocess.run(['unshare', '-rn', 'true'], stderr=subprocess.DEVNULL, check=False)
    if may.returncode:
        raise Absent('no network namespace can be made here')
    with tempfile.TemporaryDirectory(prefix='whorl-peers-') as folder:
        data = os.urandom(20000000 if down_s else 2000000)
        with open(os.path.join(folder, 'file'), 'wb') as f:
            f.write(data)
        done = subprocess.run(['unshare', '-rn', 'bash', '-c', FETCH, 'fetch', netem, folder,
                               str(times), server_path, down_s], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=2 * PATIENCE_S)
        if done.returncode == 98:
            raise Absent('this kernel has no netem')
        check(done.returncode == 0, 'ended with %d:\n%s' % (done.returncode, done.stdout))
        with open(os.path.join(folder, 'sums')) as f:
            sums = f.read().split()
        check(sums == [hashlib.sha256(data).hexdigest()] * times, 'what came: %s\n%s' %
              (sums, done.stdout))


def bad_network():
    need('tc')
    fetch_in_namespace('delay 20ms 10ms loss 2% reorder 10%', 4)


def link_down():
    fetch_in_namespace('', 4, down_s='0.7')


CASES = (h2load, wrk, curl, slow_headers, slow_body, ranges, slow_read, bad_network, link_down)


def main():
    wanted = sys.argv[3:]
    failed = run_count = 0
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
        begin = time.monotonic()
        try:
            case()
            run_count += 1
            print('ok    %s (%.1f s)' % (case.__name__, time.monotonic() - begin), flush=True)
        except Absent as why:
            print('skip  %s: %s' % (case.__name__, why), flush=True)
        except (Wrong, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as why:
            failed += 1
            print('FAIL  %s: %s' % (case.__name__, why), flush=True)
    if threading.active_count() > 1:
        failed += 1
    return 1 if failed else 0 if run_count else 77


if __name__ == '__main__':
    sys.exit(main())
