"""kcmfs as a program: options, messages, exit codes, background, signals."""
import errno
import os
import re
import signal
import socket
import subprocess

from harness import BUILD, test
from mount import mounted, mounts
from util import HEIMDAL_SOCKET, check, eq, has, raises, run, wait_for

KCMFS = os.path.join(BUILD, "kcmfs")


def kcmfs(t, *arguments, code=None, env=None):
    return run([KCMFS, *arguments], code=code, env=t.mount_env(env), cwd="/",
               timeout=30)


def fails(t, *arguments, says=(), env=None):
    """Must fail with a message that has each of these; one line, no mount."""
    r = kcmfs(t, *arguments, env=env)
    check(r.code not in (0, None) and r.code > 0, "no failure: %s", r)
    for word in says:
        check(word.lower() in r.err.lower(), "%r is not in: %s", word, r)
    eq(r.out, "", "stdout")
    eq([m for m in mounts() if m[2] == "fuse.kcmfs" and t.dir in m[1]], [])
    return r


def empty_dir(t, name="point"):
    path = os.path.join(t.dir, name)
    os.mkdir(path)
    return path


def pid_serving(path):
    """The pid of the background kcmfs with this mount point."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if path.encode() in words and os.path.basename(
                words[0]) == b"kcmfs":
            yield int(pid)


def end_background(path):
    """SIGTERM to each of them; the mount must go, and they with it."""
    pids = list(pid_serving(path))
    check(pids, "nobody serves %s", path)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    wait_for("the end of kcmfs", lambda: not list(pid_serving(path)))
    eq(mounted(path), [])


# ------------------------------------------------------------- the options

@test("none")
def version_and_help(t):
    for option in ("-V", "--version"):
        r = kcmfs(t, option, code=0)
        check(re.match(r"kcmfs \S*\d", r.out), "-V says %s", r)
    for option in ("-h", "--help"):
        r = kcmfs(t, option, code=0)
        for word in ("MOUNTPOINT", "--kcm-socket", "--embedded", "timeout"):
            has(r.out, word, option)


@test("none")
def wrong_options(t):
    point = empty_dir(t)
    for option, word in (("--nonsense", "nonsense"), ("-Z", "Z")):
        fails(t, option, point, says=(word,))
    fails(t, "-o", "nonsense", point, says=("nonsense",))
    fails(t, "-o", "nonsense=1", point, says=("nonsense",))
    for option in ("uid=1", "gid=1", "kernel_cache", "auto_cache"):
        fails(t, "-o", option, point, says=(option.split("=")[0],))
    for value in ("", "x", "-1", "1x", "99999999999999999999"):
        fails(t, "-o", "timeout=" + value, point, says=("timeout",))
    fails(t, "relative/source", point, says=("relative/source",))
    fails(t, "kcm", point, "third", says=("third",))
    fails(t, "-o", point)
    fails(t)


@test("none")
def missing_or_wrong_mount_point(t):
    missing = os.path.join(t.dir, "missing")
    fails(t, missing, says=(missing + ": no such directory",))
    a_file = os.path.join(t.dir, "file")
    open(a_file, "w").close()
    fails(t, a_file, says=(a_file, "directory"))


@test("none")
def something_else_is_mounted(t):
    point = empty_dir(t)
    run(["mount", "-t", "tmpfs", "tmpfs", point])
    t.cleanup(lambda: run(["umount", point]))
    fails(t, "--embedded", point, says=(point, "mount"))
    eq([m[2] for m in mounted(point)], ["tmpfs"], "what was there stays")


@test("none")
def a_living_mount_is_not_replaced(t):
    m = t.mount("--embedded", socket=False)
    r = kcmfs(t, "-f", "--embedded", m.path)
    check(r.code > 0, "a second mount on the same point: %s", r)
    has(r.err, m.path)
    eq(len(mounted(m.path)), 1)
    check(m.alive(), "the first is dead")
    t.user(principal=None).list(m / "by-name")


@test("none")
def no_socket_configured(t):
    """kcm_socket = - in krb5.conf means "no socket"."""
    t.realm.write_conf(t.krb5_conf, "-")
    fails(t, empty_dir(t), says=("kcm_socket",))


# ------------------------------------------------------- where the socket is

def shows_principal(t, m, u):
    eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)


@test("heimdal", "kcmd")
def ways_to_name_the_socket(t):
    u = t.user()
    u.kinit()
    s = t.checked()
    t.realm.write_conf(t.krb5_conf, s)
    shows_principal(t, t.mount(socket=False), u)        # krb5.conf
    shows_principal(t, t.mount("--kcm-socket=" + s, socket=False), u)
    shows_principal(t, t.mount("--kcm-socket", s, socket=False), u)
    shows_principal(t, t.mount("-o", "ro,kcm_socket=" + s, socket=False), u)
    shows_principal(t, t.mount(s, socket=False), u)     # SOURCE
    shows_principal(t, t.mount("kcm", socket=False), u)
    # an option is stronger than krb5.conf
    t.realm.write_conf(t.krb5_conf, "/nonexistent/socket")
    shows_principal(t, t.mount("-o", "kcm_socket=" + s, socket=False), u)
    m = t.mount(socket=False)
    raises(errno.ECONNREFUSED, u.read, m / "default/cache")


@test("heimdal")
def krb5_conf_with_includes(t):
    """As libkrb5's profile library reads it: includes, several files."""
    u = t.user()
    u.kinit()
    more = empty_dir(t, "conf.d")
    with open(os.path.join(more, "kcm"), "w") as f:
        f.write("[libdefaults]\n kcm_socket = %s\n" % t.checked())
    for text in ("includedir %s\n" % more, "include %s/kcm\n" % more):
        with open(t.krb5_conf + ".inc", "w") as f:
            f.write(text)
        m = t.mount(socket=False,
                    env={"KRB5_CONFIG": t.krb5_conf + ".inc"})
        shows_principal(t, m, u)
    plain = t.realm.write_conf(t.krb5_conf + ".plain")
    m = t.mount(socket=False,
                env={"KRB5_CONFIG": plain + ":" + os.path.join(more, "kcm")})
    shows_principal(t, m, u)


@test("heimdal")
def the_default_socket(t):
    """/var/run/.heim_org.h5l.kcm-socket where nothing says otherwise."""
    u = t.user()
    u.kinit()
    plain = t.realm.write_conf(t.krb5_conf + ".plain")
    point = empty_dir(t)
    wrapper = os.path.join(t.dir, "kcmfs-with-run")
    with open(wrapper, "w") as f:
        # in a namespace of its own, where the tree is then looked at
        f.write("#!/bin/sh\nmount --bind %s /run\nexec %s \"$@\"\n"
                % (os.path.dirname(t.checked()), KCMFS))
    os.chmod(wrapper, 0o755)
    log = open(os.path.join(t.dir, "log"), "w")
    process = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", wrapper, "-f", point],
        env=dict(t.mount_env(), KRB5_CONFIG=plain), stderr=log)
    t.cleanup(lambda: (process.terminate(), process.wait(), log.close()))

    def reads():
        check(process.poll() is None, "kcmfs ended: %s", open(log.name).read())
        r = run(["nsenter", "-m", "-t", str(process.pid), "setpriv",
                 "--reuid", u.uid, "--regid", u.gid, "--clear-groups",
                 "cat", point + "/default/principal"], code=None)
        return r.out == u.principal + "\n"
    wait_for("the principal by the default socket", reads)


# ----------------------------------------------------------- mount(8) style

@test("kcmd", "heimdal")
def as_mount_helper(t):
    """mount(8) passes everything on; what is for others is ignored."""
    u = t.user()
    u.kinit()
    m = t.mount("-o", "rw,nosuid,nodev,noexec,nofail,_netdev,noauto,user,"
                "x-systemd.automount,x-gvfs-hide,dev,suid,exec,"
                "kcm_socket=" + t.checked(), socket=False)
    shows_principal(t, m, u)
    options = mounted(m.path)[0][3].split(",")
    for word in ("nosuid", "nodev", "noexec", "allow_other",
                 "default_permissions"):
        check(word in options, "no %s in %s", word, options)


@test("kcmd")
def by_mount_itself(t):
    """mount -t fuse.kcmfs SOURCE POINT, umount."""
    u = t.user()
    u.kinit()
    point = empty_dir(t)
    # mount(8) runs mount.fuse, which runs kcmfs by a shell without a PATH:
    # what `make install` installs is found there
    installed = os.path.join(t.dir, "sbin")
    os.mkdir(installed)
    os.symlink(KCMFS, os.path.join(installed, "kcmfs"))
    run(["mount", "--bind", installed, "/usr/local/sbin"])
    try:
        run(["mount", "-t", "fuse.kcmfs", t.checked(), point,
             "-o", "nofail,timeout=5"], env=t.mount_env())
        eq(u.klist("FILE:%s/default/cache" % point)[0], u.principal)
        run(["umount", point])
        eq(mounted(point), [])
        wait_for("kcmfs to end", lambda: not list(pid_serving(point)))
    finally:
        subprocess.run(["umount", "-l", point], check=False,
                       stderr=subprocess.DEVNULL)
        run(["umount", "/usr/local/sbin"])


@test("none")
def line_in_proc_mounts(t):
    m = t.mount("--embedded", socket=False)
    (source, path, kind, options), = mounted(m.path)
    eq((source, path, kind), ("kcmfs", m.path, "fuse.kcmfs"))
    check("rw" in options.split(","), options)
    u = t.user(principal=None)
    m2 = t.mount("--embedded", socket=False, uid=u.uid)
    (source, path, kind, options), = mounted(m2.path)
    eq((source, path, kind), ("kcmfs", m2.path, "fuse.kcmfs"))
    check("allow_other" not in options, options)
    for word in ("nosuid", "nodev", "user_id=%d" % u.uid):
        check(word in options.split(","), "no %s in %s", word, options)


@test("kcmd")
def read_only_mount(t):
    u = t.user()
    u.kinit()
    m = t.mount("-o", "ro")
    shows_principal(t, m, u)
    check("ro" in mounted(m.path)[0][3].split(","), "not ro")
    raises(errno.EROFS, u.write, m / "default/cache", b"")
    raises(errno.EROFS, u.write, m / "collection/tktnew", b"")
    raises(errno.EROFS, u.call, os.unlink, m / "default/cache")


# ------------------------------------------------- background, end, crashes

@test("none")
def background_when_ready(t):
    """When the command returns the tree is there; no pipe is kept open."""
    point = empty_dir(t)
    r = kcmfs(t, "--embedded", point, code=0)
    try:
        eq((r.out, r.err), ("", ""))
        eq([m[2] for m in mounted(point)], ["fuse.kcmfs"])
        check("default" in os.listdir(point), "the tree is not there")
    finally:
        end_background(point)


@test("none")
def a_daemon_that_is_not_there_yet(t):
    """It mounts, and says so: no socket file, and one that nobody left."""
    path = os.path.join(t.dir, "socket")
    for name in ("nothing", "abandoned"):
        point = empty_dir(t, name)
        r = kcmfs(t, "--kcm-socket=" + path, point, code=0)
        has(r.err, "there is no KCM daemon at %s yet: Connection refused" %
            path)
        end_background(point)
        if not os.path.exists(path):
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(path)


@test("none")
def failure_before_the_background(t):
    """What fails late fails in the foreground, with a code."""
    point = empty_dir(t)
    fails(t, "--embedded", "--kcm-socket=/nonexistent/dir/socket", point,
          says=("/nonexistent/dir/socket",))


@test("none")
def signals_end_it(t):
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        m = t.mount("--embedded", socket=False)
        m.signal(sig)
        wait_for("kcmfs to end on signal %d" % sig, lambda: not m.alive())
        eq(m.process.returncode, 0, "exit status after signal %d" % sig)
        eq(mounted(m.path), [], "mounts after signal %d" % sig)
        m.process = None            # ended as it should


@test("none")
def busy_at_the_end(t):
    """SIGTERM with a file open and a working directory inside."""
    m = t.mount("--embedded", socket=False)
    u = t.user(principal=None)
    fd = u.call(os.open, m / "by-name", os.O_RDONLY)
    try:
        m.signal(signal.SIGTERM)
        wait_for("kcmfs to end", lambda: not m.alive())
        eq(m.process.returncode, 0)
        eq(mounted(m.path), [])
    finally:
        os.close(fd)
    m.process = None


@test("none")
def unmounted_from_outside(t):
    for command in (["umount"], ["fusermount3", "-u"]):
        m = t.mount("--embedded", socket=False)
        run([*command, m.path])
        wait_for("kcmfs to end after " + command[0], lambda: not m.alive())
        eq(m.process.returncode, 0)
        m.process = None


@test("none")
def stale_mount_is_cleaned_up(t):
    m = t.mount("--embedded", socket=False)
    os.stat(m.path)             # which the kernel then remembers
    m.kill()
    raises(errno.ENOTCONN, os.listdir, m.path)
    eq(len(mounted(m.path)), 1, "the dead mount")
    m.start()
    eq(len(mounted(m.path)), 1, "after the start")
    check("default" in os.listdir(m.path), "the tree is not there")


@test("none")
def stale_mount_of_a_user(t):
    u = t.user(principal=None)
    m = t.mount("--embedded", socket=False, uid=u.uid)
    m.kill()
    m.start()
    eq(len(mounted(m.path)), 1)


@test("none")
def embedded_listens_and_cleans(t):
    """The socket goes with the mount; a dead one is taken over."""
    sock = os.path.join(t.dir, HEIMDAL_SOCKET)
    m = t.mount("--embedded", "--kcm-socket=" + sock, socket=False)
    t.kcm_socket = sock
    eq(t.wire(t.user(principal=None)).caches(), {})
    m.kill()
    check(os.path.exists(sock), "no socket left by a crash")
    m.start()
    wait_for("the socket to answer", lambda: t.wire(
        t.user(principal=None)).caches() == {})
    m.signal(signal.SIGTERM)
    wait_for("kcmfs to end", lambda: not m.alive())
    check(not os.path.exists(sock), "the socket is still there")
    m.process = None
    t.kcm_socket = None


@test("none")
def debug_stays_in_the_foreground(t):
    m = t.mount("-d", "--embedded", socket=False)
    m2 = t.mount("-s", "--embedded", socket=False)
    for each in (m, m2):
        check("default" in os.listdir(each.path), "no tree")
