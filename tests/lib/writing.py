"""Writing to caches by file operations, and comparing what came of it.

A Subject is one cache of one user in one mount, by every path form; its
name begins with tkt, so that the collection shows it under a plain name.
"""
import itertools
import os
import time

import ccfile
from made import kcm_cache, made_cache
from tree import by_name
from util import check, eq, wait_for

FORMS = ("uuid", "by-name", "default", "krb5cc", "collection")
# a file can be created by these; a UUID comes with the cache
CREATE_FORMS = ("by-name", "default", "krb5cc", "collection")
MIT_MARK, HEIMDAL_MARK = "mit", "heimdal"


class Subject:
    def __init__(self, t, m, u, suffix="tktw"):
        self.t, self.m, self.u = t, m, u
        self.name = "%d:%s" % (u.uid, suffix)
        self.wire = t.wire(u)
        self.start = int(time.time()) - 1000
        self.serial = 0
        self.client = ccfile.princ(u.principal)

    # -- credentials

    def tgt(self):
        return ccfile.tgt(self.client, self.start)

    def ticket(self, **more):
        """A new one, of a service of its own."""
        self.serial += 1
        return ccfile.ticket(self.client, "s%d/host@EXAMPLE.COM" % self.serial,
                             self.start + self.serial, **more)

    def config(self, key, value):
        return ccfile.config(self.client, key, value)

    def cache(self, *creds, **more):
        return ccfile.Cache(self.client, list(creds), **more)

    # -- the cache by KCM

    def make(self, *creds, default=True, offset=0):
        """The cache with these, through KCM:, as the default one."""
        made_cache(self.t, self.u, creds, self.name, offset=offset)
        if default:
            self.wire.set_default(self.name)
        return self

    def in_kcm(self):
        return kcm_cache(self.t, self.u, self.name)

    def gone(self):
        return self.name not in self.wire.caches().values()

    # -- paths

    def dir(self, form="by-name"):
        if form == "uuid":
            return os.path.join(str(self.m), self.wire.uuid(self.name))
        if form == "by-name":
            return os.path.join(str(self.m), "by-name", by_name(self.name))
        if form == "default":
            return os.path.join(str(self.m), "default")
        return os.path.join(str(self.m),
                            "collection" if form == "collection" else "")

    def path(self, form="by-name"):
        last = {"krb5cc": "krb5cc_%d" % self.u.uid,
                "collection": self.name.split(":")[1]}.get(form, "cache")
        return os.path.join(self.dir(form), last)

    # -- comparing

    def file(self, form="by-name"):
        return ccfile.parse(self.u.read(self.path(form)))

    def read_clean(self, form):
        """Once nobody has it open: the kernel says so after close()."""
        def body():
            data = self.u.read(self.path(form))
            return None if any(map(is_tombstone,
                                   ccfile.parse(data).creds)) else data
        return wait_for("an image without removed entries", body)

    def holds(self, *want, forms=("by-name",), principal=None):
        """KCM and the file hold exactly these, and the file in order."""
        got = self.in_kcm()
        same_creds("KCM", ccfile.supersede(got.creds), want)
        eq(str(got.principal), str(principal or self.client), "principal")
        for form in forms:
            data = self.read_clean(form)
            shown = ccfile.parse(data)
            same_creds(form, shown.creds, want)
            eq(str(shown.principal), str(got.principal), "principal")
            check(not ccfile.check_order(shown), "%s: %s", form,
                  ccfile.check_order(shown))
            eq(self.u.stat(self.path(form)).st_size, len(data), "size")


def fresh(t, m):
    """A user whose default is a name of which there is no cache yet."""
    s = Subject(t, m, t.user())
    s.u.call(os.mkdir, s.dir())
    s.u.call(os.symlink, "by-name/" + os.path.basename(s.dir()),
             "%s/new-default" % m)
    s.u.call(os.rename, "%s/new-default" % m, "%s/default" % m)
    return s


def same_creds(where, got, want):
    names = lambda creds: sorted(                           # noqa: E731
        "%s %d" % (c.server, c.enctype) for c in creds)
    if sorted(c.bytes() for c in got) != sorted(c.bytes() for c in want):
        eq(names(got), names(want), "entries in " + where)
        eq(sorted(map(repr, got)), sorted(map(repr, want)),
           "entries in " + where)


def tombstone(cred, mark):
    """The bytes of cred as MIT 1.20 or Heimdal 7.8 mark it removed."""
    from dataclasses import replace
    if mark == HEIMDAL_MARK:
        return replace(cred, endtime=0,
                       authtime=cred.authtime or 1).bytes()
    server = cred.server
    if cred.is_config():
        server = replace(server, realm=b"X-RMED-CONF:")
    return replace(cred, endtime=0, authtime=0xffffffff,
                   server=server).bytes()


def is_tombstone(cred):
    return cred.server.realm == b"X-RMED-CONF:" or \
        (cred.endtime == 0 and cred.authtime != 0)


def put(user, path, *pieces, flags=os.O_RDWR | os.O_CREAT | os.O_EXCL,
        mode=0o600):
    """Opens, writes each piece by one write(2), closes."""
    def body():
        fd = os.open(path, flags, mode)
        try:
            for piece in pieces:
                wrote = os.write(fd, piece)
                check(wrote == len(piece), "%d of %d bytes written", wrote,
                      len(piece))
        finally:
            os.close(fd)
    user.call(body)


def append(user, path, *pieces, flags=os.O_RDWR | os.O_APPEND):
    put(user, path, *pieces, flags=flags)


def patch(user, path, old, new):
    """Finds the bytes old in the file and writes new over them."""
    def body():
        fd = os.open(path, os.O_RDWR)
        try:
            data = b""
            while part := os.read(fd, 4096):
                data += part
            at = data.index(old)
            eq(os.pwrite(fd, new, at), len(new), "bytes written")
        finally:
            os.close(fd)
    user.call(body)


def pieces_of(data, size):
    return [data[i:i + size] for i in range(0, len(data), size)]


_temps = itertools.count(100000)


def rename_over(user, path, data, temp=None):
    """As MIT's kinit: one write to a temporary file beside, rename."""
    temp = temp or "%s.%d" % (path, next(_temps))
    put(user, temp, data)
    try:
        user.call(os.rename, temp, path)
    except OSError:
        try:
            user.call(os.unlink, temp)
        except OSError:
            pass                # the daemon is gone, say
        raise


def opened(user, path, flags=os.O_RDWR, mode=0o600):
    """A descriptor opened as the user; whoever uses it acts as the user."""
    return user.call(os.open, path, flags, mode)
