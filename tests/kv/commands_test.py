#!/usr/bin/env python3
"""commands_test.py: what the key-value server answers, byte by byte.

    commands_test.py KV_SERVER [OPTION...]     the options go to the server
"""

import os
import random
import sys
import time
import unittest

from client import Broken, Error, Server, encode, until

PATH, OPTIONS = sys.argv[1], sys.argv[2:]
MONTH_MS = 30 * 24 * 3600 * 1000
# A sanitizer keeps what was freed for a while.
LEAN = os.environ.get('KV_SANITIZER', 'none') == 'none'


def serve(*options, **more):
    return Server(PATH, [*OPTIONS, *options], **more)


class Commands(unittest.TestCase):
    def setUp(self):
        self.server = serve()
        self.addCleanup(self.server.__exit__, None)
        self.client = self.server.client()
        self.addCleanup(self.client.close)

    def check(self, *asked):
        """Pairs of a request, its words in one string, and the answer. What a key has left to live
        may be some seconds less: the machine may be busy."""
        for request, wanted in asked:
            with self.subTest(request):
                answer = self.client.ask(*request.split())
                if request.startswith('TTL') and wanted > 0 and wanted - 10 < answer < wanted:
                    continue
                self.assertEqual(answer, wanted)
                self.assertEqual(isinstance(answer, Error), isinstance(wanted, Error))

    def test_strings(self):
        self.check(
            ('SET a 1', 'OK'), ('get a', b'1'), ('GET b', None), ('SET a 2 NX', None),
            ('SET b 2 nx', 'OK'), ('SET c 3 XX', None), ('SET b 3 XX', 'OK'), ('GET b', b'3'),
            ('SET b 4 GET', b'3'), ('SET d 1 GET', None), ('SET b 5 NX GET', b'4'),
            ('SET e 5 XX GET', None), ('GET b', b'4'), ('EXISTS e', 0),
            ('SETNX b 1', 0), ('SETNX f 1', 1), ('EXISTS a b f nil a', 4),
            ('DEL a b nil', 2), ('EXISTS a', 0), ('GETDEL f', b'1'), ('GETDEL f', None),
            ('MSET x 1 y 2 x 3', 'OK'), ('MGET x nil y', [b'3', None, b'2']),
            ('DBSIZE', 3), ('FLUSHALL', 'OK'), ('DBSIZE', 0), ('FLUSHDB ASYNC', 'OK'))
        self.assertEqual(self.client.ask('SET', '', b'\0\r\n\xff'), 'OK')
        self.assertEqual(self.client.ask('GET', ''), b'\0\r\n\xff')
        self.assertEqual(self.client.ask('SET', 'empty', ''), 'OK')
        self.assertEqual(self.client.ask('GET', 'empty'), b'')

    def test_numbers(self):
        no_number = Error('ERR value is not an integer or out of range')
        overflow = Error('ERR increment or decrement would overflow')
        self.check(
            ('INCR n', 1), ('INCRBY n 41', 42), ('DECR n', 41), ('DECRBY n 50', -9),
            ('GET n', b'-9'), ('INCRBY n x', no_number), ('INCRBY n 1.5', no_number),
            ('SET s x', 'OK'), ('INCR s', no_number), ('SET s 01', 'OK'), ('INCR s', no_number),
            ('SET m 9223372036854775807', 'OK'), ('INCR m', overflow), ('DECR m', 2**63 - 2),
            ('SET m -9223372036854775808', 'OK'), ('DECR m', overflow), ('INCR m', 1 - 2**63),
            ('INCRBY m 9223372036854775808', no_number),
            ('DECRBY m -9223372036854775808', Error('ERR decrement would overflow')))
        self.check(('SET t 1 PX %d' % MONTH_MS, 'OK'), ('INCR t', 2))
        self.assertGreater(self.client.ask('PTTL', 't'), MONTH_MS - 60000)

    def test_times(self):
        bad = Error("ERR invalid expire time in 'set' command")
        no_number = Error('ERR value is not an integer or out of range')
        syntax = Error('ERR syntax error')
        self.check(
            ('TTL a', -2), ('PTTL a', -2), ('EXPIRE a 5', 0), ('PERSIST a', 0),
            ('SET a 1', 'OK'), ('TTL a', -1), ('PERSIST a', 0), ('EXPIRE a 100', 1),
            ('TTL a', 100), ('SET a 2 KEEPTTL', 'OK'), ('TTL a', 100), ('SET a 3', 'OK'),
            ('TTL a', -1), ('SET a 3 EX 50', 'OK'), ('TTL a', 50), ('PERSIST a', 1),
            ('PTTL a', -1), ('SETEX a 60 v', 'OK'), ('TTL a', 60), ('PSETEX a 70000 v', 'OK'),
            ('TTL a', 70), ('EXPIRE a 80 NX', 0), ('EXPIRE a 80 GT', 1), ('EXPIRE a 90 LT', 0),
            ('EXPIRE a 75 XX', 1), ('TTL a', 75), ('PEXPIRE a 0', 1), ('EXISTS a', 0),
            ('SET a 1', 'OK'), ('EXPIRE a -1', 1), ('DBSIZE', 0),
            ('SET a 1 EX 0', bad), ('SET a 1 PX -5', bad), ('SET a 1 EX x', no_number),
            ('SET a 1 EX 9223372036854775807', bad), ('SET a 1 EX', syntax),
            ('SET a 1 NX XX', syntax), ('SET a 1 EX 5 PX 5', syntax), ('SET a 1 foo', syntax),
            ('SET a 1 EX 5 KEEPTTL', syntax),
            ('SETEX a 0 v', Error("ERR invalid expire time in 'setex' command")),
            ('EXPIRE a 9223372036854775807', Error("ERR invalid expire time in 'expire' command")),
            ('EXPIRE a 5 foo', Error('ERR Unsupported option foo')))

    def test_the_rest(self):
        self.check(
            ('PING', 'PONG'), ('PING x', b'x'), ('ECHO hello', b'hello'), ('SELECT 0', 'OK'),
            ('SELECT 1', Error('ERR DB index is out of range')),
            ('CONFIG GET save', [b'save', b'']), ('CONFIG GET appendonly', [b'appendonly', b'no']),
            ('CONFIG GET nothing', []), ('CLIENT SETNAME me', 'OK'), ('CLIENT GETNAME', b'me'),
            ('CLIENT SETINFO LIB-NAME x', 'OK'),
            ('HELLO 3', Error('NOPROTO unsupported protocol version')),
            ('CLIENT FOO', Error("ERR unknown subcommand 'FOO'. Try CLIENT HELP.")),
            ('foo bar baz', Error("ERR unknown command 'foo', with args beginning with: "
                                  "'bar' 'baz' ")),
            ('GET', Error("ERR wrong number of arguments for 'get' command")),
            ('get a b', Error("ERR wrong number of arguments for 'get' command")),
            ('MSET a', Error("ERR wrong number of arguments for 'mset' command")),
            ('MSET a 1 b', Error("ERR wrong number of arguments for 'mset' command")))
        hello = self.client.ask('HELLO', '2')
        self.assertEqual(hello[hello.index(b'proto') + 1], 2)
        commands = self.client.ask('COMMAND')
        self.assertEqual(len(commands), self.client.ask('COMMAND', 'COUNT'))
        self.assertEqual([c[1:] for c in commands if c[0] == b'get'],
                         [[2, ['readonly', 'fast'], 1, 1, 1]])
        self.assertEqual(self.client.ask('COMMAND', 'INFO', 'get', 'nope')[1], None)
        self.assertEqual(len(self.client.ask('COMMAND', 'DOCS')), 2 * len(commands))
        self.assertEqual(self.client.ask('COMMAND', 'DOCS', 'nope', 'get')[0], b'get')
        answer = self.client.ask('foo\r\nbar', 'x\ny')
        self.assertTrue(answer.startswith("ERR unknown command 'foo  bar', with args beginning"))
        self.assertEqual(self.client.ask('QUIT'), 'OK')
        self.assertTrue(self.client.ended())

    def test_a_pipeline_cut_at_every_byte(self):
        requests = (encode('SET', 'k', 'a\r\n$b') + b'\r\n' + encode('GET', 'k') + b'*0\r\n' +
                    b'PING\r\n' + encode('MGET', 'k', 'none') + b'set q "a \\x41\\n" \r\n' +
                    b"get 'q'\n" + encode('INCR', 'k') + b'*-1\r\n' + encode('DEL', 'k', 'q'))
        wanted = (b'+OK\r\n$5\r\na\r\n$b\r\n+PONG\r\n*2\r\n$5\r\na\r\n$b\r\n$-1\r\n+OK\r\n'
                  b'$4\r\na A\n\r\n-ERR value is not an integer or out of range\r\n:2\r\n')
        with self.server.client() as other:
            for cut in range(1, len(requests)):
                self.client.send(requests[:cut])
                other.ask('PING')  # while that is answered the server sees the first part
                self.client.send(requests[cut:])
                self.assertEqual(self.client.exactly(len(wanted)), wanted, f'cut at {cut}')
            for byte in requests:
                self.client.send(bytes([byte]))
                other.ask('PING')
        self.assertEqual(self.client.exactly(len(wanted)), wanted)
        self.assertTrue(self.client.quiet())

    def test_answers_of_a_pipeline_come_together(self):
        self.client.send(encode('PING') * 100)
        self.assertTrue(self.client.some())
        self.assertEqual(self.client.buffer, b'+PONG\r\n' * 100)

    def test_protocol_errors_end_the_connection(self):
        for request, error in (
                (b'*1\r\n+4\r\n', "expected '$', got '+'"),
                (b'*x\r\n', 'invalid multibulk length'),
                (b'*\r\n', 'invalid multibulk length'),
                (b'*1048577\r\n', 'invalid multibulk length'),
                (b'*99999999999999999999\r\n', 'invalid multibulk length'),
                (b'*1\r\n$x\r\n', 'invalid bulk length'),
                (b'*1\r\n$-1\r\n', 'invalid bulk length'),
                (b'*1\r\n$99999999999\r\n', 'invalid bulk length'),
                (b'*1\r\n$4\rx', 'invalid bulk length'),
                (b'get "a\r\n', 'unbalanced quotes in request'),
                (b"get 'a'b\r\n", 'unbalanced quotes in request'),
                (b'x' * 65536, 'too big inline request')):
            with self.subTest(request[:40]), self.server.client() as client:
                client.send(encode('SET', 'before', 1) + request)
                self.assertEqual(client.answer(), 'OK')
                self.assertEqual(client.answer(), Error(f'ERR Protocol error: {error}'))
                self.assertTrue(client.ended())

    def test_a_web_page_runs_no_commands(self):
        self.assertEqual(self.client.ask('SET', 'kept', 1), 'OK')
        body = b'FLUSHALL\r\nSET run 1\r\n'
        head = b'Host: localhost:6379\r\nContent-Length: %d\r\n\r\n' % len(body)
        for method in b'POST', b'post', b'PUT', b'GET', b'OPTIONS':
            with self.subTest(method), self.server.client() as client:
                client.send(method + b' / HTTP/1.1\r\n' + head + body)
                said = client.rest().split(b'\r\n')
                self.assertEqual(said[-2:], [b'-ERR Protocol error: this is no HTTP server', b''])
                self.assertEqual(len(said), 2 if method.lower() == b'post' else 3)
        with self.server.client() as client:
            self.assertEqual(client.ask('Host:'),
                             Error('ERR Protocol error: this is no HTTP server'))
            self.assertTrue(client.ended())
        self.assertEqual(self.client.ask('MGET', 'kept', 'run'), [b'1', None])
        self.check(('SET post host:', 'OK'), ('GET post', b'host:'))

    def test_an_end_within_a_request(self):
        whole = encode('SET', 'half', 'x' * 100)
        for cut in (1, 5, 20, len(whole) - 1):
            with self.server.client() as client:
                client.send(whole[:cut])
                client.socket.shutdown(1)
                self.assertTrue(client.ended())
        self.assertEqual(self.client.ask('EXISTS', 'half'), 0)

    def test_large_values(self):
        value = random.Random(1).randbytes(9 << 20)
        self.assertEqual(self.client.ask('SET', 'large', value), 'OK')
        self.assertEqual(self.client.ask('GET', 'large'), value)
        # Who overwrites it while it is sent changes nothing for who gets it.
        self.client.send(encode('GET', 'large'))
        self.assertTrue(self.client.some())
        with self.server.client() as other:
            self.assertEqual(other.ask('SET', 'large', 'small'), 'OK')
        self.assertEqual(self.client.answer(), value)
        words = [str(i) for i in range(50000)]
        self.assertEqual(self.client.ask('DEL', *words), 0)
        self.assertEqual(self.client.ask('MSET', *words), 'OK')
        self.assertEqual(self.client.ask('MGET', *words[::2]), [w.encode() for w in words[1::2]])

    def test_names_of_keys_have_a_limit(self):
        self.assertEqual(self.client.ask('SET', 'k' * 65536, 1), 'OK')
        long = 'k' * 65537
        for request in (('SET', long, 1), ('INCR', long), ('MSET', 'a', 1, long, 1),
                        ('SETNX', long, 1), ('SETEX', long, 1, 1)):
            self.assertEqual(self.client.ask(*request),
                             Error('ERR the key is longer than 65536 bytes'))
        self.assertEqual(self.client.ask('DBSIZE'), 1)

    def test_keys_expire_at_their_time_untouched(self):
        begin = time.monotonic()
        self.client.ask('SET', 'late', 1, 'PX', 400)
        self.client.ask('SET', 'early', 1, 'PX', 150)
        self.client.ask('SET', 'kept', 1, 'EX', 20)
        self.assertEqual(self.client.ask('PERSIST', 'kept'), 1)
        self.client.ask('SET', 'longer', 1, 'PX', 50, 'NX')
        self.client.ask('PEXPIRE', 'longer', 200)
        self.client.ask('DEL', 'longer')
        for count, ms in ((2, 150), (1, 400)):
            until(lambda count=count: self.client.ask('DBSIZE') <= count)
            self.assertGreaterEqual(time.monotonic() - begin, ms / 1000)
        self.assertEqual(self.client.ask('MGET', 'late', 'early', 'kept'), [None, None, b'1'])
        self.assertEqual(Server.figure(self.client, 'expired_keys'), 2)

    def test_a_key_is_not_seen_after_its_time(self):
        for _ in range(20):
            self.client.ask('SET', 'k', 1, 'PX', 3)
            begin = time.monotonic()
            while self.client.ask('GET', 'k') is not None:
                self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual(self.client.ask('SET', 'k', 1, 'NX'), 'OK')

    def test_memory_of_expired_keys_is_given_back(self):
        count = 20000
        self.client.send(b''.join(encode('SET', i, 'x' * 100, 'PX', 300 + i % 200)
                                  for i in range(count)))
        for _ in range(count):
            self.assertEqual(self.client.answer(), 'OK')
        until(lambda: self.client.ask('DBSIZE') == 0)
        self.assertEqual(Server.figure(self.client, 'used_memory_dataset'), 0)
        self.assertEqual(Server.figure(self.client, 'expired_keys'), count)

    def test_as_a_model_would(self):
        """Commands drawn by chance, and a dictionary."""
        draw, model = random.Random(7), {}
        for _ in range(4000):
            key, value = f'k{draw.randrange(20)}', str(draw.randrange(100))
            had = model.get(key)
            which = draw.randrange(8)
            if which == 0:
                request, wanted = ('SET', key, value), 'OK'
                model[key] = value
            elif which == 1:
                request, wanted = ('GET', key), had and had.encode()
            elif which == 2:
                request, wanted = ('DEL', key), int(had is not None)
                model.pop(key, None)
            elif which == 3:
                model[key] = str(int(had or 0) + int(value))
                request, wanted = ('INCRBY', key, value), int(model[key])
            elif which == 4:
                request, wanted = ('SETNX', key, value), int(had is None)
                model.setdefault(key, value)
            elif which == 5:
                request, wanted = ('GETDEL', key), had and had.encode()
                model.pop(key, None)
            elif which == 6:
                ms = draw.choice((0, MONTH_MS))
                request, wanted = ('PEXPIRE', key, ms), int(had is not None)
                if not ms:
                    model.pop(key, None)
            else:
                request, wanted = ('DBSIZE',), len(model)
            self.assertEqual(self.client.ask(*request), wanted, request)
        self.client.ask('FLUSHALL')
        self.assertEqual(Server.figure(self.client, 'used_memory_dataset'), 0)


class Limits(unittest.TestCase):
    def test_memory(self):
        with serve('--maxmemory', 100000) as server, server.client() as client:
            answers = [client.ask('SET', i, 'x' * 1000) for i in range(200)]
            stored = answers.count('OK')
            self.assertTrue(50 < stored < 100)
            self.assertTrue(answers[-1].startswith('OOM '))
            # Which tables the keys fall into, and so what room is left, is a matter of chance.
            self.assertTrue(str(client.ask('INCR', 'n')).startswith(('OOM ', '1')))
            self.assertTrue(client.ask('MSET', 'a', 'x' * 50000, 'b', 1).startswith('OOM '))
            self.assertEqual(client.ask('DBSIZE'), stored + client.ask('EXISTS', 'n', 'b'))
            client.ask('DEL', '0', '1')
            self.assertEqual(client.ask('SET', 'again', 'x' * 1000), 'OK')

    def test_all_of_mset_or_nothing(self):
        with serve('--maxmemory', 100000) as server, server.client() as client:
            client.ask('SET', 'b', 'old', 'EX', 100)
            client.ask('SET', 'e', 'kept')
            before = Server.figure(client, 'used_memory_dataset')
            answer = client.ask('MSET', 'a', 1, 'b', 2, 'e', 3, 'a', 4, 'c', 'x' * 100000, 'd', 5)
            self.assertTrue(answer.startswith('OOM '))
            self.assertEqual(client.ask('MGET', *'abcde'), [None, b'old', None, None, b'kept'])
            self.assertTrue(90 < client.ask('TTL', 'b') <= 100)
            self.assertEqual(client.ask('TTL', 'e'), -1)
            self.assertEqual(Server.figure(client, 'used_memory_dataset'), before)
            self.assertEqual(client.ask('MSET', 'a', 1, 'b', 2, 'a', 3), 'OK')
            self.assertEqual(client.ask('MGET', 'a', 'b'), [b'3', b'2'])
            self.assertEqual(client.ask('TTL', 'b'), -1)

    def test_what_is_replaced_makes_room(self):
        limit = 100000
        with serve('--maxmemory', limit) as server, server.client() as client:
            def used():
                return Server.figure(client, 'used_memory_dataset')
            client.ask('MSET', 'n', 8, 'f', '')
            self.assertEqual(client.ask('SET', 'f', 'x' * (limit - used())), 'OK')
            self.assertEqual(used(), limit)
            self.assertEqual(client.ask('INCR', 'n'), 9)
            self.assertTrue(client.ask('INCR', 'n').startswith('OOM '))
            self.assertEqual(client.ask('SET', 'n', 5), 'OK')
            self.assertTrue(client.ask('SET', 'n', 55).startswith('OOM '))
            self.assertEqual(client.ask('MSET', 'f', 'x', 'n', 10), 'OK')
            self.assertEqual(client.ask('SET', 'f', 'x' * 90000), 'OK')
            self.assertEqual(client.ask('SET', 'f', 'x' * 80000), 'OK')

    def fill(self, client, count, prefix='key'):
        """Adds so many small keys. Returns what the last was answered."""
        answer = None
        for begin in range(0, count, 1000):
            names = range(begin, min(begin + 1000, count))
            answer = client.ask('MSET', *(word for i in names for word in (f'{prefix}:{i}', 'v')))
            if isinstance(answer, Error):
                break
        return answer

    def test_a_small_key_takes_few_bytes(self):
        with serve() as server, server.client() as client:
            client.ask('PING')
            before, seen = server.resident_bytes(), 0
            for count in 100000, 200000, 300000:
                self.assertEqual(self.fill(client, count - seen, f'key{count}'), 'OK')
                seen = count
                self.assertEqual(client.ask('DBSIZE'), count)
                counted = Server.figure(client, 'used_memory_dataset')
                self.assertTrue(100 < counted / count < 160, counted / count)
                if LEAN:
                    resident = server.resident_bytes() - before
                    self.assertLess(resident / count, 250)
                    self.assertLess(resident, 1.6 * counted)
            self.assertEqual(client.ask('FLUSHALL'), 'OK')
            self.assertEqual(Server.figure(client, 'used_memory_dataset'), 0)

    def test_tables_count_as_memory(self):
        """They grow only where the limit leaves room for it, and keys are added up to it."""
        limit = 4 << 20
        with serve('--maxmemory', limit) as server, server.client() as client:
            client.ask('MSET', 'a', '', 'b', '')
            both = Server.figure(client, 'used_memory_dataset')
            client.ask('DEL', 'a', 'b')
            self.assertEqual(Server.figure(client, 'used_memory_dataset'), 0)
            self.assertGreater(both, 2 * 90 + 500)
            self.assertTrue(self.fill(client, 50000).startswith('OOM '))
            used = Server.figure(client, 'used_memory_dataset')
            self.assertTrue(limit - 1000 * 110 - 20000 < used <= limit, used)
            stored = 0
            while client.ask('SET', f'more{stored}', 'v') == 'OK':
                stored += 1
            self.assertTrue(limit - 200 < Server.figure(client, 'used_memory_dataset') <= limit)
            self.assertEqual(client.ask('GET', 'key:7'), b'v')

    def test_what_mset_takes_back_fits_whatever_has_grown(self):
        limit, count = 1 << 20, 3000
        with serve('--maxmemory', limit) as server, server.client() as client:
            def used():
                return Server.figure(client, 'used_memory_dataset')
            self.assertEqual(self.fill(client, 1000), 'OK')
            client.ask('SET', 'large', '')
            value = b'x' * (limit - used())
            self.assertEqual(client.ask('SET', 'large', value, 'EX', 100), 'OK')
            self.assertEqual(used(), limit)
            more = [word for i in range(count) for word in (f'more{i}', 'v')]
            answer = client.ask('MSET', 'large', 'small', *more, 'too much', 'x' * limit)
            self.assertTrue(answer.startswith('OOM '))
            self.assertGreater(used(), limit)  # by the tables that have grown meanwhile
            self.assertEqual(client.ask('GET', 'large'), value)
            self.assertTrue(90 < client.ask('TTL', 'large') <= 100)
            self.assertEqual(client.ask('DBSIZE'), 1001)

    def test_requests(self):
        with serve('--request-limit', 10000) as server:
            for request, error in (
                    (encode('SET', 'k', 'x' * 10001), 'invalid bulk length'),
                    (encode('MSET', *['x' * 3000] * 5), 'too big request')):
                with server.client() as client:
                    client.send(request)
                    self.assertEqual(client.answer(), Error(f'ERR Protocol error: {error}'))
            with server.client() as client:
                self.assertEqual(client.ask('SET', 'k', 'x' * 9000), 'OK')

    def test_an_announced_length_takes_no_memory(self):
        with serve() as server, server.client() as client:
            client.ask('PING')
            before = server.resident_bytes()
            greedy = [server.client() for _ in range(50)]
            for other in greedy:
                other.send(b'*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000000\r\nxxx')
            client.ask('PING')
            # A sanitizer has memory of its own for each coroutine: a megabyte and more.
            limit = 40 << 20 if LEAN else (40 << 20) + 50 * (2 << 20)
            self.assertLess(server.resident_bytes() - before, limit)
            for other in greedy:
                other.close()

    def test_clients(self):
        with serve('--maxclients', 3) as server:
            clients = [server.client() for _ in range(3)]
            for client in clients:
                self.assertEqual(client.ask('PING'), 'PONG')
            with server.client() as extra:
                self.assertEqual(extra.rest(), b'-ERR max number of clients reached\r\n')
            self.assertEqual(clients[0].ask('PING'), 'PONG')
            self.assertEqual(Server.figure(clients[0], 'rejected_connections'), 1)
            clients.pop().close()

            def let_in():
                with server.client() as client:
                    try:
                        return client.ask('PING') == 'PONG'
                    except (Broken, OSError):
                        return False
            until(let_in)
            for client in clients:
                client.close()

    def test_descriptors(self):
        with serve('--maxclients', 1000, descriptors=160) as server:
            clients = []
            with server.client() as probe:
                most = int(probe.ask('CONFIG', 'GET', 'maxclients')[1])
            self.assertLess(most, 160)
            for _ in range(most + 40):
                client = server.client()
                clients.append(client)
            served = 0
            for client in clients:
                try:
                    served += client.ask('PING') == 'PONG'
                except (Broken, OSError):
                    pass
            self.assertTrue(most - 1 <= served <= most, served)
            for client in clients:
                client.close()

            def alone():
                try:
                    return server.info('connected_clients') == 1
                except (Broken, OSError):  # it is told that there are too many still
                    return False
            until(alone)
        self.assertIn('--maxclients is', server.said)

    def test_who_does_not_read_stops_itself(self):
        for subscribes in (False, True):
            self.check_who_does_not_read(subscribes)

    def check_who_does_not_read(self, subscribes):
        with serve() as server, server.client() as other, \
                server.client(receive_buffer=4096) as slow:
            if subscribes:  # once, and not any more
                slow.ask('SUBSCRIBE', 'c')
                slow.ask('UNSUBSCRIBE', 'c')
            other.ask('SET', 'v', 'x' * 1000000)
            before = server.resident_bytes()
            slow.socket.settimeout(0)
            request, sent = encode('GET', 'v') * 1000, 0
            try:
                while sent < 64 << 20:
                    sent += slow.socket.send(request)
            except BlockingIOError:
                pass
            for _ in range(200):
                self.assertEqual(other.ask('PING'), 'PONG')
            self.assertLess(server.resident_bytes() - before, 16 << 20)


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1], verbosity=2)
