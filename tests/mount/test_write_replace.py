"""Whole caches replaced: temporary file and rename, truncate and rewrite,
unlink and create again, rename of one cache over another.

[n] in a docstring is the point of file-clients.md, section 11.
"""
import errno
import os

import ccfile
import clients
from harness import ALL, test
from made import made_cache
from util import check, eq, raises
from writing import (FORMS, Subject, append, opened, pieces_of, put,
                     rename_over)

REWRITE = os.O_RDWR | os.O_CREAT | os.O_TRUNC


@test(*ALL)
def temp_and_rename(t):
    """[1] [2] MIT's kinit, by each path form; the principal may differ."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt(), s.ticket())
    for n, form in enumerate(FORMS):
        s.client = ccfile.princ("p%d@EXAMPLE.COM" % n)
        have = [s.tgt(), s.config("k", b"v"), s.ticket()]
        rename_over(s.u, s.path(form), s.cache(*have).bytes())
        s.holds(*have, forms=FORMS)
        eq(s.wire.default(), s.name)
        append(s.u, s.path(form), (more := s.ticket()).bytes())
        s.holds(*have, more, forms=FORMS)


@test(*ALL)
def temporary_files(t):
    """[1] [3] Whatever a client calls it, a temporary file beside the cache
    lives across close, is seen by lstat, chmod, chown, a second open, can be
    unlinked and made again, and never gets into KCM by itself."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    for form, names in (
            ("by-name", ("cache.AbCdEf", "cache_X1y2z3", "cache-123456")),
            ("uuid", ("other", "cache_a")),
            ("krb5cc", ("krb5cc_%d.AbCdEf" % s.u.uid,)),
            ("collection", ("tktw.AbCdEf", "tktw-AbCdEf", "primary.x1",
                            "primary-AbCdEf"))):
        for name in names:
            path = os.path.join(s.dir(form), name)
            put(s.u, path, b"\5\4")
            put(s.u, path, b"\0\0", flags=os.O_WRONLY | os.O_APPEND)
            st = s.u.stat(path)
            eq((st.st_size, st.st_nlink, st.st_uid), (4, 1, s.u.uid), name)
            s.u.call(os.chmod, path, 0o600)
            s.u.call(os.chown, path, s.u.uid, s.u.gid)
            eq(s.u.read(path), b"\5\4\0\0")
            s.u.call(os.unlink, path)
            check(not s.u.exists(path), "%s after unlink", name)
            put(s.u, path, b"again")
            s.u.call(os.unlink, path)
    eq(sorted(s.wire.caches().values()), [s.name])
    s.holds(s.tgt())


@test(*ALL)
def k5start_m(t):
    """[3] Its file operations: mkstemp, close, unlink, O_EXCL, store, chmod,
    rename, unlink."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    have = [s.tgt(), s.ticket()]
    temp = s.path() + "_aBcDeF"
    put(s.u, temp)
    s.u.call(os.unlink, temp)
    put(s.u, temp, s.cache().bytes())
    for cred in have:
        append(s.u, temp, cred.bytes())
    s.u.call(os.chmod, temp, 0o600)
    s.u.call(os.rename, temp, s.path())
    raises(errno.ENOENT, s.u.call, os.unlink, temp)
    s.holds(*have)


@test(*ALL)
def rename_from_another_directory(t):
    """[25] default/ moved between the temporary file and its rename: that
    is another directory's file then, and no EXDEV."""
    m = t.mount()
    u = t.user()
    a, b = Subject(t, m, u, "tkta"), Subject(t, m, u, "tktb")
    a.make(a.tgt())
    b.make(b.tgt())
    want = [b.tgt(), b.ticket()]
    temporary = os.path.join(a.dir(), "cache.AbCdEf")
    put(u, temporary, b.cache(*want).bytes())
    u.call(os.rename, temporary, b.path())
    b.holds(*want)
    a.holds(a.tgt())
    check(not u.exists(temporary), "the temporary file is still there")


@test(*ALL)
def rename_fails_old_stays(t):
    """[2] What cannot be a cache: EINVAL from rename, nothing changed."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket()]
    s.make(*have)
    good = s.cache(*have).bytes()
    for bad in (b"", b"\5", b"\5\4\0\0", good[:-1], good + b"\0", b"\5\5",
                b"plain text", good[:20]):
        temp = s.path() + ".tEmPor"
        put(s.u, temp, bad)
        raises(errno.EINVAL, s.u.call, os.rename, temp, s.path())
        s.holds(*have)
        eq(s.u.read(temp), bad, "the temporary file")
        s.u.call(os.unlink, temp)


@test(*ALL)
def truncate_and_rewrite(t):
    """[22] O_TRUNC: the old content is served until close or fsync."""
    m = t.mount()
    s = Subject(t, m, t.user())
    old = [s.tgt(), s.ticket()]
    s.make(*old)
    for form in FORMS:
        for size in (1 << 20, 700, 1):
            new = [s.tgt(), s.ticket(size=30), s.ticket(size=40)]

            fd = opened(s.u, s.path(form), REWRITE, 0o666)
            for piece in pieces_of(s.cache(*new).bytes(), size):
                os.write(fd, piece)
            s.holds(*old)
            if size == 700:
                os.fsync(fd)
                s.holds(*new)
            os.close(fd)
            s.holds(*new, forms=FORMS)
            old = new


@test(*ALL)
def rewrite_that_fails(t):
    """[22] Not whole: EINVAL at close, the old content stays."""
    m = t.mount()
    s = Subject(t, m, t.user())
    old = [s.tgt(), s.ticket()]
    s.make(*old)
    good = s.cache(s.tgt()).bytes()
    for bad in (b"text", good[:-3], good + b"x", b"\5\7\0\0"):
        fd = opened(s.u, s.path(), REWRITE)
        os.write(fd, bad)
        raises(errno.EINVAL, os.close, fd)
        s.holds(*old, forms=FORMS)
    # opened with O_TRUNC and closed again: nothing written, nothing done
    put(s.u, s.path(), flags=REWRITE)
    s.holds(*old)


@test(*ALL)
def readers_of_a_rewrite(t):
    """[24] Who reads while the file is rewritten or replaced reads the old
    content to its end."""
    m = t.mount()
    s = Subject(t, m, t.user())
    old = [s.tgt()] + [s.ticket(size=3000) for _ in range(10)]
    s.make(*old)
    data = s.u.read(s.path())

    def read_around(change):
        fd = opened(s.u, s.path(), os.O_RDONLY)
        seen = s.u.call(os.read, fd, 5000)
        change()
        while part := s.u.call(os.read, fd, 5000):
            seen += part
        os.close(fd)
        return seen

    new = [s.tgt(), s.ticket()]
    eq(read_around(lambda: put(s.u, s.path(), s.cache(*new).bytes(),
                               flags=REWRITE)), data)
    s.holds(*new, forms=FORMS)
    rename_over(s.u, s.path(), data)
    s.holds(*old, forms=FORMS)
    eq(read_around(lambda: rename_over(
        s.u, s.path("collection"), s.cache(*new).bytes())), data)
    s.holds(*new, forms=FORMS)
    rename_over(s.u, s.path(), data)
    eq(read_around(lambda: made_cache(t, s.u, new, s.name)), data)
    s.holds(*new, forms=FORMS)


@test(*ALL)
def unlink_and_create_at_once(t):
    """[4] [14] The name, its directory and the default stay."""
    m = t.mount()
    s = Subject(t, m, t.user())
    made_cache(t, s.u, [s.tgt()], "%d:tktother" % s.u.uid)
    s.make(s.tgt(), s.ticket())
    by_uuid = s.path("uuid")
    s.u.stat(by_uuid)           # kcmfs knows what it has seen
    for path in (*(s.path(f) for f in FORMS[1:]), by_uuid):
        have = [s.tgt(), s.ticket()]

        s.u.call(os.unlink, path)
        check(s.gone(), "still in KCM")
        fd = opened(s.u, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        s.u.call(os.fchmod, fd, 0o600)
        os.write(fd, s.cache().bytes())
        os.close(fd)
        for cred in have:
            append(s.u, path, cred.bytes())
        s.holds(*have, forms=FORMS)
        eq(s.u.read(by_uuid), s.u.read(path), "the old UUID's path")
        eq(s.wire.default(), s.name, "default")


@test(*ALL)
def cache_over_cache(t):
    """MOVE_CACHE, or the same effect; the source is gone."""
    m = t.mount()
    for default in ("a", "b"):
        u = t.user()
        a, b = Subject(t, m, u, "tkta"), Subject(t, m, u, "tktb")
        have = [a.tgt(), a.ticket(), a.config("k", b"v")]
        a.make(*have, default=default == "a")
        b.make(b.tgt(), default=default == "b")
        u.call(os.rename, a.path("collection"), b.path("collection"))
        b.holds(*have, forms=("by-name", "uuid", "collection"))
        check(a.gone(), "the source is still there")
        check(not u.exists(a.path("collection")), "the source shows")
        # onto a name that has none
        a2 = Subject(t, m, u, "tktnew")
        u.run("mv", b.path("collection"), a2.path("collection"))
        a2.holds(*have, forms=("by-name", "collection"))
        check(b.gone(), "the source is still there")
        a2.serial = 10
        append(u, a2.path(), (more := a2.ticket()).bytes())
        a2.holds(*have, more)


@test(*ALL)
def libkrb5_moves(t):
    m = t.mount()
    u = t.user()
    a, b = Subject(t, m, u, "tkta"), Subject(t, m, u, "tktb")
    have = [a.tgt(), a.ticket()]
    a.make(*have)
    clients.ccall(u, "move", "FILE:" + a.path(), "FILE:" + b.path(
        "collection"))
    b.holds(*have)
    check(a.gone(), "the source is still there")
    clients.ccall(u, "move", "FILE:" + b.path(), "KCM:" + a.name)
    a.holds(*have)
    check(b.gone(), "the source is still there")
    plain = os.path.join(u.home, "plain")
    clients.ccall(u, "copy", "FILE:" + a.path(), "FILE:" + plain)
    clients.ccall(u, "copy", "FILE:" + plain, "FILE:" + b.path("collection"))
    b.holds(*have)


@test(*ALL)
def modes_owners_times(t):
    """[18] [19] [20] chmod and utime are accepted without effect, chown to
    oneself too, to another not; mtime moves with each change and not with
    reading."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    path = s.path()
    stamp = s.u.stat(path).st_mtime_ns
    for mode in (0o600, 0o640, 0o666):
        s.u.call(os.chmod, path, mode)
    s.u.call(os.utime, path, (1, 1))
    s.u.call(os.chown, path, s.u.uid, s.u.gid)
    raises(errno.EPERM, s.u.call, os.chown, path, s.u.uid + 1, -1)
    s.u.read(path)
    st = s.u.stat(path)
    eq((st.st_mode & 0o7777, st.st_uid, st.st_mtime_ns),
       (0o600, s.u.uid, stamp))
    stamps = [stamp]
    append(s.u, path, s.ticket().bytes())
    stamps.append(s.u.stat(path).st_mtime_ns)
    rename_over(s.u, path, s.cache(s.tgt()).bytes())
    stamps.append(s.u.stat(path).st_mtime_ns)
    put(s.u, path, s.cache(s.ticket()).bytes(), flags=REWRITE)
    stamps.append(s.u.stat(path).st_mtime_ns)
    eq(stamps, sorted(set(stamps)), "mtimes rise")
