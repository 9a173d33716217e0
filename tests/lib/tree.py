"""Names and paths of the mounted tree, as the contract says they are.

Written from the contract, not from kcmfs: what differs is an error of one of
the two.
"""
import os


def escape(text, keep_dots):
    """A name of the tree; keep_dots for principals and ticket names."""
    out = ""
    for i, byte in enumerate(text.encode()):
        c = chr(byte)
        if c == ":":
            out += "."
        elif c == "." and keep_dots and i > 0:
            out += "."
        elif c in "./%" or byte < 32 or byte > 126:
            out += "%%%02X" % byte
        else:
            out += c
    return out


def by_name(name):
    """1000:a.b -> 1000.a%2Eb"""
    return escape(name, False)


def ticket_name(server):
    return escape(server, True)


def collection_name(uid, name, uuid):
    prefix = "%d:tkt" % uid
    if name.startswith(prefix):
        return escape("tkt" + name[len(prefix):], False)
    long = "tkt=" + by_name(name)
    return long if len(long) <= 62 else "tkt=" + uuid


class CachePaths:
    """Every way to one cache: paths.forms is {form: path of the file}."""

    def __init__(self, mount, user, name, uuid, default=False):
        self.mount, self.name, self.uuid = mount, name, uuid
        self.dir = os.path.join(str(mount), uuid)
        self.cache = os.path.join(self.dir, "cache")
        self.by_name = os.path.join(str(mount), "by-name", by_name(name))
        self.collection = os.path.join(
            str(mount), "collection", collection_name(user.uid, name, uuid))
        self.forms = {"uuid": self.cache,
                      "by-name": os.path.join(self.by_name, "cache"),
                      "collection": self.collection}
        if default:
            self.forms["default"] = os.path.join(str(mount), "default/cache")
            self.forms["krb5cc"] = os.path.join(str(mount),
                                                "krb5cc_%d" % user.uid)

    def __truediv__(self, name):
        return os.path.join(self.dir, name)


def paths_of(t, mount, user, name=None):
    """The paths of this cache (default: the default one) of the user."""
    from kcmwire import Client
    with Client(t.kcm_socket, user.uid) as wire:
        default = wire.default()
        name = name or default
        return CachePaths(mount, user, name, wire.uuid(name),
                          name == default)


def walk(user, top):
    """{relative path: lstat} of all that the user finds below top."""
    found = {}

    def body():
        for directory, names, files in os.walk(top, onerror=_raise):
            for name in names + files:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, top)] = os.lstat(path)
    user.call(body)
    return found


def _raise(error):
    raise error
