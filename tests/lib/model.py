"""A plain model of one user's caches, and the operations of test_random.py
on it and on a mount at once.

Each operation is a method op_NAME(s, r): r is a random.Random of its own, so
that an operation means the same in whatever company it is replayed.  It does
the thing for real, does it to the model, and returns the names it touched;
an error that the model foresees is checked and is no failure.
"""
import errno
import os
import time
from dataclasses import replace

import ccfile
from kcmwire import Client, z
from tree import by_name, ticket_name
from util import Failed, check, eq
from writing import (HEIMDAL_MARK, MIT_MARK, pieces_of, put, rename_over,
                     same_creds, tombstone)

NAMES = ("tkta", "tktb", "tktc")
SERVICES = 5
KEYS = ("one", "two")


class Cache:
    def __init__(self, client, creds=(), offset=0):
        self.client, self.creds, self.offset = client, list(creds), offset

    def shown(self):
        return ccfile.supersede(self.creds)


class Handle:
    """An open file; name None: unlinked, what is written goes nowhere."""

    def __init__(self, fd, name):
        self.fd, self.name = fd, name


class State:
    """The user's caches as they should be."""

    def __init__(self, t, mount, user):
        self.t, self.m, self.u = t, mount, user
        self.caches, self.handles = {}, []
        self.default = None             # None: not known
        self.now = int(time.time()) - 5000
        self.wire = Client(t.kcm_socket, user.uid)
        for name in NAMES:
            if not user.exists(self.dir(name)):
                user.call(os.mkdir, self.dir(name))

    def end(self):
        for handle in self.handles:
            try:
                os.close(handle.fd)
            except OSError:
                pass
        for name in NAMES:
            self.wire.destroy(self.kcm(name))
            try:
                self.u.call(os.unlink, self.path(name, 0))
            except FileNotFoundError:
                pass
        self.wire.close()

    # -- names

    def kcm(self, name):
        return "%d:%s" % (self.u.uid, name)

    def dir(self, name):
        return "%s/by-name/%s" % (self.m, by_name(self.kcm(name)))

    def path(self, name, form):
        if form % 3 == 2 and self.default == name:
            return "%s/%s" % (self.m, ("default/cache", "krb5cc_%d"
                                       % self.u.uid)[form % 2])
        return ("%s/collection/%s" % (self.m, name) if form % 2
                else self.dir(name) + "/cache")

    def pick(self, r):
        return r.choice(NAMES)

    def existing(self, r):
        return r.choice(sorted(self.caches) or [None])

    # -- credentials

    def cred(self, r, client):
        self.now += 1
        more = {}
        if self.t.on != "sssd" and r.random() < 0.2:
            more["enctype"] = r.choice((17, 18, 20))
        size = r.choice((20, 100, 300, 300, 3000, 9000))
        return ccfile.ticket(client, "s%d/h@EXAMPLE.COM"
                             % r.randrange(SERVICES), self.now, size=size,
                             **more)

    def creds(self, r, client, most=4):
        made = [ccfile.tgt(client, self.now)] if r.random() < 0.7 else []
        self.now += 1
        made += [self.cred(r, client) for _ in range(r.randrange(most))]
        if r.random() < 0.4:
            made.insert(0, ccfile.config(client, r.choice(KEYS),
                                         b"v%d" % r.randrange(9)))
        return made

    def client(self, r):
        return ccfile.princ("p%d@EXAMPLE.COM" % r.randrange(3))

    def add(self, cache, cred):
        """STORE, as this daemon does it and kcmfs makes of it."""
        if self.t.on == "sssd":
            cache.creds = [c for c in cache.creds
                           if (c.client, c.server) != (cred.client,
                                                       cred.server)]
        elif cred.is_config():
            cache.creds = [c for c in cache.creds if c.server != cred.server]
        cache.creds.append(cred)

    def filled(self, client, creds, offset=0):
        cache = Cache(client, (), offset)
        for cred in creds:
            self.add(cache, cred)
        return cache

    def image(self, client, creds):
        return ccfile.Cache(client, list(creds)).bytes()

    # -- what open files see of changes

    def lose(self, name):
        for h in self.handles:
            if h.name == name:
                h.name = None

    # -- file operations

    def op_create(self, r):
        name, client = self.pick(r), self.client(r)
        creds = self.creds(r, client)
        data = self.image(client, creds)
        pieces = pieces_of(data, r.choice((1 << 20, 8192, 500, 61)))
        try:
            put(self.u, self.path(name, r.randrange(6)), *pieces)
        except FileExistsError:
            check(name in self.caches, "EEXIST of no cache")
            return [name]
        check(name not in self.caches, "O_EXCL over a cache")
        self.lose(name)         # where KCM: destroyed it before
        self.caches[name] = self.filled(client, creds)
        return [name]

    def op_append(self, r):
        name = self.existing(r)
        if name is None:
            return []
        cache = self.caches[name]
        creds = [self.cred(r, cache.client) for _ in range(1 + r.randrange(3))]
        if r.random() < 0.3:
            creds.append(ccfile.config(cache.client, r.choice(KEYS),
                                       b"w%d" % r.randrange(99)))
        data = b"".join(c.bytes() for c in creds)
        flags = r.choice((os.O_RDWR, os.O_WRONLY)) | os.O_APPEND
        put(self.u, self.path(name, r.randrange(6)),
            *pieces_of(data, r.choice((1 << 20, 8192, 77))), flags=flags)
        for cred in creds:
            self.add(cache, cred)
        return [name]

    def _in_place(self, r, make_new):
        name = self.existing(r)
        if name is None or not self.caches[name].shown():
            return []
        cache, path = self.caches[name], self.path(name, r.randrange(6))
        old = r.choice(cache.shown())
        new = make_new(old)
        fd = self.u.call(os.open, path, os.O_RDWR)
        try:
            at = os.pread(fd, 1 << 22, 0).index(old.bytes())
            os.pwrite(fd, new if isinstance(new, bytes) else new.bytes(), at)
        finally:
            os.close(fd)
        cache.creds = [c for c in cache.creds
                       if not ccfile.same_slot(c, old)]
        if not isinstance(new, bytes):
            self.add(cache, new)
        return [name]

    def op_tombstone(self, r):
        return self._in_place(r, lambda old: tombstone(
            old, MIT_MARK if old.is_config() or r.random() < 0.5
            else HEIMDAL_MARK))

    def op_overwrite(self, r):
        return self._in_place(r, lambda old: replace(
            old, ticket=bytes([r.randrange(1, 255)]) * len(old.ticket)))

    def op_rewrite(self, r):
        name = self.existing(r)
        if name is None:
            return []
        client = self.client(r)
        creds = self.creds(r, client)
        put(self.u, self.path(name, r.randrange(6)),
            *pieces_of(self.image(client, creds), r.choice((1 << 20, 100))),
            flags=os.O_RDWR | os.O_TRUNC)
        self.caches[name] = self.filled(client, creds)
        return [name]

    def op_rename(self, r):
        name, client = self.pick(r), self.client(r)
        creds = self.creds(r, client)
        rename_over(self.u, self.path(name, r.randrange(6)),
                    self.image(client, creds))
        self.lose(name)
        self.caches[name] = self.filled(client, creds)
        return [name]

    def op_bad_rename(self, r):
        name, client = self.pick(r), self.client(r)
        data = self.image(client, self.creds(r, client) or
                          [self.cred(r, client)])
        bad = data[:-1 - r.randrange(5)] if r.random() < 0.7 else data + b"\1"
        try:
            rename_over(self.u, self.path(name, r.randrange(6)), bad)
        except OSError as e:
            eq(e.errno, errno.EINVAL, "errno of a bad rename")
            return [name]
        raise Failed("a bad file became a cache")

    def op_move(self, r):
        a, b = self.existing(r), self.pick(r)
        if a is None or a == b:
            return []
        self.u.call(os.rename, self.path(a, 1), self.path(b, 1))
        self.lose(b)
        for h in self.handles:
            if h.name == a:
                h.name = b
        self.caches[b] = self.caches.pop(a)
        return [a, b]

    def op_unlink(self, r):
        name = self.pick(r)
        try:
            self.u.call(os.unlink, self.path(name, r.randrange(6)))
        except FileNotFoundError:
            check(name not in self.caches, "ENOENT of a cache")
            return [name]
        check(name in self.caches, "unlinked what is not there")
        self.lose(name)
        del self.caches[name]
        return [name]

    def op_zeros(self, r):
        name = self.existing(r)
        if name is None:
            return []
        fd = self.u.call(os.open, self.path(name, r.randrange(6)), os.O_RDWR)
        for piece in pieces_of(bytes(700), 128):
            os.write(fd, piece)
        os.close(fd)
        self.lose(name)
        del self.caches[name]
        return [name]

    def op_rm_ticket(self, r):
        name = self.existing(r)
        tickets = name and [c for c in self.caches[name].creds
                            if not c.is_config()]
        if not tickets:
            return []
        cache = self.caches[name]
        servers = [str(c.server) for c in tickets]
        single = [c for c in tickets if servers.count(str(c.server)) == 1]
        if not single:
            return []
        gone = r.choice(single)
        self.u.call(os.unlink, "%s/tickets/%s" % (
            self.dir(name), ticket_name(str(gone.server))))
        cache.creds.remove(gone)
        return [name]

    def op_config_file(self, r):
        name = self.existing(r)
        if name is None:
            return []
        cache, key = self.caches[name], r.choice(KEYS)
        path = "%s/config/%s" % (self.dir(name), key)
        if r.random() < 0.7:
            value = b"f%d" % r.randrange(99)
            self.u.write(path, value)
            self.add(cache, ccfile.config(cache.client, key, value))
        else:
            there = [c for c in cache.creds if c.config_key() == key
                     and c.is_config()]
            try:
                self.u.call(os.unlink, path)
                check(there, "removed a key that is not there")
            except FileNotFoundError:
                check(not there, "ENOENT of a key")
            cache.creds = [c for c in cache.creds if c not in there]
        return [name]

    def op_link(self, r):
        name = self.existing(r)
        if name is None:
            return []
        temp = "%s/new" % self.m
        self.u.call(os.symlink, "by-name/" + by_name(self.kcm(name)), temp)
        self.u.call(os.rename, temp, "%s/default" % self.m)
        self.default = name
        return [name]

    # -- open files

    def op_open(self, r):
        name = self.existing(r)
        if name is None or len(self.handles) > 2:
            return []
        fd = self.u.call(os.open, self.path(name, r.randrange(6)),
                         os.O_RDWR | os.O_APPEND)
        self.handles.append(Handle(fd, name))
        return [name]

    def op_write_open(self, r):
        if not self.handles:
            return []
        h = r.choice(self.handles)
        cache = self.caches.get(h.name)
        cred = self.cred(r, cache.client if cache else self.client(r))
        try:
            os.write(h.fd, cred.bytes())
        except FileNotFoundError:
            check(h.name and not cache, "ENOENT of an open cache")
            return []
        check(cache or not h.name, "written to a cache that is gone")
        if cache:
            self.add(cache, cred)
        return [h.name] if cache else []

    def op_close(self, r):
        if not self.handles:
            return []
        h = self.handles.pop(r.randrange(len(self.handles)))
        os.close(h.fd)
        return [h.name] if h.name else []

    # -- by KCM

    def op_kcm_init(self, r):
        name, client = self.pick(r), self.client(r)
        answer = self.wire.init(self.kcm(name),
                                ccfile.Writer().principal(client).out)
        eq(answer.name, "OK", "INITIALIZE")
        # Heimdal keeps the offset of before, or has none that means anything
        eq(self.wire.set_offset(self.kcm(name), 0).name, "OK")
        self.caches[name] = Cache(client)
        self.default = None
        return [name]

    def op_kcm_store(self, r):
        name = self.existing(r)
        if name is None:
            return []
        cred = self.cred(r, self.caches[name].client)
        eq(self.wire.store(self.kcm(name), cred.bytes()).name, "OK", "STORE")
        self.add(self.caches[name], cred)
        return [name]

    def op_kcm_destroy(self, r):
        name = self.pick(r)
        self.wire.destroy(self.kcm(name))
        self.caches.pop(name, None)
        self.default = None
        return [name]

    def op_kcm_default(self, r):
        name = self.existing(r)
        if name is None:
            return []
        eq(self.wire.set_default(self.kcm(name)).name, "OK")
        # where one that is gone was kept, KCM's answer may be the same
        self.default = name if self.default in self.caches else None
        return [name]

    # -- comparing

    def compare(self, names):
        for name in names:
            self._compare(name)
        if self.default:
            eq(self.u.link("%s/default" % self.m),
               "by-name/" + by_name(self.kcm(self.default)), "default")

    def _compare(self, name):
        cache = self.caches.get(name)
        listed = self.kcm(name) in self.wire.caches().values()
        eq(listed, cache is not None, "%s is in KCM" % name)
        for form in (0, 1):
            try:
                data = self.u.read(self.path(name, form))
            except FileNotFoundError:
                eq(None, cache and "a cache", name)
                continue
            check(cache, "%s shows %d bytes", name, len(data))
            file = ccfile.parse(data)
            live = [c for c in file.creds if not (
                c.server.realm == b"X-RMED-CONF:" or
                (c.endtime == 0 and c.authtime != 0))]
            eq(str(file.principal), str(cache.client), "principal")
            same_creds("%s of %s" % (form, name), ccfile.supersede(live),
                       cache.shown())
        if cache:
            held = [ccfile.parse_cred(b)
                    for b in self.wire.creds(self.kcm(name))]
            same_creds("KCM", ccfile.supersede(held), cache.shown())
            eq(ccfile.parse_principal(self.wire.principal(self.kcm(name))),
               cache.client, "principal in KCM")


OPERATIONS = sorted(n for n in dir(State) if n.startswith("op_"))
