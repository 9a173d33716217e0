#!/bin/sh
# What:  a cron job with a cache of its own in KCM, from a keytab.
# Why:   by-name/<uid>.cron is the same path for ever; nothing is on a disk.
# How:   KEYTAB=FILE PRINCIPAL=NAME job.sh COMMAND...   (see crontab)
set -eu
cache=/run/kcmfs/by-name/$(id -u).cron
[ -d "$cache" ] || mkdir "$cache"
export KRB5CCNAME=FILE:"$cache"/cache
# -H 60: a ticket that is good for an hour more is not asked for again.
k5start -q -H 60 -f "$KEYTAB" -k "$KRB5CCNAME" "$PRINCIPAL"
exec "$@"
