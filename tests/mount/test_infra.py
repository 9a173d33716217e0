"""The test infrastructure itself: KDC, daemons, uids, clients and the wire
checks work without kcmfs, on a plain directory.  What fails here is no fault
of kcmfs (or, on kcmd, one of kcmd alone)."""
import os
import time

import ccfile
import clients
from harness import REAL, test
from kcmwire import z
from util import Failed, at_once, check, eq, has, raises, shorten


@test(*REAL)
def kinit_by_kcm(t):
    u = t.user()
    u.kinit()
    u.kvno("svc0/host.example.com")
    principal, services = u.klist()
    eq(principal, u.principal)
    eq(services, ["krbtgt/EXAMPLE.COM@EXAMPLE.COM",
                  "svc0/host.example.com@EXAMPLE.COM"])


@test(*REAL)
def heimdal_tools_by_kcm(t):
    u = t.user()
    u.kinit()
    out = u.heimdal("heimtools", "klist").out
    has(out, u.principal)
    u.heimdal("kgetcred", "svc1/host.example.com")
    has(" ".join(u.klist()[1]), "svc1/host.example.com")


@test(*REAL)
def each_uid_its_own(t):
    a, b = t.user(), t.user()
    a.kinit()
    b.kinit()
    eq(a.klist()[0], a.principal)
    eq(b.klist()[0], b.principal)
    eq(list(t.wire(a).caches().values()) != [], True)
    check(not set(t.wire(a).caches()) & set(t.wire(b).caches()),
          "one cache for two uids")


@test(*REAL)
def daemon_restarts(t):
    u = t.user()
    d = t.own_daemon()
    u.kinit()
    d.stop()
    r = u.run("klist", code=1)
    check(not d.running(), "still running")
    d.start()
    eq(u.run("klist", "-s", code=None).code, 0 if d.keeps_state else 1,
       "state after a restart: %s" % r)
    d.kill()
    d.start()
    u.kinit()


@test("heimdal")
def every_client_on_a_plain_file(t):
    u = t.user()
    path = os.path.join(u.home, "cache")
    u.kinit(cc="FILE:" + path)
    u.kvno("svc0/host.example.com", cc="FILE:" + path)
    want = ["krbtgt/EXAMPLE.COM@EXAMPLE.COM",
            "svc0/host.example.com@EXAMPLE.COM"]
    for name, reader in clients.READERS.items():
        principal, services = reader(u, path)
        eq((principal, sorted(services)), (u.principal, want), name)
    eq(clients.java(u, path)[0], u.principal)
    eq(clients.accept(t.realm, u, clients.java_token(u, path)), u.principal)
    eq(clients.accept(t.realm, u, clients.python_token(u, "FILE:" + path)),
       u.principal)
    eq(clients.go_ticket(u, path), "HTTP/localhost")
    cache = ccfile.parse(u.read(path))
    eq(cache.bytes(), u.read(path), "parsed and written again")
    # the contract's order is not MIT's: config entries first
    check(ccfile.check_order(cache), "check_order finds nothing")
    eq(ccfile.check_order(ccfile.canonical(cache)), None)


@test(*REAL)
def wire_and_synthetic_credentials(t):
    u = t.user()
    name = "%d:x" % u.uid
    now = int(time.time())
    creds = [ccfile.tgt(u.principal, now),
             ccfile.ticket(u.principal, "host/a@EXAMPLE.COM", now + 1),
             ccfile.config(u.principal, "k", b"v")]
    with_proxy = t.proxy()
    t.kcm_socket = with_proxy.socket
    w = t.wire(u)
    eq(w.init(name, ccfile.Writer().principal(creds[0].client).out).name,
       "OK")
    for c in creds:
        eq(w.store(name, c.bytes()).name, "OK")
    got = [ccfile.parse_cred(b) for b in w.creds(name)]
    eq(ccfile.sorted_creds(got), ccfile.sorted_creds(creds))
    eq(with_proxy.calls["STORE"], 3)
    eq(with_proxy.connections, 1)
    # reached as the user, not as root
    eq({uid for uid, _, _ in with_proxy.log}, {u.uid})
    raises(2, u.stat, os.path.join(u.home, "none"))
    shorten("")


@test(*REAL)
def threads_share_a_wire_client(t):
    """Each gets the replies to its own requests."""
    u = t.user()
    w = t.wire(u)
    names = ["%d:%d" % (u.uid, n) for n in range(3)]
    for name in names:
        eq(w.init(name, ccfile.Writer().principal(
            ccfile.princ(u.principal)).out).name, "OK")
    at_once([lambda name=name: [w.uuid(name) for _ in range(50)]
             for name in names])


@test("heimdal")
def proxy_sees_bad_clients(t):
    u = t.user()
    p = t.proxy()
    t.kcm_socket = p.socket
    w = t.wire(u)
    w.send(b"\0\0\0\x10\2\0")          # half a request
    w.close()
    from util import wait_for
    wait_for("the violation", lambda: p.violations)
    try:
        p.check()
    except Failed:
        p.violations.clear()
        return
    raise Failed("the proxy let it pass")


@test("sssd")
def versions_of_the_format(t):
    c = ccfile.Cache(ccfile.princ("a/b@R", 1), [
        ccfile.tgt("a@R", 1000), ccfile.config("a@R", "x", b"y")])
    for version, order in ((1, "<"), (1, ">"), (2, "<"), (2, ">"), (3, ">"),
                           (4, ">")):
        c.version, c.order = version, order
        again = ccfile.parse(c.bytes(), order)
        eq(again.bytes(), c.bytes())
        eq([str(x.server) for x in again.creds],
           [str(x.server) for x in c.creds])
    eq(z("a"), b"a\0")
