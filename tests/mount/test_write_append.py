"""Creating caches and appending to them, by file operations and by libkrb5.

[n] in a docstring is the point of file-clients.md, section 11.
"""
import errno
import os

import ccfile
import clients
from harness import ALL, test
from made import made_cache
from util import check, eq, raises
from writing import (CREATE_FORMS, FORMS, Subject, append, fresh, opened,
                     pieces_of, put, rename_over)

EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL


@test(*ALL)
def create_by_every_form(t):
    """[5] O_EXCL, then header and principal, then tickets: by each path."""
    m = t.mount()
    for form in CREATE_FORMS:
        s = fresh(t, m)
        path = s.path(form)
        check(not s.u.exists(path), "%s is there already", path)
        tickets = [s.tgt(), s.ticket(), s.ticket()]
        put(s.u, path, s.cache().bytes())
        s.holds(forms=("by-name", "uuid", form))
        for cred in tickets:
            append(s.u, path, cred.bytes())
        s.holds(*tickets, forms=FORMS)
        eq(s.wire.default(), s.name, "default after %s" % form)


@test(*ALL)
def described_as_soon_as_made(t):
    """What stands beside a cache is there when the cache is, unasked."""
    m = t.mount()
    for name in ("info", "info.json", "principal", "tickets", "config"):
        s = fresh(t, m)
        put(s.u, s.path("default"), s.cache(s.tgt()).bytes())
        check(s.u.exists(s.dir() + "/" + name), "no %s yet", name)
    eq(s.u.text(s.dir() + "/principal"), s.u.principal + "\n")


@test(*ALL)
def into_tickets_by_one_name(t):
    """A file made in tickets/ is stored and gone at its close: the next of
    that name is another one, also at once."""
    s = Subject(t, t.mount(), t.user())
    have = [s.tgt()]
    s.make(*have)
    for _ in range(3):
        have.append(s.ticket())
        put(s.u, s.dir() + "/tickets/copied", s.cache(have[-1]).bytes(),
            flags=os.O_WRONLY | os.O_CREAT)
        s.holds(*have)


@test(*ALL)
def append_by_every_form(t):
    """[6] One write of one credential, as krb5_cc_store_cred does it."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()]
    s.make(*have)
    for form in FORMS:
        have.append(s.ticket())
        append(s.u, s.path(form), have[-1].bytes())
        s.holds(*have, forms=FORMS)


@test(*ALL)
def libkrb5_by_every_form(t):
    m = t.mount()
    for form in CREATE_FORMS:
        s = fresh(t, m)
        cc = "FILE:" + s.path(form)
        clients.ccall(s.u, "init", cc, s.u.principal)
        s.holds()
        clients.ccall(s.u, "store", cc, "host/a@EXAMPLE.COM", "18")
        clients.ccall(s.u, "store", cc, "host/b@EXAMPLE.COM", "18", "1",
                      "20000")
        eq(sorted(s.in_kcm().servers()),
           ["host/a@EXAMPLE.COM", "host/b@EXAMPLE.COM"])
        s.holds(*s.in_kcm().creds, forms=FORMS)
        # initialize of a cache that is there: unlink and O_EXCL [4]
        clients.ccall(s.u, "init", cc, s.u.principal)
        s.holds(forms=FORMS)
        eq(s.wire.default(), s.name)


@test(*ALL)
def in_pieces(t):
    """[7] Byte by byte, several in a write, in pieces of 8 KiB, at once."""
    m = t.mount()
    s = Subject(t, m, t.user())
    small = [s.tgt(), s.ticket(size=20), s.config("k", b"v")]
    big = [s.ticket(size=5000) for _ in range(12)]
    for creds, size in ((small, 1), (small, 3), (small, 1 << 20),
                        (big, 8192), (big, 4096), (big, 1 << 20)):
        data = s.cache(*creds).bytes()
        put(s.u, s.path("collection"), *pieces_of(data, size))
        s.holds(*creds, forms=("collection", "by-name"))
        more = [s.ticket(size=3000), s.ticket(size=20)]
        data = b"".join(c.bytes() for c in more)
        append(s.u, s.path(), *pieces_of(data, 1000 if size > 1 else 100))
        s.holds(*creds, *more)
        s.u.call(os.unlink, s.path())
        check(s.gone(), "not destroyed")


@test(*ALL)
def each_is_stored_when_whole(t):
    """[8] A credential is in KCM when the write that completes it returns,
    before any close."""
    m = t.mount()
    s = Subject(t, m, t.user())
    creds = [s.tgt(), s.ticket(), s.ticket()]
    data = s.cache(*creds).bytes()
    ends = [len(s.cache(*creds[:n]).bytes()) for n in range(4)]

    fd = opened(s.u, s.path("collection"), EXCL, 0o600)
    try:
        os.write(fd, data[:ends[0] - 1])
        check(s.gone(), "made before its principal was whole")
        at = ends[0] - 1
        for n, end in enumerate(ends):
            os.write(fd, data[at:end])
            eq(len(s.in_kcm().creds), n, "tickets in KCM")
            at = end + 7
            if n < 3:
                os.write(fd, data[end:at])
            eq(len(s.in_kcm().creds), n, "tickets with a cut one")
    finally:
        os.close(fd)
    s.holds(*creds)


@test(*ALL)
def append_with_a_stale_offset(t):
    """[6] The kernel's idea of the end does not count with O_APPEND; nor is
    what another wrote meanwhile lost when a writer goes on without it."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()]
    s.make(*have)

    a = opened(s.u, s.path("by-name"), os.O_RDWR | os.O_APPEND)
    b = opened(s.u, s.path("collection"), os.O_WRONLY | os.O_APPEND)
    c = opened(s.u, s.path("krb5cc"), os.O_RDWR)
    os.lseek(c, 0, os.SEEK_END)
    for fd in (a, b, c, a, b, c, b, a):
        have.append(s.ticket())
        os.write(fd, have[-1].bytes())
        made_new = s.ticket()
        eq(s.wire.store(s.name, made_new.bytes()).name, "OK")
        have.append(made_new)
    for fd in (a, b, c):
        os.close(fd)
    s.holds(*have, forms=FORMS)


@test(*ALL)
def write_only(t):
    """[6] Heimdal's kgetcred opens O_WRONLY|O_APPEND."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket()]
    s.make(have[0])
    append(s.u, s.path(), have[1].bytes(), flags=os.O_WRONLY | os.O_APPEND)
    s.holds(*have)


@test(*ALL)
def empty_and_header_only_files(t):
    """[5] 0 bytes, and 4 bytes as 2+2, are files that stay, that can be
    opened, appended to, renamed and unlinked; KCM does not have them."""
    m = t.mount()
    s = Subject(t, m, t.user())
    path = s.path("collection")
    for head in ((), (b"\5\4", b"\0\0")):
        put(s.u, path, *head)
        check(s.gone(), "in KCM already")
        st = s.u.stat(path)
        eq((st.st_size, st.st_nlink, st.st_mode & 0o7777),
           (2 * len(head), 1, 0o600))
        eq(s.u.read(path), b"".join(head))
        lost = s.path("collection") + "2"
        s.u.call(os.rename, path, lost)
        check(not s.u.exists(path), "still there after rename")
        s.u.call(os.rename, lost, path)
        # complete it by another open
        put(s.u, path, s.cache(s.tgt()).bytes()[2 * len(head):],
            flags=os.O_WRONLY | os.O_APPEND)
        s.holds(s.tgt(), forms=("collection",))
        s.u.call(os.unlink, path)
        put(s.u, path, *head)
        s.u.call(os.unlink, path)
        check(not s.u.exists(path), "still there after unlink")
    # and by a rename over it, as MIT's kinit in a DIR: collection
    put(s.u, path, b"\5\4", b"\0\0")
    rename_over(s.u, path, s.cache(s.tgt()).bytes())
    s.holds(s.tgt(), forms=("collection",))


@test(*ALL)
def flush_comes_early_and_often(t):
    """[9] FLUSH before the first write, after each, and of a reader."""
    m = t.mount()
    s = Subject(t, m, t.user())
    creds = [s.tgt(), s.ticket()]
    data = s.cache(*creds).bytes()

    fd = opened(s.u, s.path("collection"), EXCL, 0o600)
    os.close(os.dup(fd))
    for piece in (data[:4], data[4:-300], data[-300:]):
        os.write(fd, piece)
        try:
            os.close(os.dup(fd))
        except OSError as e:        # cut in a record is told, no more
            eq(e.errno, errno.EINVAL)
        os.close(opened(s.u, s.path("collection"), os.O_RDONLY))
    os.fsync(fd)
    os.close(fd)
    s.holds(*creds)
    # shell redirection
    s.u.write(os.path.join(s.u.home, "f"), s.cache(creds[0]).bytes())
    s.u.run("sh", "-c", 'cat "$1" >"$2"', "sh", os.path.join(s.u.home, "f"),
            s.path())
    s.holds(creds[0], forms=FORMS[:2])


@test(*ALL)
def old_versions(t):
    """Versions 1 to 3, either byte order, written at once, in pieces and by
    rename; read back as version 4."""
    m = t.mount()
    s = Subject(t, m, t.user())
    creds = [s.tgt(), s.ticket(size=50), s.config("key", b"value")]
    want = sorted((str(c.server), c.ticket) for c in creds)
    for version, order in ((1, "<"), (1, ">"), (2, "<"), (2, ">"), (3, ">"),
                           (4, ">")):
        data = s.cache(*creds, version=version, order=order).bytes()
        for way in (1 << 20, 1, 100, 0):
            if way:
                put(s.u, s.path("collection"), *pieces_of(data, way))
            else:
                rename_over(s.u, s.path("collection"), data)
            cache = s.file("collection")
            eq(cache.version, 4)
            eq(sorted((str(c.server), c.ticket) for c in cache.creds), want,
               "version %d %s by %d" % (version, order, way))
            eq(sorted((str(c.server), c.ticket) for c in s.in_kcm().creds),
               want)
            s.u.call(os.unlink, s.path("collection"))


@test(*ALL)
def offset_in_the_header(t):
    m = t.mount()
    for offset in (-77, 3600, 0):
        s = Subject(t, m, t.user())
        tags = [(1, offset.to_bytes(4, "big", signed=True) + b"\0\0\0\0")]
        put(s.u, s.path("collection"),
            s.cache(s.tgt(), tags=tags).bytes())
        eq(s.wire.offset(s.name), offset)
        eq(s.file().offset(), offset or None)
        append(s.u, s.path(), s.ticket().bytes())
        eq(s.wire.offset(s.name), offset, "after an append")
        rename_over(s.u, s.path("collection"), s.cache(s.tgt()).bytes())
        eq(s.wire.offset(s.name), 0, "after a rename")


@test(*ALL)
def odd_but_live_entries(t):
    """[13] gssproxy's entry has no times, no key; unknown realms, large
    tickets and user-to-user ones are kept as they are."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(),
            ccfile.Cred(s.client, ccfile.princ(
                "Encrypted/Credentials/v1@X-GSSPROXY:", 0), 0,
                ticket=b"opaque" * 100),
            ccfile.ticket(s.client, "a/b/c@FOREIGN.REALM", s.start + 1,
                          size=60000),
            s.ticket(is_skey=1, second=b"second" * 20),
            s.ticket(authdata=((1, b"x"),), addresses=((2, b"\1\2\3\4"),))]
    put(s.u, s.path("collection"), s.cache(have[0]).bytes())
    for cred in have[1:]:
        append(s.u, s.path(), cred.bytes())
    s.holds(*have, forms=("by-name", "collection"))


@test(*ALL)
def create_when_it_is_there(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    for form in FORMS:
        raises(errno.EEXIST, put, s.u, s.path(form), b"")
    s.holds(s.tgt())
    # made by KCM: since the kernel last looked
    other = Subject(t, m, s.u, "tktother")
    check(not s.u.exists(other.path("collection")), "there already")
    made_cache(t, s.u, [s.tgt()], other.name)
    raises(errno.EEXIST, put, s.u, other.path("collection"), b"")
