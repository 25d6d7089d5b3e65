#!/usr/bin/env bash
#
# gdb_test: gdb, stopped in a coroutine, shows its calls from the innermost to context_entry and
# stops there without complaint.
#
#     gdb_test.sh GDB PROGRAM
#
# PROGRAM: gdb_victim.c. Exits 77 (skipped) without gdb, or where it may not trace.

set -euo pipefail

gdb=$1 program=$2
if [ -z "$gdb" ]; then
    echo 'skipped: no gdb'
    exit 77
fi

# A leak check cannot run in a traced process.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
said=$(timeout 120 "$gdb" -nx -batch -ex 'set startup-with-shell off' -ex 'set pagination off' \
    -ex 'set width 0' -ex 'set print frame-arguments none' \
    -ex 'break stop_here' -ex run -ex bt -ex 'echo END\n' -ex delete -ex continue \
    "$program" 2>&1 </dev/null) || true
echo "$said"
case $said in
*'ould not trace the inferior'* | *'ptrace: Operation not permitted'*)
    echo 'skipped: tracing is not allowed here'
    exit 77 ;;
esac

# The names of the frames, innermost first.
frames=$(printf '%s\n' "$said" | sed -n '/^#0 /,/^END/p' |
    sed -nE 's/^#[0-9]+ +(0x[0-9a-f]+ in )?([A-Za-z_0-9]+).*/\2/p' | tr '\n' ' ')
expected='stop_here descend descend descend descend victim context_main context_entry '
failed=0
if [ "$frames" != "$expected" ]; then
    echo "frames:   $frames"
    echo "expected: $expected"
    failed=1
fi
for bad in 'corrupt stack' 'Backtrace stopped' 'previous frame inner' 'Cannot access memory'; do
    case $said in *"$bad"*) echo "gdb said: $bad"; failed=1 ;; esac
done
case $said in
*'ended with 0'*) ;;
*) echo 'the program did not end as it should after the breakpoint'; failed=1 ;;
esac
exit $failed
