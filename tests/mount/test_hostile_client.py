"""KCM clients that do anything but what they should, against kcmd and against
kcmfs --embedded: nothing dies, nothing of anybody changes, others are served.
"""
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace

import ccfile
from harness import CLOCK, not_under, sanitizer, test
from kcmwire import OP, Client, connect_as, recv_exactly, request, z
from made import made_cache, usual_creds
from util import DEADLINE, check, eq, wait_for

OURS = ("kcmd", "embedded")
REQUEST_MAX = 10 * 1024 * 1024
SOON = 5.0                      # for a request of somebody else, loaded or not
STUCK = 30                      # seconds, STUCK_LIMIT in kcm/run.c

# Connects for ever, keeping so many that some are one too many.
CONNECTS = """
import collections, socket, sys
held = collections.deque()
while True:
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    held.append(s)
    if len(held) == 400:
        print("go", flush=True)
    if len(held) > 400:
        held.popleft().close()
"""


def ready(t):
    if t.on == "embedded":
        t.mount()
    return t.user()


def process_of(t):
    return t.daemon.process.pid if t.on == "kcmd" else \
        t._mounts[0].process.pid


def memory(t):
    with open("/proc/%d/statm" % process_of(t)) as f:
        return int(f.read().split()[1]) * 4096


def descriptors(t):
    return len(os.listdir("/proc/%d/fd" % process_of(t)))


def pbytes(principal):
    return ccfile.Writer().principal(ccfile.princ(principal)).out


def large(u, server, size):
    """A ticket of megabytes, made faster than ccfile does."""
    return replace(ccfile.ticket(u.principal, server, 5, size=16),
                   ticket=b"t" * size)


class Witness:
    """Another user, who must notice nothing."""

    def __init__(self, t):
        self.t, self.u = t, t.user()
        self.creds = usual_creds(self.u)
        self.name = made_cache(t, self.u, self.creds, offset=0)
        self.want = sorted(t.wire(self.u).creds(self.name))

    def connect(self):
        try:
            return Client(self.t.kcm_socket, self.u.uid)
        except BlockingIOError:         # too many wait for accept(2)
            return None

    def asks(self, limit=SOON):
        begin = time.monotonic()
        with wait_for("a connection", self.connect, limit) as w:
            eq(sorted(w.creds(self.name)), self.want, "the other's cache")
            eq(w.store(self.name, self.creds[0].bytes()).code, 0)
        took = time.monotonic() - begin
        check(took < limit, "the other waits for %.1f s", took)
        return took


def closed_or_answered(s):
    """What comes back, until it is closed or nothing comes any more."""
    s.settimeout(0.3)
    data = b""
    try:
        while part := s.recv(1 << 16):
            data += part
    except (socket.timeout, ConnectionError):
        pass
    return data


@test(*OURS)
def every_cut_and_every_byte(t):
    """Each request cut at every byte and closed; with each byte changed."""
    u = ready(t)
    other = Witness(t)
    name = "%d:x" % u.uid
    cred = usual_creds(u)[0].bytes()
    requests = [request(op, args) for op, args in (
        ("INITIALIZE", z(name) + pbytes(u.principal)),
        ("STORE", z(name) + cred),
        ("REPLACE", z(name) + struct.pack(">i", 0) + pbytes(u.principal)
         + struct.pack(">II", 1, len(cred)) + cred),
        ("MOVE_CACHE", z(name) + z(name + "y")),
        ("RETRIEVE", z(name) + struct.pack(">II", 1, 3)
         + pbytes(u.principal) * 2),
        ("GET_CACHE_BY_UUID", b"u" * 16))]
    for raw in requests:
        for cut in range(0, len(raw), max(1, len(raw) // 60)):
            with Client(t.kcm_socket, u.uid) as w:
                w.send(raw[:cut])
    other.asks()
    chance = random.Random(1)
    for raw in requests:
        with Client(t.kcm_socket, u.uid) as w:
            for at in range(4, len(raw), max(1, len(raw) // 60)):
                bad = bytearray(raw)
                bad[at] = chance.choice((0, 1, 0x7f, 0x80, 0xff))
                try:
                    w.send(bytes(bad))
                    w.reply()
                except (OSError, EOFError):
                    w.close()
                    w.__init__(t.kcm_socket, u.uid)
    other.asks()


@test(*OURS)
def wrong_uid(t):
    """What is another's cannot be seen nor changed by its name or its UUID,
    also not by root, and not with the other's group."""
    u = ready(t)
    other = Witness(t)
    w = t.wire(other.u)
    theirs, uuid = z(other.name), next(iter(w.caches()))
    cred, p = usual_creds(u)[0].bytes(), pbytes(u.principal)
    tag = struct.pack(">II", 0, 0)
    tag += bytes(4 * 4 + 1 + 4)
    w.set_default(other.name)

    def state():
        return (w.caches(), w.default(), w.principal(other.name),
                w.offset(other.name), w.creds(other.name))
    before = state()
    for uid, gid in ((u.uid, u.gid), (u.uid, other.u.gid), (0, 0),
                     (0, other.u.gid)):
        own = z("%d:own" % uid)
        requests = [
            ("GET_PRINCIPAL", theirs), ("GET_KDC_OFFSET", theirs),
            ("GET_CRED_UUID_LIST", theirs), ("GET_CRED_LIST", theirs),
            ("GET_CRED_BY_UUID", theirs + w.ok(
                "GET_CRED_UUID_LIST", theirs).uuids()[0]),
            ("GET_CACHE_BY_UUID", uuid), ("DESTROY", theirs),
            ("INITIALIZE", theirs + p), ("STORE", theirs + cred),
            ("SET_KDC_OFFSET", theirs + b"\0\0\0\7"),
            ("MOVE_CACHE", theirs + own), ("MOVE_CACHE", own + theirs),
            ("RETRIEVE", theirs + struct.pack(">II", 1, 3) + p * 2),
            ("REMOVE_CRED", theirs + tag),
            ("REPLACE", theirs + struct.pack(">i", 0) + p
             + struct.pack(">II", 1, len(cred)) + cred)]
        with Client(t.kcm_socket, uid, gid) as mine:
            mine.init(own[:-1], p)
            for opcode, arguments in requests:
                check(mine.call(opcode, arguments).code,
                      "%s of another's cache by %d:%d", opcode, uid, gid)
            # Told or not: their default stays, and a default is no right.
            mine.set_default(other.name)
            eq(state(), before, "the other's caches after %d:%d" % (uid, gid))
            check(mine.call("GET_PRINCIPAL", theirs).code, "seen as default")
            mine.destroy(own[:-1])
    other.asks()


@test(*OURS)
def random_bytes(t):
    u = ready(t)
    other = Witness(t)
    chance = random.Random(2)
    for _ in range(150):
        s = connect_as(t.kcm_socket, u.uid, u.uid)
        size = chance.choice((1, 3, 4, 7, 8, 64, 5000))
        try:
            s.sendall(chance.randbytes(size))
        except OSError:
            pass
        s.close()
    for opcode in list(OP.values()) + [29, 77, 12999, 13003, 65535]:
        for size in (0, 1, 15, 16, 17, 300):
            with Client(t.kcm_socket, u.uid) as w:
                try:
                    w.send(request(opcode, chance.randbytes(size)))
                    w.reply()
                except (OSError, EOFError):
                    pass
    other.asks()


@test(*OURS)
def at_and_over_each_limit(t):
    u = ready(t)
    other = Witness(t)
    w = t.wire(u)
    p = pbytes(u.principal)
    for size, good in ((1024, True), (1025, False), (100000, False)):
        name = ("%d:" % u.uid).ljust(size, "n")
        eq(not w.init(name, p).code, good, "a name of %d bytes" % size)
    w.destroy(("%d:" % u.uid).ljust(1024, "n"))
    name = "%d:big" % u.uid
    w.init(name, p)
    room = REQUEST_MAX - 4 - len(z(name))
    cred = large(u, "h@EXAMPLE.COM", 100).bytes()
    fits = large(u, "h@EXAMPLE.COM", 100 + room - len(cred)).bytes()
    eq(len(request("STORE", z(name) + fits)) - 4, REQUEST_MAX)
    eq(w.store(name, fits).name, "OK", "the longest request")
    # one byte more: closed at once, before it was read
    s = connect_as(t.kcm_socket, u.uid, u.uid)
    s.sendall(struct.pack(">I", REQUEST_MAX + 1))
    eq(closed_or_answered(s), b"")
    s.close()
    eq(w.ok("GET_CRED_LIST", z(name)).blobs(), [fits])
    # a list longer than a reply may be: refused, but there
    w.ok("STORE", z(name) + cred)
    eq(w.call("GET_CRED_LIST", z(name)).name, "INTERNAL")
    ids = w.ok("GET_CRED_UUID_LIST", z(name)).uuids()
    eq(w.ok("GET_CRED_BY_UUID", z(name) + ids[0]).result, fits)
    # the quota of bytes: an error, and what is there stays
    code, stored = 0, 2
    while not code and stored < 50:
        code = w.store(name, large(u, "q%d@EXAMPLE.COM" % stored,
                                   5 << 20).bytes()).code
        stored += not code
    check(code and stored > 5, "no quota after %d tickets", stored)
    eq(len(w.ok("GET_CRED_UUID_LIST", z(name)).uuids()), stored)
    other.asks()
    w.destroy(name)
    eq(w.init(name, p).name, "OK", "after the quota was freed")


@test(*OURS)
def flood_of_connections(t):
    """More than one uid may have: those are closed, the others served."""
    u = ready(t)
    other = Witness(t)
    w = t.wire(u)
    name = made_cache(t, u, usual_creds(u), offset=0)
    before, sockets, closed = descriptors(t), [], 0
    for _ in range(400):
        sockets.append(connect_as(t.kcm_socket, u.uid, u.uid))
    other.asks()
    for s in sockets:
        try:
            s.sendall(request("GET_PRINCIPAL", z(name)))
            s.settimeout(SOON)
            closed += not s.recv(1)
        except OSError:
            closed += 1
    check(100 < closed < 400, "%d of 400 were closed", closed)
    eq(w.principal(name), pbytes(u.principal), "on an old connection")
    for s in sockets:
        s.close()
    wait_for("the descriptors", lambda: descriptors(t) <= before + 2)
    eq(t.wire(u).principal(name), pbytes(u.principal), "on a new one")


@test(*OURS)
def connections_without_end(t):
    """Others are accepted and served while one user only connects."""
    u = ready(t)
    other = Witness(t)
    before = descriptors(t)
    floods = [subprocess.Popen(
        [sys.executable, "-c", CONNECTS, t.kcm_socket], user=u.uid,
        group=u.gid, extra_groups=[], stdout=subprocess.PIPE)
        for _ in range(3)]
    try:
        for p in floods:
            check(p.stdout.readline() == b"go\n", "no flood")
        for _ in range(30):
            other.asks(4 * SOON)        # who may connect next is the kernel's
        for p in floods:
            check(p.poll() is None, "the flood ended")
    finally:
        for p in floods:
            p.kill()
            p.wait()
            p.stdout.close()
    wait_for("the descriptors", lambda: descriptors(t) <= before + 2)


@test(*OURS)
@not_under("tsan", CLOCK)
def slow_readers(t):
    """100 connections that ask for megabytes and read none: memory has an
    end, and another user's requests do not wait."""
    u = ready(t)
    other = Witness(t)
    name = made_cache(t, u, [large(u, "h%d@EXAMPLE.COM" % i, 30000)
                             for i in range(200)], offset=0)
    before = memory(t)
    sockets = []
    for _ in range(100):
        s = connect_as(t.kcm_socket, u.uid, u.uid)
        s.setblocking(False)
        try:
            for _ in range(20):
                s.send(request("GET_CRED_LIST", z(name)))
        except (BlockingIOError, ConnectionError):
            pass
        sockets.append(s)
    took = sorted(other.asks() for _ in range(30))
    check(took[15] < 0.5, "the other's requests take %.2f s", took[15])
    more = (memory(t) - before) >> 20
    # asan: keeps 256 MiB of what was freed
    check(more < (560 if sanitizer() == "asan" else 300), "%d MiB more", more)
    for s in sockets:
        s.close()
    if sanitizer() != "asan":          # those keep what was freed for a while
        wait_for("the memory", lambda: memory(t) < before + (40 << 20))
    eq(len(t.wire(u).creds(name)), 200)


@test(*OURS)
def busy_flood(t):
    """One uid asks as fast as it can on many connections: another's median
    stays short."""
    u = ready(t)
    other = Witness(t)
    name = made_cache(t, u, [ccfile.ticket(
        u.principal, "h%d@EXAMPLE.COM" % i, 1000 + i, size=9000)
        for i in range(100)], offset=0)
    stop = []
    ask = request("GET_CRED_LIST", z(name))

    def flood():
        s = connect_as(t.kcm_socket, u.uid, u.uid)
        while not stop:
            s.sendall(ask)
            size, = struct.unpack(">I", recv_exactly(s, 8)[:4])
            left = size
            while left > 0:
                left -= len(s.recv(min(left, 1 << 20)))
        s.close()
    threads = [threading.Thread(target=flood) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        took = sorted(other.asks() for _ in range(30))
    finally:
        stop.append(True)
        for thread in threads:
            thread.join()
    check(took[15] < 1.0, "the other's requests take %.2f s", took[15])


@test(*OURS)
def half_requests_are_closed_in_time(t):
    """They cost nothing but a descriptor until then; nor is a reply kept for
    ever that nobody reads."""
    u = ready(t)
    other = Witness(t)
    name = made_cache(t, u, [large(u, "h%d@EXAMPLE.COM" % i, 30000)
                             for i in range(50)], offset=0)
    idle = t.wire(u)
    idle.principal(name)
    before, at_first = memory(t), descriptors(t)
    half = struct.pack(">IBBH", REQUEST_MAX, 2, 0, OP["STORE"]) + b"x" * 2000
    begin = time.monotonic()
    sockets, sent = [], []
    for _ in range(200):
        s = connect_as(t.kcm_socket, u.uid, u.uid)
        s.sendall(half)
        sockets.append(s)
    for _ in range(5):
        s = connect_as(t.kcm_socket, u.uid, u.uid)
        s.sendall(request("GET_CRED_LIST", z(name)))
        sockets.append(s)
    other.asks()
    check(memory(t) < before + (150 << 20), "%d MiB for 200 beginnings",
          (memory(t) - before) >> 20)

    def closed():
        try:                            # a byte now and then is no excuse
            if time.monotonic() > begin + 0.1 * len(sent):
                sent.append(sockets[0].send(b"x"))
        except OSError:
            pass
        return descriptors(t) <= at_first
    try:
        time.sleep(STUCK - 10)
        check(not closed(), "closed after %.0f s",
              time.monotonic() - begin)
        wait_for("all to be closed", closed, STUCK + 10 + DEADLINE)
        for s in sockets[:200]:
            eq(closed_or_answered(s), b"", "the answer to half a request")
    finally:
        for s in sockets:
            s.close()
    eq(idle.principal(name), pbytes(u.principal), "on one that only waited")
    other.asks()
