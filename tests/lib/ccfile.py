"""The FILE credential cache format, versions 1 to 4, in plain Python.

Independent of kcmfs and of libkrb5.  The same bytes make the credentials of
the KCM protocol (version 4), so the builders here serve kcmwire, too.
"""
import struct
from dataclasses import dataclass, field, replace

CONF_REALM = b"X-CACHECONF:"
AES256, AES128 = 18, 17
TAG_OFFSET = 1


@dataclass(frozen=True)
class Principal:
    realm: bytes
    parts: tuple
    type: int = 1

    def __str__(self):
        return (b"/".join(self.parts) + b"@" + self.realm).decode("latin1")


@dataclass(frozen=True)
class Cred:
    client: Principal
    server: Principal
    enctype: int = AES256
    key: bytes = b""
    authtime: int = 0
    starttime: int = 0
    endtime: int = 0
    renew: int = 0
    is_skey: int = 0
    flags: int = 0
    addresses: tuple = ()
    authdata: tuple = ()
    ticket: bytes = b""
    second: bytes = b""

    def is_config(self):
        return self.server.realm == CONF_REALM

    def config_key(self):
        return b"@".join(self.server.parts[1:]).decode("latin1")

    def bytes(self):
        return Writer(4).cred(self).out


@dataclass
class Cache:
    principal: Principal
    creds: list = field(default_factory=list)
    tags: list = field(default_factory=list)        # [(number, bytes)]
    version: int = 4
    order: str = ">"                                # of versions 1 and 2

    def offset(self):
        for tag, value in self.tags:
            if tag == TAG_OFFSET:
                return struct.unpack(">i", value[:4])[0]
        return None

    def tickets(self):
        return [c for c in self.creds if not c.is_config()]

    def config(self):
        return {c.config_key(): c.ticket for c in self.creds if c.is_config()}

    def servers(self):
        return [str(c.server) for c in self.tickets()]

    def bytes(self):
        w = Writer(self.version, self.order)
        w.raw(bytes((5, self.version)))
        if self.version == 4:
            head = b"".join(struct.pack(">HH", t, len(v)) + v
                            for t, v in self.tags)
            w.raw(struct.pack(">H", len(head)) + head)
        w.principal(self.principal)
        for cred in self.creds:
            w.cred(cred)
        return w.out


class Reader:
    """A cursor; EOFError where the bytes end too early."""

    def __init__(self, data, version=4, order=">"):
        self.data, self.at, self.version = data, 0, version
        self.order = order if version < 3 else ">"

    def raw(self, count):
        if self.at + count > len(self.data):
            raise EOFError("%d bytes wanted at %d of %d" % (
                count, self.at, len(self.data)))
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, code):
        return struct.unpack(self.order + code,
                             self.raw(struct.calcsize(code)))[0]

    def counted(self):
        return self.raw(self.number("I"))

    def principal(self):
        kind = 0 if self.version == 1 else self.number("I")
        count = self.number("I") - (1 if self.version == 1 else 0)
        realm = self.counted()
        return Principal(realm, tuple(self.counted() for _ in range(count)),
                         kind)

    def typed_list(self):
        return tuple((self.number("H"), self.counted())
                     for _ in range(self.number("I")))

    def cred(self):
        client, server = self.principal(), self.principal()
        enctype = self.number("H")
        if self.version == 3:           # which repeats it
            enctype = self.number("H")
        return Cred(client, server, enctype, self.counted(),
                    self.number("I"), self.number("I"), self.number("I"),
                    self.number("I"), self.number("B"), self.number("I"),
                    self.typed_list(), self.typed_list(),
                    self.counted(), self.counted())


class Writer:
    def __init__(self, version=4, order=">"):
        self.out, self.version = b"", version
        self.order = order if version < 3 else ">"

    def raw(self, data):
        self.out += data
        return self

    def number(self, code, value):
        return self.raw(struct.pack(self.order + code, value))

    def counted(self, data):
        return self.number("I", len(data)).raw(data)

    def principal(self, p):
        if self.version != 1:
            self.number("I", p.type)
        self.number("I", len(p.parts) + (self.version == 1))
        self.counted(p.realm)
        for part in p.parts:
            self.counted(part)
        return self

    def cred(self, c):
        self.principal(c.client).principal(c.server)
        self.number("H", c.enctype)
        if self.version == 3:
            self.number("H", c.enctype)
        self.counted(c.key)
        for t in (c.authtime, c.starttime, c.endtime, c.renew):
            self.number("I", t)
        self.number("B", c.is_skey).number("I", c.flags)
        for entries in (c.addresses, c.authdata):
            self.number("I", len(entries))
            for kind, data in entries:
                self.number("H", kind).counted(data)
        return self.counted(c.ticket).counted(c.second)


def parse(data, order="<"):
    """The whole file, to the last byte; order as a version 1 or 2 writer's."""
    if len(data) < 2 or data[0] != 5 or not 1 <= data[1] <= 4:
        raise ValueError("no credential cache: %r" % data[:4])
    r = Reader(data, data[1], order)
    r.raw(2)
    tags = []
    if r.version == 4:
        end = r.number("H") + r.at
        while r.at < end:
            tags.append((r.number("H"), r.raw(r.number("H"))))
    cache = Cache(r.principal(), [], tags, r.version, order)
    while r.at < len(data):
        cache.creds.append(r.cred())
    return cache


def parse_cred(data):
    """One credential in KCM's encoding, with nothing after it."""
    r = Reader(data)
    cred = r.cred()
    if r.at != len(data):
        raise ValueError("%d bytes after a credential" % (len(data) - r.at))
    return cred


def parse_principal(data):
    return Reader(data).principal()


# ------------------------------------------------------- the canonical order

def own_tgt(cred):
    realm = cred.client.realm
    return cred.server.realm == realm and \
        cred.server.parts == (b"krbtgt", realm)


def rank(cred):
    """The contract's order: own TGT, tickets by start time, config."""
    if cred.is_config():
        return (2, 0)
    return (0 if own_tgt(cred) else 1, cred.starttime)


def same_slot(a, b):
    """Of two such credentials the newer supersedes the other.

    Name types do not count, as in krb5_principal_compare.
    """
    def slot(c):
        return (c.client.realm, c.client.parts, c.server.realm,
                c.server.parts, c.enctype, c.second, c.authdata)
    return slot(a) == slot(b)


def supersede(creds):
    """The creds without those that a newer one supersedes.

    Newer by times; of equals the one stored last.
    """
    kept = []
    for cred in creds:
        for i, old in enumerate(kept):
            if same_slot(cred, old):
                if (cred.starttime, cred.endtime) >= \
                        (old.starttime, old.endtime):
                    kept[i] = cred
                break
        else:
            kept.append(cred)
    return kept


def sorted_creds(creds):
    """Canonical order with ties broken by content (the contract leaves them
    open, so compare two images only after both went through this)."""
    return sorted(creds, key=lambda c: (rank(c), c.bytes()))


def canonical(cache, offset=None):
    """The image that the contract promises, ties apart."""
    tags = []
    if offset:
        tags = [(TAG_OFFSET, struct.pack(">ii", offset, 0))]
    return Cache(cache.principal, sorted_creds(supersede(cache.creds)), tags)


def check_order(cache):
    """An explanation where the order is not the contract's, else None."""
    ranks = [rank(c) for c in cache.creds]
    for i in range(1, len(ranks)):
        if ranks[i] < ranks[i - 1]:
            return "%s stands before %s" % (cache.creds[i - 1].server,
                                            cache.creds[i].server)
    for i, a in enumerate(cache.creds):
        for b in cache.creds[i + 1:]:
            if same_slot(a, b):
                return "%s is there twice" % a.server
    return None


# ------------------------------------------------------ synthetic credentials

def princ(text, kind=1):
    """'a/b@REALM' (no quoting)."""
    name, _, realm = text.rpartition("@")
    return Principal(realm.encode(), tuple(p.encode()
                                           for p in name.split("/")), kind)


def key_bytes(seed, count=32):
    """Recognisable, incompressible-looking bytes for keys and tickets."""
    out, state = b"", hash_seed(seed)
    while len(out) < count:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2 ** 64
        out += struct.pack(">I", state >> 32)
    return out[:count]


def hash_seed(seed):
    value = 14695981039346656037
    for byte in str(seed).encode():
        value = (value ^ byte) * 1099511628211 % 2 ** 64
    return value


def ticket(client, server, start, life=36000, size=300, **more):
    """A credential whose ticket no KDC ever saw, but any library parses."""
    client = princ(client) if isinstance(client, str) else client
    server = princ(server, 2) if isinstance(server, str) else server
    seed = (server, start, sorted(more.items()))
    cred = Cred(client, server, AES256, key_bytes(("key", seed)),
                start, start, start + life, start + 2 * life, 0, 0x40e00000,
                (), (), key_bytes(("ticket", seed), size))
    return replace(cred, **more)


def tgt(client, start, **more):
    client = princ(client) if isinstance(client, str) else client
    server = Principal(client.realm, (b"krbtgt", client.realm), 2)
    return ticket(client, server, start, **more)


def config(client, key, value, principal=None):
    client = princ(client) if isinstance(client, str) else client
    parts = [b"krb5_ccache_conf_data", key.encode()]
    if principal:
        parts.append(principal.encode())
    return Cred(client, Principal(CONF_REALM, tuple(parts), 0), 0,
                ticket=value)
