#!/bin/sh
# What:  a command in a podman container that sees your tickets, no KCM socket.
# Why:   one directory replaces the socket, its protocol and a copied cache.
# How:   podman.sh IMAGE COMMAND...      (also --rootfs DIRECTORY COMMAND...)
#        As a user you are root in the container, and that is you out here.
#        As root, say whose tickets: KCM_UID=1000 podman.sh IMAGE COMMAND...
#        PODMAN_ARGS are options of podman and MOUNT is where kcmfs is
#        mounted, if that is not /run/kcmfs.
set -eu
mount=${MOUNT:-/run/kcmfs}
[ -z "${KCM_UID-}" ] || set -- --user "$KCM_UID:$KCM_UID" "$@"
# No ",Z" or ",z": these files cannot be relabelled.
exec podman ${PODMAN_ARGS-} run --rm \
    --mount "type=bind,src=$mount,dst=/run/kcmfs" \
    --env KRB5CCNAME=FILE:/run/kcmfs/default/cache ${RUN_ARGS-} "$@"
