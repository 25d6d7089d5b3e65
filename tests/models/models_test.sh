#!/usr/bin/env bash
#
# models_test: has spin search all that a model can do.
#
#     models_test.sh MODEL.pml [FOLDER]
#
# The head comment of a model lists its runs, one a line:
#
#     holds [live] [-DNAME...]               no error may be found, and everything be reached
#     fails [live] [-DNAME...] : MESSAGE     an error must be found, and spin's report contain MESSAGE
#
# "live" searches for what goes on for ever and breaks the model's LTL formula, with weak fairness;
# otherwise for assertions that fail and for ends at which somebody still waits. A search that was cut
# off, by depth or by memory, has shown nothing and fails. So does a statement that no run that holds
# comes to: what is never reached is never checked.
#
# FOLDER is where the verifiers are made and run; without it a temporary one.

set -euo pipefail

model=$(readlink -f -- "$1")
name=$(basename "$model" .pml)
made=$(mktemp -d "${2:-${TMPDIR:-/tmp}}/whorl-model-$name.XXXXXX")
trap 'rm -rf "$made"' EXIT

DEPTH_MAX=2000000
MEMORY_MIB_MAX=1000
SECONDS_MAX=120     # a machine may be busy: 30 on one that is not

# explain LIVE DEFINES: the steps that lead to the error; by breadth first, the fewest, where memory allows
explain() {
    if [ "$1" = safe ] && cp "$name.pml.trail" long.trail; then
        rm -f "$name.pml.trail"
        gcc -w -O2 -DSAFETY -DBFS -DCOLLAPSE -DMEMLIM=$MEMORY_MIB_MAX -o shorter pan.c
        timeout $SECONDS_MAX ./shorter >/dev/null 2>&1 || true
        [ -e "$name.pml.trail" ] || mv long.trail "$name.pml.trail"
    fi
    # shellcheck disable=SC2086  # several options
    spin $2 -t -p -g -l "$name.pml" 2>&1 | grep -v -e '^spin: ' -e '(goto' -e '\[goto' | tail -n 400
    grep '^pan:1' report
}

# search LIVE DEFINES OPTIMISED: leaves the report in the file `report`
search() {
    local compile=-DSAFETY arguments=''
    if [ "$1" = live ]; then compile=-DNFAIR=3 arguments='-a -f'; fi
    rm -f pan pan.? "$name.pml.trail"
    # shellcheck disable=SC2086
    spin $2 -a "$name.pml" >spin.log 2>&1 || { cat spin.log; return 1; }
    # shellcheck disable=SC2086
    gcc -w -O"$3" $compile -DCOLLAPSE -DMEMLIM=$MEMORY_MIB_MAX -o pan pan.c
    # shellcheck disable=SC2086
    timeout $SECONDS_MAX ./pan -m$DEPTH_MAX $arguments >report 2>&1 || true
    # An error that was found ends the search, of course.
    if ! grep -q 'errors: [0-9]' report || { grep -q 'errors: 0$' report &&
        grep -qi -e 'max search depth too small' -e 'out of memory' -e 'memory limit' \
            -e 'search not completed' report; }; then
        cat report
        echo "the search was not completed within $SECONDS_MAX s, $MEMORY_MIB_MAX MiB and $DEPTH_MAX steps"
        return 1
    fi
}

# unreached: the statements that the last search did not come to; by their numbers too, because an inline
# stands for many. Runs that hold are therefore to differ in figures, not in statements.
unreached() {
    awk '/^unreached in (proctype|init)/ { on = 1; next }
         /^unreached in claim/ || /^$/ { on = 0 }
         on && !/-end-/ && /, state / { sub(/^[ \t]*/, ""); print }' report | sort -u
}

# run VERDICT LIVE DEFINES MESSAGE
run() {
    local verdict=$1 live=$2 defines=$3 message=$4 optimised=2 errors figures
    # What fails does so soon: compiling takes longer.
    if [ "$verdict" = fails ]; then optimised=0; fi
    search "$live" "$defines" $optimised || return 1
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' report)
    figures=$(awk '/states, stored/ { states = $1 } /elapsed time/ { seconds = $4 }
                   /total actual memory/ { mib = $1 }
                   END { printf "%d states, %.1f s, %d MiB", states, seconds, mib }' report)
    echo "$verdict $live $defines: $figures" | tr -s ' '
    if [ "$verdict" = holds ]; then
        if [ "$errors" -ne 0 ]; then
            explain "$live" "$defines"
            return 1
        fi
        # "live" may have a claim, and so other numbers.
        [ "$live" = safe ] || return 0
        unreached >unreached.new
        if [ -e unreached.all ]; then
            comm -12 unreached.all unreached.new >unreached.both
            mv unreached.both unreached.all
        else
            mv unreached.new unreached.all
        fi
    elif [ "$errors" -eq 0 ]; then
        echo "nothing was found, although the model is broken"
        return 1
    elif ! grep '^pan:1' report | tr -d ' ' | grep -qF -- "$(tr -d ' ' <<<"$message")"; then
        explain "$live" "$defines"
        echo "that is another error than \"$message\""
        return 1
    fi
}

cp "$model" "$made/"
cd "$made"

failed=0 count=0
while read -r verdict words; do
    case $verdict in holds | fails) ;; *) continue ;; esac
    message=''
    if [ "$verdict" = fails ]; then message=${words#*: } words=${words%% : *}; fi
    live=safe
    case " $words " in *' live '*) live=live words=${words/live/} ;; esac
    count=$((count + 1))
    run "$verdict" $live "$words" "$message" || failed=1
done < <(sed -n '/^ \* Runs:/,/^ \*\//s/^ \*   //p' "$name.pml")

if [ $count -eq 0 ]; then
    echo "the head of $name.pml lists no runs"
    failed=1
fi
if [ $failed -eq 0 ] && [ -s unreached.all ]; then
    echo 'never reached:'
    cat unreached.all
    failed=1
fi
exit $failed
