"""DIR: collections: one scenario, over a directory on disk and over the
mount on every daemon.

That it passes on the disk, too, shows that the scenario is right.
"""
import os
import stat

from harness import ALL, test
from util import check, eq, has, raises

SERVICE = "svc0/host.example.com"


class Collection:
    """A user, what its DIR: collection is, and what must be true of it."""

    def __init__(self, t, user, path):
        self.user, self.path, self.cc = user, str(path), "DIR:" + str(path)
        self.realm = t.realm.name
        self.keytabs = {}
        self.names = {}             # of the principals, with the realm
        for who in ("alice", "bob", "carol"):
            name = "%s%d" % (who, user.uid)
            t.realm.add(name)
            self.keytabs[who] = t.realm.keytab(name)
            self.names[who] = "%s@%s" % (name, t.realm.name)

    # -- clients

    def run(self, *command, cc=None, code=0):
        return self.user.run(*command, cc=cc or self.cc, code=code)

    def kinit(self, who, *options, cc=None):
        self.run("kinit", "-k", "-t", self.keytabs[who], *options,
                 self.names[who], cc=cc)

    def primary(self):
        """The file name in `primary`, as libkrb5 accepts it."""
        line = self.user.text(os.path.join(self.path, "primary"))
        check(line.startswith("tkt") and line.endswith("\n")
              and line.count("\n") == 1 and len(line) <= 63
              and not set(line) & set("/\\"), "primary holds %r", line)
        return line[:-1]

    def file(self, name):
        return os.path.join(self.path, name)

    def subsidiary(self, name):
        return "DIR::" + self.file(name)

    def listing(self):
        """{principal: file name} and the principals in klist -l's order."""
        out = self.run("klist", "-l", code=None).out.splitlines()[2:]
        found = [line.split(None, 1) for line in out]
        files = {}
        for principal, name in found:
            prefix = "DIR::" + self.path + "/"
            check(name.startswith(prefix), "klist -l shows %s", name)
            files[principal] = name[len(prefix):].strip()
        eq(len(files), len(found), "principals in klist -l")
        return files, [principal for principal, _ in found]

    def file_of(self, who):
        return self.listing()[0][self.names[who]]

    # -- what must hold

    def shows(self, primary, *others):
        """primary: who, or None if its cache is not there.

        klist, klist -l, -A and -s, the directory and the file agree.
        """
        everybody = [self.names[w] for w in others]
        if primary:
            everybody.append(self.names[primary])
        files, order = self.listing()
        eq(sorted(order), sorted(everybody), "klist -l")
        listed = [n for n in self.user.list(self.path)
                  if n.startswith("tkt")]
        eq(sorted(listed), sorted(files.values()), "directory")
        for name in listed:
            s = self.user.stat(self.file(name))
            check(stat.S_ISREG(s.st_mode), "%s is no file", name)
            eq((s.st_uid, stat.S_IMODE(s.st_mode), s.st_nlink),
               (self.user.uid, 0o600, 1), name)
            eq(self.user.klist(self.subsidiary(name))[0],
               [p for p, f in files.items() if f == name][0])
        every = self.run("klist", "-A", code=None)
        eq(every.out.count("Default principal: "), len(everybody), "klist -A")
        plain = self.run("klist", code=0 if primary else 1)
        self.run("klist", "-s", code=0 if primary else 1)
        if primary:
            eq(order[0], self.names[primary], "first of klist -l")
            eq(files[self.names[primary]], self.primary(), "primary")
            has(plain.out, "Default principal: " + self.names[primary])
            has(plain.out, "Ticket cache: " +
                self.subsidiary(self.primary()) + "\n")
        else:
            has(plain.err, "No credentials cache found")
            check(self.primary() not in files.values(), "primary is there")

    def holds(self, who, *services):
        """The tickets of this principal, but for the TGT."""
        found = self.user.klist(self.subsidiary(self.file_of(who)))
        eq(found, (self.names[who], ["krbtgt/%s@%s" % (self.realm, self.realm)]
                   + ["%s@%s" % (s, self.realm) for s in services]), who)


def scenario(c):
    empty_and_first(c)
    several(c)
    switches(c)
    destructions(c)
    chosen_names(c)
    everything_goes(c)


def empty_and_first(c):
    c.shows(None)
    eq(c.run("klist", "-A", code=1).out, "")
    c.run("kdestroy", code=None)
    c.run("kdestroy", "-A")
    c.run("kvno", SERVICE, code=1)
    c.shows(None)
    before = c.primary()
    c.kinit("alice")
    c.shows("alice")
    eq(c.primary(), before, "primary after the first kinit")
    c.run("kvno", "-q", SERVICE)
    c.holds("alice", SERVICE)


def several(c):
    first = c.primary()
    c.kinit("bob")
    c.shows("bob", "alice")
    check(c.primary() != first, "bob is in alice's cache")
    c.kinit("carol")
    c.shows("carol", "alice", "bob")
    # for one that is known no new cache is made, but it becomes the primary
    c.kinit("alice")
    c.shows("alice", "bob", "carol")
    eq(c.primary(), first)
    c.holds("alice")
    c.run("kvno", "-q", SERVICE)
    c.holds("alice", SERVICE)
    c.holds("bob")


def switches(c):
    c.run("kswitch", "-p", c.names["bob"])
    c.shows("bob", "alice", "carol")
    c.run("kswitch", "-c", c.subsidiary(c.file_of("carol")))
    c.shows("carol", "alice", "bob")
    c.run("kvno", "-q", SERVICE)
    c.holds("carol", SERVICE)
    c.run("kswitch", "-p", "nobody@" + c.realm, code=1)
    c.shows("carol", "alice", "bob")
    # a renewal and a new ticket by the cache's own name switch nothing
    c.kinit("bob", "-r", "1d", cc=c.subsidiary(c.file_of("bob")))
    c.run("kinit", "-R", cc=c.subsidiary(c.file_of("bob")))
    c.shows(*by_name_switches(c))


def by_name_switches(c):
    """What kinit -c DIR::FILE leaves: who is primary, and the others."""
    who = [w for w, n in c.names.items()
           if c.listing()[0].get(n) == c.primary()]
    return who + [w for w in c.names if w not in who]


def destructions(c):
    c.run("kswitch", "-p", c.names["carol"])
    c.run("kdestroy", "-c", c.subsidiary(c.file_of("alice")))
    c.shows("carol", "bob")
    kept = c.primary()
    c.run("kdestroy")
    c.shows(None, "bob")
    eq(c.primary(), kept, "primary after its cache was destroyed")
    raises(2, c.user.stat, c.file(kept))
    # the same name comes back, and is the primary
    c.kinit("carol")
    c.shows("carol", "bob")
    eq(c.primary(), kept, "primary after kinit")
    # destroyed again, and another one chosen
    c.run("kdestroy")
    c.shows(None, "bob")
    c.run("kswitch", "-p", c.names["bob"])
    c.shows("bob")
    c.kinit("carol")
    c.shows("carol", "bob")
    # kdestroy -p finds the cache of a principal
    c.run("kdestroy", "-p", c.names["bob"])
    c.shows("carol")


def chosen_names(c):
    """[27] [29] Names that a client chose are valid for it and for later
    ones; what is not complete is not listed."""
    for name in ("tktAb12Cd", "tkt", "tktZ"):
        cc = c.subsidiary(name)
        c.run("klist", cc=cc, code=1)
        c.kinit("alice", cc=cc)
        eq(c.user.klist(cc)[0], c.names["alice"], name)
        c.run("kvno", "-q", SERVICE, cc=cc)
        eq(c.user.klist(cc)[1][1], "%s@%s" % (SERVICE, c.realm), name)
        c.run("kswitch", "-c", cc)
        eq(c.primary(), name)
        check(name in c.user.list(c.path), "%s is not listed", name)
        c.shows("alice", "carol")
        c.run("kdestroy", cc=cc)
        c.shows(None, "carol")
        eq(c.primary(), name)
    reserved(c, "tktRe5rvD")


def reserved(c, name):
    """Four bytes: there for who knows the name, complete with a principal."""
    path = c.file(name)

    def make():
        f = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(f, b"\5\4")
        os.write(f, b"\0\0")
        os.close(f)
    c.user.call(make)
    eq(c.user.read(path), b"\5\4\0\0")
    eq(c.user.stat(path).st_size, 4)
    raises(17, c.user.call, os.open, path, os.O_CREAT | os.O_EXCL)
    c.kinit("bob", cc=c.subsidiary(name))
    c.run("kswitch", "-p", c.names["bob"])
    c.shows("bob", "carol")
    eq(c.primary(), name)


def everything_goes(c):
    before = c.primary()
    c.run("kdestroy", "-A")
    c.shows(None)
    eq(c.primary(), before, "primary after kdestroy -A")
    c.kinit("bob")
    c.shows("bob")
    eq(c.primary(), before)
    c.run("kdestroy", "-A")
    c.shows(None)


@test()
def on_disk(t):
    u = t.user(principal=None)
    path = os.path.join(u.home, "collection")
    u.call(os.mkdir, path, 0o700)
    scenario(Collection(t, u, path))


@test(*ALL)
def on_the_mount(t):
    m, u = t.mount(), t.user(principal=None)
    scenario(Collection(t, u, m / "collection"))


@test("kcmd")
def without_extensions(t):
    t.own_daemon("--no-mit-extensions")
    m, u = t.mount(), t.user(principal=None)
    scenario(Collection(t, u, m / "collection"))
