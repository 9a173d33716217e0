"""As test_inject.py, for the daemon: requests, its start, and what it leaves
for the next process."""
import os
import signal
import struct
import subprocess

import ccfile
from fdstore import everything, under_systemd
from harness import not_under, sanitizer, test
from injecting import (ACCEPT, CHANCE, FILES, LARGE, LOOP, MEMORY,
                       OWN_ALLOCATOR, SOCKETS, Held, Injector, each_kind,
                       until_unreached)
from kcmwire import Client, z
from made import made_cache, usual_creds
from model_kcm import SERVER
from util import check, eq, has, lacks, wait_for


def injected(t, start=True):
    """A daemon of our own that the injector is in."""
    injector = Injector(t)
    d = t.own_daemon(start=False)
    d._popen = lambda command: subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=open(d.log, "ab"),
        stderr=subprocess.STDOUT, start_new_session=True,
        env=dict(os.environ, KRB5_CONFIG=d.conf, LC_ALL="C",
                 **injector.env))
    if start:
        d.start()
    return injector, d


class Requests:
    """A cache that stays, and what is asked for besides."""

    def __init__(self, t, u):
        self.t, self.u = t, u
        self.p = p = ccfile.Writer().principal(
            ccfile.princ(u.principal)).out
        # So many that no buffer for a reply of them is kept.
        creds = [ccfile.ticket(u.principal, "h%d@EXAMPLE.COM" % i, 1000 + i,
                               size=20000) for i in range(16)]
        self.name = name = made_cache(t, u, creds, offset=0)
        self.want = want = [c.bytes() for c in creds]
        replacement = struct.pack(">i", 0) + p + struct.pack(">I", 2) + \
            b"".join(struct.pack(">I", len(b)) + b for b in want[:2])
        self.more = ccfile.ticket(u.principal, "m@EXAMPLE.COM", 1,
                                  size=20000).bytes()
        old = ccfile.ticket(u.principal, "o@EXAMPLE.COM", 1, size=20000)
        self.old = old.bytes()
        tag = ccfile.Writer().raw(struct.pack(">I", SERVER))
        tag.principal(old.server).raw(bytes(4 * 4 + 1 + 4))
        self.operations = {
            "list": ("GET_CRED_LIST", z(name)),
            "uuids": ("GET_CRED_UUID_LIST", z(name)),
            "principal": ("GET_PRINCIPAL", z(name)),
            "caches": ("GET_CACHE_UUID_LIST", b""),
            "new": ("GEN_NEW", b""),
            "store": ("STORE", z(name + "s") + self.more),
            "init": ("INITIALIZE", z(name + "i") + p),
            "offset": ("SET_KDC_OFFSET", z(name + "i") + b"\0\0\0\7"),
            "remove": ("REMOVE_CRED", z(name + "r") + bytes(4) + tag.out),
            "replace": ("REPLACE", z(name + "r") + replacement),
            "move": ("MOVE_CACHE", z(name + "m") + z(name + "n")),
            "default": ("SET_DEFAULT_CACHE", z(name)),
            "destroy": ("DESTROY", z(name + "s")),
        }

    def wire(self):
        return Client(self.t.kcm_socket, self.u.uid)

    def before(self):
        """What a request changes holds something."""
        with self.wire() as w:
            for extra, cred in (("s", self.old), ("i", self.old),
                                ("r", self.old), ("m", self.more),
                                ("n", self.old)):
                w.init(self.name + extra, self.p)
                w.store(self.name + extra, cred)

    def ask(self, what):
        """True if it was done."""
        try:
            with self.wire() as w:
                answer = w.call(*self.operations[what])
                if not answer.code and what == "list":
                    eq(answer.blobs(), self.want, "listed")
                if not answer.code and what == "uuids":
                    eq(len(answer.uuids()), len(self.want), "UUIDs")
                if not answer.code and what == "principal":
                    eq(answer.result, self.p, "principal")
                return not answer.code
        except (OSError, EOFError):
            return False

    def state(self, w):
        """{cache: credentials} of those that a request may change."""
        there = w.caches().values()
        return {c: w.creds(self.name + c) for c in "sirmn"
                if self.name + c in there}

    def after(self, what, ok):
        """As before it, or, if it was done, as it should be."""
        before = {"s": [self.old], "i": [self.old], "r": [self.old],
                  "m": [self.more], "n": [self.old]}
        done = {
            "store": dict(before, s=[self.old, self.more]),
            "init": dict(before, i=[]),
            "remove": dict(before, r=[]),
            "replace": dict(before, r=self.want[:2]),
            "move": {"s": [self.old], "i": [self.old], "r": [self.old],
                     "n": [self.more]},
            "destroy": {c: creds for c, creds in before.items() if c != "s"},
        }.get(what, before)
        with self.wire() as w:
            eq(w.creds(self.name), self.want, "after %s" % what)
            got = self.state(w)
            check(got == done or (not ok and got == before),
                  "after %s, %s: %s", what, "done" if ok else "not done",
                  {c: len(creds) for c, creds in got.items()})
            if what == "offset":
                offset = w.offset(self.name + "i")
                check(offset == 7 or not ok and offset == 0, "%d", offset)


def each_in_turn(requests, injector, d, held, what, kind, all_after=False):
    """Returns how many failures it took."""
    def attempt(number):
        requests.before()
        injector.arm(kind, number, all_after)
        ok = requests.ask(what)
        reached = injector.disarm()
        d.assert_alive()
        check(ok or reached, "%s fails by itself", what)
        requests.after(what, ok)
        held.check("%s, kind %d, number %d failing" % (what, kind, number))
        return reached
    return until_unreached(attempt, what)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def kcmd_in_turn(t):
    """Memory and sockets of the daemon: its clients are told or closed, and
    what was stored before stays."""
    injector, d = injected(t)
    requests = Requests(t, t.user())
    held = Held(d.process.pid)
    count = {}
    for what in requests.operations:
        for kind in (MEMORY, LARGE, SOCKETS):
            count[what, kind] = each_in_turn(requests, injector, d, held,
                                             what, kind)
    eq([key for key, failures in count.items() if failures == 0
        and (key[1] != LARGE or (key[0] in ("list", "replace")
                                 and not sanitizer()))],
       [], "nothing was made to fail")
    for what in requests.operations:
        for kind in (MEMORY, LARGE, SOCKETS):
            each_in_turn(requests, injector, d, held, what, kind, True)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def no_descriptors(t):
    """Who cannot be accepted waits, and is served when it can again, also
    where listening again is what fails."""
    injector, d = injected(t)
    requests = Requests(t, t.user())
    requests.before()
    held = Held(d.process.pid)
    for again in (False, True):
        injector.arm(ACCEPT, 1)
        with requests.wire() as w:
            w.send(struct.pack(">IBBH", 4, 2, 0, 0))        # NOOP
            wait_for("accept4() to fail", injector.failed)
            if again:
                injector.arm(SOCKETS, 1)
            eq(w.reply().code, 0)
        check(injector.disarm(), "nothing was made to fail")
        requests.after("accept4", True)
    held.check("accept4")
    with open(d.log) as f:
        has(f.read(), "cannot accept connections for a second")


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def kcmd_starts_in_turn(t):
    """It serves, or says why not and leaves no socket behind."""
    injector, d = injected(t, start=False)

    def attempt(kind, number):
        injector.arm(kind, number)
        process = d.process = d._spawn()
        wait_for("an outcome", lambda: process.poll() is not None or
                 answers(t))
        reached = injector.disarm()
        ended = process.poll() is not None
        if not ended:
            process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        with open(d.log) as f:
            lines = f.read().splitlines()
        where = "kind %d, number %d: status %d, %s" % (
            kind, number, code, lines[-1:])
        check(code == 0 or (reached and code == 1 and
                            "cannot" in lines[-1]), where)
        check(not os.path.exists(d.socket), "a socket is left: " + where)
        return reached
    each_kind((MEMORY, LARGE, SOCKETS, FILES), attempt)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def no_randomness(t):
    """For a moment: the names of caches are none the less each its own."""
    injector, _ = injected(t)
    u = t.user()
    w, p = t.wire(u), ccfile.Writer().principal(ccfile.princ(u.principal)).out
    injector.arm(CHANCE, 1)
    for i in range(20):
        eq(w.init("%d:%d" % (u.uid, i), p).code, 0)
    check(injector.disarm(), "nothing was made to fail")
    uuids = w.caches()
    eq(len(uuids), 20, "caches")
    check(bytes(16) not in uuids, "an empty UUID")


# ------------------------------------------------- over a restart

def messages(s):
    """What kcmd told systemd until now, which does as it is told."""
    found = []
    s.notify.settimeout(0.0)
    try:
        while True:
            text, fd = s.message()
            found += text.split("\n")
            if "FDSTOREREMOVE=1" in found[-2:] and s.kept is not None:
                os.close(s.kept)
                s.kept = None
            if fd is not None:
                check(s.kept is None, "two are kept")
                s.kept = fd
    except BlockingIOError:
        return found
    finally:
        s.notify.settimeout(20)


def answers(t):
    try:
        with Client(t.kcm_socket, 0) as w:
            w.socket.settimeout(0.2)
            return not w.call("NOOP").code
    except (OSError, EOFError):
        return False


class Kept:
    """kcmd under systemd, with caches of two users, again and again."""

    def __init__(self, t):
        self.t, self.injector = t, Injector(t)
        self.s = under_systemd(t, self.injector.env)
        self.users = [t.user() for _ in range(2)]
        self.changes = 0
        self.s.start()
        self.fill()

    def fill(self):
        for u in self.users:
            made_cache(self.t, u, usual_creds(u, 4), "%d:a" % u.uid, offset=7)
            made_cache(self.t, u, [ccfile.ticket(
                u.principal, "big@EXAMPLE.COM", 1000, size=100000)],
                "%d:b" % u.uid, offset=0)
            self.t.wire(u).set_default("%d:b" % u.uid)
        self.before = self.now()

    def change(self):
        """So that what was left before this is old."""
        self.changes += 1
        u = self.users[0]
        self.t.wire(u).set_offset("%d:a" % u.uid, self.changes)
        self.before = self.now()

    def now(self):
        return [everything(self.t, u) for u in self.users]

    def start(self):
        """Whether it serves, or else its end."""
        self.s.launch(self.s.kept)
        wait_for("an outcome", lambda: answers(self.t) or
                 self.s.process.poll() is not None)
        return self.s.process.poll() is None

    def end(self):
        if self.s.process.poll() is None:
            self.s.process.send_signal(signal.SIGTERM)
        return self.s.process.wait(20)

    def log(self):
        """What it said since this was asked for last."""
        text = self.s.text()
        new, self.said = text[getattr(self, "said", 0):], len(text)
        return new

    def kept(self):
        """With systemd and whole: what the next process has."""
        messages(self.s)
        if self.s.kept is None:
            return False
        check(self.start(), "it does not start: %s", self.s.text())
        eq(self.now(), self.before, "kept")
        messages(self.s)
        return True


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def leaving_in_turn(t):
    """At the end: left with systemd whole, or said to be lost."""
    k = Kept(t)

    def attempt(kind, number):
        messages(k.s)
        k.log()
        k.injector.arm(kind, number)
        eq(k.end(), 0, "status")
        reached = k.injector.disarm()
        said = k.log()
        if k.kept():
            lacks(said, "cannot keep")
            lacks(said, "cannot leave")
        else:
            check(reached and ("cannot keep the caches" in said or
                               "cannot leave the caches" in said),
                  "lost without a word (%d, %d): %s", kind, number, said)
            check(k.start(), "it does not start")
            k.fill()
        return reached
    each_kind((LARGE, SOCKETS, FILES), attempt)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def taking_over_in_turn(t):
    """At the start: taken over whole, or said not to be; who cannot serve
    leaves them again."""
    k = Kept(t)

    def attempt(kind, number):
        eq(k.end(), 0, "status")
        messages(k.s)
        check(k.s.kept is not None, "not left")
        k.log()
        k.injector.arm(kind, number)
        serves = k.start()
        reached = k.injector.disarm()
        check(serves or reached, "it does not start: %s", k.s.text())
        messages(k.s)
        said = k.log()
        lost = "cannot take over all caches" in said or \
            "end with this process" in said
        if not serves:
            check(k.kept() or lost, "lost without a word (%d, %d): %s",
                  kind, number, said)
        elif "cannot take over" not in said:
            eq(k.now(), k.before, "taken over (%d, %d)" % (kind, number))
        check(reached or not lost, "lost by itself: %s", said)
        if lost:
            k.end()
            messages(k.s)
            if k.s.kept is not None:
                os.close(k.s.kept)
                k.s.kept = None
            check(k.start(), "it does not start")
            k.fill()
        k.change()
        return reached
    each_kind((MEMORY, LARGE, SOCKETS, FILES), attempt)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def the_loop_ends(t):
    """What cannot go on leaves what it has."""
    k = Kept(t)
    messages(k.s)
    k.injector.arm(LOOP, 1)
    answers(t)
    eq(k.s.process.wait(20), 1, "status")
    check(k.injector.disarm(), "nothing was made to fail")
    has(k.log(), "cannot go on")
    check(k.kept(), "not left")
