#!/bin/sh
# What:  a command in a container that sees your tickets, and no KCM socket.
# Why:   one directory replaces the socket, its protocol and a copied cache.
# How:   run.sh COMMAND...   (podman: -v /run/kcmfs:/run/kcmfs -e KRB5CCNAME=...)
set -eu
export KRB5CCNAME=FILE:/run/kcmfs/default/cache
# A user namespace in which you are root, as rootless podman makes it; /run is
# empty there but for the mount.
exec unshare --user --map-root-user --mount --pid --fork sh -euc '
    hold=$(mktemp -d)
    mount --rbind /run/kcmfs "$hold"
    mount -t tmpfs tmpfs /run
    mkdir /run/kcmfs
    mount --rbind "$hold" /run/kcmfs
    umount -l "$hold"
    rmdir "$hold"
    exec "$@"' sh "$@"
