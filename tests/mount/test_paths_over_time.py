"""Paths stay valid while caches come, go and get new UUIDs, and over
restarts of kcmfs and of the KCM daemon."""
import os
import signal
import threading

import ccfile
import tree
from harness import ALL, REAL, test
from kcmwire import uuid_text
from made import TGT, made_cache, svc
from tree import paths_of
from util import check, end_process, eq, raises, wait_for

SERVICE = "svc0/host.example.com"


def cut_at_creds(data):
    """(header and principal, [credentials]) of a cache file."""
    cache = ccfile.parse(data)
    creds = [c.bytes() for c in cache.creds]
    return data[:len(data) - sum(map(len, creds))], creds


def recreate(u, path, between):
    """As krb5_cc_initialize and krb5_cc_store_cred do it: unlink, O_EXCL,
    one write for each; between() runs in other programs meanwhile."""
    head, creds = cut_at_creds(u.read(path))
    gone, go_on = threading.Event(), threading.Event()
    trouble = []

    def program():
        os.unlink(path)
        gone.set()
        go_on.wait(30)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, head)
        os.close(fd)
        for cred in creds:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
            os.write(fd, cred)
            os.close(fd)

    def body():
        try:
            u.call(program)
        except BaseException as e:
            trouble.append(e)
            gone.set()
    thread = threading.Thread(target=body)
    thread.start()
    gone.wait(30)
    try:
        between()
    finally:
        go_on.set()
        thread.join()
    if trouble:
        raise trouble[0]


# ------------------------------------------------------------------ by-name

@test(*ALL)
def by_name_over_kinits(t):
    m, u = t.mount(), t.user()
    u.kinit()
    w = t.wire(u)
    name = w.default()
    path = m / ("by-name/%s/cache" % tree.by_name(name))
    link = u.link(m / "default")
    fd = u.call(os.open, os.path.dirname(path), os.O_DIRECTORY)
    t.cleanup(lambda: os.close(fd))

    def by_handle():
        """Through a directory that is held open, as a shell's cwd is."""
        def body():
            f = os.open("cache", os.O_RDONLY, dir_fd=fd)
            data = os.read(f, 1 << 20)
            os.close(f)
            return data
        return u.call(body)
    for _ in range(3):
        u.kvno(SERVICE)
        eq(u.klist("FILE:" + path), (u.principal, [TGT, svc(0)]))
        eq(by_handle(), u.read(path))
        u.kinit()
        eq(u.klist("FILE:" + path), (u.principal, [TGT]))
        eq(u.link(m / "default"), link)
        eq(by_handle(), u.read(path))
    u.run("kdestroy", "-c", "KCM:" + name)
    raises(2, u.read, path)
    u.kinit(cc="KCM:" + name)
    eq(u.klist("FILE:" + path), (u.principal, [TGT]))
    eq(by_handle(), u.read(path))
    u.run("kdestroy", "-c", "FILE:" + path)
    u.run("kinit", "-k", "-t", u.keytab, "-c", "FILE:" + path, u.principal)
    eq(u.klist("KCM:" + name), (u.principal, [TGT]))
    eq(u.link(m / "default"), link)
    eq(by_handle(), u.read(path))


@test(*REAL)
def by_name_over_restarts(t):
    """Of kcmfs, killed or ended; of the daemon, which may forget all."""
    t.own_daemon()
    m, u = t.mount(), t.user()
    names = [made_cache(t, u, [ccfile.tgt(u.principal, 1790000000 + i,
                                          life=10 ** 8)],
                        offset=0, name="%d:%s" % (u.uid, n))
             for i, n in enumerate(("a", "b.c", "tktD"))]
    t.wire(u).set_default(names[1])
    paths = [m / ("by-name/%s/cache" % tree.by_name(n)) for n in names]
    seen = [u.read(p) for p in paths]
    uuids = u.list(m.path)
    for end in (signal.SIGTERM, signal.SIGKILL):
        end_process(m.process, end)
        m.start()
        eq([u.read(p) for p in paths], seen)
        eq(u.list(m.path), uuids)
        eq(u.link(m / "default"), "by-name/" + tree.by_name(names[1]))
    t.daemon.restart()
    wire = t.wire(u)
    if t.daemon.keeps_state:
        eq([u.read(p) for p in paths], seen)
        eq(u.link(m / "default"), "by-name/" + tree.by_name(names[1]))
        return
    for path in paths:
        raises(2, u.read, path)
    eq(wire.caches(), {})
    u.run("kinit", "-k", "-t", u.keytab, "-c", "KCM:" + names[0], u.principal)
    eq(u.klist("FILE:" + paths[0]), (u.principal, [TGT]))
    # a by-name path is made by mkdir, after a restart too
    directory = os.path.dirname(paths[1])
    if not u.exists(directory):
        u.call(os.mkdir, directory)
    u.run("kinit", "-k", "-t", u.keytab, "-c", "FILE:" + paths[1],
          u.principal)
    eq(u.klist("KCM:" + names[1]), (u.principal, [TGT]))


# -------------------------------------------------------------------- UUIDs

@test(*ALL)
def old_uuids(t):
    """Each that a cache ever had leads to the cache of its name."""
    m, u = t.mount(), t.user()
    w = t.wire(u)
    name, other = "%d:long-lived" % u.uid, "%d:other" % u.uid
    made_cache(t, u, [], offset=0, name=other)
    held = []
    for number in range(4):
        if number == 2:
            w.destroy(name)
        made_cache(t, u, [ccfile.ticket(
            u.principal, "host/n%d@EXAMPLE.COM" % number, 1790000000)],
            offset=0, name=name)
        uuid = w.uuid(name)
        check(uuid in u.list(m.path), "%s is not listed", uuid)
        if uuid not in held:
            held.append(uuid)
        by_name = u.read(m / ("by-name/%s/cache" % tree.by_name(name)))
        for old in held:
            eq(u.read(m / (old + "/cache")), by_name, old)
            eq(u.text(m / (old + "/name")), "KCM:%s\n" % name)
    check(len(held) >= (4 if t.on == "sssd" else 2), "UUIDs: %s", held)
    # written through an old one, it is the cache of that name
    path = m / (held[0] + "/cache")
    u.run("kinit", "-k", "-t", u.keytab, "-c", "FILE:" + path, u.principal)
    eq(u.klist("KCM:" + name), (u.principal, [TGT]))
    u.kvno(SERVICE, cc="FILE:" + path)
    eq(u.klist("KCM:" + name), (u.principal, [TGT, svc(0)]))
    u.run("ln", "-sfn", held[0], m / "default")
    eq(w.default(), name)
    u.run("kdestroy", "-c", "FILE:" + path)
    eq(list(w.caches().values()), [other])


@test(*ALL)
def uuid_path_created_again(t):
    """unlink and O_EXCL under <uuid>/, and the collection's tkt=<uuid>."""
    m, u = t.mount(), t.user()
    long = "%d:%s" % (u.uid, "n" * 70)
    name = made_cache(t, u, [ccfile.tgt(u.principal, 1790000000)], offset=0,
                      name=long)
    paths = paths_of(t, m, u, name)
    content = u.read(paths.cache)
    for path in (paths.cache, paths.collection, paths.forms["by-name"]):
        recreate(u, path, lambda: None)
        eq(u.read(path), content, path)
        eq(u.read(paths.cache), content, path)
        eq(list(t.wire(u).caches().values()), [name])
    eq(u.klist("DIR::" + paths.collection)[0], u.principal)
    shown = tree.collection_name(u.uid, name, t.wire(u).uuid(name))
    eq(u.list(m / "collection"), ["primary", shown])
    eq(u.text(m / "collection/primary"), shown + "\n")


@test("sssd", "kcmd")
def many_old_uuids(t):
    """Not all are kept for ever, but those of a while."""
    m, u = t.mount(), t.user()
    w = t.wire(u)
    name = "%d:again" % u.uid
    principal = ccfile.Writer().principal(ccfile.princ(u.principal)).out
    held = []
    for _ in range(280):
        w.destroy(name)
        check(not w.init(name, principal).code, "INITIALIZE")
        u.list(m / "by-name")
        held.append(uuid_text(next(iter(w.caches()))))
    by_name = u.read(m / ("by-name/" + tree.by_name(name) + "/cache"))
    for uuid in held[-200::20]:
        eq(u.read(m / (uuid + "/cache")), by_name)
    raises(2, u.stat, m / held[0])


# ------------------------------------------------------------------ default

def default_world(t):
    m, u = t.mount(), t.user()
    for n in "abc":
        made_cache(t, u, [ccfile.tgt(u.principal, 1790000000, life=10 ** 8)],
                   offset=0, name="%d:%s" % (u.uid, n))
    w = t.wire(u)
    w.set_default("%d:b" % u.uid)
    eq(u.link(m / "default"), "by-name/%d.b" % u.uid)
    return m, u, w


def is_as_before(m, u, w, more=0):
    eq(u.link(m / "default"), "by-name/%d.b" % u.uid)
    eq(u.text(m / "collection/primary"), "tkt=%d.b\n" % u.uid)
    eq(w.default(), "%d:b" % u.uid)
    eq(len(w.caches()), 3 + more, "caches")
    eq(len(cut_at_creds(u.read(m / "default/cache"))[1]), 1)


@test(*ALL)
def default_created_again(t):
    """Unlinked and created again by one program it is one cache, and still
    the default, whatever happens in between."""
    m, u, w = default_world(t)
    path = m / "default/cache"
    recreate(u, path, lambda: None)
    is_as_before(m, u, w)
    # through the mount: others are created, and destroyed
    there = m / ("by-name/%d.c/cache" % u.uid)
    recreate(u, path, lambda: u.run("cp", there, m / "collection/tktNew"))
    is_as_before(m, u, w, 1)
    recreate(u, path, lambda: u.run("rm", m / "collection/tktNew"))
    is_as_before(m, u, w)
    # and natively
    recreate(u, path, lambda: made_cache(
        t, u, [], offset=0, name="%d:native" % u.uid))
    is_as_before(m, u, w, 1)
    recreate(u, path, lambda: w.destroy("%d:native" % u.uid))
    is_as_before(m, u, w)


@test(*ALL)
def default_created_again_after_a_switch(t):
    """Another process switches meanwhile: to everybody else that one is the
    default until this program has its cache again."""
    m, u, w = default_world(t)
    path = m / "default/cache"

    def switched(command):
        def between():
            command()
            eq(u.link(m / "default"), "by-name/%d.a" % u.uid)
        return between
    recreate(u, path, switched(lambda: u.run(
        "ln", "-sfn", "by-name/%d.a" % u.uid, m / "default")))
    is_as_before(m, u, w)
    recreate(u, path, switched(lambda: u.run(
        "kswitch", "-c", "DIR::%s/collection/tkt=%d.a" % (m, u.uid))))
    is_as_before(m, u, w)

    def native():
        # sssd answers one of the others from the destruction on: a switch
        # to that one is nothing that can be seen
        if w.default() != "%d:a" % u.uid:
            switched(lambda: u.run("kswitch", "-c", "KCM:%d:a" % u.uid))()
    recreate(u, path, native)
    is_as_before(m, u, w)


@test(*ALL)
def switch_after_unlink(t):
    """Who only destroys the default does not hold up later switches."""
    m, u, w = default_world(t)
    u.run("rm", m / "default/cache")
    eq(u.link(m / "default"), "by-name/%d.b" % u.uid)
    other = "a" if w.default() != "%d:a" % u.uid else "c"
    u.run("kswitch", "-c", "KCM:%d:%s" % (u.uid, other))
    eq(u.link(m / "default"), "by-name/%d.%s" % (u.uid, other))
    eq(u.read(m / "default/cache"),
       u.read(m / ("by-name/%d.%s/cache" % (u.uid, other))))


@test(*ALL)
def krenew_like_loop(t):
    """Many rounds of unlink and create while others read by path: they see
    the cache, or none, or as on disk the new file before anything was
    written to it; never another one."""
    m, u, w = default_world(t)
    path = m / "default/cache"
    stop, seen = threading.Event(), []

    def look():
        image = u.read(path)
        if image:
            seen.append(str(ccfile.parse(image).principal))
        seen.append(u.link(m / "default"))

    def reader():
        while not stop.is_set():
            try:
                look()
            except FileNotFoundError:
                pass
            except Exception as e:
                seen.append(repr(e))
                return
    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for _ in range(15):
            recreate(u, path, lambda: None)
    finally:
        stop.set()
        thread.join()
    is_as_before(m, u, w)
    eq(set(seen) - {u.principal, "by-name/%d.b" % u.uid}, set())
    wait_for("the views", lambda: u.exists(m / ("krb5cc_%d" % u.uid)))
