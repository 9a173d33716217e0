"""Each allocation and each system call on the way fails in turn.

tests/inject/inject.c lets the Nth of one kind fail once.  An operation is
done again and again, with N = 1, 2, ... until it is through without the
failure having been reached.  Each time: an errno that fits or success, the
process alive and holding no more than before, nothing lost in the daemon, and
it works at once thereafter.  test_inject_kcmd.py does it to the daemon.
"""
import json
import os
import re
import time

import ccfile
from harness import not_under, sanitizer, test
from injecting import (CHANCE, FITTING, LARGE, MEMORY, OWN_ALLOCATOR,
                       SOCKETS, Held, Injector, until_unreached)
from kcmwire import Client, z
from made import made_cache
from tree import by_name, ticket_name
from util import Failed, check, eq
from writing import MIT_MARK, append, patch, put, rename_over, tombstone


class World:
    """One user's cache: large credentials, so that large memory is used."""

    def __init__(self, t, m, proxy):
        self.t, self.m, self.u, self.proxy = t, m, t.user(), proxy
        self.start = int(time.time()) - 5000
        self.client = ccfile.princ(self.u.principal)
        self.serial, self.temp = 0, t.dir + "/none"
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

    def reset(self):
        """The first three credentials, and no other cache."""
        self.creds = self.creds[:3]
        for name in self.wire.caches().values():
            if name != self.name:
                self.wire.destroy(name)
        self.fill(self.name, self.creds)
        self.wire.set_default(self.name)

    def fill(self, name, creds):
        self.wire.init(name, ccfile.Writer().principal(self.client).out)
        for cred in creds:
            self.wire.store(name, cred.bytes())

    def now(self):
        return {c.bytes() for c in self.creds}

    def in_kcm(self, name=None):
        """None: there is no such cache."""
        with Client(self.t.kcm_socket, self.u.uid) as w:
            name = name or self.name
            return set(w.creds(name)) if name in w.caches().values() else None

    def tidy(self, path):
        """What the client that was refused would remove."""
        try:
            self.u.call(os.unlink, path)
        except FileNotFoundError:
            pass

    def secret(self):
        """Bytes of secret memory, with the cache as it was at first."""
        self.reset()
        self.do_read()
        text = self.t.root().text(self.m / ".kcmfs/status")
        return int(re.search(r"^secret memory: (\d+) bytes", text,
                             re.M).group(1))

    def path_of(self, *names):
        return os.path.join(os.path.dirname(self.path), *names)

    # -- the operations; before each, what is not part of it

    def before_read(self):
        self.creds.append(self.new())
        self.wire.store(self.name, self.creds[-1].bytes())
        if len(self.creds) > 12:
            self.creds = self.creds[:3]
            self.fill(self.name, self.creds)

    def do_read(self):
        got = ccfile.parse(self.u.read(self.path))
        eq({c.bytes() for c in got.creds}, self.now(), "read")

    def before_connect(self):
        self.before_read()
        self.proxy.disconnect()

    def do_connect(self):
        self.do_read()

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
        self.temp = "%s.%d" % (self.path, self.serial)

    def do_replace(self):
        rename_over(self.u, self.path, ccfile.Cache(
            self.client, self.pending).bytes(), self.temp)

    def after_replace(self, code):
        got, new = self.in_kcm(), {c.bytes() for c in self.pending}
        check(got == new or (code and got == self.now()),
              "after replace (%s): %d credentials", code, len(got))
        if got == new:
            self.creds = self.pending
        if code:
            self.tidy(self.temp)

    def do_list(self):
        for where, there in (
                ("by-name", by_name(self.name)), ("collection", "tktx"),
                ("by-principal", self.u.principal), ("", "default"),
                ("by-name/%s/tickets" % by_name(self.name),
                 ticket_name(str(self.creds[0].server)))):
            check(there in self.u.list(os.path.join(str(self.m), where)),
                  "%s is not in %s/", there, where)
        self.u.stat(self.m / ("by-principal/" + self.u.principal))

    def do_text(self):
        for name in ("info", "principal", "name"):
            self.u.read(self.path_of(name))
        shown = json.loads(self.u.read(self.path_of("info.json")))
        eq(len(shown["tickets"]), len(self.creds), "tickets shown")

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

    # -- more of what changes something

    def before_create(self):
        self.serial += 1
        self.made = "%d:tktc%d" % (self.u.uid, self.serial)
        self.pending = [self.new(), self.new()]

    def do_create(self):
        """As libkrb5 without a rename: the header, then each."""
        put(self.u, self.made_path(),
            ccfile.Cache(self.client, []).bytes(),
            *[c.bytes() for c in self.pending])

    def made_path(self):
        return self.m / ("collection/" + self.made.partition(":")[2])

    def after_create(self, code):
        got, new = self.in_kcm(self.made), {c.bytes() for c in self.pending}
        check(got == new or (code and (got is None or got < new)),
              "after create (%s): %s", code, got and len(got))
        self.tidy(self.made_path())

    def before_rewrite(self):
        self.pending = [self.new(), self.new()]

    def do_rewrite(self):
        """As Heimdal's kinit: over what is there, in one piece."""
        put(self.u, self.path,
            ccfile.Cache(self.client, self.pending).bytes(),
            flags=os.O_RDWR | os.O_TRUNC)

    def after_rewrite(self, code):
        self.after_replace(code)

    def before_remove(self):
        if len(self.creds) < 4:
            self.creds += [self.new() for _ in range(8)]
            self.fill(self.name, self.creds)
        self.pending = self.creds[-1]

    def do_remove(self):
        patch(self.u, self.path, self.pending.bytes(),
              tombstone(self.pending, MIT_MARK))

    def after_remove(self, code):
        got, less = self.in_kcm(), self.now() - {self.pending.bytes()}
        check(got == less or (code and got == self.now()),
              "after removal (%s): %d credentials of %d", code, len(got),
              len(self.creds))
        if got == less:
            self.creds.pop()

    def before_rm_ticket(self):
        self.before_remove()

    def do_rm_ticket(self):
        try:
            self.u.call(os.unlink, self.ticket_path(self.pending))
        except FileNotFoundError:
            pass        # done, its reply lost, and asked for again

    def after_rm_ticket(self, code):
        self.after_remove(code)

    def ticket_path(self, cred):
        return self.path_of("tickets", ticket_name(str(cred.server)))

    def do_ticket(self):
        got = ccfile.parse(self.u.read(self.ticket_path(self.creds[1])))
        eq([c.bytes() for c in got.creds], [self.creds[1].bytes()])

    def before_add_ticket(self):
        self.before_append()

    def do_add_ticket(self):
        put(self.u, self.path_of("tickets/new"),
            ccfile.Cache(self.client, [self.pending]).bytes())

    def after_add_ticket(self, code):
        self.after_append(code)
        if code:
            self.tidy(self.path_of("tickets/new"))

    def before_config(self):
        self.reset()
        self.pending = [ccfile.config(self.client, "key", v)
                        for v in (b"old", b"new")]
        self.wire.store(self.name, self.pending[0].bytes())
        self.creds.append(self.pending[0])

    def do_config(self):
        eq(self.u.list(self.path_of("config")), ["key"])
        self.u.write(self.path_of("config/key"), b"new")

    def after_config(self, code):
        got = self.in_kcm() - {c.bytes() for c in self.creds[:3]}
        old, new = ({c.bytes()} for c in self.pending)
        # An empty one is what opening it for that makes.
        check(got == new or (code and got in (old, {ccfile.config(
            self.client, "key", b"").bytes()})),
            "after writing config/key (%s): %s", code, got)
        self.reset()

    def before_rm_config(self):
        self.before_config()

    def do_rm_config(self):
        try:
            self.u.call(os.unlink, self.path_of("config/key"))
        except FileNotFoundError:
            pass        # as above

    def after_rm_config(self, code):
        got, there = self.in_kcm(), self.now()
        check(got == there - {self.pending[0].bytes()} or
              (code and got == there), "after rm config/key (%s)", code)
        self.reset()

    def before_rename(self):
        self.pending = [self.new()]
        self.wire.destroy("%d:tktn" % self.u.uid)
        self.fill("%d:tktm" % self.u.uid, self.pending)

    def do_rename(self):
        try:
            self.u.call(os.rename, self.m / "collection/tktm",
                        self.m / "collection/tktn")
        except FileNotFoundError:
            pass        # as above

    def after_rename(self, code):
        creds = {c.bytes() for c in self.pending}
        got = [self.in_kcm("%d:tkt%s" % (self.u.uid, c)) for c in "mn"]
        check(got == [None, creds] or (code and got == [creds, None]),
              "after rename (%s): %s", code, [g and len(g) for g in got])

    def before_default(self):
        self.fill("%d:tkto" % self.u.uid, [])
        self.wire.set_default("%d:tkto" % self.u.uid)

    def do_default(self):
        link = self.m / "new-default"
        self.u.call(os.symlink, "by-name/" + by_name(self.name), link)
        self.u.call(os.rename, link, self.m / "default")

    def after_default(self, code):
        got = self.wire.default()
        check(got == self.name or (code and got.endswith(":tkto")),
              "the default (%s): %s", code, got)
        eq(self.u.link(self.m / "default"), "by-name/" + by_name(got))
        if code:
            self.tidy(self.m / "new-default")

    def before_primary(self):
        self.before_default()

    def do_primary(self):
        self.u.write(self.m / "collection/primary", b"tktx\n")

    def after_primary(self, code):
        self.after_default(code)

    def before_mkdir(self):
        self.serial += 1
        self.made = self.m / ("by-name/%d.d%d" % (self.u.uid, self.serial))

    def do_mkdir(self):
        self.u.call(os.mkdir, self.made)
        self.u.call(os.rmdir, self.made)

    def after_mkdir(self, code):
        if self.u.exists(self.made):
            check(code, "made, removed, and there")
            self.u.call(os.rmdir, self.made)


def in_turn(injector, world, operation, kind, held, all_after=False):
    """Returns how many failures it took."""
    def hook(when, *args):
        getattr(world, when + "_" + operation, lambda *_: None)(*args)

    def attempt(number):
        hook("before")
        code = None
        injector.arm(kind, number, all_after)
        try:
            getattr(world, "do_" + operation)()
        except OSError as e:
            code = e.errno
        reached = injector.disarm()
        if world.proxy:     # what was given up may still be on its way
            world.proxy.quiet(world.u.uid)
        where = "%s, kind %d, %s %d failing" % (
            operation, kind, "all from" if all_after else "number", number)
        check(world.m.alive(), "died: %s", where)
        check(code is None or (reached and code in FITTING[kind]),
              "%s: %s", where, code and os.strerror(code))
        try:
            hook("after", code)
            world.do_read()
        except Failed as e:
            raise Failed("%s\n%s" % (where, e)) from e
        held.check(where)
        return reached
    return until_unreached(attempt, operation)


def each_failed(count, *large):
    """In each operation something of each kind; large memory in these (a
    sanitizer's is all of one kind)."""
    large = () if sanitizer() else large
    none = [key for key, failures in count.items() if failures == 0
            and (key[1] != LARGE or key[0] in large)]
    eq(none, [], "nothing was made to fail")


def grows_not(world, loop):
    """What leaks does so each time.  The first time a node that the kernel
    still knows may have come to hold what it shows."""
    for _ in range(3):
        before = world.secret()
        failures = loop()
        grown = world.secret() - before
        if grown < 4096:
            return failures
    raise Failed("secret memory grows by %d bytes" % grown)


def all_in_turn(t, operations, *large, options=(), all_after=False):
    """{(operation, kind): failures}; what is secret does not grow."""
    injector = Injector(t)
    proxy = None if all_after else t.proxy()    # which only looks on
    m = t.mount("-o", "timeout=5", *options, env=injector.env,
                socket=proxy and proxy.socket, direct=all_after)
    world = World(t, m, proxy)
    world.secret()              # root, too, has a connection from now on
    held = Held(m.process.pid, growing="-s" not in options)
    count = {}
    for operation in operations:
        for kind in (MEMORY, LARGE, SOCKETS) + (
                (CHANCE,) if operation == "create" else ()):    # new nodes
            count[operation, kind] = grows_not(world, lambda: in_turn(
                injector, world, operation, kind, held, all_after))
    each_failed(count, *large)
    return count


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def kcmfs_in_turn(t):
    count = all_in_turn(
        t, ("read", "connect", "append", "replace", "list", "text",
            "destroy"), "read", "connect", "append", "replace")
    check(count["read", MEMORY] > 3 and count["read", SOCKETS] > 1,
          "too little was made to fail: %s", count)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def kcmfs_changes_in_turn(t):
    """By one thread: it is the only one, but for the housekeeper."""
    all_in_turn(t, (
        "create", "rewrite", "remove", "rm_ticket", "ticket", "add_ticket",
        "config", "rm_config", "rename", "default", "primary", "mkdir"),
        options=("-s",))


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def changes_without_extensions(t):
    """What takes the place of REPLACE, and its undoing."""
    t.own_daemon("--no-mit-extensions")
    all_in_turn(t, ("rewrite", "replace", "remove", "rm_ticket", "config"),
                options=("-s",))


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def all_fails_from_there_on(t):
    """Also what undoes the first failure."""
    all_in_turn(t, ("read", "append", "replace", "create", "remove",
                    "destroy"), options=("-s",), all_after=True)
