"""All views of a user's caches say the same, whichever of them was used to
change something: default, krb5cc_<uid>, collection/primary, by-name, <uuid>,
by-principal, KCM: and klist -l.
"""
import os

import ccfile
import tree
from harness import ALL, test
from made import made_cache
from tree import paths_of
from util import at_once, check, eq, raises, wait_for


class Views:
    """One user's caches through every view of one mount."""

    def __init__(self, t, socket=None):
        self.t, self.mount = t, t.mount(socket=socket)
        self.user = t.user()
        self.wire = t.wire(self.user)
        self.keytabs = {self.user.principal: self.user.keytab}

    def path(self, name):
        return str(self.mount / name)

    def name(self, suffix):
        return "%d:%s" % (self.user.uid, suffix) if suffix else \
            str(self.user.uid)

    def dir(self, suffix):
        return self.path("by-name/" + tree.by_name(self.name(suffix)))

    def principal(self, who):
        """A principal of the user's with a keytab."""
        name = "%s%d" % (who, self.user.uid)
        full = name + "@" + self.t.realm.name
        if full not in self.keytabs:
            self.t.realm.add(name)
            self.keytabs[full] = self.t.realm.keytab(name)
        return full

    def kinit(self, who, cc=None):
        principal = self.principal(who)
        self.user.run("kinit", "-k", "-t", self.keytabs[principal], principal,
                      cc=cc)

    def create(self, suffix, who):
        """A cache of this name, through the mount."""
        path = self.dir(suffix)
        if not self.user.exists(path):
            self.user.call(os.mkdir, path)
        self.kinit(who, "FILE:%s/cache" % path)

    def link_default(self, target):
        self.user.run("ln", "-sfn", target, self.path("default"))

    # -- what the views say

    def default_by(self):
        """{view: the default's name} of all that have an opinion."""
        u = self.user
        link = u.link(self.path("default"))
        primary = u.text(self.path("collection/primary"))
        said = {"default": link, "default/name":
                u.text(self.path("default/name"))[4:-1]}
        check(link.startswith("by-name/"), "default -> %s", link)
        said["default"] = self.full_name(link[8:])
        said["primary"] = self.of_collection(primary[:-1])
        return said

    def full_name(self, form):
        for name in self.caches().values():
            if tree.by_name(name) == form:
                return name
        return form.replace(".", ":")

    def of_collection(self, file):
        for uuid, name in self.caches().items():
            if tree.collection_name(self.user.uid, name, uuid) == file:
                return name
        if file.startswith("tkt="):
            return file[4:].replace(".", ":")
        return "%d:%s" % (self.user.uid, file)

    def caches(self):
        """{uuid: name} of the daemon's."""
        from kcmwire import uuid_text
        return {uuid_text(u): n for u, n in self.wire.caches().items()}

    def principals(self):
        """{name: principal} of the daemon's."""
        return {n: str(ccfile.parse_principal(self.wire.principal(n)))
                for n in self.caches().values()}

    def agree(self, default, *others):
        """The caches are these suffixes, the first of them the default."""
        wanted = {self.name(s) for s in others}
        there = default is not None and not default.startswith("!")
        if there:
            wanted.add(self.name(default))
        name = self.name(default.lstrip("!")) if default is not None else None
        caches = self.caches()
        eq(set(caches.values()), wanted, "caches of the daemon")
        said = self.default_by()
        if name is None:
            name = self.wire.default()
        eq(set(said.values()), {name}, "default by %s" % said)
        if there:
            eq(self.wire.default(), name, "the daemon's default")
        self.lists(caches, name)
        self.files(caches, name)

    def lists(self, caches, default):
        u, m = self.user, self.mount
        own = "krb5cc_%d" % u.uid
        top = [n for n in u.list(m.path) if n not in (
            ".kcmfs", "by-name", "by-principal", "collection", "default")]
        eq(sorted(top), sorted(list(caches) + (
            [own] if default in caches.values() else [])), "listed")
        by_name = u.list(m / "by-name")
        for name in caches.values():
            check(tree.by_name(name) in by_name, "by-name lacks %s", name)
        eq(u.list(m / "collection"), sorted(["primary"] + [
            tree.collection_name(u.uid, n, uuid)
            for uuid, n in caches.items()]), "collection")
        principals = self.principals()
        eq(sorted(principals.values()), sorted(
            u.klist_names("DIR:%s/collection" % m).values()), "klist -l")
        eq(sorted(principals.values()),
           sorted(u.klist_names().values()), "klist -l of KCM:")
        links = u.list(m / "by-principal")
        eq(links, sorted({tree.ticket_name(p) for p in principals.values()}))
        for link in links:
            uuid = u.link(m / ("by-principal/" + link))[3:]
            eq(tree.ticket_name(principals[caches[uuid]]), link)
        if default in caches.values():
            link = tree.ticket_name(principals[default])
            eq(caches[u.link(m / ("by-principal/" + link))[3:]], default,
               "the default wins in by-principal")
            first = u.run("klist", "-l", cc="DIR:%s/collection" % m).out
            check(principals[default] in first.splitlines()[2], "klist -l")
            eq(u.default_name(), "KCM:" + default)

    def files(self, caches, default):
        u, m = self.user, self.mount
        for uuid, name in caches.items():
            paths = tree.CachePaths(m, u, name, uuid, name == default)
            for path in paths.forms.values():
                eq(str(ccfile.parse(u.read(path)).principal),
                   self.principals()[name], path)
            # an open never lags, a stat by path may
            wait_for("one inode for all paths of " + name, lambda: len(
                {u.call(os.stat, p).st_ino
                 for p in paths.forms.values()}) == 1, 1.5)
            info = u.text(paths / "info.json")
            eq('"default": true' in info, name == default, "info.json: "
               + info[:300])
        if default not in caches.values():
            raises(2, u.stat, self.path("krb5cc_%d" % u.uid))
            raises(2, u.read, self.path("default/cache"))
            eq(u.list(self.path("default")), ["name"])
            u.run("klist", cc="DIR:%s/collection" % m, code=1)


@test(*ALL)
def switches(t):
    """The default is set through each view, in each form of a path."""
    v = Views(t)
    u = v.user
    v.agree(None)
    v.create("a", "anne")
    v.agree("a")
    v.create("b", "bert")
    v.agree("a", "b")
    v.create("tktC", "carl")
    v.agree("a", "b", "tktC")
    uuid = {n: i for i, n in v.caches().items()}
    v.link_default("by-name/" + tree.by_name(v.name("b")))
    v.agree("b", "a", "tktC")
    v.link_default(v.dir("a"))
    v.agree("a", "b", "tktC")
    v.link_default(uuid[v.name("b")])
    v.agree("b", "a", "tktC")
    v.link_default(v.path(uuid[v.name("a")]) + "/")
    v.agree("a", "b", "tktC")
    v.link_default("collection/tktC")
    v.agree("tktC", "a", "b")
    v.link_default("by-principal/" + v.principal("bert"))
    v.agree("b", "a", "tktC")
    u.write(v.path("collection/primary"), b"tktC\n")
    v.agree("tktC", "a", "b")
    u.run("sh", "-c", "echo tkt=%s >$0" % tree.by_name(v.name("a")),
          v.path("collection/primary"))
    v.agree("a", "b", "tktC")
    u.run("kswitch", "-p", v.principal("bert"), cc="DIR:" +
          v.path("collection"))
    v.agree("b", "a", "tktC")
    u.run("kswitch", "-p", v.principal("carl"))             # KCM:
    v.agree("tktC", "a", "b")
    u.run("kswitch", "-c", "KCM:" + v.name("a"))
    v.agree("a", "b", "tktC")
    check(not v.wire.set_default(v.name("b")).code, "SET_DEFAULT_CACHE")
    v.agree("b", "a", "tktC")


@test(*ALL)
def what_is_no_switch(t):
    """[26] Names that stand for no cache lose no default."""
    v = Views(t)
    v.create("a", "anne")
    v.create("b", "bert")
    v.link_default(v.dir("b"))
    primary = v.path("collection/primary")
    v.user.write(primary, b"tkt\n")         # who could not read it
    v.agree("b", "a")
    v.user.write(primary, b"tktNone1\n")
    v.agree("b", "a")
    for wrong in (b"nonsense\n", b"../b\n", b"tkt=../x\n", b"tkt"):
        raises(22, v.user.write, primary, wrong)
        v.agree("b", "a")
    for wrong in ("/etc", "by-name", "by-principal/none@NO",
                  "00000000-0000-4000-8000-000000000000"):
        result = v.user.run("ln", "-sfn", wrong, v.path("default"), code=None)
        check(result.code != 0, "ln -sfn %s default", wrong)
        v.agree("b", "a")
    eq([n for n in v.user.list(v.mount.path) if n.startswith("Cu")], [],
       "what ln left behind")


@test(*ALL)
def changes_keep_the_default(t):
    """Whatever is made, written or destroyed through the mount."""
    v = Views(t)
    for suffix, who in (("a", "anne"), ("b", "bert"), ("c", "carl")):
        v.create(suffix, who)
    v.link_default(v.dir("b"))
    v.agree("b", "a", "c")
    v.create("a", "anne")                       # another, again
    v.agree("b", "a", "c")
    v.create("b", "bert")                       # itself, again
    v.agree("b", "a", "c")
    v.kinit("bert", "FILE:" + v.path("default/cache"))
    v.agree("b", "a", "c")
    v.kinit("dora", "FILE:" + v.path("default/cache"))
    v.agree("b", "a", "c")
    v.kinit("bert", "FILE:" + v.path("krb5cc_%d" % v.user.uid))
    v.agree("b", "a", "c")
    v.create("d", "dora")
    v.agree("b", "a", "c", "d")
    v.user.kvno("svc0/host.example.com", cc="FILE:" + v.dir("c") + "/cache")
    v.agree("b", "a", "c", "d")
    v.user.run("cp", v.dir("c") + "/cache", v.dir("a") + "/cache")
    v.agree("b", "a", "c", "d")
    v.user.run("mv", v.dir("d") + "/cache", v.dir("a") + "/cache")
    v.agree("b", "a", "c")
    v.user.run("rm", "-r", v.dir("a"))
    v.agree("b", "c")
    v.user.run("kdestroy", "-c", "FILE:" + v.dir("c") + "/cache")
    v.agree("b")
    v.create("a", "anne")
    v.agree("b", "a")


@test(*ALL)
def destroyed_default(t):
    """It keeps its name until it is made again or another is chosen."""
    v = Views(t)
    for suffix, who in (("a", "anne"), ("b", "bert"), ("c", "carl")):
        v.create(suffix, who)
    v.link_default(v.dir("b"))
    v.user.run("kdestroy", cc="DIR:" + v.path("collection"))
    v.agree("!b", "a", "c")
    v.create("d", "dora")
    v.agree("!b", "a", "c", "d")
    v.user.run("rm", v.dir("d") + "/cache")
    v.agree("!b", "a", "c")
    v.kinit("bert", "FILE:" + v.path("default/cache"))
    v.agree("b", "a", "c")
    v.user.run("rm", "-r", v.dir("b"))
    v.agree("!b", "a", "c")
    v.user.run("kswitch", "-p", v.principal("anne"),
               cc="DIR:" + v.path("collection"))
    v.agree("a", "c")
    v.user.run("kdestroy", "-c", "FILE:" + v.path("default/cache"))
    v.agree("!a", "c")
    # made again, but not through the mount
    made_cache(t, v.user, [], offset=0, name=v.name("a"),
               principal=v.principal("anne"))
    v.agree("a", "c")
    v.user.run("kdestroy", "-A", cc="DIR:" + v.path("collection"))
    v.agree("!a")
    v.kinit("carl", "FILE:" + v.path("default/cache"))
    v.agree("a")


@test(*ALL)
def destroyed_and_chosen_natively(t):
    """After the default was destroyed, KCM: clients choose another one."""
    v = Views(t)
    for suffix, who in (("a", "anne"), ("b", "bert"), ("c", "carl")):
        v.create(suffix, who)
    v.link_default(v.dir("b"))
    v.user.run("rm", v.path("default/cache"))
    v.agree("!b", "a", "c")
    # one that the daemon does not take for the default by itself
    other = "a" if v.wire.default() == v.name("c") else "c"
    rest = "c" if other == "a" else "a"
    v.user.run("kswitch", "-c", "KCM:" + v.name(other))
    v.agree(other, rest)
    v.user.run("rm", v.path("default/cache"))
    v.agree("!" + other, rest)
    v.kinit("dora")                                         # KCM:
    found = set(v.principals())
    new = (found - {v.name(rest)}).pop()
    v.agree(new.partition(":")[2], rest)
    # the last one destroyed, and a first one made by KCM:
    v.user.run("kdestroy", "-A", cc="DIR:" + v.path("collection"))
    v.kinit("dora")
    new, = v.principals()
    v.agree(new.partition(":")[2])


@test(*ALL)
def destroyed_when_it_was_the_default(t):
    """A KCM: client has chosen another one since the mount knew the default:
    that stays."""
    v = Views(t)
    for suffix, who in (("a", "anne"), ("b", "bert"), ("c", "carl")):
        v.create(suffix, who)
    for old, new in (("a", "b"), ("b", "c")):
        v.link_default(v.dir(old))
        v.user.read(v.path("default/cache"))
        v.user.run("kswitch", "-c", "KCM:" + v.name(new))
        v.user.run("rm", v.dir(old) + "/cache")
        eq(v.wire.default(), v.name(new), "the default in KCM")
        v.agree(new, *("c" if new == "b" else ""))


@test(*ALL)
def native_changes_show(t):
    """What KCM: clients do is in every view at once."""
    v = Views(t)
    v.agree(None)
    for who in ("anne", "bert", "carl"):
        v.kinit(who)
        native(v)
    v.user.run("kswitch", "-p", v.principal("anne"))
    native(v)
    v.user.run("kdestroy", "-p", v.principal("bert"))
    native(v)
    v.kinit("anne")
    native(v)
    v.user.run("kdestroy")
    native(v)
    v.user.run("kdestroy", "-A")
    native(v)


def native(v):
    """As the daemon has it now."""
    caches = list(v.principals())
    default = v.wire.default()
    suffix = default.partition(":")[2]
    others = [n.partition(":")[2] for n in caches if n != default]
    v.agree(suffix if default in caches else "!" + suffix, *others)


@test(*ALL)
def first_cache_by_default_path(t):
    """default leads somewhere before there is any cache."""
    v = Views(t)
    where = v.user.link(v.path("default"))
    eq(v.user.list(v.path("default")), ["name"])
    v.kinit("anne", "FILE:" + v.path("default/cache"))
    eq(v.user.link(v.path("default")), where)
    v.agree(v.wire.default().partition(":")[2])
    v.user.kvno("svc0/host.example.com", cc="DIR:" + v.path("collection"))
    v.agree(v.wire.default().partition(":")[2])


@test(*ALL)
def default_that_is_to_be_made(t):
    """ln -sfn to a reserved name, kinit there, and it is the default."""
    v = Views(t)
    v.create("a", "anne")
    v.user.call(os.mkdir, v.dir("new"))
    v.link_default(v.dir("new"))
    v.agree("!new", "a")
    v.kinit("bert", "FILE:" + v.path("default/cache"))
    v.agree("new", "a")


@test(*ALL)
def scan_of_rpc_gssd(t):
    """[32] Its rules: a name with krb5cc in it, lstat's owner, a regular
    file, a valid TGT, the newest first."""
    v = Views(t)
    u, other = v.user, t.user()
    other.kinit()

    def scan():
        best = None
        for name in u.call(os.listdir, v.mount.path):
            path = v.path(name)
            if "krb5cc" not in name:
                continue
            s = u.stat(path)
            if s.st_uid != u.uid or s.st_mode & 0o170000 != 0o100000:
                continue
            if u.run("klist", "-s", "-c", "FILE:" + path, code=None).code:
                continue
            if best is None or s.st_mtime > best[0]:
                best = s.st_mtime, path
        return best and best[1]
    eq(scan(), None)
    v.create("a", "anne")
    v.create("b", "bert")
    own = v.path("krb5cc_%d" % u.uid)
    for suffix, who in (("a", "anne"), ("b", "bert")):
        v.link_default(v.dir(suffix))
        eq(scan(), own)
        eq(u.klist("FILE:" + own)[0], v.principal(who))
    u.run("kdestroy", cc="FILE:" + own)
    eq(scan(), None)


@test("heimdal", "sssd", "kcmd")
def two_mounts(t):
    """A second mount of the same daemon sees what the first did."""
    v = Views(t)
    second = t.mount()
    for suffix, who in (("a", "anne"), ("b", "bert")):
        v.create(suffix, who)
    for suffix in ("b", "a"):
        v.link_default(v.dir(suffix))
        eq(v.user.link(second / "default"),
           "by-name/" + tree.by_name(v.name(suffix)))
        eq(v.user.read(second / "default/cache"),
           v.user.read(v.dir(suffix) + "/cache"))


@test(*ALL)
def many_at_once(t):
    """Creations, destructions and switches at the same time: no cache is
    lost, and the default is where the last switch put it."""
    v = Views(t)
    v.create("a", "anne")
    v.create("b", "bert")
    image = v.user.read(v.dir("a") + "/cache")

    def writer(number):
        for turn in range(6):
            path = v.path("collection/tktN%d" % number)
            v.user.write(path + ".AbCdEf", image)
            v.user.call(os.rename, path + ".AbCdEf", path)
            if turn % 2:
                v.user.call(os.unlink, path)
        v.user.write(path, image)

    def switcher():
        for turn in range(12):
            name = "l%d" % turn
            v.user.call(os.symlink, v.dir("ab"[turn % 2]), v.path(name))
            v.user.call(os.rename, v.path(name), v.path("default"))
            link = v.user.link(v.path("default"))
            eq(link, "by-name/" + tree.by_name(v.name("ab"[turn % 2])))

    at_once([lambda n=n: writer(n) for n in range(3)] + [switcher])
    eq(set(v.caches().values()), {v.name(s) for s in (
        "a", "b", "tktN0", "tktN1", "tktN2")})
    eq(set(v.default_by().values()), {v.name("b")})
    eq(v.wire.default(), v.name("b"))


@test(*ALL)
def default_of_root(t):
    """Where none was set, Heimdal answers the newest of anybody's."""
    m, u, root = t.mount(), t.user(), t.root()
    eq(root.link(m / "default"), "by-name/0")
    u.kinit()
    eq(root.link(m / "default"), "by-name/0")
    name = made_cache(t, root, [], offset=0, name="0:own%d" % u.uid,
                      principal=u.principal)
    u.kinit()
    made_cache(t, u, [], offset=0, name="%d:newer" % u.uid)
    if t.on in ("heimdal", "sssd"):
        eq(root.link(m / "default"), "by-name/" + tree.by_name(name))
    eq(root.list(m / "collection"), ["primary", "tkt=0.own%d" % u.uid])
    eq(root.list(m / "by-principal"), [u.principal])


@test("heimdal", "sssd", "kcmd")
def daemon_goes_meanwhile(t):
    """At each point of a change the daemon goes away; when it is back, the
    default is where it was."""
    proxy = t.proxy()
    v = Views(t, proxy.socket)
    for suffix, who in (("a", "anne"), ("b", "bert"), ("c", "carl")):
        v.create(suffix, who)
    v.link_default(v.dir("b"))
    image = os.path.join(v.user.home, "image")
    v.user.write(image, v.user.read(v.dir("a") + "/cache"))
    # on sssd each failure is waited for
    step, targets = (4, "c") if t.on == "sssd" else (1, "cb")
    for target in targets:
        for number in range(2, 40, step):
            proxy.fail_at(number, "after", proxy.stop)
            v.user.run("cp", image, v.dir(target) + "/cache", code=None)
            if proxy.failed is None:
                break
            proxy.start()
            eq(set(v.default_by().values()), {v.name("b")},
               "default after %s" % proxy.failed)
            wait_for("all caches", lambda: set(v.user.list(
                v.mount / "by-name")) == {tree.by_name(v.name(s))
                                          for s in "abc"})
            eq(v.wire.default(), v.name("b"), "after " + proxy.failed)
        proxy.heal()
        check(number > 3, "no request was cut off")
