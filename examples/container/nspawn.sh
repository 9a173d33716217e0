#!/bin/sh
# What:  a command, or a whole system (--boot), in a systemd-nspawn container
#        that sees the tickets of its host's users, and no KCM socket.
# Why:   one bind mount serves every user inside with their own tickets.
# How:   nspawn.sh DIRECTORY [options of systemd-nspawn] COMMAND...  (as root)
#        Without --private-users=: uids inside are those of the host.
set -eu
directory=$1
shift
exec systemd-nspawn --quiet --directory="$directory" \
    --bind="${MOUNT:-/run/kcmfs}:/run/kcmfs" \
    --setenv=KRB5CCNAME=FILE:/run/kcmfs/default/cache "$@"
