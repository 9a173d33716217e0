"""Bad input and bounds: a clear errno, KCM as it was, the daemon alive, and
nothing of what was written in the log (which every test checks at its end).
"""
import errno
import os
import struct

import ccfile
from harness import ALL, test
from made import made_cache
from tree import by_name
from util import check, eq, raises
from writing import (CREATE_FORMS, FORMS, Subject, append, fresh, opened,
                     pieces_of, put, rename_over, same_creds)

EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL
MB = 1 << 20


def bad_files(s):
    """(what, bytes) that are no caches."""
    good = s.cache(s.tgt(), s.ticket()).bytes()
    head = s.cache().bytes()
    cred = s.ticket().bytes()

    def lying(at, value):
        return good[:at] + struct.pack(">I", value) + good[at + 4:]
    yield "text", b"#!/bin/sh\necho no cache\n"
    yield "zeros", bytes(1000)
    yield "ones", b"\xff" * 1000
    yield "version 5", b"\5\5" + good[2:]
    yield "version 0", b"\5\0" + good[2:]
    yield "version 6.4", b"\6\4" + good[2:]
    yield "random", ccfile.key_bytes("noise", 5000)
    yield "header length", good[:2] + b"\xff\xff" + good[4:]
    yield "header tag", b"\5\4\0\4\0\1\0\xff" + good[4:]
    yield "component count", lying(8, 0x7fffffff)
    yield "component count of -1", lying(8, 0xffffffff)
    yield "realm length", lying(12, 0xfffffff0)
    yield "credential's principal", head + lying(8, 1)[4:]
    yield "ticket length", good[:-4 - 304] + b"\xff\xff\xff\xff" + \
        good[-304:]
    for cut in range(5, len(head), 7):
        yield "cut at %d" % cut, good[:cut]
    for cut in range(len(head) + 1, len(head) + len(cred), 41):
        yield "cut at %d" % cut, good[:cut]
    yield "trailing byte", good + b"\0"
    yield "zeros behind", good + bytes(20)


@test(*ALL)
def bad_files_over_a_cache(t):
    """By rename, by rewriting, into tickets/."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket()]
    s.make(*have)
    s.serial = 100
    for what, data in bad_files(s):
        for form in FORMS:
            try:
                rename_over(s.u, s.path(form), data)
                check(False, "renamed: %s, %s", what, form)
            except OSError as e:
                eq(e.errno, errno.EINVAL, what + ", " + form)
            fd = opened(s.u, s.path(form), os.O_RDWR | os.O_TRUNC)
            os.write(fd, data)
            raises(errno.EINVAL, os.close, fd)
        fd = opened(s.u, s.dir() + "/tickets/new", os.O_WRONLY | os.O_CREAT)
        os.write(fd, data)
        raises(errno.EINVAL, os.close, fd)
        s.u.call(os.unlink, s.dir() + "/tickets/new")
    s.holds(*have)


@test(*ALL)
def bad_files_created(t):
    """By O_EXCL: what is whole before the fault is a cache, the rest is
    refused by the write or the close."""
    m = t.mount()
    for form in CREATE_FORMS:
        s = fresh(t, m)
        for what, data in bad_files(s):
            create_badly(s, s.path(form), what + ", " + form, data)


def create_badly(s, path, what, data):
    fd = opened(s.u, path, EXCL)
    failed = None
    try:
        os.write(fd, data)
    except OSError as e:
        failed = e.errno
    try:
        os.close(fd)
    except OSError as e:
        failed = failed or e.errno
    eq(failed, errno.EINVAL, what)
    if not s.gone():
        for cred in s.in_kcm().creds:
            check(cred.bytes() in data, "%s made a credential", what)
    s.u.call(os.unlink, path)


@test(*ALL)
def bad_appends(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket()]
    s.make(*have)
    more = s.ticket().bytes()
    for what, data in (("half", more[:-1]), ("text", b"text"),
                       ("noise", ccfile.key_bytes("n", 500))):
        fd = opened(s.u, s.path(), os.O_RDWR | os.O_APPEND)
        os.write(fd, data)
        raises(errno.EINVAL, os.close, fd)
        s.holds(*have)
    # a hole
    fd = opened(s.u, s.path())
    raises(errno.EINVAL, os.pwrite, fd, more, 100000)
    os.close(fd)
    # a damaged middle
    fd = opened(s.u, s.path())
    os.pwrite(fd, b"\xff" * 50, 60)
    raises(errno.EINVAL, os.close, fd)
    s.holds(*have)


@test(*ALL)
def too_large(t):
    """100 MiB, as a temporary file, rewritten, appended, created."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()]
    s.make(*have)
    block = bytes(MB)

    def fill(fd, first):
        wrote = 0
        try:
            os.write(fd, first)
            for _ in range(100):
                os.write(fd, block)
                wrote += 1
        except OSError as e:
            check(e.errno in (errno.EFBIG, errno.EDQUOT, errno.EINVAL),
                  "%s", e)
            check(wrote <= 64, "%d MiB went in", wrote)
            return
        finally:
            try:
                os.close(fd)
            except OSError:
                pass
        check(False, "100 MiB were taken")

    huge = s.cache().bytes() + s.tgt().bytes()[:-4] + b"\x7f\xff\xff\xff"
    temp = s.path() + ".tEmPor"
    fill(opened(s.u, temp, EXCL), huge)
    s.u.call(os.unlink, temp)
    fill(opened(s.u, s.path(), os.O_RDWR | os.O_TRUNC), huge)
    fill(opened(s.u, s.path(), os.O_RDWR | os.O_APPEND),
         s.tgt().bytes()[:-4] + b"\x7f\xff\xff\xff")
    s.holds(*have)
    # what is charged is given back
    for _ in range(4):
        put(s.u, temp, *[block] * 20)
        s.u.call(os.unlink, temp)


@test(*ALL)
def large_tickets(t):
    """As large as the daemon takes; what is larger is EFBIG, not a hang."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()]
    s.make(*have)
    for size in (60000, 120000, 140000, 1 << 19):
        cred = s.ticket(size=size)
        try:
            append(s.u, s.path(), cred.bytes())
            have.append(cred)
        except OSError as e:
            check(t.on == "heimdal" and size > 130000 and
                  e.errno == errno.EFBIG, "%d: %s", size, e)
        s.holds(*have)
    try:
        rename_over(s.u, s.path(), s.cache(*have, s.ticket(
            size=200000)).bytes())
    except OSError as e:
        eq((t.on, e.errno), ("heimdal", errno.EFBIG))
        s.holds(*have)


@test(*ALL)
def scratch_is_bounded_per_uid(t):
    """In number and in size; one uid's does not count for another."""
    m = t.mount()
    a, b = t.user(None), t.user(None)
    temp = "%s/krb5cc_%d.%06d"

    def fill(u, count, data):
        made = 0
        try:
            for n in range(count):
                put(u, temp % (m, u.uid, n), data)
                made += 1
        except OSError as e:
            eq(e.errno, errno.EDQUOT)
        return made
    made = fill(a, 2000, b"x")
    check(100 <= made < 2000, "%d scratch files", made)
    put(b, temp % (m, b.uid, 0), b"other")
    for n in range(made + 1):
        try:
            a.call(os.unlink, temp % (m, a.uid, n))
        except FileNotFoundError:
            pass
    made = fill(a, 20, bytes(8 * MB))
    check(2 <= made <= 8, "%d scratch files of 8 MiB", made)
    put(b, temp % (m, b.uid, 1), bytes(8 * MB))
    eq(len(b.read(temp % (m, b.uid, 1))), 8 * MB)


@test(*ALL)
def many_cut_appends(t):
    """What open files hold back is bounded too."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    part = s.tgt().bytes()[:-4] + b"\x7f\xff\xff\xff" + bytes(8 * MB)
    fds = []
    try:
        for _ in range(20):
            fds.append(opened(s.u, s.path(), os.O_WRONLY | os.O_APPEND))
            os.write(fds[-1], part)
        check(False, "160 MiB are held back")
    except OSError as e:
        check(e.errno in (errno.EDQUOT, errno.EINVAL), "%s", e)
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
    append(s.u, s.path(), (more := s.ticket()).bytes())
    s.holds(s.tgt(), more)


@test(*ALL)
def hostile_principals(t):
    """Slash, NUL, newline, invalid UTF-8, escapes, nothing: as bytes they
    are kept or refused, and nothing breaks."""
    m = t.mount()
    s = Subject(t, m, t.user())
    names = (b"a/b", b"nul\0byte", b"new\nline", b"\xff\xfe", b"\x1b[31m",
             b"", b".", b"..", b"a" * 300, b"%2e%2e", b"x@y", b"\\")
    for name in names:
        client = ccfile.Principal(b"EXAMPLE.COM", (name,), 1)
        server = ccfile.Principal(b"R\n/\0", (name, b"../.."), 1)
        creds = [ccfile.ticket(client, server, s.start)]
        if t.on == "heimdal" and b"\0" in name + server.realm:
            # which cuts at NUL: what comes back is another credential
            server = ccfile.Principal(b"R", (name.split(b"\0")[0], b"x"), 1)
            client = ccfile.Principal(b"R", (name.split(b"\0")[0],), 1)
            creds = [ccfile.ticket(client, server, s.start)]
        data = ccfile.Cache(client, creds).bytes()
        try:
            rename_over(s.u, s.path("collection"), data)
        except OSError as e:
            check(e.errno in (errno.EINVAL, errno.EDQUOT), "%r: %s", name, e)
            continue
        same_creds("KCM", s.in_kcm().creds, creds)
        s.u.run("ls", "-lR", s.dir("by-name"))
        s.u.run("ls", "-l", "%s/by-principal" % m)
        s.u.read(s.dir("by-name") + "/info")
        for ticket in s.u.list(s.dir("by-name") + "/tickets"):
            s.u.read("%s/tickets/%s" % (s.dir("by-name"), ticket))


@test(*ALL)
def hostile_names(t):
    """File names that are none of ours, and cache names of others."""
    m = t.mount()
    u, other = t.user(None), t.user(None)
    for name in ("x", "%d.a" % other.uid, "0", "%", "%zz", "%2", "a%00b",
                 "\n", "\xff", "a" * 255):
        for place in ("", "by-name/", "collection/", "by-principal/",
                      ".kcmfs/"):
            path = "%s/%s%s" % (m, place, name)
            for function in (os.mkdir,
                             lambda p: put(u, p, b"x"),
                             lambda p: os.symlink("x", p)):
                try:
                    u.call(function, path) if function is os.mkdir else \
                        function(path)
                except OSError as e:
                    check(e.errno in (errno.EACCES, errno.EPERM,
                                      errno.EINVAL, errno.ENOENT,
                                      errno.ENAMETOOLONG, errno.EEXIST,
                                      errno.EROFS), "%s: %s", path, e)
    eq(t.wire(other).caches(), {})
    made_cache(t, other, [], "%d:a" % other.uid, principal="x@R")
    for path in ("by-name/" + by_name("%d:a" % other.uid),):
        raises(errno.ENOENT, u.stat, "%s/%s" % (m, path))


@test(*ALL)
def hostile_cache_names(t):
    """By %XX a path can name any cache: with a slash, a newline, invalid
    UTF-8.  It is made under exactly that name, or refused: EINVAL."""
    m = t.mount()
    u = t.user()
    for text, raw in (("a%2Fb", b"a/b"), ("n%0Al", b"n\nl"),
                      ("%FF%FE", b"\xff\xfe"), ("%1B[31m", b"\x1b[31m"),
                      ("d%2E%2E", b"d.."), ("p%25q", b"p%q"),
                      ("z%00y", None), ("l" * 200, b"l" * 200)):
        s = Subject(t, m, u)
        path = "%s/by-name/%d.%s" % (m, u.uid, text)
        want = [s.tgt(), s.ticket()]
        try:
            u.call(os.mkdir, path)
            put(u, path + "/cache", s.cache(*want).bytes())
        except OSError as e:
            check(raw is None or (t.on == "sssd" and b"/" in raw),
                  "%s: %s", text, e)
            check(e.errno == errno.EINVAL, "%s: %s", text, e)
            continue
        check(raw is not None, "made a cache with NUL in its name")
        name = b"%d:%s" % (u.uid, raw)
        held = [ccfile.parse_cred(c) for c in s.wire.creds(name)]
        same_creds("KCM", held, want)
        same_creds("the file", ccfile.parse(u.read(path + "/cache")).creds,
                   want)
        u.run("ls", "-l", path, "%s/by-name" % m, "%s/collection" % m)
        u.call(os.unlink, path + "/cache")
        check(s.wire.call("GET_PRINCIPAL", name + b"\0").code != 0,
              "%s is still there", text)


@test(*ALL)
def of_another_client(t):
    """A credential of another principal than the cache's is taken as KCM:
    takes it; a cache of another principal replaces the old one whole."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket()]
    s.make(*have)
    other = ccfile.princ("somebody@ELSE.ORG")
    have.append(ccfile.ticket(other, "host/x@ELSE.ORG", s.start + 50))
    append(s.u, s.path(), have[-1].bytes())
    s.holds(*have)
    new = [ccfile.tgt(other, s.start)]
    put(s.u, s.path(), ccfile.Cache(other, new).bytes(),
        flags=os.O_RDWR | os.O_TRUNC)
    s.holds(*new, principal=other)
