"""Each allocation and each system call on the way fails in turn.

tests/inject/inject.c lets the Nth of one kind fail once.  An operation is
done again and again, with N = 1, 2, ... until it is through without the
failure having been reached.  Each time: an errno that fits or success, the
process alive, nothing lost in the daemon, and it works at once thereafter.
"""
import errno
import mmap
import os
import struct
import subprocess
import time

import ccfile
import harness
from harness import not_under, test
from kcmwire import Client, z
from made import made_cache
from tree import by_name
from util import Failed, check, eq, run
from writing import append, rename_over

MEMORY, LARGE, SOCKETS = 1, 2, 3
FITTING = {
    MEMORY: {errno.ENOMEM, errno.EIO},
    LARGE: {errno.ENOMEM, errno.EIO},
    SOCKETS: {errno.EIO, errno.ECONNREFUSED, errno.EMFILE, errno.ENOMEM,
              errno.ETIMEDOUT, errno.EFBIG},
}
# test_failing, which makes allocations fail in one process, runs under both.
OWN_ALLOCATOR = "malloc() is the sanitizer's: it cannot be made to fail"
MOST = 400              # failures of one kind on one operation


class Injector:
    """The library, built, and the file through which it is told."""

    def __init__(self, t):
        self.library = os.path.join(t.dir, "inject.so")
        run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library,
             os.path.join(harness.REPO, "tests", "inject", "inject.c"),
             "-ldl"])
        path = os.path.join(t.dir, "inject")
        with open(path, "wb") as f:
            f.write(bytes(12))
        os.chmod(path, 0o666)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 12)
        self.env = {"LD_PRELOAD": self.library, "INJECT_FILE": path}

    def arm(self, kind, number):
        self.map[4:12] = struct.pack("=iI", number, 0)
        self.map[0:4] = struct.pack("=I", kind)

    def disarm(self):
        """True if the failure was reached."""
        self.map[0:4] = bytes(4)
        return struct.unpack("=I", self.map[8:12])[0] > 0


class World:
    """One user's cache: large credentials, so that large memory is used."""

    def __init__(self, t, m):
        self.t, self.m, self.u = t, m, t.user()
        self.start = int(time.time()) - 5000
        self.client = ccfile.princ(self.u.principal)
        self.serial = 0
        self.name = "%d:tktx" % self.u.uid
        self.path = m / ("by-name/%s/cache" % by_name(self.name))
        self.creds = [ccfile.tgt(self.client, self.start),
                      self.new(), self.new()]
        made_cache(t, self.u, self.creds, self.name, offset=0)
        self.wire = t.wire(self.u)
        self.wire.set_default(self.name)

    def new(self):
        self.serial += 1
        return ccfile.ticket(self.client, "h%d@EXAMPLE.COM" % self.serial,
                             self.start + self.serial, size=20000)

    def now(self):
        return {c.bytes() for c in self.creds}

    def in_kcm(self):
        with Client(self.t.kcm_socket, self.u.uid) as w:
            return set(w.creds(self.name))

    # -- the operations; before each, what is not part of it

    def before_read(self):
        self.creds.append(self.new())
        self.wire.store(self.name, self.creds[-1].bytes())
        if len(self.creds) > 12:
            self.creds = self.creds[:3]
            self.wire.init(self.name,
                           ccfile.Writer().principal(self.client).out)
            for cred in self.creds:
                self.wire.store(self.name, cred.bytes())

    def do_read(self):
        got = ccfile.parse(self.u.read(self.path))
        eq({c.bytes() for c in got.creds}, self.now(), "read")

    def before_append(self):
        self.pending = self.new()
        if len(self.creds) > 12:
            self.before_read()

    def do_append(self):
        append(self.u, self.path, self.pending.bytes())

    def after_append(self, code):
        got, both = self.in_kcm(), self.now() | {self.pending.bytes()}
        check(got == both or (code and got == self.now()),
              "after append (%s): %d credentials", code, len(got))
        if got == both:
            self.creds.append(self.pending)

    def before_replace(self):
        self.pending = [self.new(), self.new()]

    def do_replace(self):
        rename_over(self.u, self.path,
                    ccfile.Cache(self.client, self.pending).bytes())

    def after_replace(self, code):
        got, new = self.in_kcm(), {c.bytes() for c in self.pending}
        check(got == new or (code and got == self.now()),
              "after replace (%s): %d credentials", code, len(got))
        if got == new:
            self.creds = self.pending

    def do_list(self):
        for where in ("by-name", "collection", "",
                      "by-name/%s/tickets" % by_name(self.name)):
            self.u.list(os.path.join(str(self.m), where))

    def do_text(self):
        for name in ("info", "info.json", "principal", "name"):
            self.u.read(os.path.join(os.path.dirname(self.path), name))

    def before_destroy(self):
        self.wire.init(self.name + "d", ccfile.Writer().principal(
            self.client).out)

    def do_destroy(self):
        try:
            self.u.call(os.unlink, self.m / (
                "by-name/%s/cache" % by_name(self.name + "d")))
        except FileNotFoundError:
            pass        # done, its reply lost, and asked for again

    def after_destroy(self, code):
        there = not self.wire.call("GET_PRINCIPAL",
                                   z(self.name + "d")).code
        check(code or not there, "unlinked, and it is there")


def in_turn(t, injector, world, operation, kind, alive):
    """Returns how many failures it took."""
    def hook(when, *args):
        getattr(world, when + "_" + operation, lambda *_: None)(*args)
    for number in range(1, MOST):
        hook("before")
        code = None
        injector.arm(kind, number)
        try:
            getattr(world, "do_" + operation)()
        except OSError as e:
            code = e.errno
        reached = injector.disarm()
        check(alive(), "%s died: %s %d failing", operation, kind, number)
        check(code is None or (reached and code in FITTING[kind]),
              "%s with kind %d, number %d failing: %s", operation, kind,
              number, code and os.strerror(code))
        hook("after", code)
        world.do_read()
        if not reached:
            return number - 1
    raise Failed("%s does not come to an end" % operation)


def each_failed(count, *large):
    """In each operation something of each kind; large memory in these."""
    none = [key for key, failures in count.items() if failures == 0
            and (key[1] != LARGE or key[0] in large)]
    eq(none, [], "nothing was made to fail")


@test("kcmd")
@not_under("asan tsan", OWN_ALLOCATOR)
def kcmfs_in_turn(t):
    injector = Injector(t)
    m = t.mount("-o", "timeout=5", env=injector.env)
    world = World(t, m)
    world.do_read()
    count = {}
    for operation in ("read", "append", "replace", "list", "text",
                      "destroy"):
        for kind in (MEMORY, LARGE, SOCKETS):
            count[operation, kind] = in_turn(t, injector, world, operation,
                                             kind, m.alive)
    check(count["read", MEMORY] > 3 and count["read", SOCKETS] > 1,
          "too little was made to fail: %s", count)
    each_failed(count, "read", "append", "replace")


@test("kcmd")
@not_under("asan tsan", OWN_ALLOCATOR)
def kcmd_in_turn(t):
    """Memory and sockets of the daemon: its clients are told or closed, and
    what was stored before stays."""
    injector = Injector(t)
    d = t.own_daemon(start=False)
    d._popen = lambda command: subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=open(d.log, "ab"),
        stderr=subprocess.STDOUT, start_new_session=True,
        env=dict(os.environ, KRB5_CONFIG=d.conf, LC_ALL="C",
                 **injector.env))
    d.start()
    u = t.user()
    p = ccfile.Writer().principal(ccfile.princ(u.principal)).out
    # So many that no buffer for a reply of them is kept.
    creds = [ccfile.ticket(u.principal, "h%d@EXAMPLE.COM" % i, 1000 + i,
                           size=20000) for i in range(16)]
    name = made_cache(t, u, creds, offset=0)
    want = [c.bytes() for c in creds]
    replacement = struct.pack(">i", 0) + p + struct.pack(">I", 2) + b"".join(
        struct.pack(">I", len(b)) + b for b in want[:2])
    more = ccfile.ticket(u.principal, "m@EXAMPLE.COM", 1, size=20000).bytes()
    operations = {
        "list": ("GET_CRED_LIST", z(name)),
        "store": ("STORE", z(name + "s") + more),
        "init": ("INITIALIZE", z(name + "i") + p),
        "replace": ("REPLACE", z(name + "r") + replacement),
        "move": ("MOVE_CACHE", z(name + "m") + z(name + "n")),
        "default": ("SET_DEFAULT_CACHE", z(name)),
    }
    count = {}
    for what, (opcode, arguments) in operations.items():
        for kind in (MEMORY, LARGE, SOCKETS):
            for number in range(1, MOST):
                with Client(t.kcm_socket, u.uid) as w:
                    w.init(name + "s", p)
                    w.init(name + "m", p)
                    for extra in ("i", "r", "n"):
                        w.destroy(name + extra)
                injector.arm(kind, number)
                ok = False
                try:
                    with Client(t.kcm_socket, u.uid) as w:
                        answer = w.call(opcode, arguments)
                        ok = not answer.code
                    if ok and what == "list":
                        eq(answer.blobs(), want, "listed")
                except (OSError, EOFError):
                    pass
                reached = injector.disarm()
                d.assert_alive()
                check(ok or reached, "%s fails by itself", what)
                with Client(t.kcm_socket, u.uid) as w:
                    eq(w.creds(name), want, "after %s" % what)
                    if what == "store":
                        eq(w.creds(name + "s"), [more] if ok else
                           w.creds(name + "s"), "stored")
                    if what == "replace" and ok:
                        eq(w.creds(name + "r"), want[:2], "replaced")
                if not reached:
                    count[what, kind] = number - 1
                    break
            else:
                raise Failed("%s does not come to an end" % what)
    each_failed(count, "list", "replace")
