#!/bin/sh
# What:  a command in a sandbox (bubblewrap) that sees tickets of yours: all
#        of them, one cache, or one file; to use only, or to add to as well.
# Why:   a program that needs one ticket need not be given your KCM socket,
#        by which it could take, replace and destroy all of them.
# How:   sandbox.sh [-w] [-k krb5.conf] [-m MOUNT] [PATH] -- COMMAND...
#          -w             writable (else every change answers EROFS)
#          -k krb5.conf   what the inside has for /etc/krb5.conf (else none)
#          -m MOUNT       where kcmfs is mounted (else /run/kcmfs)
#          PATH           of a cache's directory or file below MOUNT
#                         (else the whole tree)
#        KRB5CCNAME inside is FILE:/tickets, or a cache in that directory.
set -eu
bind=--ro-bind mount=/run/kcmfs config=
while getopts wk:m: option; do
    case $option in
    w) bind=--bind ;;
    k) config=$OPTARG ;;
    m) mount=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
# getopts has taken a "--" that follows at once
what=$mount
case ${1-} in
"$mount"/*)
    what=$1
    shift
    ;;
esac
[ "${1-}" != -- ] || shift

if [ -f "$what" ]; then
    name=FILE:/tickets
elif [ -f "$what/cache" ]; then
    name=FILE:/tickets/cache
else
    name=FILE:/tickets/default/cache
fi
set -- --setenv KRB5CCNAME "$name" -- "$@"
[ -z "$config" ] || set -- --ro-bind "$config" /etc/krb5.conf "$@"

exec bwrap --unshare-user --unshare-pid --unshare-ipc --unshare-uts \
    --die-with-parent --new-session --clearenv \
    --setenv PATH /usr/bin:/bin --setenv HOME /tmp \
    --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/sbin /sbin \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
    --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache \
    --proc /proc --dev /dev --tmpfs /tmp --tmpfs /run \
    "$bind" "$what" /tickets "$@"
