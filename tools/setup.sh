#!/usr/bin/env bash
#
# setup: install what building, testing and checking whorl needs, and only what is missing.
#
#     tools/setup.sh [GROUP...]     build suite demo test check bench chroot; none named: all but
#                                   the last two
#     tools/setup.sh --list         the table of needs, with what is missing
#     tools/setup.sh --mirror       the Debian archive this machine already uses
#
# The idea: one table of needs. A need is a probe (a command, a pkg-config module, a file) and the
# package that brings it on each family of systems. Nothing missing: silent, a few milliseconds, no
# package manager touched. Something missing: on Debian it is installed with apt, elsewhere its
# name is printed.
#
# Debian 12 carries a liburing that is too old and no llhttp. Both come from Debian 13, which is
# added as a source where every package has a negative priority (apt never chooses it), but for
# the few named in LIFTED; Catch2 v3 comes from 12's own backports. The address is never written
# here: it is taken from the Debian source which the machine already uses. Before anything is
# installed the run is simulated, and refused if a package outside LIFTED would come from the newer
# release: the C library of a user's machine is not ours to replace.

set -euo pipefail

LLVM=19          # one clang-format and clang-tidy everywhere: both Debian 12 and 13 carry it
OLD=bookworm     # the release that lacks something ...
NEW=trixie       # ... and the one that has it
OLD_ID=12
NEW_ID=13
LIFTED='liburing2 liburing-dev libllhttp-dev libllhttp9.2'
BACKPORTED='libcatch2-dev catch2'
KEYRING_MIN='2023.3+deb12u2'    # the first debian-archive-keyring of Debian 12 with 13's keys

SOURCE=/etc/apt/sources.list.d/whorl-newer    # .sources or .list, like the one it is copied from
PREFS=/etc/apt/preferences.d/whorl-newer

# group, probe, and the package on Debian, Fedora and Arch ("-": that system has none, and does
# without; in brackets: from where, when not from the system itself). suite: to compile the tests.
# Probes: cmd:NAME, pc:MODULE[>=VERSION], file:PATH, llvm:TOOL, gcclib:NAME (gcc's own library).
NEEDS="
build   cmd:gcc                         build-essential         gcc                     gcc
build   cmd:pkg-config                  pkg-config              pkgconf-pkg-config      pkgconf
build   cmd:meson                       meson                   meson                   meson
build   cmd:ninja                       ninja-build             ninja-build             ninja
build   cmd:python3                     python3                 python3                 python
build   pc:liburing>=2.9                liburing-dev            liburing-devel          liburing
build   pc:jemalloc                     libjemalloc-dev         jemalloc-devel          jemalloc
build   pc:libcares>=1.18               libc-ares-dev           c-ares-devel            c-ares
build   pc:libllhttp                    libllhttp-dev           llhttp-devel            llhttp
build   file:/usr/include/uthash.h      uthash-dev              uthash-devel            uthash
build   pc:libxxhash>=0.8               libxxhash-dev           xxhash-devel            xxhash
build   pc:libpng>=1.6                  libpng-dev              libpng-devel            libpng
suite   cmd:g++                         build-essential         gcc-c++                 gcc
suite   pc:catch2-with-main>=3          libcatch2-dev           catch-devel             catch2
demo    cmd:wrk                         wrk                     wrk(COPR)               wrk(AUR)
demo    cmd:curl                        curl                    curl                    curl
test    cmd:git                         git                     git                     git
test    cmd:gdb                         gdb                     gdb                     gdb
test    cmd:strace                      strace                  strace                  strace
test    cmd:valgrind                    valgrind                valgrind                valgrind
test    cmd:nc                          netcat-openbsd          nmap-ncat               openbsd-netcat
test    cmd:socat                       socat                   socat                   socat
test    cmd:redis-cli                   redis-tools             valkey-compat-redis     valkey
test    cmd:redis-benchmark             redis-tools             valkey-compat-redis     valkey
test    cmd:h2load                      nghttp2-client          nghttp2                 nghttp2
test    cmd:slowhttptest                slowhttptest            -                       slowhttptest(AUR)
test    cmd:tc                          iproute2                iproute-tc              iproute2
test    cmd:spin                        spin                    -                       spin(AUR)
test    gcclib:libasan.so               build-essential         libasan                 gcc
test    gcclib:libubsan.so              build-essential         libubsan                gcc
cross   cmd:aarch64-linux-gnu-gcc       gcc-aarch64-linux-gnu   gcc-aarch64-linux-gnu   aarch64-linux-gnu-gcc
cross   file:/usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross -             aarch64-linux-gnu-glibc
cross   cmd:qemu-aarch64                qemu-user               qemu-user               qemu-user
check   cmd:git                         git                     git                     git
check   llvm:clang-format               clang-format-$LLVM      clang-tools-extra       clang
check   llvm:clang-tidy                 clang-tidy-$LLVM        clang-tools-extra       clang
check   cmd:shellcheck                  shellcheck              ShellCheck              shellcheck
bench   cmd:wrk                         wrk                     wrk(COPR)               wrk(AUR)
bench   cmd:redis-benchmark             redis-tools             valkey-compat-redis     valkey
bench   cmd:socat                       socat                   socat                   socat
bench   cmd:gnuplot                     gnuplot-nox             gnuplot-minimal         gnuplot
chroot  cmd:debootstrap                 debootstrap             debootstrap             debootstrap
"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------------------- what is missing

# is_present PROBE
is_present() {
    local kind=${1%%:*} what=${1#*:} lib
    case $kind in
    cmd) command -v "$what" >/dev/null ;;
    file) [ -e "$what" ] ;;
    pc) command -v pkg-config >/dev/null && pkg-config --exists "${what/>=/ >= }" 2>/dev/null ;;
    llvm)
        command -v "$what-$LLVM" >/dev/null || {
            command -v "$what" >/dev/null &&
                [ "$("$what" --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p' | head -1)" -ge $LLVM ]
        } 2>/dev/null ;;
    gcclib)
        # gcc answers with the bare name when it has no such file
        lib=$(gcc -print-file-name="$what" 2>/dev/null) && [ "$lib" != "$what" ] && [ -n "$lib" ] ;;
    *) die "the table has an unknown probe: $1" ;;
    esac
}

# missing COLUMN GROUP...: what the groups lack, a package a line (column 3 Debian, 4 Fedora, 5 Arch)
missing() {
    local column=$1 group probe row
    shift
    while read -r -a row; do
        [ ${#row[@]} -gt 0 ] || continue
        group=${row[0]} probe=${row[1]}
        [[ " $* " == *" $group "* ]] || continue
        is_present "$probe" || printf '%s\n' "${row[column - 1]}"
    done <<<"$NEEDS" | sort -u
}

list() {
    local row state
    while read -r -a row; do
        [ ${#row[@]} -gt 0 ] || continue
        if is_present "${row[1]}"; then state=present; else state=MISSING; fi
        printf '%-8s %-8s %-42s %s\n' "$state" "${row[0]}" "${row[1]}" "${row[2]}"
    done <<<"$NEEDS"
}

# ---------------------------------------------------------------------------- the Debian archive

# archive_uris CODENAME [ORIGIN]: where apt has found Debian's own release of that name. apt has
# verified the origin, so a third party's repository whose suite has the same name does not match.
archive_uris() {
    local origin=${2:-Debian}
    # shellcheck disable=SC2016  # apt's own placeholder, not the shell's
    apt-get indextargets 'Created-By: Packages' "Origin: $origin" "Label: $origin" \
        "Codename: $1" --format '$(REPO_URI)' 2>/dev/null | sort -u
}

# source_of URI SUITES: the machine's own source entry for that archive, rewritten to name SUITES.
# Keys, proxies and options of the entry are kept as they are. Prints "sources" or "list" (the
# format) on the first line, then the entry.
source_of() {
    local uri=${1%/} suites=$2 f
    for f in /etc/apt/sources.list.d/*.sources; do
        [ -e "$f" ] || continue
        # A stanza is a paragraph; a line that starts with a blank continues the field before it.
        grep -v '^#' "$f" | awk -v RS= -v uri="$uri" -v suites="$suites" '
            {
                n = split($0, line, "\n"); name = ""; out = ""
                split("", value)
                for (i = 1; i <= n; i++) {
                    if (line[i] !~ /^[ \t]/) { name = tolower(line[i]); sub(/:.*/, "", name) }
                    text = line[i]
                    if (text !~ /^[ \t]/) sub(/^[^:]*:/, "", text)
                    value[name] = value[name] " " text
                    if (name !~ /^(types|suites|components|enabled|x-.*)$/) out = out line[i] "\n"
                }
                if (value["enabled"] ~ /no|false|0/) next
                if (value["types"] !~ /(^| )deb( |$)/) next
                found = 0; n = split(value["uris"], u, /[ \t]+/)
                for (i = 1; i <= n; i++) { sub(/\/$/, "", u[i]); if (u[i] == uri) found = 1 }
                if (!found) next
                printf "sources\nTypes: deb\nSuites: %s\nComponents: main\n%s", suites, out
                exit
            }' | grep . && return 0
    done
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$f" ] || continue
        awk -v uri="$uri" -v suites="$suites" '
            $1 == "deb" {
                options = ""; rest = $0; sub(/^[ \t]*deb[ \t]+/, "", rest)
                if (rest ~ /^\[/) {
                    options = rest; sub(/\].*/, "] ", options); sub(/^\[[^]]*\][ \t]*/, "", rest)
                }
                split(rest, word, /[ \t]+/); here = word[1]; sub(/\/$/, "", here)
                if (here != uri) next
                print "list"
                n = split(suites, s, " ")
                for (i = 1; i <= n; i++) print "deb " options word[1] " " s[i] " main"
                exit
            }' "$f" | grep . && return 0
    done
    return 1
}

# mirror: one plain URI of the Debian archive in use, for debootstrap
mirror() {
    local codename uri
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    uri=$(archive_uris "${codename:-sid}" | head -1)
    [ -n "$uri" ] || die "apt knows no Debian archive here (run apt-get update first)"
    uri=${uri%/}
    case $uri in
    mirror+file:*) uri=$(grep -m1 -oE '^[a-z]+://[^[:space:]]+' "${uri#mirror+file:}") ;;
    esac
    printf '%s\n' "${uri%/}"
}

# has_release CODENAME [ORIGIN]: apt already reads this release of Debian, from whatever entry
has_release() { [ -n "$(archive_uris "$@")" ]; }

# add_newer: the newer release as a source nothing is taken from, but for what is named
add_newer() {
    local uri entry suites='' format
    has_release $NEW || suites=$NEW
    has_release $OLD-backports 'Debian Backports' || suites="${suites:+$suites }$OLD-backports"
    if [ -n "$suites" ]; then
        uri=$(archive_uris $OLD | head -1)
        [ -n "$uri" ] || die "apt knows no Debian $OLD archive here; cannot tell where $suites would be"
        entry=$(source_of "$uri" "$suites") ||
            die "no entry for $uri in /etc/apt; add $suites beside it and run this again"
        if dpkg --compare-versions "$(dpkg-query -W -f '${Version}' debian-archive-keyring \
            2>/dev/null || echo 0)" lt "$KEYRING_MIN"; then
            say "upgrading debian-archive-keyring, which lacks the keys of $NEW"
            apt_quiet install debian-archive-keyring ||
                die "debian-archive-keyring >= $KEYRING_MIN is needed ($OLD-updates has it)"
        fi
        format=${entry%%$'\n'*}
        say "adding $suites as a source ($SOURCE.$format), pinned down but for: $LIFTED $BACKPORTED"
        # A keyring of one release only would not know the other.
        printf '# Written by tools/setup.sh of whorl; see %s\n%s\n' "$PREFS" "${entry#*$'\n'}" |
            sed -E 's#/debian-archive-[a-z]+-[a-z-]+\.gpg#/debian-archive-keyring.gpg#g' \
                >"$SOURCE.$format"
    fi
    {
        printf '# Written by tools/setup.sh of whorl.\n'
        if [[ " $suites " == *" $NEW "* ]] || grep -qs "^# all of $NEW" $PREFS; then
            printf '# all of %s: never, whatever else asks for it\n' $NEW
            printf 'Package: *\nPin: release o=Debian,n=%s\nPin-Priority: -10\n\n' $NEW
        fi
        printf 'Package: %s\nPin: release o=Debian,n=%s\nPin-Priority: 990\n\n' "$LIFTED" $NEW
        printf 'Package: %s\nPin: release n=%s-backports\nPin-Priority: 990\n' \
            "$BACKPORTED" $OLD
    } >$PREFS.new
    mv $PREFS.new $PREFS
    [ -n "$suites" ] || return 0
    apt_update
    if ! has_release $NEW || ! has_release $OLD-backports 'Debian Backports'; then
        rm -f "$SOURCE.$format" $PREFS
        grep -E '^(E|W|Err)' "$log" | tail -5 >&2
        die "cannot read $suites from $uri (source removed again): either that mirror lacks it," \
            "or apt lacks its key (debian-archive-keyring >= $KEYRING_MIN, in $OLD-updates, has it)"
    fi
}

# ---------------------------------------------------------------------------- apt

log=''      # of this run; goes away with it, but for a failed install's
trap 'rm -f "$log"' EXIT

# apt_quiet COMMAND...: apt-get with its chatter in the log
apt_quiet() {
    [ -n "$log" ] || log=$(mktemp "${TMPDIR:-/tmp}/whorl-setup.XXXXXX")
    DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}

# A third party's source may be broken: what matters is what apt can offer afterwards.
apt_update() {
    apt_quiet update || say "apt-get update had errors; going on with what it could read"
}

# simulate PACKAGE...: print how many packages apt would install; refuse a run that removes one, or
# that takes more from the newer release than is lifted
simulate() {
    local plan strange=''
    plan=$(DEBIAN_FRONTEND=noninteractive apt-get -s --no-install-recommends install "$@" 2>&1) || {
        printf '%s\n' "$plan" >&2
        die "apt cannot install: $*"
    }
    # "Inst NAME [OLD] (VERSION Debian:12.1/oldstable, Debian:13.1/stable [amd64])": a version that
    # both releases have is the old one's.
    [ "$VERSION_ID" != $OLD_ID ] ||
        strange=$(printf '%s\n' "$plan" |
            awk -v old="Debian:$OLD_ID" -v new="Debian:$NEW_ID" -v ok=" $LIFTED " '
            $1 == "Inst" && index($0, new) && !index($0, old) && !index(ok, " " $2 " ") {
                printf "%s ", $2
            }')
    [ -z "$strange" ] ||
        die "refusing: this would take ${strange}from $NEW, and only $LIFTED may come from there"
    if printf '%s\n' "$plan" | grep -q '^Remv'; then
        printf '%s\n' "$plan" | grep '^Remv' >&2
        die "refusing: apt would remove packages; install by hand: $*"
    fi
    printf '%s\n' "$plan" | grep -c '^Inst' || true
}

# install_debian PACKAGE...
install_debian() {
    local i count packages=("$@")
    local began=$SECONDS
    say "missing: ${packages[*]}"
    say "reading the package lists"
    apt_update
    if [ "$VERSION_ID" = $OLD_ID ] &&
        [[ " ${packages[*]} " =~ \ (liburing-dev|libllhttp-dev|libcatch2-dev)\  ]]; then
        add_newer
    fi
    # A release after 13 may have dropped this LLVM: its default one then.
    for i in "${!packages[@]}"; do
        case ${packages[i]} in
        clang-*-$LLVM)
            apt-cache show "${packages[i]}" >/dev/null 2>&1 || packages[i]=${packages[i]%-"$LLVM"} ;;
        esac
    done
    count=$(simulate "${packages[@]}") || exit 1
    say "installing ${packages[*]} ($count packages with what they depend on)"
    apt_quiet install "${packages[@]}" || {
        tail -30 "$log" >&2
        local kept=$log
        log=''
        die "apt-get install failed; the whole log is $kept"
    }
    say "done in $((SECONDS - began)) s"
}

# ---------------------------------------------------------------------------- main

# other_system GROUP...: not ours to install; say what would
other_system() {
    local column need
    case " $ID ${ID_LIKE:-} " in
    *\ fedora\ * | *\ rhel\ *) column=4 ;;
    *\ arch\ *) column=5 ;;
    *) column=3 ;;
    esac
    need=$(missing $column "$@" | grep -vx -e - | tr '\n' ' ')
    [ -n "$need" ] || return 0
    {
        printf 'setup: installs by itself on Debian 12 and newer only; missing here:\n'
        case $column in
        3) printf '    %s(named as Debian 13 names them)\n' "$need"
           printf '    Fedora: %s\n' "$(missing 4 "$@" | grep -vx -e - | tr '\n' ' ')"
           printf '    Arch:   %s\n' "$(missing 5 "$@" | grep -vx -e - | tr '\n' ' ')" ;;
        4) printf '    dnf install %s\n' "$need" ;;
        5) printf '    pacman -S %s\n' "$need" ;;
        esac
        printf 'liburing must be 2.9 or newer, Catch2 3 or newer. tools/setup.sh --list shows each.\n'
    } >&2
    return 1
}

main() {
    local groups=() g need
    for g in "$@"; do
        case $g in
        --list) list; return ;;
        --mirror) mirror; return ;;
        build | suite | demo | check | bench | chroot) groups+=("$g") ;;
        test)
            groups+=(test)
            # On aarch64 itself the native build is the test of that switch.
            [ "$(uname -m)" = aarch64 ] || groups+=(cross) ;;
        *) die "unknown group: $g (build suite demo test check bench chroot)" ;;
        esac
    done
    [ $# -gt 0 ] || { main build suite demo test check; return; }

    mapfile -t need < <(missing 3 "${groups[@]}")
    [ ${#need[@]} -gt 0 ] || return 0

    ID='' ID_LIKE='' VERSION_ID=''
    # shellcheck source=/dev/null
    [ ! -r /etc/os-release ] || . /etc/os-release
    # testing and sid have no VERSION_ID
    if [ "$ID" != debian ] || [ "${VERSION_ID:-99}" -lt $OLD_ID ]; then
        other_system "${groups[@]}"
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            say "missing: ${need[*]}; asking sudo to install"
            exec sudo -- "$(readlink -f "$0")" "$@"
        fi
        die "missing: ${need[*]}; run as root:  $(readlink -f "$0") $*"
    fi

    install_debian "${need[@]}"
    mapfile -t need < <(missing 3 "${groups[@]}")
    [ ${#need[@]} -eq 0 ] || die "still missing after the install: ${need[*]}"
}

main "$@"
