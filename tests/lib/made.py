"""Caches of synthetic credentials, put into KCM by the wire client."""
import time

import ccfile
from util import check

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"


def svc(number):
    """A service of the KDC (tests/run makes eight)."""
    return "svc%d/host.example.com@EXAMPLE.COM" % number


def image(user, path):
    """The cache at path, which must be well-formed and in order."""
    data = user.read(path)
    check(data[:2] == b"\5\4", "%s begins with %r", path, data[:4])
    cache = ccfile.parse(data)
    check(not ccfile.check_order(cache), "%s: %s", path,
          ccfile.check_order(cache))
    return cache


def made_cache(t, user, creds, name=None, offset=None, principal=None):
    """A cache with exactly these credentials; its name.

    Set through the wire, in this order, so the test knows every byte.
    offset None: SET_KDC_OFFSET is not called at all.
    """
    name = name or "%d:made" % user.uid
    w = t.wire(user)
    client = ccfile.princ(principal or user.principal)
    answer = w.init(name, ccfile.Writer().principal(client).out)
    check(not answer.code, "INITIALIZE %s: %r", name, answer)
    if offset is not None:
        answer = w.set_offset(name, offset)
        check(not answer.code, "SET_KDC_OFFSET %s: %r", name, answer)
    for cred in creds:
        answer = w.store(name, cred.bytes())
        check(not answer.code, "STORE %s: %r", name, answer)
    return name


def usual_creds(user, count=3, start=None):
    """A TGT, services with rising start times, a config entry."""
    start = start or int(time.time()) - 1000
    p = user.principal
    return [ccfile.tgt(p, start)] + [
        ccfile.ticket(p, "host/h%d@EXAMPLE.COM" % i, start + 1 + i)
        for i in range(count)] + [ccfile.config(p, "setting", b"value")]


def kcm_cache(t, user, name):
    """What the daemon holds under this name, as a ccfile.Cache in the order
    that the daemon lists it in."""
    w = t.wire(user)
    return ccfile.Cache(ccfile.parse_principal(w.principal(name)),
                        [ccfile.parse_cred(b) for b in w.creds(name)])
