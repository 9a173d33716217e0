#!/bin/sh
# What:  what many cron jobs do: copy the user's cache, then work with it.
# Why:   it goes wrong: the copy expires, stays behind, and lies on a disk.
# How:   compare it with after.sh
set -eu
copy=$(mktemp "${TMPDIR:-/tmp}/krb5cc_job.XXXXXX")
trap 'rm -f "$copy"' EXIT
cp /run/kcmfs/default/cache "$copy"
KRB5CCNAME=FILE:$copy "$@"
