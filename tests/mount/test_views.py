"""The tree around `cache`: names, modes, text files, tickets, config."""
import json
import os
import re
import stat
import time

import ccfile
import tree
from harness import ALL, test
from made import made_cache, usual_creds
from tree import paths_of
from util import check, eq, has, lacks, raises, wait_for

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"


def some_cache(t, u, name=None):
    """A cache like kinit's, of known times; its name."""
    return made_cache(t, u, usual_creds(u), offset=0, name=name)


# ------------------------------------------------------------ names, modes

@test(*ALL)
def names_and_types(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("svc0/host.example.com")
    paths = paths_of(t, m, u)
    top = u.list(m.path)
    eq(sorted(set(top) - {paths.uuid}), sorted([
        "by-name", "by-principal", "collection", "default",
        "krb5cc_%d" % u.uid] + ([".kcmfs"] if ".kcmfs" in top else [])))
    check(stat.S_ISDIR(u.stat(m / ".kcmfs").st_mode), ".kcmfs")
    eq(u.list(paths.dir), ["cache", "config", "info", "info.json", "name",
                           "principal", "tickets"])
    eq(u.list(paths.by_name), u.list(paths.dir))
    eq(u.link(m / "default"), "by-name/" + tree.by_name(paths.name))
    eq(u.link(m / ("by-principal/" + tree.ticket_name(u.principal))),
       "../" + paths.uuid)
    eq(u.list(m / "by-name"), [tree.by_name(paths.name)])
    eq(u.list(m / "collection"),
       sorted(["primary", os.path.basename(paths.collection)]))
    eq(u.list(paths / "tickets"), sorted(
        tree.ticket_name(s) for s in (
            TGT, "svc0/host.example.com@EXAMPLE.COM")))
    for path in tree.walk(u, m.path):
        lacks(path, ":", "a name")


@test(*ALL)
def modes_owners_links(t):
    """[17] [18] One link, the caller's, 0600, and the same inode however
    it is reached."""
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    fixed = ["", "by-name", "by-principal", "collection", ".kcmfs"]
    for name in fixed:
        s = u.stat(m / name if name else m.path)
        check(stat.S_ISDIR(s.st_mode), name)
    for name in ("", "by-name", "collection"):
        mode = u.stat(m / name if name else m.path).st_mode
        check(mode & stat.S_ISVTX and mode & 0o555 == 0o555,
              "%s/ has mode %o", name, mode)
    writable = {"cache"}
    for path, s in tree.walk(u, m.path).items():
        if stat.S_ISLNK(s.st_mode) or path in fixed:
            continue
        eq((s.st_uid, s.st_gid), (u.uid, u.gid), "owner of " + path)
        mode = stat.S_IMODE(s.st_mode)
        if stat.S_ISDIR(s.st_mode):
            eq(mode, 0o700, "mode of " + path)
            continue
        check(stat.S_ISREG(s.st_mode), "%s is no file", path)
        eq(s.st_nlink, 1, "links of " + path)
        check(mode in (0o600, 0o400), "%s has mode %o", path, mode)
        if os.path.basename(path) in writable:
            eq(mode, 0o600, "mode of " + path)
        if os.path.basename(path) in ("principal", "info", "info.json",
                                      "name", "status"):
            eq(mode, 0o400, "mode of " + path)
    numbers = {form: (u.call(os.stat, path).st_ino,
                      u.call(os.stat, path).st_dev)
               for form, path in paths.forms.items()}
    eq(set(numbers.values()), {numbers["uuid"]}, "inode by path form")


@test(*ALL)
def escaped_names(t):
    m, u = t.mount(), t.user()
    p = u.principal
    start = int(time.time()) - 100
    servers = ["host/a.b:80@EXAMPLE.COM", ".hidden/x@EXAMPLE.COM",
               "50%/x@EXAMPLE.COM", "caf\u00e9/x@EXAMPLE.COM"]
    creds = [ccfile.ticket(p, s, start + i) for i, s in enumerate(servers)]
    name = made_cache(t, u, creds, offset=0, name="%d:a.b%%c" % u.uid)
    paths = paths_of(t, m, u, name)
    eq(u.list(m / "by-name"), ["%d.a%%2Eb%%25c" % u.uid])
    eq(u.list(paths / "tickets"), sorted([
        "host%2Fa.b.80@EXAMPLE.COM", "%2Ehidden%2Fx@EXAMPLE.COM",
        "50%25%2Fx@EXAMPLE.COM", "caf%C3%A9%2Fx@EXAMPLE.COM"]))
    eq(u.list(m / "collection")[-1], "tkt=%d.a%%2Eb%%25c" % u.uid)
    for ticket in u.list(paths / "tickets"):
        ccfile.parse(u.read(paths / ("tickets/" + ticket)))


@test(*ALL)
def long_names(t):
    """A collection name has 62 bytes at most; MIT reads no longer ones."""
    m, u = t.mount(), t.user()
    for length in (40, 52, 53, 54, 120):
        name = "%d:%s" % (u.uid, "n" * length)
        some_cache(t, u, name)
        paths = paths_of(t, m, u, name)
        shown = os.path.basename(paths.collection)
        check(len(shown) <= 62, shown)
        eq(u.klist("DIR::" + paths.collection)[0], u.principal)
        t.wire(u).set_default(name)
        eq(u.text(m / "collection/primary"), shown + "\n")
        eq(u.klist("DIR:%s/collection" % m)[0], u.principal)
        # the by-name form is never shortened
        eq(u.read(paths.forms["by-name"]), u.read(paths.cache))


@test(*ALL)
def dir_style_names(t):
    m, u = t.mount(), t.user()
    name = some_cache(t, u, "%d:tktAbC12d" % u.uid)
    paths = paths_of(t, m, u, name)
    eq(u.list(m / "collection"), ["primary", "tktAbC12d"])
    eq(u.klist("DIR::%s/collection/tktAbC12d" % m)[0], u.principal)
    eq(u.stat(m / "collection/tktAbC12d").st_ino,
       u.stat(paths.cache).st_ino)


@test("heimdal", "kcmd", "embedded")
def two_entries_of_one_name(t):
    """`:` and `.` in service names fall together: #2 is appended."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 100
    creds = [ccfile.ticket(u.principal, s, start + i) for i, s in enumerate(
        ("http/a:1@EXAMPLE.COM", "http/a.1@EXAMPLE.COM",
         "http/a:1@EXAMPLE.COM"))]
    name = made_cache(t, u, creds, offset=0)
    paths = paths_of(t, m, u, name)
    listed = u.list(paths / "tickets")
    eq(listed, ["http%2Fa.1@EXAMPLE.COM", "http%2Fa.1@EXAMPLE.COM#2",
                "http%2Fa.1@EXAMPLE.COM#3"])
    shown = [ccfile.parse(u.read(paths / ("tickets/" + n))).creds
             for n in listed]
    eq(sorted(c.bytes() for cs in shown for c in cs),
       sorted(c.bytes() for c in creds))


# -------------------------------------------------------------- text files

@test(*ALL)
def principal_and_name(t):
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    eq(u.text(paths / "principal"), u.principal + "\n")
    eq(u.text(paths / "name"), "KCM:%s\n" % paths.name)
    cc = u.text(paths / "name").strip()
    eq(u.klist(cc)[0], u.principal, "the name as KRB5CCNAME")
    for name in ("principal", "name", "info", "info.json"):
        path = paths / name
        # info says "10 hours left", then "9 hours 59 minutes left"
        wait_for("the size of " + name, lambda: u.call(
            os.stat, path).st_size == len(u.read(path)))


@test(*ALL)
def info_is_like_klist(t):
    m, u = t.mount(), t.user()
    u.kinit("-r", "1d")
    u.kvno("svc0/host.example.com")
    paths = paths_of(t, m, u)
    info = u.text(paths / "info")
    theirs = u.run("klist", "-ef", "KCM:" + paths.name).out
    has(info, u.principal, "info")
    for service in (TGT, "svc0/host.example.com@EXAMPLE.COM"):
        has(info, service, "info")
    for flags in re.findall(r"Flags: (\w+)", theirs):
        check(re.search(r"\b%s\b" % flags, info), "no flags %s in: %s",
              flags, info)
    for enctype in re.findall(r"(aes\d+-cts-[\w-]+)", theirs):
        has(info, enctype, "info")
    for cred in ccfile.parse(u.read(paths.cache)).tickets():
        lacks(info, cred.key[:6].hex(), "info")


@test(*ALL)
def info_json_says_the_same(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("svc0/host.example.com")
    paths = paths_of(t, m, u)
    text = u.text(paths / "info.json")
    values = list(leaves(json.loads(text)))
    cache = ccfile.parse(u.read(paths.cache))
    check(u.principal in values, "no principal in %s", text)
    check(any(v in (paths.name, "KCM:" + paths.name) for v in values),
          "no name in %s", text)
    check(paths.uuid in values, "no UUID in %s", text)
    for cred in cache.tickets():
        check(str(cred.server) in values, "no %s in %s", cred.server, text)
        ends = (cred.endtime, time.strftime("%Y-%m-%dT%H:%M:%SZ",
                                            time.gmtime(cred.endtime)))
        check(any(e in values for e in ends), "no end time in %s", text)
        lacks(text, cred.key[:6].hex(), "info.json")


@test(*ALL)
def info_json_survives_odd_bytes(t):
    m, u = t.mount(), t.user()
    odd = ccfile.Principal(b"R", (b'quo"te', b"back\\slash", b"\x01\xff\n"), 1)
    name = made_cache(t, u, [ccfile.ticket(u.principal, odd,
                                           int(time.time()))], offset=0)
    paths = paths_of(t, m, u, name)
    json.loads(u.text(paths / "info.json"))
    has(u.read(paths / "info"), u.principal.encode(), "info")
    eq(len(u.list(paths / "tickets")), 1)


def leaves(value):
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


@test(*ALL)
def status_for_the_caller(t):
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    u.read(paths.cache)
    text = u.text(m / ".kcmfs/status")
    has(text, t.checked(), "status")
    check(re.search(r"^caches\b.*\b1\b", text, re.M | re.I),
          "no count of caches: %s", text)
    other = t.user()
    lacks(other.text(m / ".kcmfs/status"), paths.uuid, "another's status")
    lacks(other.text(m / ".kcmfs/status"), u.principal, "another's status")


# --------------------------------------------------------- tickets, config

@test(*ALL)
def tickets_are_caches(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("svc0/host.example.com", "svc1/host.example.com")
    paths = paths_of(t, m, u)
    whole = ccfile.parse(u.read(paths.cache))
    eq(len(whole.tickets()), 3)
    for cred in whole.tickets():
        path = os.path.join(paths / "tickets",
                            tree.ticket_name(str(cred.server)))
        one = ccfile.parse(u.read(path))
        eq((one.principal, one.creds), (whole.principal, [cred]))
        eq(u.klist("FILE:" + path), (u.principal, [str(cred.server)]))
        eq(u.stat(path).st_size, len(u.read(path)))
    raises(2, u.read, paths / "tickets/none@EXAMPLE.COM")
    u.kinit()
    u.kvno("svc2/host.example.com")
    eq(u.list(paths_of(t, m, u) / "tickets"), sorted(
        tree.ticket_name(s) for s in (
            TGT, "svc2/host.example.com@EXAMPLE.COM")))


@test(*ALL)
def config_values(t):
    m, u = t.mount(), t.user()
    p = u.principal
    value = bytes(range(256))
    creds = usual_creds(u) + [
        ccfile.config(p, "binary", value),
        ccfile.config(p, "fast_avail", b"yes", TGT),
        ccfile.config(p, "empty", b"")]
    name = made_cache(t, u, creds, offset=0)
    paths = paths_of(t, m, u, name)
    eq(u.list(paths / "config"), sorted([
        "binary", "empty", "setting",
        "fast_avail@" + tree.ticket_name(TGT)]))
    eq(u.read(paths / "config/binary"), value)
    eq(u.read(paths / "config/empty"), b"")
    eq(u.read(paths / "config/setting"), b"value")
    eq(u.read(paths / ("config/fast_avail@" + tree.ticket_name(TGT))),
       b"yes")
    eq(u.stat(paths / "config/binary").st_size, 256)
    raises(2, u.read, paths / "config/none")


@test(*ALL)
def by_principal_picks_one(t):
    """Two caches of one principal: the default, else the later TGT."""
    m, u = t.mount(), t.user()
    now = int(time.time())
    names = {}
    for n, life in (("a", 3000), ("b", 9000), ("c", 6000)):
        names[n] = made_cache(t, u, [ccfile.tgt(u.principal, now - 10,
                                                life=life)],
                              offset=0, name="%d:%s" % (u.uid, n))
    link = m / ("by-principal/" + tree.ticket_name(u.principal))
    w = t.wire(u)
    for n in "abc":
        w.set_default(names[n])
        wait_for("the default to win in by-principal", lambda: u.link(
            link) == "../" + w.uuid(names[n]))
    other = made_cache(t, u, [], offset=0, name="%d:z" % u.uid,
                       principal="someone@EXAMPLE.COM")
    w.set_default(other)
    wait_for("the later TGT to win", lambda: u.link(
        link) == "../" + w.uuid(names["b"]))
    eq(u.list(m / "by-principal"), sorted([
        tree.ticket_name(u.principal), "someone@EXAMPLE.COM"]))


# ----------------------------------------------------------- size and time

@test(*ALL)
def mtime_moves_with_content_only(t):
    m, u = t.mount(), t.user()
    u.kinit()
    path = paths_of(t, m, u).forms["by-name"]

    def opened():
        """(mtime, size, bytes) as an open sees them."""
        def body():
            with open(path, "rb", buffering=0) as f:
                s = os.fstat(f.fileno())
                return s.st_mtime_ns, s.st_size, f.readall()
        return u.call(body)

    first = opened()
    eq(first[1], len(first[2]))
    for _ in range(5):
        eq(opened(), first)
        u.run("klist", "-c", "FILE:" + path)
        u.list(m.path)
    u.kvno("svc0/host.example.com")
    second = opened()
    check(second[0] > first[0], "mtime %d after %d", second[0], first[0])
    eq(second[1], len(second[2]))
    check(second[1] > first[1], "size")
    # a stat by path may lag, but not for long
    wait_for("stat to follow", lambda: u.stat(path).st_size == second[1])
    eq(u.stat(path).st_mtime_ns, second[0])
    # what leaves the content as it is leaves the time as it is
    w = t.wire(u)
    w.set_default(w.default())
    u.run("klist")
    eq(opened(), second)


@test("heimdal", "sssd", "kcmd")
def mtime_after_a_remount(t):
    """It starts from the newest ticket's start time."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 5000
    name = made_cache(t, u, usual_creds(u, 3, start), offset=0)
    paths = paths_of(t, m, u, name)
    u.read(paths.cache)
    other = t.mount()
    eq(int(u.stat(paths_of(t, other, u, name).cache).st_mtime), start + 3)


@test(*ALL)
def old_uuid_leads_to_the_name(t):
    """Where the daemon gives a new UUID, the old path keeps working."""
    m, u = t.mount(), t.user()
    u.kinit()
    old = paths_of(t, m, u)
    u.read(old.cache)
    u.kinit()
    u.kvno("svc0/host.example.com")
    new = paths_of(t, m, u)
    eq(new.name, old.name)
    if t.on == "sssd":
        check(new.uuid != old.uuid, "sssd kept the UUID")
    eq(u.read(old.cache), u.read(new.cache))
    eq(u.klist("FILE:" + old.cache)[0], u.principal)
    check(new.uuid in u.list(m.path), "the new UUID is not listed")
    check(old.uuid == new.uuid or old.uuid not in u.list(m.path),
          "the old UUID is still listed")
