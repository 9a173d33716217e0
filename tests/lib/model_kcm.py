"""Operations of the random test that KCM: clients make, past the mount."""
import struct

import ccfile
from kcmwire import z
from util import eq

CLIENT, SERVER = 1, 2           # parts of REMOVE_CRED's tag


class ByKcm:
    def _made_by_kcm(self, name, cache):
        self.caches[name] = cache
        self.default = None

    def _initialize(self, name, client, offset=0):
        answer = self.wire.init(self.kcm(name),
                                ccfile.Writer().principal(client).out)
        eq(answer.name, "OK", "INITIALIZE")
        # Heimdal keeps the offset of before, or has none that means anything
        eq(self.wire.set_offset(self.kcm(name), offset).name, "OK")

    def op_kcm_init(self, r):
        name, client = self.pick(r), self.client(r)
        self._initialize(name, client)
        self._made_by_kcm(name, self.filled(client, ()))
        return [name]

    def op_kcm_replace(self, r):
        """As MIT's kinit: REPLACE, or what it does where there is none."""
        name, client = self.pick(r), self.client(r)
        creds, offset = self.creds(r, client), self.offset(r)
        request = z(self.kcm(name)) + struct.pack(">i", offset) + \
            ccfile.Writer().principal(client).out + \
            struct.pack(">I", len(creds))
        for cred in creds:
            data = cred.bytes()
            request += struct.pack(">I", len(data)) + data
        if self.t.on not in ("kcmd", "embedded"):
            self._initialize(name, client, offset)
            for cred in creds:
                eq(self.wire.store(self.kcm(name), cred.bytes()).name, "OK")
        else:
            self.wire.ok("REPLACE", request)
        self._made_by_kcm(name, self.filled(client, creds, offset))
        return [name]

    def op_kcm_store(self, r):
        name = self.existing(r)
        if name is None:
            return []
        cred = self.cred(r, self.caches[name].client)
        eq(self.wire.store(self.kcm(name), cred.bytes()).name, "OK", "STORE")
        self.add(self.caches[name], cred)
        return [name]

    def op_kcm_remove(self, r):
        """REMOVE_CRED, which sssd lacks."""
        name = self.existing(r)
        creds = self.caches[name].creds if name else []
        single = [c for c in creds
                  if [d.server for d in creds].count(c.server) == 1]
        if self.t.on == "sssd" or not single:
            return []
        cred = r.choice(single)
        w = ccfile.Writer().raw(z(self.kcm(name)))
        w.number("I", 0).number("I", CLIENT | SERVER)
        w.principal(cred.client).principal(cred.server)
        self.wire.ok("REMOVE_CRED", w.raw(bytes(4 * 4 + 1 + 4)).out)
        creds.remove(cred)
        return [name]

    def op_kcm_move(self, r):
        """MOVE_CACHE, which sssd lacks."""
        a, b = self.existing(r), self.pick(r)
        if self.t.on == "sssd" or a is None or a == b:
            return []
        answer = self.wire.call("MOVE_CACHE",
                                z(self.kcm(a)) + z(self.kcm(b)))
        if answer.name == "EAGAIN":     # of Heimdal: moved, but still there
            answer = self.wire.destroy(self.kcm(a))
        eq(answer.name, "OK", "MOVE_CACHE")
        cache = self.caches.pop(a)
        cache.offset = 0
        eq(self.wire.set_offset(self.kcm(b), 0).name, "OK")
        # another cache than a reader of a, or of b, has seen
        self._made_by_kcm(b, self.filled(cache.client, cache.creds))
        return [a, b]

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
