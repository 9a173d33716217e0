"""Samba's Heimdal, newer than 7.8, on DIR: collections, plain and mounted.

Heimdal 7.8's own tools crash on any directory.
"""
import os

import clients
from harness import ALL, test
from made import TGT, svc
from realm import PASSWORD
from util import eq, has


def samba(u, *arguments):
    return u.run(clients.PYTHON, os.path.join(
        clients.SOURCES, "sambacache.py"), *arguments).out


def scenario(t, u, path):
    cc = "DIR:" + path
    t.realm.add("pw%d" % u.uid)
    principal = "pw%d@%s" % (u.uid, t.realm.name)
    u.kinit(cc=cc)
    # what MIT's kinit made is used, and gets a ticket
    has(samba(u, "use", cc, "svc0", "host.example.com"), "token ")
    eq(u.klist(cc), (u.principal, [TGT, svc(0)]))
    # what it makes under a name of its own is there for MIT's tools
    for name in ("tkt.Samba", "tktSamba"):
        own = "DIR::%s/%s" % (path, name)
        samba(u, "kinit", own, "pw%d" % u.uid, t.realm.name, PASSWORD,
              "svc1", "host.example.com")
        found, services = u.klist(own)
        eq((found, services[0], svc(1) in services), (principal, TGT, True))
        u.run("kswitch", "-c", own, cc=cc)
        eq(u.klist(cc)[0], principal)
        u.run("kdestroy", "-c", own)
    u.run("kswitch", "-p", u.principal, cc=cc)
    eq(u.klist(cc), (u.principal, [TGT, svc(0)]))


@test()
def on_disk(t):
    u = t.user()
    path = os.path.join(u.home, "collection")
    u.call(os.mkdir, path, 0o700)
    scenario(t, u, path)


@test(*ALL)
def on_the_mount(t):
    m, u = t.mount(), t.user()
    scenario(t, u, m / "collection")
