"""A KCM daemon that answers anything but what it should, through a mount.

A proxy before a real kcmd spoils the replies to one opcode of one user.
Whatever comes: an errno that fits, in time, never bytes of two replies or of
a cache as it never was, and all is well as soon as the daemon is.
"""
import errno
import os
import struct
import threading
import time

import ccfile
from harness import CLOCK, not_under, sanitizer, test
from kcmwire import z
from made import made_cache
from proxy import CLOSE, OTHER, STALL
from tree import by_name, ticket_name
from util import Failed, at_once, check, eq, raises, wait_for
from writing import append, put, rename_over

TIMEOUT = 2                     # seconds, of the mounts here
SLACK = 1.5                     # for a loaded machine
NONSENSE = {errno.EIO}


def reply(code=0, body=b"", outer=0):
    return struct.pack(">Iii", 4 + len(body), outer, code) + body


def length(message, value):
    return struct.pack(">I", value & 0xffffffff) + message[4:]


# What is done with a good reply, and the errnos that may come of it; None:
# the call may succeed.
FAULTS = {
    "nothing": (lambda m: [STALL], {errno.ETIMEDOUT}),
    "half": (lambda m: [m[:len(m) // 2], STALL], {errno.ETIMEDOUT}),
    "all but a byte": (lambda m: [m[:-1], STALL], {errno.ETIMEDOUT}),
    "late": (lambda m: [0.3, m], {None}),
    "bytes": (lambda m: [bytes([b]) for b in m], {None}),
    "header, then body": (lambda m: [m[:8], 0.1, m[8:]], {None}),
    "closed": (lambda m: [CLOSE], NONSENSE),
    "closed in the length": (lambda m: [m[:3], CLOSE], NONSENSE),
    "closed in the status": (lambda m: [m[:9], CLOSE], NONSENSE),
    "closed at the last byte": (lambda m: [m[:-1], CLOSE], NONSENSE),
    "absurd length": (lambda m: [length(m, 0xfffffff0), STALL], NONSENSE),
    "negative length": (lambda m: [length(m, 0x80000000), STALL], NONSENSE),
    "length 0": (lambda m: [length(m, 0)[:8], STALL], NONSENSE),
    "length 2": (lambda m: [length(m, 2)[:10], STALL], NONSENSE),
    "too long by 16": (lambda m: [length(m, len(m) + 8), STALL],
                       {errno.ETIMEDOUT}),
    "twice": (lambda m: [m + m], {None} | NONSENSE),
    "with another one": (lambda m: [m + reply(0, b"x\0")],
                         {None} | NONSENSE),
    "and a byte": (lambda m: [m + b"\0"], {None} | NONSENSE),
    "a byte too much": (lambda m: [length(m, len(m) - 7) + b"\0"],
                        {None} | NONSENSE),
    "of another request": (lambda m: [OTHER], {None} | NONSENSE),
    "unknown status": (lambda m: [reply(-1)], NONSENSE),
    "unknown outer status": (lambda m: [reply(0, b"", -77)], NONSENSE),
    "positive status": (lambda m: [reply(123456)], NONSENSE),
    "smallest status": (lambda m: [reply(-0x80000000)], NONSENSE),
}


class Attacked:
    """One user's cache behind the proxy, with a thread for their attempts."""

    def __init__(self, t, m, p, good):
        self.t, self.m, self.p = t, m, p
        self.u, self.good = t.user(), good
        self.start = int(time.time()) - 5000
        self.name = "%d:tktx" % self.u.uid
        self.client = ccfile.princ(self.u.principal)
        self.creds = [ccfile.tgt(self.client, self.start)]
        self.creds += [self.ticket(i) for i in range(1, 8)]
        self.serial = 8
        made_cache(good, self.u, self.creds, self.name, offset=0)
        self.wire = good.wire(self.u)
        self.wire.set_default(self.name)
        self.dir = m / ("by-name/" + by_name(self.name))
        self.path = self.dir + "/cache"

    def ticket(self, number, **more):
        return ccfile.ticket(self.client, "h%d@EXAMPLE.COM" % number,
                             self.start + number, **more)

    def next(self, **more):
        self.serial += 1
        return self.ticket(self.serial, **more)

    def change(self):
        """Behind the mount's back, so that it has something to fetch."""
        for _ in range(6):
            self.creds.append(self.next())
            self.wire.store(self.name, self.creds[-1].bytes())

    def in_kcm(self):
        return sorted(self.wire.creds(self.name))

    def whole(self, image):
        got = sorted(c.bytes() for c in ccfile.parse(image).creds)
        eq(got, sorted(c.bytes() for c in self.creds), "the cache read")

    def attempt(self, function):
        """(errno or None, seconds) of one call."""
        begin = time.monotonic()
        code = None
        try:
            function()
        except OSError as e:
            code = e.errno
        return code, time.monotonic() - begin


def behind(t, *options):
    """A mount on a proxy on a kcmd; t's wire clients stay on the kcmd."""
    p = t.proxy()
    return p, t.mount("-o", "timeout=%d" % TIMEOUT, *options,
                      socket=p.socket)


def judge(what, fault, code, seconds, also=()):
    allowed = FAULTS[fault][1] | set(also)
    check(code in allowed, "%s, reply %s: %s, not one of %s", what, fault,
          code and os.strerror(code),
          [c and os.strerror(c) for c in allowed])
    check(seconds < TIMEOUT + SLACK, "%s, reply %s: %.1f s", what, fault,
          seconds)


# A reply and more.  Replies have no numbers: where two requests were sent at
# once, the one too many passes for the second's, and the second's comes when
# nobody waits any more.  It is noticed by who uses the connection next, if it
# is there by then (Proxy.quiet); else it is taken for another one's.
MORE = ("twice", "with another one", "and a byte")


def spoiled(p, op, u, fault):
    """Was a reply to op spoiled, and not another or none?"""
    if not p.hits(op, u.uid):
        raise Failed("%s is not asked for (reply %s), but %s" % (op, fault, [
            name for uid, name, _ in p.log if uid == u.uid][-6:]))


def health(m):
    """(descriptors, threads) of the mount's process."""
    pid = m.process.pid
    return (len(os.listdir("/proc/%d/fd" % pid)),
            len(os.listdir("/proc/%d/task" % pid)))


# --------------------------------------------------------------- reading

def read_attempts(a, op):
    """What asks for op: (function, errnos that it may give besides)."""
    def read_cache():
        image = a.u.read(a.path)
        a.whole(image)

    def read_changed():
        a.change()
        read_cache()
    return {
        "GET_CRED_UUID_LIST": read_changed, "GET_PRINCIPAL": read_changed,
        "GET_KDC_OFFSET": read_changed, "GET_CRED_LIST": read_changed,
        "GET_CRED_BY_UUID": read_changed,
        "GET_CACHE_UUID_LIST": lambda: a.u.list(a.m / "by-name"),
        "GET_DEFAULT_CACHE": lambda: a.u.link(a.m / "default"),
    }[op]


def spoil_reading(t, p, m, ops, skipped=()):
    attacked = {op: Attacked(t, m, p, t) for op in ops}

    def body(op):
        a = attacked[op]
        attempt = read_attempts(a, op)
        a.whole(a.u.read(a.path))
        for fault, (spoil, _) in FAULTS.items():
            if fault in skipped:
                continue
            p.mangle(op, spoil, a.u.uid)
            code, seconds = a.attempt(attempt)
            spoiled(p, op, a.u, fault)
            also = {None} if op == "GET_KDC_OFFSET" else ()
            if op == "GET_CRED_LIST" and "status" in fault:
                also = {None}           # the way round is there
            if op == "GET_DEFAULT_CACHE":
                also = {None}           # what was so before
            judge(op, fault, code, seconds, also)
            p.heal_uid(a.u.uid)
            if fault in MORE:
                p.quiet(a.u.uid)
            a.whole(a.u.read(a.path))
            eq(a.in_kcm(), sorted(c.bytes() for c in a.creds), "KCM")
    at_once([lambda op=op: body(op) for op in ops])


@test("kcmd")
@not_under("tsan", CLOCK)
def reading(t):
    """Every operation of the read path, each with every fault."""
    p, m = behind(t)
    spoil_reading(t, p, m, ["GET_CRED_UUID_LIST", "GET_PRINCIPAL",
                            "GET_KDC_OFFSET", "GET_CRED_LIST",
                            "GET_CACHE_UUID_LIST", "GET_DEFAULT_CACHE"])
    check(m.alive(), "kcmfs is dead")


@test("kcmd")
@not_under("tsan", CLOCK)
def reading_without_extensions(t):
    """The same by UUIDs, as on Heimdal."""
    t.own_daemon("--no-mit-extensions")
    p, m = behind(t)
    # Replies have no numbers: one too many among those to a batch, all of
    # them credentials, shifts the others.
    spoil_reading(t, p, m, ["GET_CRED_BY_UUID", "GET_CRED_UUID_LIST"],
                  skipped=("twice", "with another one"))
    check(m.alive(), "kcmfs is dead")


@test("kcmd")
def closed_at_every_byte(t):
    p, m = behind(t)
    a = Attacked(t, m, p, t)
    a.whole(a.u.read(a.path))
    attempts = {
        "GET_CACHE_UUID_LIST": lambda: a.u.list(m / "by-name"),
        "GET_DEFAULT_CACHE": lambda: a.u.link(m / "default"),
    }
    harmless = ("GET_KDC_OFFSET", "GET_DEFAULT_CACHE")
    for op in ("GET_CRED_UUID_LIST", "GET_PRINCIPAL", "GET_CRED_LIST",
               "GET_CACHE_UUID_LIST", *harmless):
        attempt, size = attempts.get(op, lambda: a.u.read(a.path)), []

        def anew():                     # there is something to fetch
            made_cache(t, a.u, a.creds, a.name, offset=0)
        anew()
        p.mangle(op, lambda b: [size.append(len(b)) or b], a.u.uid)
        attempt()
        anew()
        for cut in range(size[0]):
            if 100 < cut < size[0] - 8 and cut % 40:
                continue                # in the middle of tickets
            p.mangle(op, lambda b, cut=cut: [b[:cut], CLOSE], a.u.uid)
            if op == "GET_KDC_OFFSET":
                anew()
            code, seconds = a.attempt(attempt)
            spoiled(p, op, a.u, "cut at %d" % cut)
            check(code == errno.EIO or code is None and op in harmless,
                  "%s cut at %d: %s", op, cut, code)
            check(seconds < TIMEOUT + SLACK, "%.1f s", seconds)
        p.heal_uid(a.u.uid)
        a.whole(a.u.read(a.path))
    for op, function in writes(a).items():
        for cut in range(12):
            p.mangle(op, lambda b, cut=cut: [b[:cut], CLOSE], a.u.uid)
            code, seconds = a.attempt(function)
            spoiled(p, op, a.u, "cut at %d" % cut)
            check(code in (None, errno.EIO) and seconds < TIMEOUT + SLACK,
                  "%s cut at %d: %s in %.1f s", op, cut, code, seconds)
            p.heal_uid(a.u.uid)
            outcome(a, op, code)
            a.whole(a.u.read(a.path))


@test("kcmd")
def lists_that_lie(t):
    """Counts, lengths, odd lists of UUIDs: EIO, and nothing is believed."""
    p, m = behind(t)
    a = Attacked(t, m, p, t)
    a.whole(a.u.read(a.path))

    def listed(*counts, rest=b""):
        return reply(0, struct.pack(">%dI" % len(counts), *counts) + rest)

    def answered(op, message, *codes):
        a.change()
        p.mangle(op, lambda m: [message], a.u.uid)
        code, seconds = a.attempt(lambda: a.whole(a.u.read(a.path)))
        check(code in codes and seconds < TIMEOUT + SLACK,
              "%s answers %r...: %s in %.1f s", op, message[:40],
              code and os.strerror(code), seconds)
        p.heal_uid(a.u.uid)
        a.whole(a.u.read(a.path))
    for size in (1, 15, 17, 16 * 7 + 8):
        answered("GET_CRED_UUID_LIST", reply(0, b"u" * size), errno.EIO)
    answered("GET_CRED_LIST", reply(0), errno.EIO)
    answered("GET_CRED_LIST", listed(0xffffffff), errno.EIO)
    answered("GET_CRED_LIST", listed(0x40000000, 4, rest=b"abcd"), errno.EIO)
    # of another number than the UUIDs: asked again, another way
    answered("GET_CRED_LIST", listed(6, 0x7fffffff, rest=b"x" * 100),
             None, errno.EIO)
    for body in (b"", b"\0", struct.pack(">II", 1, 0xffffffff),
                 struct.pack(">III", 1, 0, 0xfffffff0) + b"R"):
        answered("GET_PRINCIPAL", reply(0, body), errno.EIO, errno.ENOENT)


@test("kcmd")
def far_too_many_uuids(t):
    """10^5 of them, of credentials and of caches."""
    p, m = behind(t)
    a, b = Attacked(t, m, p, t), Attacked(t, m, p, t)
    a.whole(a.u.read(a.path))
    many = reply(0, os.urandom(16 * 100000))
    a.change()
    for op, function in (
            ("GET_CRED_UUID_LIST", lambda: a.u.read(a.path)),
            ("GET_CACHE_UUID_LIST", lambda: a.u.list(m / "by-name"))):
        p.mangle(op, lambda m: [many], a.u.uid)
        code, seconds = a.attempt(function)
        check(code in (None, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN),
              "%s: %s", op, code)
        check(seconds < TIMEOUT + 2 * SLACK, "%s: %.1f s", op, seconds)
        b.whole(b.u.read(b.path))
        p.heal_uid(a.u.uid)
        a.whole(a.u.read(a.path))


@test("kcmd")
@not_under("tsan", CLOCK)
def far_too_much(t):
    """64 MiB of credentials, and one byte more than a reply may have."""
    p, m = behind(t)
    a, b = Attacked(t, m, p, t), Attacked(t, m, p, t)
    a.whole(a.u.read(a.path))
    rss = resident(m)
    big = a.ticket(1, size=1 << 20).bytes()
    for count in (63, 65):
        body = struct.pack(">I", count) + count * (
            struct.pack(">I", len(big)) + big)
        a.change()
        p.mangle("GET_CRED_LIST", lambda m: [reply(0, body)], a.u.uid)
        # None: read another way, and right
        code, seconds = a.attempt(lambda: a.whole(a.u.read(a.path)))
        check(code in (None, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN),
              "%d MiB: %s", count, code)
        check(seconds < TIMEOUT + 2 * SLACK, "%.1f s", seconds)
        b.whole(b.u.read(b.path))
        p.heal_uid(a.u.uid)
        a.whole(a.u.read(a.path))
    if not sanitizer():                 # which keeps what was freed
        wait_for("the memory to be given back",
                 lambda: resident(m) < rss + (64 << 20))


def resident(m):
    with open("/proc/%d/statm" % m.process.pid) as f:
        return int(f.read().split()[1]) * 4096


def secret_memory(m):
    with open(m / ".kcmfs/status") as f:
        return [int(line.split()[2]) for line in f
                if line.startswith("secret memory:")][0]


@test("kcmd")
def nothing_leaks(t):
    """Descriptors, threads and memory after many failures of each kind."""
    p, m = behind(t)
    people = [Attacked(t, m, p, t) for _ in range(4)]
    faults = ("closed", "closed in the status", "closed at the last byte",
              "absurd length", "length 2", "unknown status",
              "a byte too much", "twice")

    def round_of_faults(a):
        # Made anew, so that there is something to fetch, and no more of it.
        made_cache(t, a.u, a.creds, a.name, offset=0)
        for op in ("GET_PRINCIPAL", "GET_CRED_LIST"):
            for fault in faults:
                p.mangle(op, FAULTS[fault][0], a.u.uid)
                for _ in range(2):
                    a.attempt(lambda: a.u.read(a.path))
                p.heal_uid(a.u.uid)
                if fault == "twice":
                    p.quiet(a.u.uid)
        a.whole(a.u.read(a.path))

    def rounds(number):
        for _ in range(number):
            at_once([lambda a=a: round_of_faults(a) for a in people])
    # A reply of 100 kB: one that is kept at each failure, or each tenth, is
    # more than the allocator's ups and downs.
    for a in people:
        a.creds += [a.next(size=30000) for _ in range(3)]
    rounds(2)
    settled = health(m)
    secret, rss = secret_memory(m), resident(m)
    rounds(3)
    wait_for("descriptors and threads as before: %r" % (settled,),
             lambda: health(m)[0] <= settled[0] + 4 and
             health(m)[1] <= settled[1] + 8)
    # Of the caches that were read, and of no reply.
    check(secret_memory(m) < secret + 20000, "%d bytes of secret memory, "
          "before %d", secret_memory(m), secret)
    if not sanitizer():                 # which keeps what was freed
        check(resident(m) < rss + (8 << 20), "%d kB, before %d",
              resident(m) >> 10, rss >> 10)


@test("kcmd")
def abandoned_is_drained(t):
    """A request that took too long: its connection is read to the end and
    then closed, and is never used for another."""
    p, m = behind(t)
    a = Attacked(t, m, p, t)
    a.whole(a.u.read(a.path))
    settled = health(m)
    for _ in range(3):
        p.hold_uid(a.u.uid)
        a.change()
        raises(errno.ETIMEDOUT, a.u.read, a.path)
        p.release()
        a.whole(a.u.read(a.path))
    # a thread that was new among them keeps a descriptor of its own
    wait_for("the connections to be closed",
             lambda: health(m)[0] - health(m)[1] <= settled[0] - settled[1] + 1)


# --------------------------------------------------------------- writing

def writes(a):
    """{opcode: (function that needs it, may it have been done in part)}"""
    def store():
        a.pending = [a.next()]
        append(a.u, a.path, a.pending[0].bytes())

    def replace():
        a.pending = [a.next(), a.next()]
        rename_over(a.u, a.path,
                    ccfile.Cache(a.client, a.pending).bytes())
    return {"STORE": store, "REPLACE": replace}


def outcome(a, op, code):
    """After a write: what the daemon holds is what was before or after it,
    after it if it was said to be done."""
    before = sorted(c.bytes() for c in a.creds)
    new = sorted(c.bytes() for c in a.pending)
    after = new if op == "REPLACE" else sorted(before + new)
    got = a.in_kcm()
    # A store that was lost on the way may have been made twice.
    if got == after or sorted(set(got)) == sorted(set(after)):
        a.creds = list(a.pending) if op == "REPLACE" else \
            a.creds + a.pending
    else:
        check(code is not None, "%s is said to be done, and is not", op)
        check(got == before, "%s: %d credentials, not %d or %d", op,
              len(got), len(before), len(after))


@test("kcmd")
def writing(t):
    """STORE and REPLACE, each answered with every fault."""
    p, m = behind(t)
    ops = ("STORE", "REPLACE")
    attacked = {op: Attacked(t, m, p, t) for op in ops}

    def body(op):
        a = attacked[op]
        function = writes(a)[op]
        a.whole(a.u.read(a.path))
        for fault, (spoil, _) in FAULTS.items():
            p.mangle(op, spoil, a.u.uid)
            code, seconds = a.attempt(function)
            spoiled(p, op, a.u, fault)
            if "status" in fault and op == "REPLACE":
                code = code and errno.EIO       # or done another way
            judge(op, fault, code, seconds, {None, errno.EIO})
            p.heal_uid(a.u.uid)
            if fault in MORE:
                p.quiet(a.u.uid)
            outcome(a, op, code)
            a.whole(a.u.read(a.path))
    at_once([lambda op=op: body(op) for op in ops])


@test("kcmd")
def destroying(t):
    """DESTROY, each time of a cache of its own."""
    p, m = behind(t)
    u = t.user()
    w = t.wire(u)

    def body(number, fault):
        name = "%d:t%d" % (u.uid, number)
        with t_wire(t, u) as own:
            own.init(name, ccfile.Writer().principal(
                ccfile.princ(u.principal)).out)
            path = m / ("by-name/%s/cache" % by_name(name))
            begin, code = time.monotonic(), None
            try:
                u.call(os.unlink, path)
            except OSError as e:
                code = e.errno
            judge("unlink", fault, code, time.monotonic() - begin,
                  {None, errno.EIO})
            if code is None:
                check(own.call("GET_PRINCIPAL", z(name)).code,
                      "%s is there after unlink", name)
    for number, (fault, (spoil, _)) in enumerate(FAULTS.items()):
        if fault in SLOW:
            continue
        p.mangle("DESTROY", spoil, u.uid)
        body(number, fault)
        spoiled(p, "DESTROY", u, fault)
        p.heal_uid(u.uid)
        if fault in MORE:
            p.quiet(u.uid)
    check(w.default(), "no default")


# As "nothing", and each takes seconds.
SLOW = ("half", "all but a byte", "too long by 16")


def changes(a):
    """{opcode: a function that returns one that needs it, one that says what
    is there, and what may be: first what is wanted, then what also may be
    where that fails}."""
    def creation():
        """INITIALIZE of a name that is not there."""
        name = "%d:tktn%d" % (a.u.uid, a.serial)
        path = a.m / ("by-name/" + by_name(name))
        creds = [a.next()]
        a.u.call(os.mkdir, path)
        return lambda: put(a.u, path + "/cache", ccfile.Cache(
            a.client, creds).bytes()), lambda: held(name), [
                sorted(c.bytes() for c in creds), [], None]

    def held(name):
        if name not in a.wire.caches().values():
            return None
        found = sorted(a.wire.creds(name))
        a.wire.destroy(name)
        return found

    def default():
        """SET_DEFAULT_CACHE, to the other one of two."""
        before = a.wire.default()
        name = a.name if before != a.name else a.other
        link = "%s/new-default%d" % (a.m, a.serial)
        a.serial += 1

        def body():
            a.u.call(os.symlink, "by-name/" + by_name(name), link)
            a.u.call(os.rename, link, a.m / "default")
        return body, a.wire.default, [name, before]

    def removal():
        """REMOVE_CRED, of a ticket by its name."""
        gone = a.creds[-1]
        path = a.dir + "/tickets/" + ticket_name(str(gone.server))

        def after():
            got = a.in_kcm()
            if gone.bytes() not in got:
                a.creds[-1] = a.next()
                a.wire.store(a.name, a.creds[-1].bytes())
            return got
        before = sorted(c.bytes() for c in a.creds)
        return lambda: a.u.call(os.unlink, path), after, [
            [c for c in before if c != gone.bytes()], before]

    def move():
        """MOVE_CACHE, of what was written beside it."""
        before = sorted(c.bytes() for c in a.creds)
        new = [a.next(), a.next()]

        def after():
            got = a.in_kcm()
            if got != before:
                a.creds = new
            return got
        return lambda: rename_over(
            a.u, a.path, ccfile.Cache(a.client, new).bytes()), after, [
                sorted(c.bytes() for c in new), before]

    def listing():
        """GET_CACHE_BY_UUID, of one that is new."""
        name = "%d:tktl%d" % (a.u.uid, a.serial)
        a.serial += 1
        a.wire.init(name, ccfile.Writer().principal(a.client).out)

        def after():
            got = by_name(name) in a.u.list(a.m / "by-name")
            a.wire.destroy(name)
            return got
        return lambda: a.u.list(a.m / "by-name"), after, [True]
    return {"INITIALIZE": creation, "SET_KDC_OFFSET": creation,
            "SET_DEFAULT_CACHE": default,
            "REMOVE_CRED": removal, "MOVE_CACHE": move,
            "GET_CACHE_BY_UUID": listing}


def spoil_changes(t, *ops):
    """What is there afterwards is what was before, or what was wanted, and
    the latter where no error is said.  Each on a mount of its own: while a
    rename waits, the kernel lets no lookup into that directory."""
    attacked = {}
    for op in ops:
        p, m = behind(t)
        attacked[op] = Attacked(t, m, p, t)

    def body(op):
        a = attacked[op]
        p, m = a.p, a.m
        a.other = made_cache(t, a.u, a.creds[:2], "%d:tkty" % a.u.uid,
                             offset=0)
        for fault, (spoil, _) in FAULTS.items():
            if fault in SLOW or (fault == "of another request" and
                                 op == "GET_CACHE_BY_UUID"):
                continue                # another name cannot be told
            function, after, wanted = changes(a)[op]()
            p.mangle(op, spoil, a.u.uid)
            code, seconds = a.attempt(function)
            spoiled(p, op, a.u, fault)
            judge(op, fault, code, seconds, {None, errno.EIO})
            p.heal_uid(a.u.uid)
            if fault in MORE:
                p.quiet(a.u.uid)
            got = after()
            check(got in (wanted if code else wanted[:1]),
                  "%s, reply %s, %s: there is %r", op, fault,
                  code and os.strerror(code), got)
            a.whole(a.u.read(a.path))
    at_once([lambda op=op: body(op) for op in ops])
    for a in attacked.values():
        check(a.m.alive(), "kcmfs is dead")


@test("kcmd")
@not_under("tsan", CLOCK)
def changing(t):
    """Whatever else changes or names caches, each with every fault."""
    spoil_changes(t, "SET_DEFAULT_CACHE", "REMOVE_CRED", "GET_CACHE_BY_UUID")


@test("kcmd")
@not_under("tsan", CLOCK)
def changing_without_extensions(t):
    """A cache is made, and replaced, without REPLACE, as on Heimdal."""
    t.own_daemon("--no-mit-extensions")
    spoil_changes(t, "INITIALIZE", "SET_KDC_OFFSET", "MOVE_CACHE")


@test("kcmd")
@not_under("tsan", CLOCK)
def asked_which_daemon_it_is(t):
    """NOOP, once for each mount."""
    u = t.user()
    for fault, (spoil, _) in FAULTS.items():
        if fault in SLOW:
            continue
        p, m = behind(t)
        p.mangle("NOOP", spoil, u.uid)
        begin, code = time.monotonic(), None
        try:
            u.read(m / ".kcmfs/status")
        except OSError as e:
            code = e.errno
        spoiled(p, "NOOP", u, fault)
        # lookup, open and read each wait for it
        judge("NOOP", fault, code, (time.monotonic() - begin) / 3,
              {None, errno.EIO})
        p.heal_uid(u.uid)
        p.quiet(u.uid)
        text = u.text(m / ".kcmfs/status")
        check("answers: yes" in text, "after reply %s: %s", fault, text)


def t_wire(t, u):
    from kcmwire import Client
    return Client(t.kcm_socket, u.uid)


@test("kcmd")
def hanging_lookups_block_nobody(t):
    """A's lookups and listings of the shared directories hang; B's do not
    wait for them (the kernel would make them, by default)."""
    p = t.proxy()
    m = t.mount("-o", "timeout=20", socket=p.socket)
    a, b = Attacked(t, m, p, t), Attacked(t, m, p, t)
    for x in (a, b):
        x.whole(x.u.read(x.path))
    p.hold_uid(a.u.uid)
    wanted = [m.path, m / "by-name", m / "collection",
              m / "00000000-0000-4000-8000-000000000001/cache", a.path]
    threads = [threading.Thread(target=a.attempt, args=(
        lambda path=path: a.u.call(os.listdir, path),)) for path in wanted]
    for thread in threads:
        thread.start()
    wait_for("A's requests", lambda: p.waiting_uid(a.u.uid))
    begin = time.monotonic()
    for _ in range(5):
        for where in ("", "by-name", "collection"):
            b.u.list(os.path.join(m.path, where))
        raises(errno.ENOENT, b.u.stat,
               m / "00000000-0000-4000-8000-000000000002")
        b.whole(b.u.read(b.path))
    took = time.monotonic() - begin
    p.release()
    for thread in threads:
        thread.join()
    check(took < 10, "B waited %.1f s", took)
