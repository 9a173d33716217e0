"""Operations of the random test on files that stay open from one operation to
a later one.

A reader remembers what it saw when it was opened.  Whatever happens to the
cache, what it reads later is a well-formed file, and a credential that is
still there stands where it stood: removals by what it saw must hit (as MIT's
krb5_cc_remove_cred makes them).
"""
import errno
import os

import ccfile
from util import Failed, check, eq
from writing import HEIMDAL_MARK, MIT_MARK, is_tombstone, tombstone


class Handle:
    """An open file; name None: unlinked, what is written goes nowhere."""

    def __init__(self, fd, name):
        self.fd, self.name = fd, name
        self.rest = None        # (a credential, its bytes not yet written)
        self.saw = None         # a reader: the bytes at its open
        self.cache = None       # a reader: the model's cache then


class Held:
    def lose(self, name):
        for h in self.handles:
            if h.name == name:
                h.name = None

    def _pick_held(self, r, reader):
        held = [h for h in self.handles if (h.saw is not None) == reader]
        return r.choice(held) if held else None

    def op_open(self, r):
        name = self.existing(r)
        if name is None or len(self.handles) > 2:
            return []
        fd = self.u.call(os.open, self.path(name, r.randrange(8)),
                         os.O_RDWR | os.O_APPEND)
        self.handles.append(Handle(fd, name))
        return [name]

    def op_write_open(self, r):
        """The rest of one that was begun, or a whole one."""
        h = self._pick_held(r, False)
        if h is None:
            return []
        cache = self.caches.get(h.name)
        cred = self.cred(r, cache.client if cache else self.client(r))
        data = cred.bytes()
        if h.rest:
            cred, data = h.rest
        try:
            os.write(h.fd, data)
        except FileNotFoundError:
            check(h.name and not cache, "ENOENT of an open cache")
            return []
        check(cache or not h.name, "written to a cache that is gone")
        h.rest = None
        if cache:
            self.add(cache, cred)
        return [h.name] if cache else []

    def op_begin(self, r):
        """Part of a credential: nothing of it is to be seen."""
        h = self._pick_held(r, False)
        if h is None or h.rest or h.name not in self.caches:
            return []
        cred = self.cred(r, self.caches[h.name].client)
        data = cred.bytes()
        cut = r.randrange(1, len(data))
        os.write(h.fd, data[:cut])
        h.rest = cred, data[cut:]
        return [h.name]

    def op_close(self, r):
        if not self.handles:
            return []
        h = self.handles.pop(r.randrange(len(self.handles)))
        try:
            os.close(h.fd)
            check(not h.rest or h.name not in self.caches,
                  "half a credential was closed well")
        except OSError as e:
            check(h.rest and h.name and e.errno == errno.EINVAL,
                  "close: %s", e)
        return [h.name] if h.name else []

    def op_read_open(self, r):
        name = self.existing(r)
        if name is None or len(self.handles) > 2:
            return []
        h = Handle(self.u.call(os.open, self.path(name, r.randrange(8)),
                               os.O_RDONLY), name)
        h.saw = os.pread(h.fd, 1 << 22, 0)
        h.cache = self.caches[name]
        self.handles.append(h)
        return [name]

    def op_remove_seen(self, r):
        """At the offset where a reader saw it, by an open of its own; if
        other bytes are there, it must have gone."""
        h = self._pick_held(r, True)
        cache = h and self.caches.get(h.name)
        seen = [c for c in ccfile.parse(h.saw).creds
                if not c.is_config() and not is_tombstone(c)] if h else []
        if not cache or not seen:
            return []
        cred = r.choice(seen)
        data = cred.bytes()
        at = h.saw.index(data)
        fd = self.u.call(os.open, self.path(h.name, r.randrange(8)),
                         os.O_RDWR)
        try:
            if os.pread(fd, len(data), at) != data:
                check(h.cache is not cache or cred not in cache.shown(),
                      "%s moved under an open handle", cred.server)
                return [h.name]
            os.pwrite(fd, tombstone(cred, r.choice((MIT_MARK,
                                                    HEIMDAL_MARK))), at)
        finally:
            os.close(fd)
        cache.creds = [c for c in cache.creds
                       if not ccfile.same_slot(c, cred)]
        return [h.name]

    def compare_readers(self, names):
        for h in self.handles:
            if h.saw is None or h.name not in names:
                continue
            now = os.pread(h.fd, 1 << 22, 0)
            try:
                ccfile.parse(now)
            except EOFError as e:
                raise Failed("a reader of %s: %s" % (h.name, e)) from e
            eq(os.fstat(h.fd).st_size, len(now), "a reader's size")
            cache = self.caches.get(h.name)
            if cache is not h.cache:
                continue
            shown = set(cache.shown())
            for cred in ccfile.parse(h.saw).creds:
                if cred in shown and not cred.is_config():
                    data = cred.bytes()
                    eq(now.find(data), h.saw.find(data),
                       "a reader's offset of %s" % cred.server)
