#!/usr/bin/env python3
"""style: the project's rules that neither the compiler nor clang-format knows.

    tools/style.py [ROOT]

Prints one line for each breach, "FILE:LINE: what is wrong; what to do", and exits 1 if there was
any. Without ROOT the checkout that this script is in. Files that git ignores are not looked at;
outside of a git checkout all are, but build folders.

The idea: each rule is a function from a Source to breaches, and RULES is the list of them. A rule
looks at a source in one of three forms, which all have the same lines: `lines` as written, `code`
with comments and the contents of literals blanked, `comments` with everything else blanked. So no
rule needs to parse C, and none is misled by a word in a string.
"""

import os
import re
import subprocess
import sys

LINE_COLUMNS = 100
SHELL_COLUMNS = 120     # tables of packages and long pipelines read worse broken
FILE_LINES = 800
NEAR_LINES = 6          # a comment that a line needs stands at most so far above it

# Which rooms a room may include; itself always. A room below knows nothing of one above.
LOWER = {
    'include': set(),
    'base': set(),
    'stacks': {'base'},
    'timers': {'base'},
    'uring': {'base'},
    'sched': {'base', 'stacks', 'timers', 'uring', 'include'},
    'net': {'base', 'stacks', 'timers', 'uring', 'sched', 'include'},
    'sync': {'base', 'stacks', 'timers', 'uring', 'sched', 'include'},
    'debug': {'base', 'stacks', 'timers', 'uring', 'sched', 'include'},
    'examples': {'include'},
}
ABOVE_ALL = {'tests', 'bench'}
SKIPPED_FOLDERS = {'.git', '__pycache__'}

C_KINDS = {'.c', '.h', '.cpp', '.hpp', '.S'}
SCRIPT_KINDS = {'.py', '.sh'}
MODEL_KINDS = {'.pml'}  # Promela: commented like C, but no C

# Names with two underscores that others gave: the compiler, the C library, the kernel's headers,
# the sanitizers, the C++ runtime, the linker's --wrap.
FOREIGN = re.compile(r'''
    __[A-Za-z0-9_]+__ | __builtin_\w+ | __(atomic|sync)_\w+ | __ATOMIC_\w+ | __has_\w+ | __ARM_\w+ |
    __(extension|typeof|asm|volatile|inline|restrict|thread|func|cplusplus|int128|alignof) |
    __(cxa|gxx|asan|lsan|msan|tsan|ubsan|sanitizer|libc|errno|real|wrap|kernel|io_uring)_\w+ |
    __NR_\w+ | __STDC\w* | __CPU_\w+ | __[su](8|16|32|64) | __[bl]e(16|32|64) |
    __(WALL|WCLONE|GNUC_\w+|GLIBC_\w+) | __GLIBC_PREREQ | __SANITIZE_\w+
    ''', re.VERBOSE)

LIBC_SCHED = {'sched_' + name for name in (
    'yield getcpu param attr getaffinity setaffinity getparam setparam getscheduler setscheduler '
    'getattr setattr get_priority_min get_priority_max rr_get_interval').split()}

ORDERING = re.compile(
    r'__ATOMIC_(ACQUIRE|RELEASE|ACQ_REL|SEQ_CST|CONSUME)\b|'
    r'\bmemory_order(_|::)(acquire|release|acq_rel|seq_cst|consume)\b|'
    r'\b__sync_\w+\s*\(|'
    r'(?<!::)\batomic_(load|store|exchange|fetch_\w+|compare_exchange_(weak|strong)|thread_fence|'
    r'flag_\w+)\s*\((?!.*explicit)')
UNDONE = re.compile(r'\b(' + 'TO' + 'DO|FIX' + 'ME|X' + r'XX)\b')
SLEEP = re.compile(r'(?<!\w)(u?sleep|(clock_)?nanosleep|sleep_for|sleep_until)\s*\(')
MACHINE = re.compile(r'(?<![\w.~-])/(home|Users|work)/\w|'
                     r'(?<![\w.-])(?:[a-z0-9-]+\.)+(internal|lan|corp)(?![\w-])')
IPV4 = re.compile(r'(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\d.])')


class Breach:
    def __init__(self, path, line, what, cure):
        self.path, self.line, self.what, self.cure = path, line, what, cure

    def __str__(self):
        return f'{self.path}:{self.line}: {self.what}; {self.cure}'


def lines_of(text):
    lines = text.split('\n')
    if not lines[-1]:
        lines.pop()
    return lines


class Source:
    """A file in the three forms that the rules look at."""

    def __init__(self, path, text):
        self.path = path
        self.kind = os.path.splitext(path)[1]
        self.room = path.split('/')[0] if '/' in path else ''
        self.text = text
        self.lines = lines_of(text)
        self.is_c = self.kind in C_KINDS
        self.is_model = self.kind in MODEL_KINDS
        self.is_shell = self.kind == '.sh' or path == 'dev'
        self.columns = SHELL_COLUMNS if self.is_shell else LINE_COLUMNS
        if self.kind == '.md':
            self.columns = None
        code, comments = split_c(text) if self.is_c else (text, text)
        self.code = lines_of(code)
        self.comments = lines_of(comments)

    def breach(self, line, what, cure):
        return Breach(self.path, line, what, cure)


C_TOKEN = re.compile(
    r'(?P<comment>/\*.*?\*/|//(?:[^\\\n]|\\.)*)|'
    r'R"(?P<tag>[^()\\\s]{0,16})\((?P<raw>.*?)\)(?P=tag)"|'
    r'"(?P<string>(?:[^"\\\n]|\\.)*)"|'
    r"(?<![0-9A-Za-z])'(?P<char>(?:[^'\\\n]|\\.)+)'", re.DOTALL)


def blank(text):
    return re.sub(r'[^\n]', ' ', text)


def split_c(text):
    """The text without comments and contents of literals, and the comments alone."""
    code, comments, at = [], [], 0
    for match in C_TOKEN.finditer(text):
        before = text[at:match.start()]
        code.append(before)
        comments.append(blank(before))
        token = match.group(0)
        if match.group('comment') is not None:
            code.append(blank(token))
            comments.append(token)
        else:
            # An #include "..." is no literal: its path is kept.
            line_start = text.rfind('\n', 0, match.start()) + 1
            is_include = re.match(r'\s*#\s*include\b', text[line_start:match.start()])
            inner = token if is_include else token[0] + blank(token[1:-1]) + token[-1]
            code.append(inner)
            comments.append(blank(token))
        at = match.end()
    code.append(text[at:])
    comments.append(blank(text[at:]))
    return ''.join(code), ''.join(comments)


# ---------------------------------------------------------------------------- each line


def rule_layout(source):
    for number, line in enumerate(source.lines, 1):
        if '\t' in line:
            yield source.breach(number, 'a tab', 'indent with spaces')
        if line != line.rstrip():
            yield source.breach(number, 'space at the end of the line', 'delete it')
        if source.columns and len(line) > source.columns:
            yield source.breach(number, f'{len(line)} columns', f'break it at {source.columns}')
    if source.text and not source.text.endswith('\n'):
        yield source.breach(len(source.lines), 'no newline at the end of the file', 'add one')


def rule_length(source):
    if source.kind != '.md' and len(source.lines) > FILE_LINES:
        yield source.breach(len(source.lines), f'{len(source.lines)} lines',
                            f'more than {FILE_LINES}: find the second idea and give it a file')


def rule_undone(source):
    for number, line in enumerate(source.lines, 1):
        match = UNDONE.search(line)
        if match:
            yield source.breach(number, f'{match.group(0)} in a file that is kept',
                                'do it, or open an issue and say here what holds until then')


def loopback_or_example(quad):
    if any(part > 255 for part in quad):
        return True     # no address at all, such as a test of bad ones
    return (quad[0] in (0, 127) or quad == (255, 255, 255, 255) or
            quad[:3] in ((192, 0, 2), (198, 51, 100), (203, 0, 113)))


def rule_machine(source):
    """What names one machine would be wrong on every other."""
    for number, line in enumerate(source.lines, 1):
        match = MACHINE.search(line)
        if match:
            yield source.breach(number, f'"{match.group(0)}" is a place on one machine',
                                'take it from an argument, the environment or a temporary folder')
        for match in IPV4.finditer(line):
            if not loopback_or_example(tuple(int(part) for part in match.groups())):
                yield source.breach(number, f'{match.group(0)} is someone\'s address',
                                    'use 127.0.0.1, or 192.0.2.x where nobody may answer')


# ---------------------------------------------------------------------------- each file


def rule_head(source):
    """The head comment says what the file is for; scripts have theirs after the first line."""
    if not (source.is_c or source.is_model or source.is_shell or source.kind == '.py'):
        return
    opening = ('/*', '//') if source.is_c or source.is_model else ('#', '"""')
    for number, line in enumerate(source.lines, 1):
        if not line.strip() or line.startswith('#!') or (not source.is_c and line.strip() == '#'):
            continue
        if not line.startswith(opening):
            yield source.breach(number, 'no comment at the head of the file',
                                'say there what the file is for, and what always holds')
        return
    yield source.breach(1, 'an empty file', 'write or delete it')


def identifiers(source):
    for number, line in enumerate(source.code, 1):
        for match in re.finditer(r'[A-Za-z_]\w*', line):
            yield number, match.group(0)


def rule_names(source):
    if not source.is_c:
        return
    for number, name in identifiers(source):
        if '__' in name and not FOREIGN.fullmatch(name):
            yield source.breach(number, f'the name {name} contains two underscores in a row',
                                'C++ reserves these: rename it')
        if name.startswith('sched_') and name not in LIBC_SCHED:
            yield source.breach(number, f'the name {name} begins like the C library\'s',
                                'begin it with what it is about: coro_, loop_, park_')


def comment_near(source, number):
    """The words of the comments at a line and just above it."""
    near = ' '.join(source.comments[max(0, number - 1 - NEAR_LINES):number])
    return ' '.join(near.replace('*', ' ').split())


def rule_orderings(source):
    """Every ordering is half of a pair; the comment names the other half."""
    if not source.is_c:
        return
    for number, line in enumerate(source.code, 1):
        if not ORDERING.search(line):
            continue
        if 'pairs with' not in comment_near(source, number):
            yield source.breach(number, 'an atomic ordering without its partner',
                                'add a comment "release: pairs with the acquire in ...()"')


def rule_no_sleep(source):
    """A test waits for what it needs, and then for no longer."""
    if source.room != 'tests' or not (source.is_c or source.kind == '.py'):
        return
    for number, line in enumerate(source.code, 1):
        match = SLEEP.search(line)
        if match and 'time itself' not in comment_near(source, number):
            yield source.breach(number, f'{match.group(1)}() in a test',
                                'wait for the event: a descriptor, a join, a condition; or say '
                                'in a comment why it is "time itself"')


# ---------------------------------------------------------------------------- public headers

DECLARES = re.compile(r'(WH_API\b|typedef\b|struct\s+\w+\s*\{|enum\s+\w*\s*\{)')


def rule_public_comments(source):
    """In a public header a block of declarations, which ends at a blank line, begins with a
    comment: that is the contract. A struct without a body only announces a name, and names that
    end in an underscore are no one's to use."""
    if source.room != 'include' or source.kind != '.h':
        return
    commented, depth = False, 0
    for number, line in enumerate(source.code, 1):
        raw = source.lines[number - 1]
        if not raw.strip() and depth == 0:
            commented = False
        if source.comments[number - 1].strip():
            commented = True
        if depth == 0 and DECLARES.match(line) and not commented and not private(source, number):
            yield source.breach(number, 'a public declaration without a comment',
                                'say what it takes, returns and owns, and whether it may park')
        if not line.lstrip().startswith('#'):
            depth += line.count('{') - line.count('}')
        # A namespace is no body.
        if re.match(r'\s*namespace\b', line) or (line.strip() == '{' and number > 1 and
                                                 source.code[number - 2].startswith('namespace')):
            depth = 0


def private(source, number):
    """Whether the declaration at the line is of the part that macros stand on."""
    text = ' '.join(source.code[number - 1:number + 4])
    match = re.match(r'(?:WH_API\s+)?[^;({]*?(\w+)\s*[;({]', text)
    above = ' '.join(source.comments[:number])
    return bool(match and match.group(1).endswith('_')) or 'not for direct use' in above


# ---------------------------------------------------------------------------- includes

INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


def includes(source):
    """The line, the path as written, and whether it is in quotes."""
    if source.is_c:
        for number, line in enumerate(source.code, 1):
            match = INCLUDE.match(line)
            if match:
                yield number, match.group(2), match.group(1) == '"'


def resolve(source, path, quoted, known):
    """The project's file that an include means, or None when it is somebody else's."""
    beside = os.path.normpath(os.path.join(os.path.dirname(source.path), path))
    for candidate in ([beside] if quoted else []) + [path, 'include/' + path]:
        if candidate in known:
            return candidate
    return None


def include_breach(source, number, path, target):
    if os.path.splitext(path)[1] in ('.c', '.cpp'):
        return source.breach(number, f'includes the source {path}',
                             'compile it on its own and include its header')
    if source.room not in LOWER:
        return None
    room = target.split('/')[0]
    if room == source.room or room in LOWER[source.room]:
        return None
    allowed = ', '.join(sorted(LOWER[source.room])) or 'nothing'
    return source.breach(number, f'{source.room}/ includes {path} of {room}/',
                         f'it may include {allowed}: move what it needs down, or return a value')


def public_breach(source, number, path, quoted, target):
    """A public header brings only whorl's own and the system's."""
    if source.room != 'include':
        return None
    if quoted:
        return source.breach(number, f'a public header includes "{path}" in quotes',
                             'include <whorl/...>, as users do')
    if target is None and re.match(r'(liburing|jemalloc|valgrind|sanitizer|catch2)\b', path):
        return source.breach(number, f'a public header includes <{path}>',
                             'users need not have it: keep it behind the library')
    return None


def check_includes(sources):
    known = {source.path for source in sources}
    graph = {}
    for source in sources:
        graph[source.path] = edges = []
        for number, path, quoted in includes(source):
            target = resolve(source, path, quoted, known)
            found = public_breach(source, number, path, quoted, target)
            if not found and target:
                found = include_breach(source, number, path, target)
            if found:
                yield found
            if target:
                edges.append((number, target))
        if source.is_c and source.room and source.room not in LOWER.keys() | ABOVE_ALL:
            yield source.breach(1, f'the room {source.room}/ is not in the table of rooms',
                                'add it to LOWER in tools/style.py, with what it may include')
    yield from cycles(graph)


def cycles(graph):
    """One breach for each include that closes a circle."""
    done, path = set(), []

    def walk(file):
        path.append(file)
        for number, target in graph[file]:
            if target in path:
                circle = path[path.index(target):] + [target]
                yield Breach(file, number, 'a circle of includes: ' + ' -> '.join(circle),
                             'move what both need into a third')
            elif target not in done:
                yield from walk(target)
        path.pop()
        done.add(file)

    for file in sorted(graph):
        if file not in done:
            yield from walk(file)


# ---------------------------------------------------------------------------- all of it

RULES = [rule_layout, rule_length, rule_undone, rule_machine, rule_head, rule_names,
         rule_orderings, rule_no_sleep, rule_public_comments]


def is_source(path):
    name = os.path.basename(path)
    kinds = C_KINDS | SCRIPT_KINDS | MODEL_KINDS | {'.md'}
    return os.path.splitext(name)[1] in kinds or name in ('meson.build', 'meson_options.txt', 'dev')


def paths(root):
    """The checkout's files, new ones too; ignored and deleted ones not."""
    try:
        listed = subprocess.run(['git', '-C', root, 'ls-files', '-co', '--exclude-standard', '-z'],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        found = {os.fsdecode(name) for name in listed.stdout.split(b'\0') if name}
    except (OSError, subprocess.CalledProcessError):
        found = set(walked(root))
    return sorted(p for p in found if is_source(p) and os.path.isfile(os.path.join(root, p)))


def walked(root):
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith('build')]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def check(root):
    """All breaches under root, in the order of files and lines."""
    sources = []
    for path in paths(root):
        with open(os.path.join(root, path), encoding='utf-8') as file:
            sources.append(Source(path, file.read()))
    found = [breach for source in sources for rule in RULES for breach in rule(source)]
    found += check_includes(sources)
    return len(sources), sorted(found, key=lambda b: (b.path, b.line, b.what))


def main(arguments):
    if len(arguments) > 1:
        print(__doc__.split('\n\n')[1].strip(), file=sys.stderr)
        return 2
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    count, found = check(arguments[0] if arguments else here)
    for breach in found:
        print(breach)
    if not count:
        print('style: no sources found; is this the checkout?', file=sys.stderr)
        return 2
    print(f'style: {count} files, {len(found)} breaches' if found else f'style: {count} files, ok')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
