#!/usr/bin/env python3
"""Builds the echo servers of other runtimes, those whose toolchains are here.

    build.py BUILD_DIR        into BUILD_DIR/bench/peers; says what was built and what was left out

Nothing is installed, and nothing of whorl needs any of this. What a toolchain fetches itself (the
crates that Cargo.lock pins) it may fetch.
"""

import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD_TIMEOUT_S = 600


class LeftOut(Exception):
    """A peer that cannot be had here; the text says why."""


def tool(name, *elsewhere):
    """The program, where PATH has it or where its installer puts it."""
    found = shutil.which(name)
    for folder in elsewhere:
        found = found or shutil.which(name, path=os.path.expanduser(folder))
    if not found:
        raise LeftOut(f'{name} is not installed')
    return found


def run(command, **options):
    """Its output; that it fails leaves the peer out, with its last line."""
    name = os.path.basename(command[0])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S,
                              stdin=subprocess.DEVNULL, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise LeftOut(f'{name}: {failure}') from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if 'error' in line.lower()]
        lines = lines or done.stderr.splitlines() or ['it gave no reason']
        raise LeftOut(f'{name} failed: {lines[0].strip()[:160]}')
    return done.stdout.strip()


def build_go(to):
    environment = dict(os.environ, GOTOOLCHAIN='local', CGO_ENABLED='0')
    run([tool('go', '/usr/local/go/bin'), 'build', '-trimpath', '-o', to, '.'],
        cwd=os.path.join(HERE, 'go'), env=environment)
    return run([to, '--version'])


def build_crate(name, to):
    """With the compiler's own version: it is half of the program."""
    cargo = tool('cargo', '~/.cargo/bin')
    source = os.path.join(HERE, name)
    target = os.path.join(os.path.dirname(to), 'cargo')
    run([cargo, 'build', '--release', '--locked', '--target-dir', target], cwd=source)
    shutil.copy2(os.path.join(target, 'release', 'echo_' + name), to)
    with open(os.path.join(source, 'Cargo.lock'), encoding='utf-8') as f:
        pinned = re.search(rf'name = "{name}"\nversion = "([^"]+)"', f.read())
    compiler = run([cargo, '--version']).split()
    return f'{name} {pinned.group(1)}, Rust {compiler[1]}'


def compiler_version(compiler):
    return run([compiler, '-dumpfullversion', '-dumpversion'])


def build_libuv(to):
    compiler, config = tool('cc'), tool('pkg-config')
    try:
        flags = run([config, '--cflags', '--libs', 'libuv']).split()
    except LeftOut:
        raise LeftOut('libuv is not installed (Debian: libuv1-dev, Fedora: libuv-devel, Arch: '
                      'libuv)') from None
    run([compiler, '-O2', '-g', '-Wall', '-Wextra', '-o', to,
         os.path.join(HERE, 'echo_libuv.c')] + flags)
    return f"{run([to, '--version'])}, {os.path.basename(compiler)} {compiler_version(compiler)}"


def build_asio(to):
    """Boost's, and where there is none the one that stands alone: they are the same code."""
    compiler = tool('c++')
    for header, define in (('boost/asio.hpp', []), ('asio.hpp', ['-DASIO_STANDALONE'])):
        probe = [compiler, '-std=c++17', '-fsyntax-only', '-x', 'c++', '-include', header,
                 os.devnull] + define
        try:
            run(probe)
        except LeftOut:
            continue
        run([compiler, '-std=c++17', '-O2', '-g', '-o', to,
             os.path.join(HERE, 'echo_asio.cpp'), '-pthread'] + define)
        return f"{run([to, '--version'])}, {os.path.basename(compiler)} " \
               f'{compiler_version(compiler)}'
    raise LeftOut('Asio is not installed (Debian: libboost-dev or libasio-dev, Fedora: '
                  'boost-devel, Arch: boost)')


PEERS = {
    'go': build_go,
    'tokio': lambda to: build_crate('tokio', to),
    'monoio': lambda to: build_crate('monoio', to),
    'libuv': build_libuv,
    'asio': build_asio,
}


def build_all(build, wanted=None):
    """({name: (program, versions)}, {name: why it was left out})"""
    folder = os.path.join(os.path.abspath(build), 'bench', 'peers')
    os.makedirs(folder, exist_ok=True)
    built, left_out = {}, {}
    for name, make in PEERS.items():
        if wanted and name not in wanted:
            continue
        to = os.path.join(folder, 'echo_' + name)
        try:
            built[name] = (to, make(to))
        except LeftOut as reason:
            left_out[name] = str(reason)
    return built, left_out


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
        sys.exit('usage: build.py BUILD_DIR')
    built, left_out = build_all(sys.argv[1])
    for name, (program, versions) in built.items():
        print(f'{name}: {versions}: {os.path.relpath(program)}')
    for name, why in left_out.items():
        print(f'{name}: left out: {why}')


if __name__ == '__main__':
    main()
