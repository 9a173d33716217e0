#!/bin/sh
# What:  the same job on the cache itself.
# Why:   renewals reach it while it runs, its service tickets are kept.
# How:   after.sh COMMAND...   (a script that must have a path: the same path)
set -eu
export KRB5CCNAME=FILE:/run/kcmfs/default/cache
exec "$@"
