#!/bin/sh
# Mounts kcmfs and shows what is to be seen: run.sh [MOUNTPOINT]
# `make run` calls it after building; it needs root.
# Where the host has a KCM daemon it shows that one's caches.  Where there is
# none kcmfs becomes one, so that KCM: and FILE: clients share its caches.
set -eu

mnt=${1:-/run/kcmfs}
here=$(cd "$(dirname "$0")" && pwd)
bin=${KCMFS_BUILD:-$(dirname "$here")/build}

die() {
    echo "run.sh: $*" >&2
    exit 1
}

for program in kcmfs kcmls kcmsocket; do
    [ -x "$bin/$program" ] || die "$bin/$program is not built: run make"
done
[ "$(id -u)" -eq 0 ] ||
    die "this mounts for all users, which takes root: sudo make run
(a mount of your own: mkdir -p ~/kcm && $bin/kcmfs ~/kcm)"
[ -e /dev/fuse ] ||
    die "there is no /dev/fuse: load the kernel module (modprobe fuse);
a container needs --device /dev/fuse --cap-add SYS_ADMIN"

has_mount() {
    awk -v m="$mnt" '$2 == m && $3 == "fuse.kcmfs" { f = 1 } END { exit !f }' \
        /proc/mounts
}

is_mounted() {
    has_mount && ls "$mnt" >/dev/null 2>&1
}

mount_it() {
    socket=$("$bin/kcmsocket") || [ $? -eq 1 ] ||
        die "the Kerberos configuration cannot be read (see above)"
    if [ -z "$socket" ]; then
        echo "krb5.conf names no KCM socket: kcmfs keeps caches for FILE: alone."
        set -- --embedded
    elif "$bin/kcmls" "$socket" >/dev/null 2>&1; then
        echo "A KCM daemon answers at $socket: kcmfs shows its caches."
        set -- kcm
    else
        echo "No KCM daemon answers at $socket: kcmfs keeps the caches itself"
        echo "and listens there, so KRB5CCNAME=KCM: works as well."
        mkdir -p "$(dirname "$socket")"
        set -- --embedded --kcm-socket="$socket"
    fi
    # kcmfs cleans a dead mount up, on which mkdir would fail.
    has_mount || mkdir -p "$mnt"
    "$bin/kcmfs" "$@" "$mnt" ||
        die "kcmfs could not mount (see above); a container needs
--device /dev/fuse --cap-add SYS_ADMIN, and a security profile that lets it
mount"
}

case $mnt in
/*) ;;
*) mnt=$PWD/$mnt ;;
esac
if is_mounted; then
    echo "kcmfs is mounted on $mnt already."
else
    mount_it
fi

echo
echo "\$ ls -la $mnt"
ls -la "$mnt"
echo
echo "\$ cat $mnt/.kcmfs/status"
cat "$mnt/.kcmfs/status"
cat <<END

Try, as any user:
  KRB5CCNAME=FILE:$mnt/default/cache kinit USER@REALM
  klist -c FILE:$mnt/default/cache
  cat $mnt/default/info
  KRB5CCNAME=KCM: klist        the same tickets through KCM, if it is set up
To end it: umount $mnt
END
