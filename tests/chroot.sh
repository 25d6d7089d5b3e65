#!/usr/bin/env bash
#
# chroot: a newcomer's two commands on a clean Debian. Bootstraps the release into a folder under
# ${TMPDIR:-/tmp}, puts a clone of this checkout in it, and runs ./dev demo and ./dev test there.
#
#     tests/chroot.sh [12|13] [--worktree] [--shell COMMAND] [--keep] [--fresh] [--base-only]
#                     [--limit SECONDS] [--mirror URI]
#
#     --worktree   the working tree as it stands instead of a clone of what is committed
#     --shell      run COMMAND (by bash -c, in the checkout) instead of the two
#     --keep       leave the folder for a look; without it, it is removed
#     --fresh      bootstrap again instead of using the base kept from an earlier run
#     --base-only  stop when the base is there
#     --limit      for the whole command inside; 2400 unless given
#     --mirror     of Debian; otherwise the one that this machine's apt uses
#
# Needs root. All mounts and processes live in namespaces of their own, which end with the command:
# nothing stays mounted, and removing the folder cannot reach the machine's own files.

set -euo pipefail
cd -- "$(dirname -- "$(readlink -f -- "$0")")/.."

say() { printf 'chroot: %s\n' "$*"; }
die() { printf 'chroot: %s\n' "$*" >&2; exit 1; }

release=12 worktree='' keep='' fresh='' base_only='' limit=2400 mirror=''
command='./dev demo && ./dev test'
while [ $# -gt 0 ]; do
    case $1 in
    12 | 13) release=$1 ;;
    --worktree) worktree=1 ;;
    --keep) keep=1 ;;
    --fresh) fresh=1 ;;
    --base-only) base_only=1 ;;
    --shell | --limit | --mirror)
        [ $# -gt 1 ] || die "$1 needs an argument"
        case $1 in
        --shell) command=$2 ;;
        --limit) limit=$2 ;;
        --mirror) mirror=$2 ;;
        esac
        shift ;;
    *) die "unknown argument: $1" ;;
    esac
    shift
done
case $release in 12) codename=bookworm ;; 13) codename=trixie ;; esac

[ "$(id -u)" -eq 0 ] || die "must be root (it mounts and changes root)"
tools/setup.sh chroot

umask 022
tmp=${TMPDIR:-/tmp}
base=$tmp/whorl-debian-$release.tar.gz
root=$(mktemp -d "$tmp/whorl-chroot-$release.XXXXXX")
chmod 755 "$root"

inside_pid=''
# shellcheck disable=SC2317  # the trap calls it
finish() {
    # unshare ignores TERM while it waits; at its death the kernel ends everything inside.
    [ -z "$inside_pid" ] || kill -KILL "$inside_pid" 2>/dev/null || true
    if [ -n "$keep" ]; then
        say "kept: $root"
    else
        rm -rf --one-file-system "$root" || { sleep 1; rm -rf --one-file-system "$root"; }
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ -n "$fresh" ] || [ ! -s "$base" ]; then
    [ -n "$mirror" ] || mirror=$(tools/setup.sh --mirror)
    say "bootstrapping Debian $release ($codename)"
    timeout 900 unshare --mount --propagation private \
        debootstrap --variant=minbase --include=git,ca-certificates "$codename" "$root" "$mirror" \
        >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; die "debootstrap failed: $root.log"; }
    rm -f "$root.log"
    rm -f "$root"/var/cache/apt/archives/*.deb
    tar -C "$root" -cf - . | gzip -1 >"$base.new"
    mv "$base.new" "$base"
    say "base kept in $base ($(du -h "$base" | cut -f 1))"
else
    [ -n "$base_only" ] || tar -C "$root" -xzf "$base"
fi
[ -z "$base_only" ] || exit 0

# Names are resolved as this machine does it.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
mkdir -p "$root/root/whorl"
if [ -n "$worktree" ]; then
    git ls-files -z -co --exclude-standard | while IFS= read -r -d '' f; do
        [ ! -e "$f" ] || printf '%s\0' "$f"
    done | tar --null -T - -cf - | tar -C "$root/root/whorl" --no-same-owner -xf -
    git -C "$root/root/whorl" init -q
else
    git clone -q --no-hardlinks . "$root/root/whorl"
fi

# inside: runs in the namespaces; $1 root, $2 seconds, $3 command
# shellcheck disable=SC2016  # expanded there, not here
inside='
    set -eu
    mount -t proc proc "$1/proc"
    mount --rbind /sys "$1/sys"
    mount --rbind /dev "$1/dev"
    exec timeout --foreground --kill-after=30 "$2" env -i HOME=/root USER=root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        chroot "$1" bash -c "cd /root/whorl; $3"
'
say "Debian $release: $command"
began=$SECONDS status=0
unshare --mount --propagation private --pid --fork --kill-child \
    bash -c "$inside" inside "$root" "$limit" "$command" </dev/null &
inside_pid=$!
wait $inside_pid || status=$?
inside_pid=''
case $status in
0) say "Debian $release: passed in $((SECONDS - began)) s" ;;
124 | 137) say "Debian $release: ran past $limit s" ;;
*) say "Debian $release: failed with status $status after $((SECONDS - began)) s" ;;
esac
exit $status
