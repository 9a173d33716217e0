"""Several writers and readers at once; quotas; kcmfs killed half-way."""
import errno
import os
import threading
import time
from dataclasses import replace

import ccfile
import clients
from harness import ALL, REAL, test
from made import made_cache
from util import at_once, check, eq, wait_for
from writing import (FORMS, MIT_MARK, Subject, append, is_tombstone, opened,
                     patch, put, rename_over, same_creds, tombstone)


@test(*ALL)
def many_writers(t):
    """Through one path, through several, and by KCM: at once: all tickets
    are there at the end, none twice; readers see neither torn nor wrong
    entries meanwhile."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    each = 6 if t.on == "sssd" else 25
    made = {}
    for writer in range(8):
        made[writer] = [s.ticket(size=100 + 700 * (n % 3))
                        for n in range(each)]
    known = {c.bytes() for creds in made.values() for c in creds}
    known.add(s.tgt().bytes())
    over = threading.Event()

    def by_file(creds, form, keep_open):
        flags = os.O_RDWR | os.O_APPEND
        if keep_open:
            put(s.u, s.path(form), *(c.bytes() for c in creds), flags=flags)
            return
        for cred in creds:
            append(s.u, s.path(form), cred.bytes())

    def by_kcm(creds):
        wire = t.wire(s.u)
        for cred in creds:
            eq(wire.store(s.name, cred.bytes()).name, "OK")

    def reader():
        while not over.is_set():
            cache = ccfile.parse(s.u.read(s.path()))
            for cred in cache.creds:
                check(cred.bytes() in known or is_tombstone(cred),
                      "%s is nobody's", cred.server)

    def writers():
        forms = ("by-name", "by-name", "collection", "uuid", "krb5cc")
        at_once([lambda w=w, f=f: by_file(made[w], f, w % 2)
                 for w, f in enumerate(forms)]
                + [lambda w=w: by_kcm(made[w]) for w in (5, 6, 7)])
        over.set()
    try:
        at_once([writers, reader, reader])
    finally:
        over.set()
    same_creds("KCM", s.in_kcm().creds,
               [s.tgt()] + [c for creds in made.values() for c in creds])
    s.holds(s.tgt(), *[c for creds in made.values() for c in creds],
            forms=FORMS)


@test(*ALL)
def libkrb5_writers(t):
    """The same with processes that take libkrb5's locks."""
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt())
    names = ["host/p%d@EXAMPLE.COM" % n for n in range(8)]
    at_once([lambda n=n, name=name: clients.ccall(
        s.u, "store", ("KCM:" + s.name) if n == 7 else
        "FILE:" + s.path(FORMS[n % 5]), name, "18")
        for n, name in enumerate(names)])
    eq(sorted(s.in_kcm().servers()),
       sorted(names + [str(s.tgt().server)]))


@test("heimdal", "sssd", "kcmd")
def stored_while_removed(t):
    """What a KCM: client stores while the mount removes a credential stays,
    whichever request it comes before; on sssd, where the whole cache is made
    anew for that, all but what it stores between its last list and its
    INITIALIZE (kcm/replace.c)."""
    proxy = t.proxy()
    m = t.mount(socket=proxy.socket)
    s = Subject(t, m, t.user())
    for number in range(1, 40):
        have = [s.tgt()] + [s.ticket() for _ in range(3)]
        s.make(*have)
        s.u.read(s.path())
        late, seen = s.ticket(), []

        def before(name, arguments):
            target = arguments.startswith(s.name.encode() + b"\0")
            seen.append((name, target))
            if len(seen) == number and seen[-1] != ("INITIALIZE", True):
                eq(s.wire.store(s.name, late.bytes()).name, "OK")
                have.append(late)
        proxy.before = before
        patch(s.u, s.path(), have[1].bytes(), tombstone(have[1], MIT_MARK))
        proxy.before = None
        have.pop(1)
        s.holds(*have, forms=("by-name", "collection"))
        if len(seen) < number:
            check(number > 2, "only %d requests", number)
            return
    check(False, "no end")


@test("heimdal", "sssd", "kcmd")
def stored_while_replaced_in_place(t):
    """An entry replaced by one of the same client and server does not take
    the cache apart: what others store meanwhile stays, and so does the UUID.
    (Configuration entries: on sssd alone, whose STORE replaces.)"""
    proxy = t.proxy()
    m = t.mount(socket=proxy.socket)
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.ticket(), s.config("key", b"old")]
    s.make(*have)
    uuid = s.wire.uuid(s.name)
    late = []

    def before(name, arguments):
        check(name not in ("INITIALIZE", "DESTROY"), "%s sent", name)
        if name in ("STORE", "GET_CRED_UUID_LIST") and len(late) < 20:
            late.append(s.ticket())
            eq(s.wire.store(s.name, late[-1].bytes()).name, "OK")
    proxy.before = before
    new = [replace(have[1], endtime=have[1].endtime + 1), have[2]]
    patch(s.u, s.path(), have[1].bytes(), new[0].bytes())
    if t.on == "sssd":
        new[1] = s.config("key", b"new")
        append(s.u, s.path(), new[1].bytes())
    proxy.before = None
    check(late, "nothing was stored meanwhile")
    s.holds(have[0], *new, *late)
    eq(s.wire.uuid(s.name), uuid, "UUID")


@test(*ALL)
def replaced_while_read(t):
    """A replacement is seen whole or not at all."""
    m = t.mount()
    s = Subject(t, m, t.user())
    versions = [[ccfile.ticket(s.client, "v%d/n%d@EXAMPLE.COM" % (v, n),
                               s.start, size=500) for n in range(5)]
                for v in range(2)]
    s.make(*versions[0])
    over = threading.Event()

    def writer():
        until = time.monotonic() + 2
        n = 0
        while time.monotonic() < until:
            n += 1
            rename_over(s.u, s.path(), s.cache(*versions[n % 2]).bytes())
        over.set()

    def reader(form):
        while not over.is_set():
            seen = {str(c.server)[:2] for c in s.file(form).creds
                    if not is_tombstone(c)}
            count = len([c for c in s.file(form).creds
                         if not is_tombstone(c)])
            check(len(seen) == 1 and count == 5, "%s, %d entries", seen,
                  count)
    try:
        at_once([writer, lambda: reader("by-name"),
                 lambda: reader("collection")])
    finally:
        over.set()


# -------------------------------------------------------------------- quotas

def fill_until_refused(s, size):
    """Appends until the write itself is EDQUOT; what went in."""
    held = []
    for _ in range(200):
        cred = s.ticket(size=size)
        fd = opened(s.u, s.path(), os.O_RDWR | os.O_APPEND)
        try:
            os.write(fd, cred.bytes())
        except OSError as e:
            eq(e.errno, errno.EDQUOT)
            return held
        finally:
            os.close(fd)
        held.append(cred)
    check(False, "no quota")


@test("sssd", "kcmd")
def quota_of_bytes(t):
    """EDQUOT from the write and the rename, and the content stays."""
    t.own_daemon(*(["max_ccache_size = 20"] if t.on == "sssd"
                   else ["--max-bytes=30000"]))
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()]
    s.make(*have)
    have += fill_until_refused(s, 3000)
    check(len(have) > 3, "%d credentials fit", len(have))
    s.holds(*have)
    new = [s.tgt()] + [s.ticket(size=4000) for _ in range(9)]
    try:
        rename_over(s.u, s.path(), s.cache(*new).bytes())
        check(False, "more than the quota went in")
    except OSError as e:
        eq(e.errno, errno.EDQUOT)
    s.holds(*have)
    fd = s.u.call(os.open, s.path(), os.O_RDWR | os.O_TRUNC)
    os.write(fd, s.cache(*new).bytes())
    try:
        os.close(fd)
        check(False, "close of more than the quota")
    except OSError as e:
        eq(e.errno, errno.EDQUOT)
    s.holds(*have)
    rename_over(s.u, s.path(), s.cache(s.tgt()).bytes())
    s.holds(s.tgt())


@test("sssd", "kcmd")
def quota_of_caches(t):
    """At the limit nothing is lost: what cannot be done safely is EDQUOT."""
    t.own_daemon(*(["max_uid_ccaches = 4"] if t.on == "sssd"
                   else ["--max-caches=4"]))
    m = t.mount()
    u = t.user()
    made, refused = [], None
    for n in range(8):
        s = Subject(t, m, u, "tkt%d" % n)
        try:
            put(u, s.path("collection"), s.cache(s.tgt(), s.ticket()).bytes())
        except OSError as e:
            refused = e.errno
            break
        made.append(s)
    eq(refused, errno.EDQUOT)
    check(len(made) >= 3, "%d caches", len(made))
    for s in made:
        s.serial = 0
        have = [s.tgt(), s.ticket()]
        new = [s.tgt()]
        try:
            rename_over(u, s.path(), s.cache(*new).bytes())
            have = new
        except OSError as e:
            eq(e.errno, errno.EDQUOT)
        s.holds(*have)


# ------------------------------------------------------- kcmfs itself killed

def sorted_bytes(creds):
    return sorted(c.bytes() for c in creds)


def killed_at_each_request(t, change, least):
    """change(s, held) -> (what to do, what s holds afterwards), with kcmfs
    killed at each request: the next kcmfs puts right what was left."""
    options = ["--no-mit-extensions"] if t.on == "kcmd" else []
    t.own_daemon(*options)
    u = t.user()
    proxy = t.proxy()
    proxy.may_abandon = True            # who is killed cannot do other
    for number in range(1, 60):
        m = t.mount("-o", "timeout=5", socket=proxy.socket)
        s = Subject(t, m, u)
        old = [s.tgt(), s.ticket(), s.ticket()]
        s.make(*old)
        s.u.read(s.path())
        body, new = change(s, old)
        proxy.fail_at(number, "before", m.kill)
        try:
            body()
        except OSError:
            pass
        met = proxy.failed
        proxy.heal()
        if met:
            wait_for("the end of kcmfs", lambda: not m.alive())
        m.kill()
        m.detach()
        s.m = after = t.mount()
        got = sorted_bytes(s.file().creds)
        check(got in (sorted_bytes(old), sorted_bytes(new)),
              "request %d (%s): %d entries", number, met, len(got))
        eq(sorted_bytes(s.in_kcm().creds), got)
        names = s.wire.caches().values()
        check(not [n for n in names if ".kcmfs" in n], "left: %s", names)
        yield s, got == sorted_bytes(new)
        after.finish()
        m.process = after.process = None
        for name in names:
            s.wire.destroy(name)
        s.wire.close()
        if not met:
            check(number > least, "only %d requests", number)
            return
    check(False, "no end")


@test(*REAL)
def killed_kcmfs(t):
    """kill -9 in the middle of a replacement."""
    def change(s, old):
        new = [s.tgt(), s.ticket(size=77)]
        return lambda: rename_over(s.u, s.path(),
                                   s.cache(*new).bytes()), new
    for _ in killed_at_each_request(t, change, 5):
        pass


@test(*REAL)
def killed_kcmfs_removing(t):
    """In the middle of the removal of one entry, for which sssd's cache is
    made anew."""
    def change(s, old):
        return lambda: patch(s.u, s.path(), old[1].bytes(), tombstone(
            old[1], MIT_MARK)), [old[0], old[2]]
    for _ in killed_at_each_request(t, change, 5 if t.on == "sssd" else 1):
        pass


@test(*REAL)
def killed_kcmfs_moving(t):
    """In the middle of a rename of one cache over another: the one that is
    moved is there until its content has arrived."""
    moved = []

    def change(s, old):
        source = Subject(t, s.m, s.u, "tktm")
        moved[:] = [source, [source.tgt(), s.ticket(size=99)]]
        source.make(*moved[1], default=False)
        path = source.path()
        s.u.read(path)
        return lambda: s.u.call(os.rename, path, s.path()), moved[1]
    for s, arrived in killed_at_each_request(t, change, 1):
        source, content = moved
        if not arrived or not source.gone():
            eq(sorted_bytes(source.in_kcm().creds), sorted_bytes(content))
        source.wire.close()
