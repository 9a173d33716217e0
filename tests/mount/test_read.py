"""Reading caches that KCM clients made: every client, every path form."""
import os
import re
import struct
import time

import ccfile
import clients
from harness import ALL, test
from made import TGT, image, made_cache, svc, usual_creds
from tree import paths_of
from util import check, eq, raises, run

# ------------------------------------------------------------ every client

@test(*ALL)
def every_path_form(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno(svc(0))
    paths = paths_of(t, m, u)
    bytes_seen = {form: u.read(path) for form, path in paths.forms.items()}
    eq(set(bytes_seen.values()), {bytes_seen["uuid"]}, "bytes by path form")
    eq(len(paths.forms), 5)
    for form, path in paths.forms.items():
        eq(u.klist("FILE:" + path), (u.principal, [TGT, svc(0)]), form)
        eq(u.run("cat", path, text=False).out, bytes_seen["uuid"], form)
        size = u.run("ls", "-lL", path).out.split()[4]
        eq(int(size), len(bytes_seen["uuid"]), "size by ls -l of " + form)
    eq(u.klist("DIR:%s/collection" % m), (u.principal, [TGT, svc(0)]))
    eq(u.klist("DIR::" + paths.collection), (u.principal, [TGT, svc(0)]))
    eq(u.run("klist", "-l", cc="DIR:%s/collection" % m).out.count(
        u.principal), 1)


@test(*ALL)
def every_client(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno(svc(0), svc(1))
    paths = paths_of(t, m, u)
    want = (u.principal, [TGT, svc(0), svc(1)])
    for form in ("uuid", "default", "krb5cc"):
        path = paths.forms[form]
        for name, reader in clients.READERS.items():
            principal, services = reader(u, path)
            eq((principal, services[0], sorted(services)),
               (want[0], TGT, want[1]), "%s of %s" % (name, form))
    eq(clients.go_ticket(u, paths.cache), "HTTP/localhost")


@test(*ALL)
def java_logs_in(t):
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    for form in ("uuid", "by-name", "krb5cc"):
        principal, tickets = clients.java(u, paths.forms[form])
        eq((principal, tickets), (u.principal, [TGT]), form)
    token = clients.java_token(u, paths.forms["default"])
    eq(clients.accept(t.realm, u, token), u.principal)


@test(*ALL)
def python_gssapi(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("HTTP/localhost")
    paths = paths_of(t, m, u)
    for cache in ("FILE:" + paths.cache,
                  "FILE:" + paths.forms["default"],
                  "DIR:%s/collection" % m):
        eq(clients.accept(t.realm, u, clients.python_token(u, cache)),
           u.principal, cache)


@test("heimdal", "kcmd", "embedded")    # Heimdal's kinit fails on sssd
def heimdal_client_wrote_it(t):
    """A cache that Heimdal's kinit made in KCM."""
    m, u = t.mount(), t.user()
    secret = os.path.join(u.home, "password")
    u.write(secret, b"pass word\n")
    t.realm.add("pw%d" % u.uid)
    u.heimdal("kinit.heimdal", "--password-file=" + secret,
              "pw%d@EXAMPLE.COM" % u.uid)
    u.heimdal("kgetcred", svc(0))
    paths = paths_of(t, m, u)
    principal, services = u.klist("FILE:" + paths.cache)
    eq((principal, services[0]), ("pw%d@EXAMPLE.COM" % u.uid, TGT))
    check(svc(0) in services, "no service ticket: %s", services)
    eq(image(u, paths.cache).bytes(), u.read(paths.cache))


# --------------------------------------------------------------- the bytes

@test(*ALL)
def image_is_what_libkrb5_writes(t):
    m, u = t.mount(), t.user()
    u.kinit("-r", "1d")
    u.kvno(svc(0), svc(1), svc(2))
    paths = paths_of(t, m, u)
    clients.ccall(u, "set-config", "KCM:" + paths.name, "colour", "blue")
    plain = os.path.join(u.home, "plain")
    clients.ccall(u, "copy", "KCM:" + paths.name, "FILE:" + plain)
    theirs = ccfile.parse(u.read(plain))
    ours = image(u, paths.cache)
    check(len(ours.creds) >= 5, "only %d entries", len(ours.creds))
    eq(ccfile.canonical(ours).bytes(), ccfile.canonical(theirs).bytes(),
       "image")
    eq(ours.config()["colour"], b"blue")


@test(*ALL)
def libkrb5_unmarshals_each(t):
    """Every credential of an image goes through libkrb5 unchanged."""
    m, u = t.mount(), t.user()
    start = int(time.time())
    p = u.principal
    odd = [
        ccfile.ticket(p, "a/b/c/d@OTHER.REALM", start + 9, size=5000),
        ccfile.ticket(p, "one@EXAMPLE.COM", start + 8, enctype=ccfile.AES128,
                      key=ccfile.key_bytes("k", 16)),
        ccfile.ticket(p, "addr/x@EXAMPLE.COM", start + 7, addresses=(
            (2, b"\x7f\0\0\1"), (24, b"\0" * 15 + b"\1"))),
        ccfile.ticket(p, "auth/x@EXAMPLE.COM", start + 6,
                      authdata=((1, b"data"), (512, b""))),
        ccfile.ticket(p, "u2u/x@EXAMPLE.COM", start + 5, is_skey=1,
                      second=ccfile.key_bytes("second", 100)),
        ccfile.ticket(p, "later/x@EXAMPLE.COM", start + 4, flags=0),
    ]
    name = made_cache(t, u, usual_creds(u) + odd, offset=0)
    cache = image(u, paths_of(t, m, u, name).cache)
    eq(len(cache.creds), 5 + len(odd))
    records = b"".join(struct.pack(">I", len(c.bytes())) + c.bytes()
                       for c in cache.creds)
    path = os.path.join(u.home, "records")
    u.write(path, records)
    out = clients.ccall(u, "marshal", path).splitlines()
    eq(len(out), len(cache.creds))
    for line, cred in zip(out, cache.creds):
        if not cred.is_config():
            eq(line, "%s -> %s %d %d" % (cred.client, cred.server,
                                         cred.enctype, len(cred.ticket)))


@test(*ALL)
def canonical_order(t):
    """[16] [23] Version 4, no byte more, an order of its own; exact size."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 5000
    p = u.principal
    tickets = [ccfile.ticket(p, "host/%s@EXAMPLE.COM" % n, start + at)
               for n, at in (("c", 30), ("a", 20), ("d", 40), ("b", 10))]
    foreign = ccfile.ticket(p, "krbtgt/OTHER@EXAMPLE.COM", start + 5)
    tgt = ccfile.tgt(p, start + 25)
    confs = [ccfile.config(p, "one", b"1"), ccfile.config(p, "two", b"2")]
    stored = [confs[0]] + tickets[:2] + [foreign, tgt] + tickets[2:] + \
        [confs[1]]
    name = made_cache(t, u, stored, offset=0)
    path = paths_of(t, m, u, name).cache
    cache = image(u, path)
    eq([str(c.server) for c in cache.creds[:6]], [
        TGT, "krbtgt/OTHER@EXAMPLE.COM", "host/b@EXAMPLE.COM",
        "host/a@EXAMPLE.COM", "host/c@EXAMPLE.COM", "host/d@EXAMPLE.COM"])
    eq(sorted(cache.config()), ["one", "two"])
    eq(cache.bytes(), u.read(path), "nothing but that")
    # The same content in another order of storing is the same bytes.
    before = u.read(path)
    made_cache(t, u, list(reversed(stored)), offset=0, name=name)
    eq(u.read(paths_of(t, m, u, name).cache), before)


@test(*ALL)
def newer_supersedes_older(t):
    m, u = t.mount(), t.user()
    start = int(time.time()) - 5000
    p = u.principal
    old = ccfile.ticket(p, "host/a@EXAMPLE.COM", start)
    new = ccfile.ticket(p, "host/a@EXAMPLE.COM", start + 100)
    aes128 = ccfile.ticket(p, "host/a@EXAMPLE.COM", start + 50,
                           enctype=ccfile.AES128,
                           key=ccfile.key_bytes("k", 16))
    second = ccfile.ticket(p, "host/a@EXAMPLE.COM", start + 20, is_skey=1,
                           second=ccfile.key_bytes("x", 40))
    tgt_old, tgt_new = ccfile.tgt(p, start), ccfile.tgt(p, start + 60)
    # sssd keeps one per client and server, whatever else differs
    kept = {"sssd": [tgt_new, new]}.get(
        t.on, [tgt_new, second, aes128, new])
    name = made_cache(t, u, [tgt_old, old, second, aes128, tgt_new, new],
                      offset=0)
    paths = paths_of(t, m, u, name)
    eq(image(u, paths.cache).bytes(),
       ccfile.Cache(ccfile.princ(p), kept).bytes())
    if t.on != "sssd":
        listed = u.list(paths / "tickets")
        eq(len(listed), 6, "all show in tickets/: %s" % listed)


@test(*ALL)
def kdc_offset_header(t):
    m, u = t.mount(), t.user()
    creds = usual_creds(u, 1)
    for offset in (3600, -90, 0):
        name = made_cache(t, u, creds, offset=offset,
                          name="%d:off%d" % (u.uid, abs(offset)))
        data = u.read(paths_of(t, m, u, name).cache)
        want = b"\5\4\0\0" if offset == 0 else \
            b"\5\4\0\x0c\0\1\0\x08" + struct.pack(">ii", offset, 0)
        eq(data[:len(want)], want, "header for offset %d" % offset)
        cache = ccfile.parse(data)
        eq(cache.bytes(), data)
        eq(cache.offset() or 0, offset)


@test("heimdal")
def offset_never_set(t):
    """Heimdal answers freed memory then; it must not get into a file."""
    m, u = t.mount(), t.user()
    for i in range(12):
        name = made_cache(t, u, usual_creds(u, 1), name="%d:n%d" % (u.uid, i))
        got = image(u, paths_of(t, m, u, name).cache).offset()
        check(got is None or abs(got) <= 86400, "offset %s in a file", got)


@test(*ALL)
def odd_principals(t):
    """Quoting and name types come through unchanged."""
    m, u = t.mount(), t.user()
    client = ccfile.Principal(b"EXAMPLE.COM", (b"we/ird\\na@me", b"x y"), 10)
    cred = ccfile.ticket(client, ccfile.Principal(
        b"R", (b"tab\there", b"nl\nhere"), 3), int(time.time()))
    w = t.wire(u)
    name = "%d:odd" % u.uid
    w.init(name, ccfile.Writer().principal(client).out)
    w.set_offset(name, 0)
    w.store(name, cred.bytes())
    paths = paths_of(t, m, u, name)
    eq(u.read(paths.cache), ccfile.Cache(client, [cred]).bytes())
    plain = clients.ccall(u, "principal", "KCM:" + name)
    eq(u.text(paths / "principal"), plain)


@test(*ALL)
def big_cache(t):
    """Larger than a pipe, a page, a FUSE request: 120 kB and more."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 1000
    creds = [ccfile.tgt(u.principal, start)] + [
        ccfile.ticket(u.principal, "s%d/h@EXAMPLE.COM" % i, start + i,
                      size=4000 + i) for i in range(60)]
    creds.append(ccfile.ticket(u.principal, "big/h@EXAMPLE.COM", start + 99,
                               size=60000))
    name = made_cache(t, u, creds, offset=0)
    path = paths_of(t, m, u, name).cache
    want = ccfile.Cache(ccfile.princ(u.principal), creds).bytes()
    check(len(want) > 300000, "only %d bytes", len(want))
    eq(u.stat(path).st_size, len(want))
    check(u.read(path) == want, "not the bytes that were stored")
    principal, services = clients.heimdal(u, path)
    eq((principal, len(services)), (u.principal, 62))


@test(*ALL)
def no_tickets_yet(t):
    """A cache with a principal alone is a header and that principal."""
    m, u = t.mount(), t.user()
    name = made_cache(t, u, [], offset=0)
    paths = paths_of(t, m, u, name)
    eq(u.read(paths.cache),
       ccfile.Cache(ccfile.princ(u.principal)).bytes())
    eq(u.list(paths / "tickets"), [])


# ------------------------------------------------ behind the mount's back

@test(*ALL)
def kvno_shows_at_next_open(t):
    m, u = t.mount(), t.user()
    u.kinit()
    path = paths_of(t, m, u).forms["default"]
    eq(image(u, path).servers(), [TGT])
    for number in range(4):
        u.kvno(svc(number))
        eq(sorted(image(u, path).servers()),
           [TGT] + [svc(n) for n in range(number + 1)])


@test(*ALL)
def kinit_again_shows_at_next_open(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno(svc(0))
    paths = paths_of(t, m, u)
    before = image(u, paths.cache)
    eq(len(before.tickets()), 2)
    u.kinit("-l", "2h")
    for path in (paths.cache, paths.forms["by-name"], paths.forms["default"],
                 paths.forms["krb5cc"], paths.collection):
        # the first is the old UUID's path, which sssd has given up
        after = image(u, path)
        eq(after.servers(), [TGT], path)
        check(after.creds[0].ticket != before.creds[0].ticket,
              "%s still has the old ticket", path)
    eq(u.klist("DIR:%s/collection" % m), (u.principal, [TGT]))


@test(*ALL)
def renewal_shows_at_next_open(t):
    m, u = t.mount(), t.user()
    u.kinit("-r", "2d")
    path = paths_of(t, m, u).forms["by-name"]
    before = image(u, path).creds[0]
    check(before.renew > before.endtime, "not renewable")
    u.run("kinit", "-R")
    after = image(u, path).creds[0]
    check(after.ticket != before.ticket, "the old ticket after kinit -R")
    eq(after.authtime, before.authtime)


@test(*ALL)
def kdestroy_shows_at_next_open(t):
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    image(u, paths.cache)
    u.run("kdestroy", "-q")
    for form, path in paths.forms.items():
        raises(2, u.read, path)
    r = u.run("klist", cc="FILE:" + paths.forms["default"], code=1)
    check("No credentials cache found" in r.err, "klist says %s", r.err)
    u.kinit()
    eq(image(u, paths.forms["default"]).servers(), [TGT])


@test(*ALL)
def several_caches(t):
    """Three principals; kswitch moves what means the default."""
    m, u = t.mount(), t.user()
    names = {}
    for n in ("b", "c"):
        t.realm.add("%s%d" % (n, u.uid))
    u.kinit()
    for p in ("b", "c"):
        u.run("kinit", "%s%d" % (p, u.uid), input=b"pass word\n")
    w = t.wire(u)
    for uuid, name in w.caches().items():
        names[str(ccfile.parse_principal(w.principal(name)))] = name
    eq(len(names), 3, "caches")
    for principal, name in names.items():
        paths = paths_of(t, m, u, name)
        for form, path in paths.forms.items():
            eq(str(image(u, path).principal), principal, form)
    listing = u.klist_names("DIR:%s/collection" % m)
    eq(sorted(listing.values()), sorted(names))
    r = u.run("klist", "-A", cc="DIR:%s/collection" % m).out
    eq(sorted(re.findall("Default principal: (.*)", r)), sorted(names))
    for principal, name in names.items():
        u.run("kswitch", "-p", principal)
        paths = paths_of(t, m, u)
        eq(paths.name, name)
        eq(len(paths.forms), 5)
        for form, path in paths.forms.items():
            eq(str(image(u, path).principal), principal, form)
        eq(u.text(m / "collection/primary"),
           os.path.basename(paths.collection) + "\n")
        eq(u.klist("DIR:%s/collection" % m)[0], principal)
    u.run("kdestroy", "-A", "-q")
    raises(2, u.read, m / "default/cache")
    eq([n for n in u.list(m / "collection") if n != "primary"], [])


@test(*ALL)
def no_cache_at_all(t):
    m, u = t.mount(), t.user()
    target = u.link(m / "default")
    check(target.startswith("by-name/%d" % u.uid), "default -> %s", target)
    raises(2, u.read, m / "default/cache")
    raises(2, u.read, m / ("krb5cc_%d" % u.uid))
    raises(2, u.read, m / "00000000-0000-0000-0000-000000000001/cache")
    eq(u.list(m / "by-name"), [])
    eq(u.list(m / "by-principal"), [])
    eq(u.list(m / "collection"), ["primary"])
    check(re.fullmatch(r"tkt.{0,59}\n", u.text(m / "collection/primary")),
          "primary: %r", u.text(m / "collection/primary"))
    eq([n for n in u.list(m.path) if "-" in n and len(n) == 36], [])
    r = u.run("klist", cc="DIR:%s/collection" % m, code=1)
    check("No credentials cache found" in r.err, "klist says %s", r.err)


@test(*ALL)
def plain_tools(t):
    """cp, stat, find, wc, cmp and grep do not stumble."""
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    u.run("cp", paths.cache, "copy")
    u.run("cmp", paths.cache, os.path.join(u.home, "copy"))
    eq(u.klist("FILE:" + os.path.join(u.home, "copy"))[0], u.principal)
    u.run("cp", "-a", paths.cache, "copy2")
    out = u.run("wc", "-c", paths.cache).out
    eq(int(out.split()[0]), len(u.read(paths.cache)))
    out = u.run("find", m.path, "-name", "cache").out
    check(paths.cache in out, "find shows %s", out)
    u.run("ls", "-laR", m.path)
    u.run("grep", "-r", "-c", "", paths.dir)
    run(["stat", "-f", m.path])
