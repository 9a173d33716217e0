"""kcmd with stock clients, and on the wire beside what real daemons do."""
import os
import re
import struct
import time

import ccfile
from harness import ALL, BUILD, test
from kcmwire import (GC_CACHED, OP, TC_MATCH_KEYTYPE, TC_MATCH_TIMES_EXACT,
                     request, z)
from made import made_cache, usual_creds
from util import check, eq, has, lacks, run

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"
SVC = "svc0/host.example.com@EXAMPLE.COM"
OURS = ("kcmd", "embedded")


def ready(t):
    """A user on the daemon under test (embedded: with its mount)."""
    if t.on == "embedded":
        t.mount()
    return t.user()


def pbytes(principal):
    return ccfile.Writer().principal(ccfile.princ(principal)).out


# ---------------------------------------------------------- stock clients

@test(*ALL)
def mit_tools(t):
    u = ready(t)
    for n in ("b", "c"):
        t.realm.add("%s%d" % (n, u.uid))
    u.kinit()
    u.kvno(SVC)
    eq(u.klist(), (u.principal, [TGT, SVC]))
    u.run("kinit", "b%d" % u.uid, input=b"pass word\n")
    eq(u.klist()[0], "b%d@EXAMPLE.COM" % u.uid)
    u.run("kinit", "c%d" % u.uid, input=b"pass word\n")
    names = u.klist_names()
    eq(sorted(names.values()), sorted([
        u.principal, "b%d@EXAMPLE.COM" % u.uid, "c%d@EXAMPLE.COM" % u.uid]))
    eq(u.run("klist", "-A").out.count("Default principal"), 3)
    u.run("kswitch", "-p", u.principal)
    eq(u.klist()[0], u.principal)
    b_name = [n for n, p in names.items() if p.startswith("b")][0]
    u.run("kswitch", "-c", b_name)
    eq(u.default_name(), b_name)
    u.run("kdestroy", "-q")
    eq(len(u.klist_names()), 2)
    u.run("kinit", "-R", "-c", [n for n, p in names.items()
                                if p == u.principal][0])
    u.run("kdestroy", "-A", "-q")
    eq(u.klist_names(), {})
    r = u.run("klist", code=1)
    check(re.search("not found|No credentials", r.err), r.err)


@test(*ALL)
def mit_named_cache(t):
    """KCM:uid:name by name, and renewal in place."""
    u = ready(t)
    cc = "KCM:%d:work" % u.uid
    u.kinit("-c", cc, "-r", "1d")
    eq(u.klist(cc), (u.principal, [TGT]))
    u.run("kinit", "-R", "-c", cc)
    u.kvno(SVC, cc=cc)
    eq(u.klist(cc), (u.principal, [TGT, SVC]))
    u.run("kdestroy", "-q", "-c", cc)
    eq(t.wire(u).caches(), {})


@test(*OURS, "heimdal")     # Heimdal's kinit needs MOVE_CACHE: not on sssd
def heimdal_tools(t):
    u = ready(t)
    t.realm.add("h%d" % u.uid)
    secret = os.path.join(u.home, "password")
    u.write(secret, b"pass word\n")
    who = "h%d@EXAMPLE.COM" % u.uid
    u.heimdal("kinit.heimdal", "--password-file=" + secret, who)
    out = u.heimdal("heimtools", "klist").out
    has(out, who)
    has(out, TGT)
    u.heimdal("kgetcred", SVC)
    has(u.heimdal("heimtools", "klist").out, SVC)
    eq(u.klist()[0], who, "MIT's klist of Heimdal's cache")
    u.heimdal("kdestroy.heimdal")
    eq(t.wire(u).caches(), {})


@test(*ALL)
def both_families_together(t):
    u = ready(t)
    u.kinit()
    has(u.heimdal("heimtools", "klist").out, u.principal)
    u.heimdal("kgetcred", SVC)
    check(SVC in u.klist()[1], "Heimdal's ticket is not seen by MIT")
    u.heimdal("kdestroy.heimdal")
    check(u.run("klist", "-s", code=1), "klist -s")


@test(*ALL)
def several_uids(t):
    users = [ready(t)] + [t.user() for _ in range(3)]
    for u in users:
        u.kinit()
    for u in users:
        eq(list(u.klist_names().values()), [u.principal])
        w = t.wire(u)
        eq(len(w.caches()), 1)
        for other in users:
            if other is u:
                continue
            theirs = list(t.wire(other).caches().values())[0]
            check(w.call("GET_PRINCIPAL", z(theirs)).name == "NOFILE",
                  "uid %d sees %s", u.uid, theirs)
            for uuid in t.wire(other).caches():
                check(w.call("GET_CACHE_BY_UUID", uuid).code,
                      "uid %d looks up %s", u.uid, theirs)
            check(w.destroy(theirs).code, "uid %d destroys %s", u.uid,
                  theirs)
    for u in users:
        eq(u.klist()[0], u.principal)


@test(*OURS)
def root_sees_its_own_only(t):
    """As sssd does it, not as Heimdal."""
    u, root = ready(t), t.root()
    u.kinit()
    theirs = u.default_name()[4:]
    w = t.wire(root)
    check(theirs not in w.caches().values(), "root is shown %s", theirs)
    eq(w.call("GET_PRINCIPAL", z(theirs)).name, "NOFILE")
    check(w.destroy(theirs).code, "root destroys %s", theirs)
    eq(u.klist()[0], u.principal)


# ---------------------------------------------------------------- the wire

@test(*ALL)
def missing_things(t):
    """The codes by situation; per daemon where they differ."""
    u = ready(t)
    w = t.wire(u)
    made_cache(t, u, usual_creds(u), offset=0)
    none = z("%d:none" % u.uid)
    p = usual_creds(u)[0].bytes()
    sssd = t.on == "sssd"
    eq(w.call("GET_PRINCIPAL", none).name, "NOFILE")
    eq(w.call("GET_KDC_OFFSET", none).name, "NOFILE")
    eq(w.call("GET_CRED_UUID_LIST", none).name,
       "NOTFOUND" if sssd else "NOFILE")
    eq(w.call("STORE", none + p).name, "NOTFOUND" if sssd else "NOFILE")
    eq(w.call("SET_KDC_OFFSET", none + b"\0\0\0\0").name,
       "NOTFOUND" if sssd else "NOFILE")
    eq(w.call("DESTROY", none).name, "NOFILE")
    eq(w.call("GET_CACHE_BY_UUID", b"x" * 16).name,
       "END" if sssd else "NOFILE")
    eq(w.call("GET_CRED_BY_UUID", z("%d:made" % u.uid) + b"x" * 16).name,
       "END")


@test(*ALL)
def initialize_and_names(t):
    u = ready(t)
    w = t.wire(u)
    p = pbytes(u.principal)
    for name in ("%d" % u.uid, "%d:x" % u.uid, "%d:x y" % u.uid):
        eq(w.init(name, p).name, "OK", name)
    for name in ("1", "0", "0:x", "x", "%d:x" % (u.uid + 1)):
        check(w.init(name, p).code, "INITIALIZE %s as uid %d", name, u.uid)
    name = "%d:x" % u.uid
    w.store(name, usual_creds(u)[0].bytes())
    eq(len(w.creds(name)), 1)
    before = w.uuid(name)
    w.init(name, pbytes("other@EXAMPLE.COM"))
    eq(w.creds(name), [], "INITIALIZE empties")
    eq(w.principal(name), pbytes("other@EXAMPLE.COM"))
    if t.on in OURS:
        eq(w.uuid(name), before, "UUID")
        eq(w.offset(name), 0)


@test(*ALL)
def generated_names(t):
    u = ready(t)
    w = t.wire(u)
    names = {w.ok("GEN_NEW").text() for _ in range(5)}
    for name in names:
        check(name.startswith("%d:" % u.uid), name)
        eq(w.init(name, pbytes(u.principal)).name, "OK")
    eq(len(w.caches()), len(names))


@test(*ALL)
def credentials_come_back(t):
    u = ready(t)
    w = t.wire(u)
    creds = usual_creds(u, 4)
    name = made_cache(t, u, creds, offset=77)
    got = [ccfile.parse_cred(b) for b in w.creds(name)]
    eq(ccfile.sorted_creds(got), ccfile.sorted_creds(creds))
    eq(w.offset(name), 77)
    listed = w.ok("GET_CRED_UUID_LIST", z(name)).uuids()
    eq(len(set(listed)), len(creds))
    one_by_one = w.pipeline(*[("GET_CRED_BY_UUID", z(name) + i)
                              for i in listed])
    eq(sorted(r.result for r in one_by_one), sorted(w.creds(name)))
    if t.on in OURS:
        eq([c.bytes() for c in got], [c.bytes() for c in creds], "order")


@test(*ALL)
def the_default(t):
    u = ready(t)
    w = t.wire(u)
    eq(w.default(), "%d" % u.uid, "with no cache")
    a = made_cache(t, u, usual_creds(u), offset=0, name="%d:a" % u.uid)
    eq(w.default(), a)
    b = made_cache(t, u, usual_creds(u), offset=0, name="%d:b" % u.uid)
    for name in (a, b, a):
        eq(w.set_default(name).name, "OK")
        eq(w.default(), name)
    w.destroy(a)
    eq(w.default(), b, "after DESTROY of the default")
    w.destroy(b)
    eq(w.default(), "%d" % u.uid)


@test(*OURS, "heimdal")
def retrieve(t):
    u = ready(t)
    w = t.wire(u)
    start = int(time.time()) - 50
    creds = usual_creds(u, 3, start)
    name = made_cache(t, u, creds, offset=0)

    def ask(tag, flags):
        return w.call("RETRIEVE", z(name) + struct.pack(
            ">I", (flags | GC_CACHED) & 0xffffffff) + tag)
    for cred in creds[1:4]:
        r = ask(match_tag(cred), 0)
        eq((r.name, r.result), ("OK", cred.bytes()))
    none = ccfile.ticket(u.principal, "none@EXAMPLE.COM", start)
    eq(ask(match_tag(none), 0).name, "END")
    aes128 = ccfile.ticket(u.principal, "host/h0@EXAMPLE.COM", start,
                           enctype=17, key=b"k" * 16)
    eq(ask(match_tag(aes128), TC_MATCH_KEYTYPE).name, "END")


def match_tag(cred):
    """Heimdal's match credential: which parts are there, then those."""
    w = ccfile.Writer()
    w.number("I", 1 | 2 | 4)                # client, server, session key
    w.principal(cred.client).principal(cred.server)
    w.number("H", cred.enctype).counted(cred.key)
    for when in (cred.authtime, cred.starttime, cred.endtime, cred.renew):
        w.number("I", when)
    return w.number("B", 0).number("I", cred.flags).out


@test(*OURS, "heimdal")
def remove_cred(t):
    u = ready(t)
    w = t.wire(u)
    start = int(time.time()) - 50
    p = u.principal
    same = [ccfile.ticket(p, "host/a@EXAMPLE.COM", start + i)
            for i in range(3)]
    keep = ccfile.ticket(p, "host/b@EXAMPLE.COM", start)
    name = made_cache(t, u, [ccfile.tgt(p, start), same[0], keep, same[1],
                             same[2]], offset=0)

    def remove(cred, flags):
        return w.call("REMOVE_CRED", z(name) + struct.pack(
            ">I", flags & 0xffffffff) + match_tag(cred))
    eq(remove(same[1], TC_MATCH_TIMES_EXACT).name, "OK")
    left = [ccfile.parse_cred(b) for b in w.creds(name)]
    check(same[1] not in left and same[0] in left and same[2] in left,
          "times-exact removed another one: %s", [str(c.server)
                                                  for c in left])
    while remove(same[0], 0).name == "OK":
        pass
    left = [str(ccfile.parse_cred(b).server) for b in w.creds(name)]
    eq(sorted(left), sorted(["host/b@EXAMPLE.COM", TGT]))
    eq(remove(same[0], 0).name, "NOTFOUND")


@test(*OURS)
def list_and_replace(t):
    """The two opcodes of MIT's own extension."""
    u = ready(t)
    w = t.wire(u)
    creds = usual_creds(u, 3)
    name = made_cache(t, u, creds, offset=5)
    eq(w.ok("GET_CRED_LIST", z(name)).blobs(), [c.bytes() for c in creds])
    uuid = w.uuid(name)
    new = usual_creds(u, 1)
    w.ok("REPLACE", z(name) + struct.pack(">i", -60) + pbytes(u.principal)
         + struct.pack(">I", len(new))
         + b"".join(struct.pack(">I", len(c.bytes())) + c.bytes()
                    for c in new))
    eq(w.creds(name), [c.bytes() for c in new])
    eq((w.uuid(name), w.offset(name)), (uuid, -60))
    other = "%d:fresh" % u.uid
    w.ok("REPLACE", z(other) + struct.pack(">i", 0) + pbytes(u.principal)
         + struct.pack(">I", 0))
    eq(w.principal(other), pbytes(u.principal))
    # bad ones change nothing
    for bad in (struct.pack(">I", 9), struct.pack(">II", 1, 1 << 30),
                struct.pack(">II", 1, 3) + b"abc"):
        check(w.call("REPLACE", z(name) + struct.pack(">i", 0)
                     + pbytes(u.principal) + bad).code, "REPLACE of %r", bad)
    eq(w.creds(name), [c.bytes() for c in new], "after bad ones")


@test(*OURS, "heimdal")
def move_cache(t):
    u = ready(t)
    w = t.wire(u)
    a = made_cache(t, u, usual_creds(u, 2), offset=0, name="%d:a" % u.uid)
    b = made_cache(t, u, [], offset=0, name="%d:b" % u.uid,
                   principal="x@EXAMPLE.COM")
    uuid = w.uuid(b)
    eq(w.call("MOVE_CACHE", z(a) + z(b)).name, "OK")
    eq(w.uuid(b), uuid)
    eq(w.principal(b), pbytes(u.principal))
    eq(len(w.creds(b)), 4)
    eq(w.call("GET_PRINCIPAL", z(a)).name, "NOFILE")
    check(a not in w.caches().values(), "the source is still listed")


@test(*OURS)
def unsupported_opcodes(t):
    """What nobody uses is answered as unsupported; nothing dies of it."""
    u = ready(t)
    w = t.wire(u)
    name = made_cache(t, u, usual_creds(u), offset=0)
    for opcode in ("GET_INITIAL_TICKET", "GET_TICKET", "ADD_NTLM_CRED",
                   "HAVE_NTLM_CRED", "DEL_NTLM_CRED", "DO_NTLM_AUTH", 29,
                   500, 12999, 13003, 65535):
        r = w.call(opcode, z(name))
        check(r.name in ("INTERNAL", "NOSUPP"), "%s: %r", opcode, r)
    eq(w.principal(name), pbytes(u.principal))


@test(*OURS)
def malformed_requests(t):
    """Cut short, lying or absurd: an error or a close, and never harm."""
    u = ready(t)
    name = made_cache(t, u, usual_creds(u), offset=0)
    whole = {
        "INITIALIZE": z("%d:new" % u.uid) + pbytes(u.principal),
        "STORE": z(name) + usual_creds(u)[1].bytes(),
        "GET_PRINCIPAL": z(name), "DESTROY": z(name),
        "SET_KDC_OFFSET": z(name) + b"\0\0\0\1",
        "GET_CRED_BY_UUID": z(name) + b"x" * 16,
        "GET_CACHE_BY_UUID": b"x" * 16,
    }
    before = t.wire(u).creds(name)
    for opcode, arguments in whole.items():
        w = t.wire(u)
        for cut in sorted({0, 1, len(arguments) // 2, len(arguments) - 1}):
            r = w.call(opcode, arguments[:cut])
            check(r.code, "%s cut to %d bytes: %r", opcode, cut, r)
        w.close()
    for raw in (b"\0\0\0\0", b"\0\0\0\2\2\0", b"\0\0\0\4\1\0\0\0",
                b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\2\0\0\4"):
        w = t.wire(u)
        w.send(raw)
        try:
            check(w.reply().code, "accepted %r", raw)
        except (EOFError, ConnectionError):
            pass                # closed, as sssd does
        w.close()
    w = t.wire(u)
    eq(w.creds(name), before)
    eq(list(w.caches().values()), [name])


@test(*OURS)
def one_slow_client_stops_nobody(t):
    """Half a request, an unread reply: others are served meanwhile."""
    u = ready(t)
    name = made_cache(t, u, [ccfile.ticket(
        u.principal, "h%d@EXAMPLE.COM" % i, 1000 + i, size=20000)
        for i in range(20)], offset=0)
    half = t.wire(u)
    half.send(struct.pack(">IBBH", 1000, 2, 0, OP["STORE"]))
    lazy = t.wire(u)
    lazy.socket.settimeout(None)
    lazy.socket.setblocking(False)
    try:
        for _ in range(200):
            lazy.socket.send(request("GET_CRED_LIST", z(name)))
    except BlockingIOError:
        pass
    eq(t.wire(u).principal(name), pbytes(u.principal))
    eq(len(t.wire(u).creds(name)), 20)
    v = t.user()
    v.kinit()
    eq(v.klist()[0], v.principal)


@test(*OURS)
def many_requests_in_pieces(t):
    """A stream is a stream: any cut, many in one write."""
    u = ready(t)
    w = t.wire(u)
    name = made_cache(t, u, usual_creds(u), offset=0)
    replies = w.pipeline(*[("GET_PRINCIPAL", z(name))] * 50)
    eq({r.result for r in replies}, {pbytes(u.principal)})
    for byte in request("GET_PRINCIPAL", z(name)):
        w.send(bytes([byte]))
    eq(w.reply().result, pbytes(u.principal))


@test(*OURS)
def quota_per_uid(t):
    """There is an end, it is an error, and it is one uid's own."""
    u, other = ready(t), t.user()
    w = t.wire(u)
    p = pbytes(u.principal)
    made = 0
    for i in range(5000):
        if w.init("%d:%d" % (u.uid, i), p).code:
            break
        made += 1
    check(40 <= made < 5000, "%d caches before the quota", made)
    eq(len(w.caches()), made)
    other.kinit()
    eq(other.klist()[0], other.principal)
    w.destroy("%d:0" % u.uid)
    eq(w.init("%d:again" % u.uid, p).name, "OK")


@test("kcmd", "heimdal", "sssd")
def kcmls_lists(t):
    """The example on kcm/ alone: caches and tickets without FUSE."""
    u = t.user()
    u.kinit()
    u.kvno(SVC)
    binary = next((p for p in (os.path.join(BUILD, "kcmls"),
                               os.path.join(BUILD, "examples", "kcmls"))
                   if os.access(p, os.X_OK)), None)
    check(binary, "kcmls is not built (make)")
    out = u.run(binary).out
    for part in (u.principal, TGT, SVC, u.default_name()[4:]):
        has(out, part, "kcmls")
    lacks(t.user(principal=None).run(binary, code=None).out, u.principal)


@test("kcmd")
def the_command_itself(t):
    binary = os.path.join(BUILD, "kcmd")
    r = run([binary, "--nonsense"], code=None)
    check(r.code > 0 and "nonsense" in r.err, str(r))
    r = run([binary, "-f", "--socket=/nonexistent/dir/s"], code=None)
    check(r.code > 0 and "/nonexistent/dir/s" in r.err, str(r))
    eq(os.stat(t.kcm_socket).st_mode & 0o777, 0o666)
    d = t.own_daemon()
    pid = d.process.pid
    # it listens before it serves, and gives its rights up between the two
    eq(t.wire().call("NOOP").name, "OK")
    with open("/proc/%d/status" % pid) as f:
        status = dict(line.split(":", 1) for line in f)
    eq(int(status["CapEff"], 16), 0, "capabilities of kcmd")
    d.stop()
    eq(d.process.returncode, 0)
    check(not os.path.exists(d.socket), "the socket is still there")
    d.start()
    d.kill()
    d.start()               # a dead socket is taken over
    r = run([binary, "-f", "--socket=" + d.socket], code=None)
    check(r.code > 0, "a second kcmd on a living socket: %s", r)
    d.assert_alive()
