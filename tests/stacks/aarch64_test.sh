#!/usr/bin/env bash
#
# aarch64_test: the other processor. Compiles every C file of the library for it, and the checks of
# the switch, which it runs under qemu, in several ways of compiling.
#
#     aarch64_test.sh COMPILER QEMU SOURCE_ROOT FILE...
#
# FILE: the library's sources. Exits 77 (skipped) where the cross compiler or qemu is missing.

set -euo pipefail

compiler=$1 qemu=$2 root=$3
shift 3
if [ -z "$compiler" ]; then
    echo 'skipped: no aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)'
    exit 77
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/whorl-aarch64.XXXXXX")
trap 'rm -rf "$folder"' EXIT

# -idirafter: liburing's headers are the same for every processor, libc's are not.
flags=(-std=gnu11 -g -Wall -Wextra -Werror -D_GNU_SOURCE -DWHORL_VERSION='"test"' "-I$root"
       "-I$root/include" -isystem "$root/base/compat" -idirafter /usr/include -fstack-clash-protection)
failed=0

for file; do
    case $file in
    *.c)
        "$compiler" "${flags[@]}" -O1 -c "$file" -o "$folder/library.o" || {
            echo "does not compile for aarch64: $file"
            failed=1
        } ;;
    esac
done

if [ -z "$qemu" ]; then
    echo 'compiled only: no qemu-aarch64 to run it with (Debian: qemu-user)'
    [ $failed -eq 0 ] && exit 77
    exit 1
fi

run() {
    echo "== $*"
    "$compiler" "${flags[@]}" "$@" -static -pthread -o "$folder/switching" \
        "$root"/tests/stacks/switching.c "$root"/tests/stacks/switching_main.c \
        "$root"/tests/stacks/registers_aarch64.S "$root"/stacks/switch_aarch64.S "$root"/base/base.c
    timeout 60 "$qemu" "$folder/switching"
}

trap_ub='-fsanitize=undefined -fsanitize-undefined-trap-on-error'
for way in -O0 -O2 '-O3 -march=armv8.2-a+sve' '-O2 -mbranch-protection=standard' "-O1 $trap_ub"; do
    # shellcheck disable=SC2086  # several options
    run $way || failed=1
done
exit $failed
