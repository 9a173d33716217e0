"""Odd, hostile and many names in by-name/, by-principal/ and collection/."""
import os
import time

import ccfile
import tree
from harness import ALL, test
from kcmwire import Client, uuid_text
from made import TGT, made_cache
from tree import CachePaths, paths_of
from util import check, eq, has, raises

# What follows uid: in names that the daemons take (sssd: no "/").
ODD = ("a.b", "a b", "50%", "%41", "%2E", ".", "..", ".hidden", "a:b", "a.:b",
       "caf\u00e9", "new\nline", "tab\there", "cr\r", "del\x7f", "a'b\"c",
       "back\\slash", "$(id)", "-rf", "a#2", "tkt", "tktAb12Cd", "tkt=x",
       "tkt.x", "tkta-b", "tkt%", "tktback\\slash", "primary", "n" * 49,
       "n" * 52, "tkt" + "x" * 59, "tkt" + "x" * 60, "", " ")


def collection_name(u, name, uuid):
    """As tree.collection_name, but libkrb5 takes no "\\" from primary."""
    shown = tree.collection_name(u.uid, name, uuid)
    prefix = "%d:tkt=" % u.uid
    if name.startswith(prefix):
        shown = "tkt=" + tree.by_name(name)
    if "\\" in shown or len(shown) > 62:
        shown = "tkt=" + uuid
    return shown


@test(*ALL)
def odd_cache_names(t):
    m, u = t.mount(), t.user()
    w = t.wire(u)
    made = {str(u.uid): "bare@EXAMPLE.COM"}
    for number, suffix in enumerate(ODD):
        # sssd refuses some, and stores one without its backslash
        if t.on != "sssd" or not set(suffix) & set('"\\=') and suffix != " ":
            made["%d:%s" % (u.uid, suffix)] = "p%d@EXAMPLE.COM" % number
    for name, principal in made.items():
        made_cache(t, u, [ccfile.tgt(principal, 1790000000)], name=name,
                   offset=0, principal=principal)
    uuids = {n: uuid_text(r) for r, n in w.caches().items()}
    eq(set(uuids), set(made))
    eq(u.list(m / "by-name"), sorted(map(tree.by_name, made)))
    collection = {n: collection_name(u, n, i) for n, i in uuids.items()}
    eq(u.list(m / "collection"), sorted(["primary"] +
                                        list(collection.values())))
    eq(sorted(u.list(m / "by-principal")), sorted(made.values()))
    for name, principal in made.items():
        path = m / ("by-name/" + tree.by_name(name))
        cache = u.read(path + "/cache")
        eq(str(ccfile.parse(cache).principal), principal, name)
        eq(u.read(m / ("collection/" + collection[name])), cache, name)
        eq(u.read(m / ("by-principal/%s/cache" % principal)), cache)
        eq(u.read(m / (uuids[name] + "/cache")), cache)
        eq(u.text(path + "/name"), "KCM:%s\n" % name)
    # each of them can be the primary
    listed = u.klist_names("DIR:%s/collection" % m)
    eq(sorted(listed.values()), sorted(made.values()))
    for name in list(made)[::3] + [n for n in made if "\\" in n]:
        check(not w.set_default(name).code, "SET_DEFAULT_CACHE")
        eq(u.text(m / "collection/primary"), collection[name] + "\n")
        eq(u.link(m / "default"), "by-name/" + tree.by_name(name))
        eq(u.klist("DIR:%s/collection" % m)[0], made[name], name)
    for name in list(made)[1::3]:
        u.run("kswitch", "-p", made[name], cc="DIR:%s/collection" % m)
        eq(w.default(), name)
        u.run("kdestroy", cc="DIR:%s/collection" % m)
        check(name not in w.caches().values(), "%s is there", name)
        eq(u.text(m / "collection/primary"), collection[name] + "\n")


@test(*ALL)
def odd_names_are_written(t):
    """kinit by each path form, where no such cache is there yet."""
    m, u = t.mount(), t.user()
    w = t.wire(u)
    for suffix in ("a.b", "a b", "50%", "caf\u00e9", "a:b", "abcdef",
                   "tkt_x.y"):
        name = "%d:%s" % (u.uid, suffix)
        form = tree.by_name(name)
        u.call(os.mkdir, m / ("by-name/" + form))
        uses(t, u, w, name, "FILE:%s" % (m / ("by-name/%s/cache" % form)))
        u.run("kdestroy", "-c", "KCM:" + name)
        uses(t, u, w, name, "DIR::" + m / (
            "collection/" + tree.collection_name(u.uid, name, "")))
    eq(len(w.caches()), 7)
    # a name that looks like mkstemp's of one that is there
    made_cache(t, u, [], name=str(u.uid), offset=0)
    for suffix in ("AbCdEf", "tktone-AbCdEf"):
        name = "%d:%s" % (u.uid, suffix)
        made_cache(t, u, [], name=name.rpartition("-")[0] or name, offset=0)
        uses(t, u, w, name, "DIR::" + m / (
            "collection/" + tree.collection_name(u.uid, name, "")))


def uses(t, u, w, name, cc):
    """kinit and kvno with cc; it is the cache of that name, and no other
    was made on the way."""
    before = set(w.caches().values())
    u.run("kinit", "-k", "-t", u.keytab, "-c", cc, u.principal)
    u.kvno("svc0/host.example.com", cc=cc)
    eq(set(w.caches().values()), before | {name}, "caches after kinit " + cc)
    eq(u.klist(cc), (u.principal, [TGT, "svc0/host.example.com@EXAMPLE.COM"]))


@test(*ALL)
def names_that_are_none(t):
    m, u, other = t.mount(), t.user(), t.user()
    other.kinit()
    u.kinit()
    for name in ("%d:x" % u.uid, "%d.a.%%2e" % u.uid, "%d.%%41" % u.uid,
                 "%d.%%4" % u.uid, "%d.%%" % u.uid, "%d.%%00" % u.uid,
                 "%d.\u00e9" % u.uid, "%d.\x01" % u.uid, "n" * 255):
        raises(2, u.stat, m / ("by-name/" + name))
    raises(36, u.stat, m / ("by-name/" + "n" * 256))
    for name in ("primary2", "tk", "x", "tkt=", "tkt%", "tkt%zz",
                 "tkt=%d" % other.uid, "tkt=%d.x" % other.uid,
                 "tkt=00000000-0000-4000-8000-000000000000",
                 "TKT", "krb5cc_1"):
        raises(2, u.stat, m / ("collection/" + name))
    for name in ("x", "tk", "primary2", "tkt=%d.x" % other.uid, "tkt%",
                 "tkt=%d" % other.uid, "ktk.AbCdEf"):
        raises(13, u.write, m / ("collection/" + name), b"\5\4\0\0")
    for name in ("%d.x" % other.uid, str(other.uid), "%d1.x" % u.uid):
        raises(13, u.call, os.mkdir, m / ("by-name/" + name))
    for name in ("x", "krb5cc_%d" % other.uid, "krb5cc_%d5" % u.uid,
                 "cache"):
        raises(13, u.write, m / name, b"\5\4\0\0")
    eq(len(t.wire(u).caches()), 1)
    eq(len(t.wire(other).caches()), 1)


@test(*ALL)
def hostile_principals(t):
    """As directory names, and as what klist -l shows."""
    m, u = t.mount(), t.user()
    w = t.wire(u)
    odd = {}
    for parts in ((b"a/b",), (b"a", b"b"), (b".hidden",), (b"..",),
                  (b"a:b",), (b"a.b",), (b"a.b#2",), (b"50%",), (b"",),
                  (b"caf\xc3\xa9",), (b"bad\xff",), (b"new\nline",),
                  (b"a@b",), (b"a b",), (b"back\\slash",), (b"\x01\x7f",),
                  (b"x" * 300,), (b"-rf",)):
        p = ccfile.Principal(b"EXAMPLE.COM", parts)
        name = "%d:n%d" % (u.uid, len(odd))
        check(not w.init(name, ccfile.Writer().principal(p).out).code,
              "INITIALIZE with %r", parts)
        odd[name] = p
    listed = u.list(m / "by-principal")
    eq(len(set(listed)), len(listed), "twice in by-principal")
    eq(len(listed), len(odd) - 1, "by-principal: %s" % listed)   # one is long
    found = set()
    for link in listed:
        check(not set(link) & set(":/\n\x01\x7f") and link.isascii()
              and not link.startswith("."), "the name %r", link)
        cache = u.read(m / ("by-principal/%s/cache" % link))
        found.add(ccfile.parse(cache).principal.parts)
        has(u.link(m / ("by-principal/" + link)), "../")
    eq(len(found), len(listed))
    check((b"x" * 300,) not in found, "a name of 300 bytes")
    # "a.b", "a:b" and one that is called "a.b#2" by itself
    same = {link: ccfile.parse(u.read(m / ("by-principal/%s/cache" % link)))
            .principal.parts[0] for link in listed if link.startswith("a.b")}
    eq(same, {"a.b@EXAMPLE.COM": b"a.b", "a.b@EXAMPLE.COM#2": b"a:b",
              "a.b#2@EXAMPLE.COM": b"a.b#2"})


@test("heimdal", "kcmd", "embedded")
def numbered_names_do_not_meet(t):
    """#2 is appended, but not where an entry has that name by itself."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 100
    # a realm may end in #2
    servers = ("h/a:1@R", "h/a.1@R", "h/a.1@R#2", "h/a.1@R#2", "h/a:1@R#2")
    creds = [ccfile.ticket(u.principal, s, start + i)
             for i, s in enumerate(servers)]
    name = made_cache(t, u, creds, offset=0)
    paths = paths_of(t, m, u, name)
    listed = u.list(paths / "tickets")
    eq(len(set(listed)), 5, "names: %s" % listed)
    shown = [ccfile.parse(u.read(paths / ("tickets/" + n))).creds[0].bytes()
             for n in listed]
    eq(sorted(shown), sorted(c.bytes() for c in creds))
    check("h%2Fa.1@R#2" in listed and "h%2Fa.1@R#3" in listed, str(listed))


@test(*ALL)
def which_of_many_caches(t):
    """Several of one principal: the default, else the last TGT to expire;
    foreign TGTs and other tickets count for nothing."""
    m, u = t.mount(), t.user()
    w = t.wire(u)
    start = int(time.time()) - 10

    def cache(suffix, *creds):
        return made_cache(t, u, creds, offset=0,
                          name="%d:%s" % (u.uid, suffix))
    p = u.principal
    names = [
        cache("none"),
        cache("short", ccfile.tgt(p, start, life=1000)),
        cache("long", ccfile.tgt(p, start, life=5000)),
        cache("foreign", ccfile.ticket(p, "krbtgt/OTHER@EXAMPLE.COM", start,
                                       life=9000),
              ccfile.ticket(p, "host/x@EXAMPLE.COM", start, life=9000)),
        cache("two", ccfile.tgt(p, start, life=10),
              ccfile.tgt(p, start - 5, life=3000))]
    other = made_cache(t, u, [], offset=0, name="%d:other" % u.uid,
                       principal="somebody@EXAMPLE.COM")
    link = m / ("by-principal/" + p)

    def shown():
        uuid = u.link(link)[3:]
        return {uuid_text(r): n for r, n in w.caches().items()}[uuid]
    w.set_default(other)
    eq(shown(), names[2])
    w.destroy(names[2])
    eq(shown(), names[4])
    w.set_default(names[0])
    eq(shown(), names[0])
    eq(u.list(m / "by-principal"), sorted([p, "somebody@EXAMPLE.COM"]))
    eq(u.read(link + "/cache"), u.read(
        m / ("by-name/%s/cache" % tree.by_name(names[0]))))


@test("heimdal", "kcmd", "embedded")
def five_hundred(t):
    """Caches of one user, half of them of one principal."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 10
    count = 500
    with Client(t.kcm_socket, u.uid) as w:
        for n in range(count):
            name = "%d:c%d" % (u.uid, n)
            who = u.principal if n % 2 else "p%d@EXAMPLE.COM" % n
            client = ccfile.princ(who)
            answer = w.init(name, ccfile.Writer().principal(client).out)
            if answer.name == "INTERNAL":
                break
            check(not answer.code, "INITIALIZE: %r", answer)
            w.store(name, ccfile.tgt(who, start, life=1000 + n).bytes())
        have = w.caches()
    count = len(have)
    check(count >= 64, "the daemon takes %d caches", count)
    begin = time.monotonic()
    eq(len(u.list(m / "by-name")), count)
    eq(len(u.list(m / "collection")), count + 1)
    top = u.list(m.path)
    eq(len([n for n in top if len(n) == 36]), count)
    eq(len(u.list(m / "by-principal")), (count + 1) // 2 + 1)
    last = max(n for n in range(count) if n % 2)
    eq(u.text(m / ("by-principal/%s/name" % u.principal)),
       "KCM:%d:c%d\n" % (u.uid, last))
    uuids = {n: uuid_text(r) for r, n in have.items()}
    for n in range(0, count, 17):
        name = "%d:c%d" % (u.uid, n)
        paths = CachePaths(m, u, name, uuids[name])
        cache = u.read(paths.cache)
        for path in paths.forms.values():
            eq(u.read(path), cache)
    eq(len(u.klist_names("DIR:%s/collection" % m)), count, "klist -l")
    taken = time.monotonic() - begin
    check(taken < 20, "%d caches take %.1f s", count, taken)
