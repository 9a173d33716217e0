"""Sandboxes and containers: mount and user namespaces with a bind mount."""
import errno
import os
import shutil
import subprocess

from harness import REAL, REPO, test
from mount import bind
from tree import paths_of
from util import Failed, check, eq, has, raises, run

SANDBOX = os.path.join(REPO, "examples/container/sandbox.sh")
CONTAINER = os.path.join(REPO, "examples/container/run.sh")
# ENOTDIR, EBUSY: the kernel says so before it asks
DENIED = (errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EBUSY)
TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"


def sandbox(u, m, *arguments, code=0):
    """sandbox.sh as the user; it reads a copy anybody can reach."""
    if not shutil.which("bwrap"):
        raise Failed("bubblewrap is not installed (make deps-test)")
    script = os.path.join(u.test.dir, "sandbox.sh")
    if not os.path.exists(script):
        shutil.copy(SANDBOX, script)
        os.chmod(script, 0o755)
    return u.run(script, "-m", m.path, *arguments, code=code, cwd="/")


def own_conf(t):
    """What the inside has of its own: a realm, no word of KCM."""
    path = os.path.join(t.dir, "inside.conf")
    t.realm.write_conf(path)
    with open(path) as f:
        text = f.read()
    with open(path, "w") as f:
        f.write(text.replace("    default_cc_type = KCM\n", ""))
    return path


@test(*REAL)
def whole_tree_read_only(t):
    m, u = t.mount(), t.user()
    u.kinit()
    out = sandbox(u, m, "--", "sh", "-c",
                  "klist; ls /run /etc; cat /tickets/default/principal").out
    has(out, TGT)
    has(out, u.principal)
    check("krb5" not in out.replace("krb5cc", "").replace("krbtgt", ""),
          "a krb5.conf or socket inside: %s", out)
    r = sandbox(u, m, "--", "kdestroy", code=None)
    eq(u.klist()[1], [TGT], "after kdestroy in a read-only sandbox (%s)" % r)
    r = sandbox(u, m, "--", "cp", "/tickets/default/cache",
                "/tickets/by-name/%d.copy" % u.uid, code=None)
    has(r.err, "Read-only")


@test(*REAL)
def whole_tree_writable(t):
    """A FILE client inside gets a ticket; it is in KCM outside."""
    m, u = t.mount(), t.user()
    u.kinit()
    sandbox(u, m, "-w", "-k", own_conf(t), "--", "kvno", "-q",
            "svc1/host.example.com")
    check("svc1/host.example.com@EXAMPLE.COM" in u.klist()[1],
          "outside: %s", u.klist())
    sandbox(u, m, "-w", "--", "kdestroy")
    eq(u.klist_names(), {}, "after kdestroy inside")


@test(*REAL)
def one_cache(t):
    """Of two caches one is in the sandbox, under a path of its own."""
    m, u = t.mount(), t.user()
    u.kinit()
    u.kinit(cc="KCM:%d:second" % u.uid)
    directory = m / ("by-name/%d.second" % u.uid)
    out = sandbox(u, m, directory, "--", "sh", "-c", "klist; ls /tickets").out
    has(out, u.principal)
    eq(sorted(out.split("\n")[-8:-1]), sorted(
        ["cache", "config", "info", "info.json", "name", "principal",
         "tickets"]), "what is seen")


@test(*REAL)
def one_file(t):
    """Bound as a file, read-only: it shows what KCM has at each open."""
    m, u = t.mount(), t.user()
    u.kinit()
    path = m / "default/cache"
    has(sandbox(u, m, path, "--", "klist").out, TGT)
    r = sandbox(u, m, path, "--", "sh", "-c", ": >>/tickets", code=None)
    has(r.err, "Read-only")
    # A sandbox that was there before the change sees it.
    process = subprocess.Popen(
        [os.path.join(t.dir, "sandbox.sh"), "-m", m.path, path, "--", "sh",
         "-c", "klist; echo .; read x; klist; klist"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        env=u.env, user=u.uid, group=u.gid, extra_groups=[])
    try:
        before = ""
        for line in process.stdout:
            before += line
            if line == ".\n":
                break
        has(before, TGT)
        u.kvno("svc2/host.example.com")
        out, _ = process.communicate("\n", timeout=30)
        eq(out.count("svc2/host.example.com"), 2, "after a change: %s" % out)
    finally:
        process.kill()
        process.wait()


@test("kcmd", "heimdal")
def one_file_appended_to(t):
    """kvno inside adds its ticket through a file that is bound alone."""
    m, u = t.mount(), t.user()
    u.kinit()
    sandbox(u, m, "-w", "-k", own_conf(t), m / "default/cache", "--", "kvno",
            "-q", "svc3/host.example.com")
    check("svc3/host.example.com@EXAMPLE.COM" in u.klist()[1],
          "outside: %s", u.klist())


@test("kcmd", "heimdal", "sssd")
def rootless_container(t):
    """run.sh: root of the namespace is the user, nobody else is."""
    m, u, other = t.mount(), t.user(), t.user(principal=None)
    u.kinit()
    # the script knows /run/kcmfs alone
    os.makedirs("/run/kcmfs", exist_ok=True)
    run(["mount", "--bind", m.path, "/run/kcmfs"])
    try:
        script = os.path.join(t.dir, "run.sh")
        shutil.copy(CONTAINER, script)
        os.chmod(script, 0o755)
        out = u.run(script, "sh", "-c", "id -u; klist; ls /run", cwd="/").out
        has(out, "0\n")
        has(out, u.principal)
        check("heim_org" not in out, "a KCM socket inside: %s", out)
        r = other.run(script, "klist", code=1, cwd="/")
        has(r.err, "No credentials cache")
    finally:
        run(["umount", "/run/kcmfs"])


@test(*REAL)
def another_uid_inside(t):
    """Who is somebody else inside sees nothing of the tree that is bound."""
    m, a, b = t.mount(), t.user(), t.user(principal=None)
    a.kinit()
    place = os.path.join(t.dir, "inside")
    os.mkdir(place)
    # bound by root, into a namespace that both users are in
    script = ('mount --bind "$1" "$2" && exec setpriv --reuid "$3" '
              '--regid "$3" --clear-groups sh -c "cat $2/default/cache '
              '$2/krb5cc_$4; find $2; echo end"')
    r = run(["unshare", "-m", "--propagation", "private", "sh", "-c", script,
             "sh", m.path, place, str(b.uid), str(a.uid)], code=None)
    has(r.out, place + "/collection", "the tree")
    has(r.out, "end", "it ran")
    for part in (a.principal, "krb5cc_%d" % a.uid, "krbtgt",
                 paths_of(t, m, a).uuid):
        check(part not in r.out, "shows %r to another:\n%s", part, r.out)


@test(*REAL)
def another_uid_at_a_bound_cache(t):
    """What its owner has bound, a directory or a file, is neither another
    user's nor root's, also while the owner has it open."""
    m, a, b, root = t.mount(), t.user(), t.user(principal=None), t.root()
    a.kinit()
    file = bind(t, a, m / "default/cache")
    at = bind(t, a, paths_of(t, m, a).dir)
    whole = a.read(m / "default/cache")
    eq([a.read(file), a.read(at + "/cache")], [whole, whole])
    fd = a.call(os.open, file, os.O_RDONLY)
    try:
        for u in (b, root):
            for path in (file, at + "/cache", at + "/tickets",
                         at + "/info"):
                for act in (
                        lambda p: os.close(os.open(p, os.O_RDONLY)),
                        lambda p: os.close(os.open(p, os.O_WRONLY)),
                        lambda p: os.truncate(p, 0), os.listdir,
                        os.unlink, lambda p: os.rename(p, p + "x")):
                    try:
                        u.call(act, path)
                    except OSError as e:
                        check(e.errno in DENIED, "uid %d, %s: %s", u.uid,
                              path, e)
                    else:
                        check(False, "uid %d gets at %s", u.uid, path)
            for act in (os.listdir,
                        lambda p: os.mkdir(p + "/d"),
                        lambda p: os.close(os.open(
                            p + "/new", os.O_CREAT | os.O_WRONLY))):
                raises(errno.EACCES, u.call, act, at)
    finally:
        os.close(fd)
    eq([a.read(file), a.read(at + "/cache")], [whole, whole])
