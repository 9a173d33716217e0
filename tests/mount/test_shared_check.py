"""Opens of one cache that come while another of it is being checked: they
share the next check, wait without a thread each, and are freed one by one."""
import errno
import os
import signal
import subprocess
import threading

import ccfile
from harness import REAL, test
from made import made_cache
from tree import paths_of
from util import check, eq, wait_for

MANY = 30
ASKS = ("GET_CRED_UUID_LIST", "GET_PRINCIPAL", "GET_KDC_OFFSET",
        "GET_CRED_LIST")
OPENER = """import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(len(open('/proc/self/fd/0', 'rb').read()))
"""


class World:
    """A mount whose daemon answers when it is told to, and a cache.

    What opens it does so by a descriptor: OPEN is all that it asks for.
    """

    def __init__(self, t, timeout):
        self.t, self.p = t, t.proxy()
        self.p.may_abandon = True
        self.m = t.mount("-d", "-o", "timeout=%d" % timeout,
                         socket=self.p.socket)
        self.u = t.user()
        self.name = made_cache(t, self.u, [ccfile.tgt(self.u.principal, 1)])
        path = paths_of(t, self.m, self.u, self.name).cache
        self.want = self.u.read(path)
        self.fd = self.u.call(os.open, path, os.O_RDONLY)
        self.got, self.threads = [], []

    def hold(self):
        self.p.reset()
        for op in ASKS:
            self.p.hold(op)

    def opens(self):
        with open(self.m.log, "rb") as f:
            return f.read().count(b"opcode: OPEN (")

    def tasks(self):
        return len(os.listdir("/proc/%d/task" % self.m.process.pid))

    def _open(self):
        try:
            self.got.append(self.u.read("/proc/thread-self/fd/%d" % self.fd))
        except OSError as e:
            self.got.append(e.errno)

    def start(self, count):
        """So many threads that open it, until kcmfs has seen all."""
        before = self.opens()
        threads = [threading.Thread(target=self._open, daemon=True)
                   for _ in range(count)]
        for thread in threads:
            thread.start()
        self.threads += threads
        wait_for("the opens", lambda: self.opens() >= before + count)

    def first(self):
        """One that waits for the daemon."""
        self.start(1)
        wait_for("its question", lambda: sum(self.p.calls.values()) > 0)

    def end(self):
        """What they got."""
        for thread in self.threads:
            thread.join(60)
            check(not thread.is_alive(), "an open does not end")
        self.threads = []
        got, self.got = self.got, []
        return got

    def process(self):
        before = self.opens()
        p = subprocess.Popen(
            ["/usr/bin/python3", "-c", OPENER], stdin=self.fd,
            stdout=subprocess.PIPE, text=True, user=self.u.uid,
            group=self.u.gid, extra_groups=[], env=self.u.env)
        wait_for("its open", lambda: self.opens() > before)
        return p


@test(*REAL)
def one_check_for_all(t):
    """Not one of their own, and no thread of kcmfs for each."""
    w = World(t, 60)
    w.hold()
    w.first()
    before = w.tasks()
    w.start(MANY)
    check(w.tasks() < before + MANY / 2, "%d threads, %d before",
          w.tasks(), before)
    asked = w.p.round_trips
    w.p.release()
    eq(w.end(), [w.want] * (MANY + 1))
    check(w.p.round_trips <= asked + 5, "%d round trips for %d opens",
          w.p.round_trips, MANY)


@test(*REAL)
def what_was_stored_before_they_came(t):
    """The answer that the first waits for is older than they are."""
    w = World(t, 60)
    w.hold()
    w.first()
    new = ccfile.ticket(w.u.principal, "new@EXAMPLE.COM", 2)
    eq(t.wire(w.u).store(w.name, new.bytes()).name, "OK")
    w.start(MANY)
    w.p.release()
    late = w.end()
    whole = [got for got in late if "new@EXAMPLE.COM" in
             ccfile.parse(got).servers()]
    check(len(whole) >= MANY, "%d of %d see it", len(whole), len(late))


@test(*REAL)
def interrupted_one_by_one(t):
    """Each is free at once, the first and those that wait with it; the others
    wait on, and get what there is."""
    w = World(t, 60)
    w.hold()
    leader = w.process()
    wait_for("its question", lambda: sum(w.p.calls.values()) > 0)
    w.start(3)
    parked = w.process()
    w.start(3)
    for p in (parked, leader):
        p.send_signal(signal.SIGINT)
        eq(p.wait(20), -signal.SIGINT)
        p.stdout.close()
    eq(w.got, [], "what is held")
    w.start(3)
    w.p.release()
    eq(w.end(), [w.want] * 9)


@test(*REAL)
def late_for_all(t):
    w = World(t, 1)
    w.hold()
    w.first()
    w.start(MANY)
    eq(w.end(), [errno.ETIMEDOUT] * (MANY + 1))
    w.p.release()
    w.start(2)
    eq(w.end(), [w.want] * 2)


@test(*REAL)
def gone_for_all(t):
    """The daemon ends while they wait."""
    w = World(t, 60)
    w.hold()
    w.first()
    w.start(MANY)
    w.p.refuse()            # first: what is held must not be answered
    w.p.disconnect()
    got = w.end()
    check(set(got) <= {errno.ECONNREFUSED, errno.EIO}, "%s",
          [g if isinstance(g, int) else "read" for g in got])
    w.p.stop()
    w.p.start()
    w.start(2)
    eq(w.end(), [w.want] * 2)
