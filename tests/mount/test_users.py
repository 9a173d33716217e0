"""Several users on one mount; identity towards the KCM daemon; privacy."""
import os
import subprocess
import threading

import ccfile
from harness import ALL, REAL, test
from tree import paths_of, walk
from util import DEADLINE, Failed, check, eq, has, raises

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"


def errno_of(function, *args):
    try:
        function(*args)
        return 0
    except OSError as e:
        return e.errno


@test(*ALL)
def each_sees_its_own(t):
    """[31] What a request shows is its own uid's."""
    m = t.mount()
    pair = t.user(), t.user()
    for u in pair:
        u.kinit()
    sets = [walk(u, m.path) for u in pair]
    own = [paths_of(t, m, u) for u in pair]
    for i, u in enumerate(pair):
        mine, theirs = own[i], own[1 - i]
        other = pair[1 - i]
        eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)
        eq(u.klist("DIR:%s/collection" % m)[0], u.principal)
        eq(u.klist("FILE:%s/krb5cc_%d" % (m, u.uid))[0], u.principal)
        for path in mine.forms.values():
            eq(str(ccfile.parse(u.read(path)).principal), u.principal)
        for path in sets[i]:
            for part in (theirs.uuid, other.principal.split("@")[0],
                         str(other.uid)):
                check(part not in path, "%s is shown to uid %d", path, u.uid)
        for form in ("uuid", "by-name", "collection", "krb5cc"):
            path = theirs.forms[form]
            check(errno_of(u.read, path) in (2, 13),
                  "uid %d reads %s", u.uid, path)
            check(errno_of(u.stat, path) in (2, 13),
                  "uid %d stats %s", u.uid, path)
        raises(2, u.stat, theirs.dir)
        raises(2, u.list, theirs.by_name)
        raises(2, u.stat, os.path.join(str(m), "krb5cc_%d" % other.uid))
        eq(u.list(m / "by-principal"), [u.principal])


@test(*ALL)
def same_time_same_paths(t):
    """Many reads of `default/cache` by two users at once."""
    m = t.mount()
    pair = t.user(), t.user()
    for u in pair:
        u.kinit()
    trouble = []

    def reader(u):
        try:
            for _ in range(40):
                for path in ("default/cache", "krb5cc_%d" % u.uid):
                    cache = ccfile.parse(u.read(m / path))
                    eq(str(cache.principal), u.principal, path)
                eq(u.text(m / "default/principal"), u.principal + "\n")
                eq(len(u.list(m / "by-name")), 1)
        except Exception as e:
            trouble.append(e)
    threads = [threading.Thread(target=reader, args=(u,))
               for u in pair for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if trouble:
        raise Failed("a reader: %r" % trouble[0])


@test(*ALL)
def root_sees_its_own(t):
    """Also on Heimdal, which shows root everybody's."""
    m, u, root = t.mount(), t.user(), t.root()
    u.kinit()
    theirs = paths_of(t, m, u)
    t.realm.add("r%d" % u.uid)
    root.run("kinit", "-c", "KCM:0:test%d" % u.uid, "r%d" % u.uid,
             input=b"pass word\n")
    mine = paths_of(t, m, root, "0:test%d" % u.uid)
    for form, path in mine.forms.items():
        eq(str(ccfile.parse(root.read(path)).principal),
           "r%d@EXAMPLE.COM" % u.uid, form)
    for path in walk(root, m.path):
        for part in (theirs.uuid, str(u.uid) + ".", u.principal):
            check(part not in path, "root is shown %s", path)
    for form in ("uuid", "by-name", "collection", "krb5cc"):
        check(errno_of(root.read, theirs.forms[form]) in (2, 13),
              "root reads %s", theirs.forms[form])
    # The user's own view, after root has looked for the same names.
    eq(u.klist("FILE:" + theirs.cache)[0], u.principal)


@test(*ALL)
def no_wrong_cache_after_another_user(t):
    """What the kernel keeps of one user's lookup is not for the next."""
    m = t.mount()
    a, b = t.user(), t.user()
    a.kinit()
    path = m / "default/cache"
    eq(str(ccfile.parse(a.read(path)).principal), a.principal)
    raises(2, b.read, path)
    raises(2, b.read, paths_of(t, m, a).cache)
    b.kinit()
    eq(str(ccfile.parse(b.read(path)).principal), b.principal)
    eq(str(ccfile.parse(a.read(path)).principal), a.principal)
    a.run("kdestroy", "-q")
    raises(2, a.read, path)
    eq(str(ccfile.parse(b.read(path)).principal), b.principal)


@test(*REAL)
def kcm_sees_the_caller(t):
    """Every request reaches the daemon with uid and gid of the caller."""
    p = t.proxy()
    m = t.mount(socket=p.socket)
    pair = t.user(), t.user()
    for u in pair:
        u.kinit()
    p.reset()
    for u in pair:
        eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)
    uids = {uid for uid, _, _ in p.log}
    eq(uids, {u.uid for u in pair}, "uids at the daemon")
    for uid, opcode, arguments in p.log:
        other = pair[0] if uid == pair[1].uid else pair[1]
        check(("%d" % other.uid).encode() not in arguments,
              "uid %d sent %s with %r", uid, opcode, arguments)
    # the gid is what sssd and Heimdal store: kinit again must be allowed
    for u in pair:
        u.kinit()


@test("heimdal")
def files_of_others_by_descriptor(t):
    """A descriptor is what it was when opened; so is its content."""
    m = t.mount()
    a, b = t.user(), t.user()
    a.kinit()
    fd = a.call(os.open, m / "default/cache", os.O_RDONLY)
    try:
        data = b.call(os.read, fd, 1 << 16)
    finally:
        os.close(fd)
    eq(str(ccfile.parse(data).principal), a.principal)
    raises(2, b.read, m / "default/cache")


@test(*ALL)
def working_directory_survives(t):
    """A lookup by somebody else must not unhash a shell's directory.

    Of the fixed directories, that is; another user's cache directory is
    ENOENT to him, which costs its owner the name of his working directory.
    """
    m = t.mount()
    a, b = t.user(), t.user()
    a.kinit()
    b.kinit()
    for name in (".", "collection", "by-name", "by-principal"):
        path = os.path.realpath(m / name)
        shell = subprocess.Popen(
            ["sh", "-c", 'cd "$1" && /bin/pwd && read x && /bin/pwd', "sh",
             path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            user=a.uid, group=a.gid, extra_groups=[], env=a.env)
        try:
            eq(shell.stdout.readline(), path + "\n")
            b.list(path)
            b.list(m.path)
            os.listdir(path)
            out, _ = shell.communicate("\n", timeout=DEADLINE)
        finally:
            shell.kill()
            shell.wait()
        eq(out, path + "\n", "working directory after others' lookups")


@test("heimdal", "sssd", "kcmd")
def mount_of_an_ordinary_user(t):
    """Private to that user, without any privilege, by fusermount3."""
    u, other = t.user(), t.user()
    u.kinit()
    m = t.mount(uid=u.uid)
    with open("/proc/%d/status" % m.process.pid) as f:
        status = dict(line.split(":", 1) for line in f)
    eq(status["Uid"].split()[0:3], [str(u.uid)] * 3)
    eq(int(status["CapEff"], 16), 0, "capabilities")
    eq(u.klist("FILE:%s/default/cache" % m), (u.principal, [TGT]))
    eq(u.klist("DIR:%s/collection" % m)[0], u.principal)
    raises(13, other.list, m.path)
    raises(13, other.read, m / "default/cache")


@test("embedded")
def embedded_mount_of_an_ordinary_user(t):
    u = t.user()
    run_dir = os.path.dirname(t.kcm_socket)
    os.chown(run_dir, u.uid, u.gid)
    m = t.mount(uid=u.uid)
    u.kinit()
    eq(u.klist("FILE:%s/default/cache" % m), (u.principal, [TGT]))


@test(*REAL)
def privileges_after_the_mount(t):
    """Changing ids for connect(2) is all that a root mount may still do."""
    m, u = t.mount(), t.user()
    u.kinit()
    u.klist("FILE:%s/default/cache" % m)
    with open("/proc/%d/status" % m.process.pid) as f:
        status = dict(line.split(":", 1) for line in f)
    SETGID, SETUID = 1 << 6, 1 << 7
    for name in ("CapEff", "CapPrm", "CapInh"):
        extra = int(status[name], 16) & ~(SETGID | SETUID)
        eq(hex(extra), "0x0", "more than setuid and setgid in " + name)
    limits = open("/proc/%d/limits" % m.process.pid).read()
    core = [s for s in limits.splitlines() if s.startswith("Max core")][0]
    eq(core.split()[4:6], ["0", "0"], "core file size limit")


@test("heimdal", "sssd", "kcmd")
def environment_of_a_user_without_caches(t):
    m, u, nobody = t.mount(), t.user(), t.user(principal=None)
    u.kinit()
    u.klist("FILE:%s/default/cache" % m)
    eq(nobody.list(m / "by-name"), [])
    eq(nobody.list(m / "by-principal"), [])
    r = nobody.run("klist", cc="FILE:%s/default/cache" % m, code=1)
    has(r.err, "No credentials cache found")


