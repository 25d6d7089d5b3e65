#!/usr/bin/env python3
"""pubsub_test.py: channels, their subscribers, slow ones among them, and the end of the server.

    pubsub_test.py KV_SERVER [OPTION...]     the options go to the server
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

from client import PATIENCE_S, Error, Server, encode, until

PATH, OPTIONS = sys.argv[1], sys.argv[2:]
# A sanitizer keeps what was freed for a while.
LEAN = os.environ.get('KV_SANITIZER', 'none') == 'none'


def serve(*options, **more):
    return Server(PATH, [*OPTIONS, *options], **more)


def message(channel, payload):
    return [b'message', channel.encode(), payload.encode()]


class PubSub(unittest.TestCase):
    def test_messages_cross_connections(self):
        with serve() as server, server.client() as a, server.client() as b, \
                server.client() as other:
            self.assertEqual(other.ask('PUBLISH', 'news', 'nobody'), 0)
            self.assertEqual(a.ask('SUBSCRIBE', 'news', 'sport'), [b'subscribe', b'news', 1])
            self.assertEqual(a.answer(), [b'subscribe', b'sport', 2])
            self.assertEqual(a.ask('SUBSCRIBE', 'news'), [b'subscribe', b'news', 2])
            self.assertEqual(b.ask('SUBSCRIBE', 'news'), [b'subscribe', b'news', 1])
            for i in range(1000):
                other.send(encode('PUBLISH', 'news', i))
            for i in range(1000):
                self.assertEqual(other.answer(), 2)
                self.assertEqual(a.answer(), message('news', str(i)))
                self.assertEqual(b.answer(), message('news', str(i)))
            self.assertEqual(other.ask('PUBLISH', 'sport', 'x'), 1)
            self.assertEqual(a.answer(), message('sport', 'x'))
            self.assertTrue(b.quiet())
            self.assertEqual(a.ask('UNSUBSCRIBE', 'news'), [b'unsubscribe', b'news', 1])
            self.assertEqual(other.ask('PUBLISH', 'news', 'y'), 1)
            self.assertEqual(b.answer(), message('news', 'y'))
            b.close()
            until(lambda: other.ask('PUBLISH', 'news', 'z') == 0)

    def test_what_a_subscriber_may_ask(self):
        with serve() as server, server.client() as client:
            self.assertEqual(client.ask('UNSUBSCRIBE'), [b'unsubscribe', None, 0])
            client.ask('SUBSCRIBE', 'a')
            self.assertEqual(client.ask('GET', 'x'), Error(
                "ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
                "RESET are allowed in this context"))
            self.assertEqual(client.ask('PING'), [b'pong', b''])
            self.assertEqual(client.ask('PING', 'x'), [b'pong', b'x'])
            client.ask('PSUBSCRIBE', 'b*')
            self.assertEqual(client.ask('UNSUBSCRIBE'), [b'unsubscribe', b'a', 1])
            self.assertEqual(client.ask('PUNSUBSCRIBE'), [b'punsubscribe', b'b*', 0])
            # It is an ordinary client again, and its answers stay in order.
            self.assertEqual(client.ask('SET', 'x', 'y' * 100000), 'OK')
            client.send(encode('GET', 'x') * 50 + encode('PING'))
            for _ in range(50):
                self.assertEqual(client.answer(), b'y' * 100000)
            self.assertEqual(client.answer(), 'PONG')
            client.ask('SUBSCRIBE', 'a')
            self.assertEqual(client.ask('QUIT'), 'OK')
            self.assertTrue(client.ended())

    def test_reset_begins_anew(self):
        with serve() as server, server.client() as client, server.client() as other:
            self.assertEqual(client.ask('RESET'), 'RESET')
            self.assertEqual(client.ask('CLIENT', 'SETNAME', 'me'), 'OK')
            for channel in 'a', 'b':
                client.ask('SUBSCRIBE', channel)
            client.ask('PSUBSCRIBE', 'a*')
            self.assertEqual(other.ask('PUBLISH', 'a', 'm'), 2)
            client.send(encode('RESET') + encode('CLIENT', 'GETNAME') + encode('GET', 'x'))
            self.assertEqual(client.answer(), message('a', 'm'))
            self.assertEqual(client.answer(), [b'pmessage', b'a*', b'a', b'm'])
            self.assertEqual([client.answer() for _ in range(3)], ['RESET', None, None])
            self.assertEqual(other.ask('PUBLISH', 'a', 'm'), 0)
            self.assertEqual(client.ask('SUBSCRIBE', 'b'), [b'subscribe', b'b', 1])
            self.assertTrue(client.ask('RESET', 'x').startswith('ERR wrong number'))
            self.assertEqual(client.ask('RESET'), 'RESET')

    def test_patterns(self):
        cases = (('h?llo', 'hello', True), ('h?llo', 'hllo', False), ('h*llo', 'heeello', True),
                 ('h[ae]llo', 'hallo', True), ('h[ae]llo', 'hillo', False),
                 ('h[^e]llo', 'hallo', True), ('h[^e]llo', 'hello', False),
                 ('h[a-c]llo', 'hbllo', True), ('h[a-c]llo', 'hdllo', False),
                 ('h\\*llo', 'h*llo', True), ('h\\*llo', 'hxllo', False), ('*', '', True),
                 ('**a', 'bba', True), ('a*b*c', 'axxbyyc', True), ('a*b*c', 'axxbyy', False),
                 ('[', 'x', False), ('a*' * 30 + 'b', 'a' * 256, False))
        with serve() as server, server.client() as publisher:
            for pattern, channel, wanted in cases:
                with self.subTest(pattern), server.client() as client:
                    self.assertEqual(client.ask('PSUBSCRIBE', pattern),
                                     [b'psubscribe', pattern.encode(), 1])
                    begin = time.monotonic()
                    self.assertEqual(publisher.ask('PUBLISH', channel, 'm'), int(wanted))
                    self.assertLess(time.monotonic() - begin, 5)
                    if wanted:
                        self.assertEqual(client.answer(), [b'pmessage', pattern.encode(),
                                                           channel.encode(), b'm'])
                    client.ask('PUNSUBSCRIBE')

    def test_an_answer_is_in_one_piece(self):
        """While others publish, a subscriber's answers are whole, and no message comes before the
        subscription is confirmed, or after its end is."""
        rounds, failures = 200, []

        def publish(server):
            with server.client() as client:
                while True:
                    client.send(encode('PUBLISH', 'a', 'x') * 100)
                    for _ in range(100):
                        client.line()

        def subscribe(server):
            try:
                with server.client() as client:
                    client.ask('SUBSCRIBE', 'other')
                    for _ in range(rounds):
                        client.send((encode('SUBSCRIBE', 'a') + encode('PING', 'p') +
                                     encode('UNSUBSCRIBE', 'a')) * 50)
                        for wanted in [[b'subscribe', b'a', 2], [b'pong', b'p'],
                                       [b'unsubscribe', b'a', 1]] * 50:
                            answer = client.answer()
                            while wanted[0] != b'subscribe' and answer == message('a', 'x'):
                                answer = client.answer()
                            if answer != wanted:
                                raise AssertionError(f'{answer} instead of {wanted}')
            except Exception as failure:  # pylint: disable=broad-except
                failures.append(failure)

        with serve('--client-output-limit', 1 << 30) as server:
            publishers = [multiprocessing.Process(target=publish, args=(server,))
                          for _ in range(3)]
            subscribers = [threading.Thread(target=subscribe, args=(server,)) for _ in range(4)]
            for task in publishers + subscribers:
                task.start()
            for thread in subscribers:
                thread.join()
            for process in publishers:
                process.kill()
                process.join()
            self.assertEqual(failures, [])

    def test_who_is_flooded_can_unsubscribe(self):
        with serve() as server, server.client() as publisher, \
                server.client(receive_buffer=4096) as client:
            client.ask('SUBSCRIBE', 'a')
            for _ in range(70):
                self.assertEqual(publisher.ask('PUBLISH', 'a', 'x' * 100000), 1)
            client.send(encode('PING') + encode('UNSUBSCRIBE', 'a') + encode('PING'))
            until(lambda: publisher.ask('PUBLISH', 'a', '') == 0)
            for wanted in [b'pong', b''], [b'unsubscribe', b'a', 0], 'PONG':
                answer = client.answer()
                while answer[0] == b'message':
                    answer = client.answer()
                self.assertEqual(answer, wanted)

    def test_names_have_a_limit(self):
        longest, long = 'n' * 256, 'n' * 257
        error = Error('ERR the name is longer than 256 bytes')
        with serve() as server, server.client() as client, server.client() as publisher:
            for command in 'SUBSCRIBE', 'PSUBSCRIBE':
                self.assertEqual(client.ask(command, long), error)
                self.assertEqual(client.ask('PING'), 'PONG')
            self.assertEqual(client.ask('SUBSCRIBE', longest), [b'subscribe', longest.encode(), 1])
            self.assertEqual(client.ask('PSUBSCRIBE', long), error)
            self.assertEqual(publisher.ask('PUBLISH', longest, 'm'), 1)
            self.assertEqual(client.answer(), message(longest, 'm'))
            self.assertEqual(publisher.ask('PUBLISH', long, 'm'), error)

    def test_subscriptions_have_a_limit(self):
        with serve() as server, server.client() as client, server.client() as other:
            count = 0
            while not isinstance(answer := client.ask('SUBSCRIBE', f'{count:0200}'), Error):
                count += 1
                self.assertEqual(answer[2], count)
                self.assertLess(count, 6000)
            self.assertEqual(answer, Error('ERR more subscriptions than fit into 1048576 bytes'))
            self.assertGreater(count, 1000)
            self.assertTrue(isinstance(client.ask('PSUBSCRIBE', 'p' * 200), Error))
            self.assertEqual(client.ask('SUBSCRIBE', f'{1:0200}')[2], count)
            self.assertEqual(other.ask('SUBSCRIBE', f'{count:0200}')[2], 1)
            self.assertEqual(client.ask('UNSUBSCRIBE', f'{1:0200}')[2], count - 1)
            self.assertEqual(client.ask('PSUBSCRIBE', 'p' * 200)[2], count)

    @unittest.skipUnless(LEAN, 'memory cannot be measured')
    def test_subscriptions_take_what_they_count_for(self):
        with serve('--workers', 1) as server, server.client() as other:
            other.ask('PING')
            before, count = server.resident_bytes(), 0
            clients = [server.client() for _ in range(30)]
            for n, client in enumerate(clients):
                client.send(encode('SUBSCRIBE', *(f'{n}:{i}' for i in range(6000))))
                answers = [client.answer() for _ in range(6000)]
                count += sum(not isinstance(answer, Error) for answer in answers)
                self.assertIsInstance(answers[-1], Error)
            self.assertGreater(count, len(clients) * 3000)
            self.assertLess(server.resident_bytes() - before, len(clients) * (2 << 20))
            for client in clients:
                client.close()

    def test_others_go_on_while_patterns_are_compared(self):
        with serve('--workers', 1) as server, server.client() as publisher, \
                server.client() as other:
            clients = [server.client() for _ in range(4)]
            for n, client in enumerate(clients):
                patterns = ['*' + 'a' * 128 + f'b{n}{i}' for i in range(1500)]
                client.send(encode('PSUBSCRIBE', *patterns))
                for pattern in patterns:
                    self.assertEqual(client.answer()[1], pattern.encode())
            clients[0].ask('PSUBSCRIBE', 'a*')
            publisher.send(encode('PUBLISH', 'a' * 256, 'm'))
            answered = 0
            while publisher.quiet():
                self.assertEqual(other.ask('PING'), 'PONG')
                answered += 1
                if answered == 3:  # who leaves in the middle is no matter
                    clients[1].reset()
                    clients[2].close()
            self.assertGreater(answered, 5)
            self.assertEqual(publisher.answer(), 1)
            self.assertEqual(clients[0].answer(), [b'pmessage', b'a*', b'a' * 256, b'm'])
            for client in clients:
                client.close()

    @unittest.skipUnless(LEAN, 'memory cannot be measured')
    def test_a_subscriber_that_does_not_read_stops_itself(self):
        with serve('--workers', 1) as server, server.client() as other, \
                server.client(receive_buffer=4096) as slow:
            count, before = 400000, server.resident_bytes()
            slow.socket.settimeout(0)
            request = encode('SUBSCRIBE', *['c'] * count)
            while request:
                try:
                    request = request[slow.socket.send(request):]
                except BlockingIOError:
                    other.ask('PING')
            until(lambda: other.ask('PUBLISH', 'c', 'm') == 1)
            for _ in range(200):
                self.assertEqual(other.ask('PING'), 'PONG')
            self.assertLess(server.resident_bytes() - before, 48 << 20)

    def test_a_slow_subscriber_is_cut_off(self):
        limit, size = 1 << 20, 10000
        with serve('--client-output-limit', limit) as server, server.client() as publisher, \
                server.client(receive_buffer=4096) as slow, server.client() as quick:
            slow.ask('SUBSCRIBE', 'news')
            quick.ask('SUBSCRIBE', 'news')
            before, sent = server.resident_bytes(), 0
            while publisher.ask('PUBLISH', 'news', f'{sent:08}' + 'x' * size) == 2:
                sent += 1
                self.assertEqual(quick.answer()[2][:8], b'%08d' % (sent - 1))
                self.assertLess(sent * size, 100 << 20)
            self.assertGreater(sent * size, limit)
            if LEAN:
                self.assertLess(server.resident_bytes() - before, 8 * limit)
            figure = 'client_output_buffer_limit_disconnections'
            self.assertEqual(Server.figure(publisher, figure), 1)
            quick.answer()
            self.assertEqual(publisher.ask('PUBLISH', 'news', 'on'), 1)
            self.assertEqual(quick.answer(), message('news', 'on'))
            slow.rest()  # it ends
            until(lambda: Server.figure(publisher, 'connected_clients') == 2)

    def test_subscribers_that_go_in_the_middle(self):
        with serve() as server, server.client() as publisher:
            for i in range(60):
                clients = [server.client() for _ in range(4)]
                for client in clients:
                    client.send(encode('SUBSCRIBE', 'c', i) + encode('PSUBSCRIBE', 'c*'))
                publisher.send(encode('PUBLISH', 'c', 'x' * 1000) * 20)
                for n, client in enumerate(clients):
                    client.reset() if n % 2 else client.close()
                for _ in range(20):
                    self.assertIsInstance(publisher.answer(), int)
            until(lambda: publisher.ask('PUBLISH', 'c', 'x') == 0)
            until(lambda: Server.figure(publisher, 'connected_clients') == 1)


class Together(unittest.TestCase):
    def test_clients_share_the_keys(self):
        """What several do at the same time adds up; MSET is seen whole."""
        self.check_sharing(300)

    def test_what_the_environment_asks_for(self):
        """As many workers as it says share the keys, and nothing migrates."""
        for count in 1, 4:
            environment = {'WHORL_WORKERS': str(count), 'WHORL_MIGRATE': '1',
                           'WHORL_HOG_NS': '1000000'}
            with self.subTest(count), serve(environment=environment) as server:
                self.assertEqual(server.info('io_threads_active'), count)
            self.check_sharing(100, environment)

    def check_sharing(self, rounds, environment=None):
        failures = []

        def add(server, number):
            try:
                with server.client() as client:
                    for i in range(rounds):
                        client.send(encode('INCR', 'n') + encode('MSET', 'a', i, 'b', i) +
                                    encode('MGET', 'a', 'b') + encode('PUBLISH', 'c', number) +
                                    encode('SET', f'{number}:{i}', i, 'PX', 1 + i % 50))
                        client.answer()
                        client.answer()
                        a, b = client.answer()
                        if a != b:
                            failures.append((a, b))
                        client.answer()
                        client.answer()
            except Exception as failure:  # pylint: disable=broad-except
                failures.append(failure)

        def keep_busy(server):
            """Commands that take a worker long: others would be helped out, if they let that."""
            try:
                with server.client() as client:
                    for _ in range(10):
                        client.ask('MSET', *(f'{{many}}{i}' for i in range(40000)))
                        client.ask('DEL', *(f'{{many}}{i}' for i in range(0, 40000, 2)))
            except Exception as failure:  # pylint: disable=broad-except
                failures.append(failure)

        with serve(environment=environment) as server, server.client() as subscriber:
            subscriber.ask('SUBSCRIBE', 'c')
            threads = [threading.Thread(target=add, args=(server, n)) for n in range(8)]
            if environment:
                threads.append(threading.Thread(target=keep_busy, args=(server,)))
            for thread in threads:
                thread.start()
            for _ in range(8 * rounds):
                self.assertEqual(subscriber.answer()[1], b'c')
            for thread in threads:
                thread.join()
            self.assertEqual(failures, [])
            with server.client() as client:
                self.assertEqual(client.ask('GET', 'n'), b'%d' % (8 * rounds))
                until(lambda: client.ask('DBSIZE') == 3)


class End(unittest.TestCase):
    def test_idle_clients_are_ended(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with serve() as server:
                clients = [server.client() for _ in range(20)]
                for client in clients[::2]:
                    self.assertEqual(client.ask('PING'), 'PONG')
                clients[0].ask('SUBSCRIBE', 'a')
                until(lambda server=server: server.info('connected_clients') == 21)
                begin = time.monotonic()
                server.signal(number)
                self.assertEqual(server.wait(), 0)
                self.assertLess(time.monotonic() - begin, 5)
                for client in clients:
                    self.assertTrue(client.ended())
                    client.close()

    def test_a_request_that_has_begun_is_finished(self):
        with serve() as server, server.client() as client:
            request = encode('ECHO', 'hello')
            client.ask('PING')
            client.send(request[:-3])
            with server.client() as other:
                other.ask('PING')  # the server has that part
            server.signal()
            until(lambda: not server.listens())
            client.send(request[-3:])
            self.assertEqual(client.answer(), b'hello')
            self.assertTrue(client.ended())
            self.assertEqual(server.wait(), 0)

    def test_a_second_signal_ends_it_at_once(self):
        with serve() as server, server.client() as client:
            client.send(b'*1\r\n')
            with server.client() as other:
                other.ask('PING')
            server.signal()
            until(lambda: not server.listens())
            server.signal()
            self.assertEqual(server.wait(), 0)
            self.assertTrue(client.ended())

    def test_a_port_that_is_taken(self):
        with serve() as server:
            ended = subprocess.run([PATH, '--port', str(server.port)], stderr=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, text=True, timeout=PATIENCE_S,
                                   check=False)
            if '--workers' not in OPTIONS:
                self.assertEqual(ended.returncode, 1)
                self.assertIn('cannot listen on', ended.stderr)

    def test_options_that_are_wrong(self):
        for options in (['--port', 'x'], ['--workers', '0'], ['--maxclients', '-1'], ['--nope'],
                        ['more'], ['--request-limit', '1']):
            ended = subprocess.run([PATH, *options], stderr=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S,
                                   check=False)
            self.assertEqual(ended.returncode, 2, options)
            self.assertTrue(ended.stderr)
            self.assertEqual(ended.stdout, '')
        ended = subprocess.run([PATH, '--help'], stdout=subprocess.PIPE, text=True, check=True,
                               timeout=PATIENCE_S)
        self.assertIn('--client-output-limit', ended.stdout)


class RealClients(unittest.TestCase):
    def run_program(self, *command, **more):
        ended = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, timeout=3 * PATIENCE_S, check=False,
                               **more)
        self.assertEqual(ended.returncode, 0, ended.stdout)
        return ended.stdout

    @unittest.skipUnless(shutil.which('redis-cli'), 'redis-cli is missing (package redis-tools)')
    def test_redis_cli(self):
        with serve() as server:
            def cli(*words, **more):
                return self.run_program('redis-cli', '-p', server.port, *words, **more).strip()
            self.assertEqual(cli('SET', 'k', 'a b', 'EX', 100), 'OK')
            self.assertEqual(cli('GET', 'k'), 'a b')
            self.assertRegex(cli('--no-raw', 'TTL', 'k'), r'^\(integer\) (100|9[0-9])$')
            self.assertIn('redis_version', cli('INFO', 'server'))
            self.assertIn("unknown command 'LPUSH'", cli('LPUSH', 'l', 'x'))
            self.assertEqual(cli(input='INCR n\nINCR n\nMGET n k\n'), '1\n2\n2\na b')
            out = cli('--pipe', input=''.join(f'SET {i} {i}\r\n' for i in range(20000)))
            self.assertIn('errors: 0, replies: 20000', out)
            self.assertEqual(cli('DBSIZE'), '20002')
            with subprocess.Popen(['redis-cli', '-p', str(server.port), 'SUBSCRIBE', 'c'],
                                  stdout=subprocess.PIPE, text=True) as subscriber:
                for wanted in ('subscribe', 'c', '1'):
                    self.assertEqual(subscriber.stdout.readline().strip(), wanted)
                self.assertEqual(cli('PUBLISH', 'c', 'hello'), '1')
                for wanted in ('message', 'c', 'hello'):
                    self.assertEqual(subscriber.stdout.readline().strip(), wanted)
                subscriber.terminate()

    @unittest.skipUnless(shutil.which('redis-benchmark'),
                         'redis-benchmark is missing (package redis-tools)')
    def test_redis_benchmark(self):
        with serve() as server:
            for more in ((), ('-P', 16), ('-c', 200, '-d', 5000)):
                out = self.run_program('redis-benchmark', '-p', server.port, '-t',
                                       'ping,set,get,incr,mset', '-n', 4000, '-r', 1000, '-q',
                                       *more)
                for test in ('PING_INLINE', 'PING_MBULK', 'SET', 'GET', 'INCR', 'MSET'):
                    self.assertRegex(out, test + r'[^\r\n]*: [0-9.]+ requests per second')
                self.assertNotIn('rror', out)
                self.assertNotIn('WARN', out)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1], verbosity=2)
