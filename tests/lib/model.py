"""A plain model of one user's caches, and the operations of test_random.py
on it and on a mount at once.

Each operation is a method op_NAME(s, r): r is a random.Random of its own, so
that an operation means the same in whatever company it is replayed.  It does
the thing for real, does it to the model, and returns the names it touched;
an error that the model foresees is checked and is no failure.
"""
import errno
import os
import shutil
import struct
import time
from dataclasses import replace

import ccfile
from kcmwire import Client, uuid_text
from model_held import Held
from model_kcm import ByKcm
from tree import by_name, ticket_name
from util import Failed, check, eq
from writing import (HEIMDAL_MARK, MIT_MARK, is_tombstone, pieces_of, put,
                     rename_over, same_creds, tombstone)

NAMES = ("tkta", "tktb", "tktc")
SERVICES = 5
KEYS = ("one", "two")


class Cache:
    def __init__(self, client, creds=(), offset=0):
        self.client, self.creds, self.offset = client, list(creds), offset

    def shown(self):
        return ccfile.supersede(self.creds)


class State(Held, ByKcm):
    """The user's caches as they should be."""

    def __init__(self, t, mount, user):
        self.t, self.m, self.u = t, mount, user
        self.caches, self.handles = {}, []
        self.default = None             # None: not known
        self.now = int(time.time()) - 5000
        self.wire = Client(t.kcm_socket, user.uid)
        self.make_dirs()

    def make_dirs(self):
        """One that was removed while the default led there goes with that.
        """
        for name in NAMES:
            if not self.u.exists(self.dir(name)):
                self.u.call(os.mkdir, self.dir(name))

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
        """One of eight; 0 and 1 are there in any case."""
        if form > 5 and name in self.caches:
            return "%s/%s/cache" % (self.m, self.wire.uuid(self.kcm(name)))
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

    def offset(self, r):
        """Mostly none; far from what is taken for Heimdal's garbage."""
        return r.choice((0, 0, 0, 0, -300, 77, 3600))

    def image(self, client, creds, offset=0, version=4):
        tags = [(ccfile.TAG_OFFSET, struct.pack(">ii", offset, 0))]
        return ccfile.Cache(client, list(creds), tags if offset else [],
                            version).bytes()

    def version(self, r, offset=0):
        """Version 3 says all that 4 does, but for the offset."""
        return 3 if not offset and r.random() < 0.15 else 4

    # -- file operations

    def op_create(self, r):
        name, client = self.pick(r), self.client(r)
        creds, offset = self.creds(r, client), self.offset(r)
        data = self.image(client, creds, offset, self.version(r, offset))
        pieces = pieces_of(data, r.choice((1 << 20, 8192, 500, 61)))
        try:
            put(self.u, self.path(name, r.randrange(8)), *pieces)
        except FileExistsError:
            check(name in self.caches, "EEXIST of no cache")
            return [name]
        check(name not in self.caches, "O_EXCL over a cache")
        self.lose(name)         # where KCM: destroyed it before
        self.caches[name] = self.filled(client, creds, offset)
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
        put(self.u, self.path(name, r.randrange(8)),
            *pieces_of(data, r.choice((1 << 20, 8192, 77))), flags=flags)
        for cred in creds:
            self.add(cache, cred)
        return [name]

    def _in_place(self, r, make_new):
        name = self.existing(r)
        if name is None or not self.caches[name].shown():
            return []
        cache, path = self.caches[name], self.path(name, r.randrange(8))
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
        creds, offset = self.creds(r, client), self.offset(r)
        data = self.image(client, creds, offset, self.version(r, offset))
        put(self.u, self.path(name, r.randrange(8)),
            *pieces_of(data, r.choice((1 << 20, 100))),
            flags=os.O_RDWR | os.O_TRUNC)
        self.caches[name] = self.filled(client, creds, offset)
        return [name]

    def op_bad_rewrite(self, r):
        """O_TRUNC and bytes that are no cache, or none at all."""
        name = self.existing(r)
        if name is None:
            return []
        data = self.image(self.client(r), [self.cred(r, self.client(r))])
        fd = self.u.call(os.open, self.path(name, r.randrange(8)),
                         os.O_RDWR | os.O_TRUNC)
        cut = r.choice((0, 3, r.randrange(5, len(data))))
        os.write(fd, data[:cut])
        try:
            os.close(fd)
            whole = len(self.image(ccfile.parse(data).principal, ()))
            check(cut in (0, whole), "%d bytes made a cache", cut)
            if cut == whole:
                self.caches[name] = self.filled(
                    ccfile.parse(data).principal, ())
        except OSError as e:
            eq((e.errno, cut > 0), (errno.EINVAL, True), "a bad rewrite")
        return [name]

    def op_shorten(self, r):
        """ftruncate(2) to the end of some entry."""
        name = self.existing(r)
        if name is None:
            return []
        cache = self.caches[name]
        fd = self.u.call(os.open, self.path(name, r.randrange(8)), os.O_RDWR)
        try:
            file = ccfile.parse(os.pread(fd, 1 << 22, 0))
            file.creds = file.creds[:r.randrange(len(file.creds) + 1)]
            self.u.call(os.ftruncate, fd, len(file.bytes()))
        finally:
            os.close(fd)
        keep = [c for c in file.creds if not is_tombstone(c)]
        if len(keep) < len(cache.shown()) or len(file.creds) == 0:
            self.caches[name] = self.filled(cache.client, keep, cache.offset)
        return [name]

    def op_rename(self, r):
        name, client = self.pick(r), self.client(r)
        creds, offset = self.creds(r, client), self.offset(r)
        rename_over(self.u, self.path(name, r.randrange(8)),
                    self.image(client, creds, offset,
                               self.version(r, offset)))
        self.lose(name)
        self.caches[name] = self.filled(client, creds, offset)
        return [name]

    def op_bad_rename(self, r):
        name, client = self.pick(r), self.client(r)
        data = self.image(client, self.creds(r, client) or
                          [self.cred(r, client)])
        bad = data[:-1 - r.randrange(5)] if r.random() < 0.7 else data + b"\1"
        try:
            rename_over(self.u, self.path(name, r.randrange(8)), bad)
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
            self.u.call(os.unlink, self.path(name, r.randrange(8)))
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
        fd = self.u.call(os.open, self.path(name, r.randrange(8)), os.O_RDWR)
        for piece in pieces_of(bytes(700), 128):
            os.write(fd, piece)
        os.close(fd)
        self.lose(name)
        del self.caches[name]
        return [name]

    def op_kdestroy(self, r):
        """open, unlink, fstat, zeros over what has no name any more."""
        name = self.existing(r)
        if name is None:
            return []
        path = self.path(name, r.randrange(8))
        fd = self.u.call(os.open, path, os.O_RDWR)
        try:
            self.u.call(os.unlink, path)
            st = os.fstat(fd)
            eq(st.st_nlink, 0, "links")
            for piece in pieces_of(bytes(st.st_size), 8192):
                os.write(fd, piece)
        finally:
            os.close(fd)
        self.lose(name)
        del self.caches[name]
        return [name]

    def op_krenew(self, r):
        """unlink, O_EXCL create, an append by an open of its own."""
        name, client = self.existing(r), self.client(r)
        if name is None:
            return []
        creds = self.creds(r, client)
        path = self.path(name, r.randrange(6))
        self.u.call(os.unlink, path)
        self.lose(name)
        del self.caches[name]
        put(self.u, path, self.image(client, ()))
        self.caches[name] = self.filled(client, ())
        for cred in creds:
            put(self.u, path, cred.bytes(), flags=os.O_RDWR | os.O_APPEND)
            self.add(self.caches[name], cred)
        return [name]

    def op_rm_r(self, r):
        name = self.existing(r)
        if name is None:
            return []
        self.u.call(shutil.rmtree, self.dir(name))
        try:
            self.u.call(os.mkdir, self.dir(name))
        except FileExistsError:         # the default leads there still
            eq(self.u.link("%s/default" % self.m),
               "by-name/" + by_name(self.kcm(name)), "default")
        self.lose(name)
        del self.caches[name]
        return [name]

    def op_cp_ticket(self, r):
        name = self.existing(r)
        if name is None:
            return []
        cache = self.caches[name]
        creds = self.creds(r, cache.client)
        put(self.u, self.dir(name) + "/tickets/copied",
            self.image(cache.client, creds, version=self.version(r)),
            flags=os.O_WRONLY | os.O_CREAT)
        for cred in creds:
            self.add(cache, cred)
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

    def op_primary(self, r):
        name = self.existing(r)
        if name is None:
            return []
        rename_over(self.u, "%s/collection/primary" % self.m,
                    name.encode() + b"\n",
                    temp="%s/collection/primary.xYz123" % self.m)
        self.default = name
        return [name]

    # -- comparing

    def compare(self, names):
        self.make_dirs()
        self.compare_readers(names)
        self.compare_listings()
        for name in names:
            self._compare(name)
        if self.default:
            eq(self.u.link("%s/default" % self.m),
               "by-name/" + by_name(self.kcm(self.default)), "default")
            eq(self.u.text("%s/collection/primary" % self.m),
               self.default + "\n", "primary")

    def compare_listings(self):
        """All of ours, and nothing else that is somebody's."""
        found = {uuid_text(uuid) for uuid, name in self.wire.caches().items()}
        listed = {n for n in self.u.list("%s" % self.m)
                  if n.count("-") == 4}
        eq(listed, found, "UUIDs")
        listed = self.u.list("%s/by-name" % self.m)
        for name in self.caches:
            check(by_name(self.kcm(name)) in listed, "by-name/ lacks %s", name)
        for name in listed:
            check(name.startswith("%d." % self.u.uid), "by-name/ has %s",
                  name)
        eq({n for n in self.u.list("%s/collection" % self.m)
            if n != "primary"}, set(self.caches), "collection/")

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
            live = [c for c in file.creds if not is_tombstone(c)]
            eq(file.offset() or 0, cache.offset, "KDC offset in the file")
            eq(str(file.principal), str(cache.client), "principal")
            same_creds("%s of %s" % (form, name), ccfile.supersede(live),
                       cache.shown())
        if cache:
            held = [ccfile.parse_cred(b)
                    for b in self.wire.creds(self.kcm(name))]
            same_creds("KCM", ccfile.supersede(held), cache.shown())
            eq(ccfile.parse_principal(self.wire.principal(self.kcm(name))),
               cache.client, "principal in KCM")
            eq(self.wire.offset(self.kcm(name)), cache.offset,
               "KDC offset in KCM")


OPERATIONS = sorted(n for n in dir(State) if n.startswith("op_"))
