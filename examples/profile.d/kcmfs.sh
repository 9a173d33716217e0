# shellcheck shell=sh
# What:  programs of login shells find your tickets where kcmfs is mounted.
# Why:   Java, Hadoop and many more read KRB5CCNAME, but no KCM: in it.
# How:   cp kcmfs.sh /etc/profile.d/
kcmfs_cache=/run/kcmfs/default/cache
# MIT, Heimdal and Java understand both spellings of KRB5CCNAME; impacket and
# its relatives the bare path alone: KCMFS_SPELLING=bare before this is read.
if [ -d /run/kcmfs/.kcmfs ] && [ -z "${KRB5CCNAME:-}" ]; then
    case ${KCMFS_SPELLING:-FILE} in
    bare) KRB5CCNAME=$kcmfs_cache ;;
    *) KRB5CCNAME=FILE:$kcmfs_cache ;;
    esac
    export KRB5CCNAME
fi
unset kcmfs_cache
