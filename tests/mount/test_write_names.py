"""Names that go and come: unlink, rmdir, mkdir, links; zeros; read-only.

[n] in a docstring is the point of file-clients.md, section 11.
"""
import errno
import os

import ccfile
import clients
from harness import ALL, test
from made import made_cache
from tree import by_name
from util import check, eq, raises, wait_for
from writing import (CREATE_FORMS, FORMS, Subject, append, opened, pieces_of,
                     put, rename_over)


@test(*ALL)
def unlink_by_every_form(t):
    """[4] [28] Its directory and the default outlive it; primary names it
    still, as on disk."""
    m = t.mount()
    for form in FORMS:
        s = Subject(t, m, t.user())
        s.make(s.tgt())
        path = s.path(form)
        s.u.call(os.unlink, path)
        check(s.gone(), "not destroyed")
        for other in CREATE_FORMS:
            check(not s.u.exists(s.path(other)), "%s still shows", other)
        check(s.u.exists(s.dir("by-name")), "by-name/ is gone")
        eq(s.u.text("%s/collection/primary" % m), "tktw\n", "primary")
        eq(s.u.link("%s/default" % m), "by-name/" + by_name(s.name))
        raises(errno.ENOENT, s.u.call, os.unlink, path)


@test(*ALL)
def mit_kdestroy(t):
    """[14] open, unlink, fstat, zeros in 8 KiB pieces, close."""
    m = t.mount()
    for form in FORMS:
        s = Subject(t, m, t.user())
        other = made_cache(t, s.u, [s.tgt()], "%d:tktother" % s.u.uid)
        s.make(s.tgt(), *(s.ticket(size=3000) for _ in range(6)))
        path = s.path(form)

        def body():
            fd = os.open(path, os.O_RDWR)
            os.unlink(path)
            st = os.fstat(fd)
            eq(st.st_nlink, 0, "links")
            check(st.st_size > 18000, "size %d", st.st_size)
            for piece in pieces_of(bytes(st.st_size), 8192):
                os.write(fd, piece)
            os.close(fd)
        s.u.call(body)
        check(s.gone(), "not destroyed")
        eq(list(s.wire.caches().values()), [other], "caches left")
        # a cache made at once under the name is not hit by late zeros
        s.make(s.tgt())
        fd = opened(s.u, s.path("collection"))
        s.u.call(os.unlink, s.path("collection"))
        put(s.u, s.path("collection"), s.cache(s.tgt()).bytes())
        os.write(fd, bytes(4096))
        os.write(fd, s.ticket().bytes())
        os.close(fd)
        s.holds(s.tgt())


@test(*ALL)
def heimdal_kdestroy(t):
    """[14] lstat, open, unlink, fstat, SEEK_END, zeros in 128-byte pieces,
    fsync."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt(), s.ticket())
    path = s.path("uuid")

    def body():
        st = os.lstat(path)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        os.unlink(path)
        now = os.fstat(fd)
        eq((now.st_dev, now.st_ino, now.st_nlink),
           (st.st_dev, st.st_ino, 0))
        size = os.lseek(fd, 0, os.SEEK_END)
        eq(size, st.st_size)
        os.lseek(fd, 0, os.SEEK_SET)
        for piece in pieces_of(bytes(size), 128):
            os.write(fd, piece)
        os.fsync(fd)
        os.close(fd)
    s.u.call(body)
    check(s.gone(), "not destroyed")


@test(*ALL)
def zeros_without_unlink(t):
    """[15] As kdestroy through a symlink does it."""
    m = t.mount()
    for size in (8192, 128):
        s = Subject(t, m, t.user())
        s.make(s.tgt(), s.ticket(), s.ticket())
        link = os.path.join(s.u.home, "link")
        s.u.call(os.symlink, s.path(), link)
        length = s.u.stat(s.path()).st_size

        def body():
            fd = os.open(link, os.O_RDWR)
            os.unlink(link)
            for piece in pieces_of(bytes(length), size):
                os.write(fd, piece)
            os.close(fd)
        s.u.call(body)
        check(s.gone(), "not destroyed")
        raises(errno.ENOENT, opened, s.u, s.path())
        wait_for("stat to see it", lambda: not s.u.exists(s.path()), 2)


@test(*ALL)
def destroy_by_libkrb5(t):
    m = t.mount()
    for form in FORMS:
        s = Subject(t, m, t.user())
        s.make(s.tgt(), s.ticket())
        clients.ccall(s.u, "destroy", "FILE:" + s.path(form))
        check(s.gone(), "not destroyed by %s" % form)


@test(*ALL)
def unlinked_files_live_on(t):
    """[14] Readable and writable through open handles; nothing of it gets
    anywhere."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt(), s.ticket())
    data = s.u.read(s.path())
    fd = opened(s.u, s.path(), os.O_RDWR)
    ro = opened(s.u, s.path(), os.O_RDONLY)
    s.u.call(os.unlink, s.path())
    eq(os.pread(fd, 1 << 16, 0), data)
    eq(s.u.call(os.pread, ro, 1 << 16, 0), data)
    os.pwrite(fd, s.ticket().bytes(), len(data))
    os.fsync(fd)
    os.close(fd)
    os.close(ro)
    check(s.gone(), "it is back")


@test(*ALL)
def rm_r(t):
    m = t.mount()
    for form in ("uuid", "by-name"):
        s = Subject(t, m, t.user())
        s.make(s.tgt(), s.ticket(), s.ticket(), s.config("k", b"v"))
        other = made_cache(t, s.u, [s.tgt()], "%d:other" % s.u.uid)
        s.u.run("rm", "-r", s.dir(form))
        check(s.gone(), "not destroyed")
        eq(list(s.wire.caches().values()), [other], "caches left")


@test(*ALL)
def rmdir(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    made_cache(t, s.u, [s.tgt()], "%d:other" % s.u.uid)
    s.wire.set_default("%d:other" % s.u.uid)
    path = s.dir("by-name")
    s.u.call(os.rmdir, path)
    check(s.gone(), "not destroyed")
    check(not s.u.exists(path), "the directory is still there")
    for fixed in ("by-name", "collection", ".kcmfs", "by-principal"):
        raises(errno.EPERM, s.u.call, os.rmdir, "%s/%s" % (m, fixed))


@test(*ALL)
def directories_that_come_back(t):
    """A directory that was removed, and that the kernel remembers because
    something in it is open, is one again when its name is."""
    m = t.mount()
    for way in ("mkdir", "default", "collection"):
        s = Subject(t, m, t.user())
        s.make(s.tgt(), s.config("k", b"v"), default=way == "default")
        if way != "default":
            made_cache(t, s.u, [s.tgt()], "%d:other" % s.u.uid)
            s.wire.set_default("%d:other" % s.u.uid)
        held = [opened(s.u, s.dir() + name, os.O_RDONLY) for name in
                ("/cache", "", "/tickets", "/config")]
        for name in ("/tickets", "/config"):
            s.u.call(os.rmdir, s.dir() + name)
            eq(len(s.u.list(s.dir() + name)), 1, "entries of " + name)
        s.u.run("rm", "-r", s.dir())
        check(s.gone(), "not destroyed")
        if way == "mkdir":
            s.u.call(os.mkdir, s.dir())
        put(s.u, s.path("collection" if way == "collection" else "by-name"),
            s.cache(s.tgt()).bytes())
        s.holds(s.tgt(), forms=("by-name", "collection"))
        eq(len(s.u.list(s.dir() + "/tickets")), 1, "tickets")
        for fd in held:
            os.close(fd)


@test(*ALL)
def mkdir(t):
    """[30] mkdir under by-name reserves a name, elsewhere it is refused."""
    m = t.mount()
    s = Subject(t, m, t.user())
    made_cache(t, s.u, [s.tgt()], "%d:other" % s.u.uid)
    s.wire.set_default("%d:other" % s.u.uid)
    raises(errno.ENOENT, s.u.stat, s.dir())
    s.u.call(os.mkdir, s.dir())
    raises(errno.EEXIST, s.u.call, os.mkdir, s.dir())
    check(s.gone(), "made in KCM")
    eq(s.u.list(s.dir()), ["name"])
    check(by_name(s.name) in s.u.list("%s/by-name" % m), "not listed")
    put(s.u, s.path(), s.cache(s.tgt()).bytes())
    s.holds(s.tgt())
    s.u.call(os.unlink, s.path())
    s.u.call(os.rmdir, s.dir())
    s.u.call(os.mkdir, s.dir())
    s.u.call(os.rmdir, s.dir())
    for place in ("", "collection/", "by-principal/", ".kcmfs/"):
        e = None
        try:
            s.u.call(os.mkdir, "%s/%snew" % (m, place))
        except OSError as error:
            e = error.errno
        check(e in (errno.EACCES, errno.EPERM), "mkdir %s: %s", place, e)
    raises(errno.EACCES, s.u.call, os.mkdir,
           "%s/by-name/%d.x" % (m, s.u.uid + 1))


@test(*ALL)
def default_link(t):
    """ln -sfn of any path form is SET_DEFAULT_CACHE."""
    m = t.mount()
    u = t.user()
    a, b = Subject(t, m, u, "tkta"), Subject(t, m, u, "tktb")
    a.make(a.tgt())
    b.make(b.tgt(), default=False)
    forms = []
    for s in (a, b):
        uuid = s.wire.uuid(s.name)
        forms.append((s, [
            "by-name/" + by_name(s.name), uuid, s.dir("by-name"),
            "%s/%s" % (m, uuid), "./by-name/%s/" % by_name(s.name),
            "collection/" + s.name.split(":")[1]]))
    for one, two in zip(forms[1][1], forms[0][1]):
        for s, target in ((b, one), (a, two)):
            u.run("ln", "-sfn", target, "%s/default" % m)
            eq(s.wire.default(), s.name, "after ln -s %s" % target)
            eq(u.link("%s/default" % m), "by-name/" + by_name(s.name))
            eq(u.read("%s/default/cache" % m), u.read(s.path()))
    r = u.run("ln", "-sfn", "/somewhere/else", "%s/default" % m, code=1)
    check(r.err, "no message")
    eq(a.wire.default(), a.name)


@test(*ALL)
def read_only_mount(t):
    """-o ro: every change answers EROFS."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket(), s.config("k", b"v")]
    s.make(*have)
    ro = t.mount("-o", "ro")
    r = Subject(t, ro, s.u)
    r.start = s.start

    def denied(function, *args):
        raises(errno.EROFS, s.u.call, function, *args)
    for form in FORMS:
        path = r.path(form)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND,
                      os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT):
            denied(os.open, path, flags)
        denied(os.unlink, path)
        denied(os.rename, path, path + ".x")
        denied(os.truncate, path, 0)
        denied(os.chmod, path, 0o600)
        denied(os.chown, path, s.u.uid, -1)
        denied(os.utime, path, (1, 1))
        denied(os.open, path + ".tEmPor", os.O_RDWR | os.O_CREAT)
    denied(os.mkdir, "%s/by-name/%d.new" % (ro, s.u.uid))
    denied(os.rmdir, r.dir())
    denied(os.symlink, "x", "%s/new" % ro)
    denied(os.unlink, r.dir() + "/config/k")
    denied(os.open, r.dir() + "/config/k", os.O_WRONLY | os.O_TRUNC)
    denied(os.open, "%s/collection/primary" % ro, os.O_WRONLY | os.O_TRUNC)
    denied(os.unlink, os.path.join(
        r.dir(), "tickets", s.u.list(r.dir() + "/tickets")[0]))
    r.holds(*have, forms=FORMS)


@test(*ALL)
def locks_never_fail(t):
    """[21] fcntl, OFD and flock, shared and exclusive; who waits for one
    reads what the holder before wrote."""
    import fcntl
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    fd = opened(s.u, s.path(), os.O_RDWR | os.O_APPEND)
    late = opened(s.u, s.path(), os.O_RDWR)
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN):
        s.u.call(fcntl.flock, fd, kind)
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN):
        s.u.call(fcntl.lockf, fd, kind)
    s.u.call(fcntl.flock, fd, fcntl.LOCK_EX)
    os.write(fd, (more := s.ticket()).bytes())
    s.u.call(fcntl.flock, fd, fcntl.LOCK_UN)
    s.u.call(fcntl.flock, late, fcntl.LOCK_SH)
    seen = ccfile.parse(s.u.call(os.pread, late, 1 << 16, 0))
    check(str(more.server) in seen.servers(), "not seen: %s", seen.servers())
    os.close(fd)
    os.close(late)


@test(*ALL)
def probes_are_tolerated(t):
    """[35] xattrs, ioctl, poll, SEEK_DATA, readlink, statfs, link."""
    import select
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    path = s.path()

    def body():
        for function in (lambda: os.getxattr(path, "user.x"),
                         lambda: os.listxattr(path),
                         lambda: os.setxattr(path, "user.x", b"1"),
                         lambda: os.readlink(path),
                         lambda: os.link(path, path + ".l1nk00"),
                         lambda: os.mknod(path + ".f1fo00", 0o010600)):
            try:
                function()
            except OSError as e:
                check(e.errno not in (errno.EIO, errno.EINTR), "%s", e)
        os.statvfs(path)
        fd = os.open(path, os.O_RDWR)
        p = select.poll()
        p.register(fd)
        p.poll(0)
        try:
            os.lseek(fd, 0, os.SEEK_DATA)
        except OSError as e:
            check(e.errno in (errno.ENXIO, errno.EINVAL), "%s", e)
        os.close(fd)
    s.u.call(body)
    s.holds(s.tgt())
