"""kcmfs and kcmd end and start again under clients at work."""
import errno
import fcntl
import os
import signal
import subprocess
import threading

import ccfile
from fdstore import everything, under_systemd
from harness import REAL, test
from kcmwire import Client
from made import made_cache, usual_creds
from mount import Mount, mounted
from tree import by_name
from util import check, eq, has, raises, umount, wait_for
from writing import append

F_GET_SEALS, ALL_SEALS = 1034, 0xf


@test("kcmd")
def caches_outlive_a_restart(t):
    """By way of systemd's descriptor store."""
    s = under_systemd(t)
    s.start()
    has(s.text(), "left with systemd over a restart")
    users = [t.user() for _ in range(3)]
    for u in users:
        for i in range(3):
            made_cache(t, u, usual_creds(u, 5 * i), "%d:c%d" % (u.uid, i),
                       offset=i - 1)
        t.wire(u).set_default("%d:c1" % u.uid)
        t.wire(u).ok("GEN_NEW")
    big = made_cache(t, users[0], [ccfile.ticket(
        users[0].principal, "big%d@EXAMPLE.COM" % i, 1000, size=60000)
        for i in range(40)], "%d:big" % users[0].uid, offset=0)
    before = [everything(t, u) for u in users]
    m = t.mount(socket=t.proxy().socket)
    path = m / ("by-name/%s/cache" % by_name(big))
    image = users[0].read(path)
    for _ in range(3):
        s.stop()
        eq(fcntl.fcntl(s.kept, F_GET_SEALS), ALL_SEALS, "seals")
        raises(errno.EPERM, os.write, s.kept, b"x")
        s.start(s.kept)
        wait_for("the store to be emptied", lambda: s.kept is None)
        eq([everything(t, u) for u in users], before)
        eq(users[0].read(path), image, "the cache through the mount")
    eq(t.wire(users[0]).ok("GEN_NEW").text(), "%d:2" % users[0].uid)
    has(s.text(), "took over the caches")
    # crashed: nobody left anything
    s.process.kill()
    s.process.wait()
    s.start()
    eq(t.wire(users[0]).caches(), {})


class Storer:
    """Stores tickets until it is ended, and keeps those that were
    acknowledged."""

    def __init__(self, t, u, store):
        self.u, self.store = u, store
        self.name = made_cache(t, u, [], offset=0)
        self.acknowledged, self.ends = [], False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        number = 0
        while not self.ends:
            number += 1
            cred = ccfile.ticket(self.u.principal, "h%d@EXAMPLE.COM" % number,
                                 1000 + number).bytes()
            try:
                self.store(self, cred)
            except (OSError, EOFError):
                continue
            self.acknowledged.append(cred)

    def goes_on(self):
        before = len(self.acknowledged)
        wait_for("more that is stored",
                 lambda: len(self.acknowledged) >= before + 5)

    def end(self):
        self.ends = True
        self.thread.join(30)
        check(not self.thread.is_alive(), "a client does not end")


@test("kcmd")
def restarted_under_clients(t):
    """What was acknowledged is there, however close to the end it was."""
    s = under_systemd(t)
    s.start()
    m = t.mount(socket=t.proxy().socket)

    def by_mount(storer, cred):
        append(storer.u, m / ("by-name/%s/cache" % by_name(storer.name)),
               cred)

    def by_kcm(storer, cred):
        with Client(t.kcm_socket, storer.u.uid) as w:
            eq(w.store(storer.name, cred).code, 0, "STORE")
    storers = [Storer(t, t.user(), store)
               for store in (by_mount, by_kcm, by_mount)]
    for _ in range(4):
        for storer in storers:
            storer.goes_on()
        s.stop()
        s.start(s.kept)
        wait_for("the store to be emptied", lambda: s.kept is None)
    for storer in storers:
        storer.goes_on()
        storer.end()
    for storer in storers:
        with Client(t.kcm_socket, storer.u.uid) as w:
            lost = set(storer.acknowledged) - set(w.creds(storer.name))
        check(not lost, "%d of %d are lost", len(lost),
              len(storer.acknowledged))


@test("kcmd")
def what_is_not_left_by_kcmd(t):
    """Unsealed, cut, changed or nonsense: it starts without, and says so."""
    s = under_systemd(t)
    s.start()
    u = t.user()
    made_cache(t, u, usual_creds(u, 10), offset=0)
    s.stop()
    good = os.pread(s.kept, 1 << 20, 0)
    check(len(good) > 1000, "%d bytes", len(good))
    bad = [(b"", True), (b"nonsense", True), (good, False),
           (good[:8] + b"\xff" * 4 + good[12:], True)]
    bad += [(good[:cut], True) for cut in (4, 10, 40, len(good) - 1)]
    for data, sealed in bad:
        before = s.text().count("cannot take over")
        fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.write(fd, data)
        if sealed:
            fcntl.fcntl(fd, 1033, ALL_SEALS)
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()
        os.close(s.kept) if s.kept is not None else None
        s.kept = fd
        s.start(fd)
        eq(s.text().count("cannot take over"), before + 1, "said so")
        w = t.wire(u)
        w.caches()
        made_cache(t, u, usual_creds(u, 2), "%d:new" % u.uid)


@test("kcmd")
def what_cannot_be_left(t):
    """Nobody takes it: the log says that the caches are gone."""
    s = under_systemd(t)
    s.start()
    os.unlink(s.dir + "/notify")
    s.process.terminate()
    eq(s.process.wait(20), 0, "status")
    has(s.text(), "cannot leave the caches with systemd")


@test("kcmd")
def without_systemd_they_go(t):
    d = t.own_daemon()
    wait_for("the word of it", lambda: "end with this process" in open(
        d.log).read())
    u = t.user()
    made_cache(t, u, usual_creds(u), offset=0)
    d.restart()
    eq(t.wire(u).caches(), {})


# ------------------------------------------------------------------- kcmfs

def under_handles(t, end):
    """kcmfs ends while files are open: a clear error for who has them, the
    next mount works, and what was acknowledged is there."""
    m, u = t.mount(), t.user()
    name = made_cache(t, u, usual_creds(u, 5), "%d:tktx" % u.uid, offset=0)
    t.wire(u).set_default(name)
    path = m / ("by-name/%s/cache" % by_name(name))
    reader = u.call(os.open, path, os.O_RDONLY)
    writer = u.call(os.open, path, os.O_RDWR | os.O_APPEND)
    try:
        os.read(reader, 100)
        stored = ccfile.ticket(u.principal, "kept@EXAMPLE.COM", 5000)
        os.write(writer, stored.bytes())
        end(m)
        gone = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        for use in (lambda: os.pread(reader, 10, 1 << 20),
                    lambda: os.write(writer, stored.bytes())):
            try:
                use()
                check(False, "a file of a mount that is gone still works")
            except OSError as e:
                check(e.errno in gone, "errno %s", os.strerror(e.errno))
        m.start()
        got = ccfile.parse(u.read(path))
        check("kept@EXAMPLE.COM" in got.servers(), "the ticket is lost")
        more = ccfile.ticket(u.principal, "more@EXAMPLE.COM", 5001)
        append(u, path, more.bytes())
        eq(len(t.wire(u).creds(name)), 9)
    finally:
        for fd in (reader, writer):
            try:
                os.close(fd)
            except OSError:
                pass                    # flush of what is gone
    eq(len(t.wire(u).creds(name)), 9, "after the close")


@test(*REAL)
def kcmfs_killed_under_handles(t):
    under_handles(t, lambda m: m.kill())


@test(*REAL)
def kcmfs_stopped_under_handles(t):
    def stop(m):
        m.signal(signal.SIGTERM)
        eq(m.process.wait(20), 0, "status")
        m.detach()
    under_handles(t, stop)


@test("kcmd")
def stopped_while_a_request_waits(t):
    """SIGTERM does not wait for a daemon that does not answer."""
    p = t.proxy()
    p.may_abandon = True                # not for what it says, either
    m, u = t.mount("-o", "timeout=30", socket=p.socket), t.user()
    name = made_cache(t, u, usual_creds(u), offset=0)
    path = m / ("by-name/%s/cache" % by_name(name))
    u.read(path)
    p.hold_uid(u.uid)
    reader = subprocess.Popen(["cat", path], user=u.uid, group=u.gid,
                              extra_groups=[], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    t.cleanup(reader.wait)
    p.reset()
    wait_for("its request", lambda: p.waiting_uid(u.uid))
    m.signal(signal.SIGTERM)
    eq(m.process.wait(10), 0, "status")
    p.release()
    reader.wait(10)
    m.detach()
    m.process = None


@test("kcmd")
def mounted_again_before_the_end(t):
    """umount PATH && kcmfs PATH: the first, which ends meanwhile, leaves the
    mount of the second alone, also where the kernel gives it the number of
    the one that went."""
    for _ in range(20):
        old = t.mount()
        number = os.stat(old.path).st_dev
        old.signal(signal.SIGSTOP)
        umount(old.path)
        new = Mount(old.binary, old.path, old.path + ".new.log",
                    old.arguments, old.env).start()
        t.cleanup(new.discard)
        same = os.stat(new.path).st_dev == number
        old.signal(signal.SIGCONT)
        eq(old.process.wait(20), 0, "status of the first")
        old.process = None
        check(mounted(new.path), "the second is unmounted")
        os.listdir(new.path)
        new.finish()
        if same:
            return
    check(False, "no two mounts had one number")
