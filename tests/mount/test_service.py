"""The service: units, run by a systemd of the tests' own."""
import os
import re

from harness import BUILD, CONFINES, REPO, not_under, test
from installed import install
from mount import BAD_LOG
from systemd import Systemd
from util import Failed, check, eq, has, lacks, run, wait_for

UNITS = os.path.join(REPO, "examples/systemd")
SOCKET = "/run/.heim_org.h5l.kcm-socket"
TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"


def units_here(t):
    """A copy of the units that names programs which exist."""
    where = os.path.join(t.dir, "units")
    os.mkdir(where)
    for name in ("kcmfs.service", "kcmd.service", "kcmd.socket",
                 "run-kcmfs.mount", "user/kcmfs.service"):
        with open(os.path.join(UNITS, name)) as f:
            text = f.read()
        text = text.replace("/usr/bin/kcmfs", os.path.join(BUILD, "kcmfs"))
        text = text.replace("/usr/sbin/kcmd", os.path.join(BUILD, "kcmd"))
        path = os.path.join(where, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
    return where


@test("none")
def units_are_right(t):
    """systemd-analyze verify finds nothing, and security little."""
    where = units_here(t)
    for manager, names in (("--system", ("kcmfs.service", "kcmd.service",
                                         "kcmd.socket", "run-kcmfs.mount")),
                           ("--user", ("user/kcmfs.service",))):
        for name in names:
            r = run(["systemd-analyze", manager, "verify", "--man=no",
                     os.path.join(where, name)],
                    env=dict(os.environ, XDG_RUNTIME_DIR=t.dir))
            eq(r.out + r.err, "", name)
    for name, worst in (("kcmfs.service", 45), ("kcmd.service", 10)):
        run(["systemd-analyze", "security", "--offline=true",
             "--threshold=%d" % worst, os.path.join(where, name)])


@test("none")
def no_directive_hides_the_mount(t):
    """Nothing that gives kcmfs.service a mount namespace (systemd.exec(5)),
    and nothing in the user's unit that implies NoNewPrivileges=."""
    hides = re.compile(
        r"^(Private(?!Network)|ProtectS|ProtectHome|ProtectK|ProtectC[^l]|"
        r"ProtectP|ProcSubset|ReadOnly|ReadWrite|Inaccessible|NoExec|Exec.*P"
        r"aths|Bind|Temporary|Root|Mount(F|A|I)|DynamicUser|PAMName)", re.M)
    with open(os.path.join(UNITS, "kcmfs.service")) as f:
        found = hides.search(f.read())
        check(not found, "kcmfs.service has %s", found and found.group(0))
    with open(os.path.join(UNITS, "kcmd.service")) as f:
        lacks(f.read(), "\nPrivateUsers", "kcmd.service: all peers alike")
    with open(os.path.join(UNITS, "user/kcmfs.service")) as f:
        lines = [s for s in f.read().splitlines() if not s.startswith("#")]
    for line in lines:
        check(not re.match(r"NoNew|System|Restrict(?!=)|Lock|Memory|Private|"
                           r"Protect|Capability|Dynamic", line),
              "the user's unit has %s", line)


class Host:
    """A systemd with kcmfs and kcmd installed, and a user with a keytab."""

    def __init__(self, t):
        self.systemd = Systemd(t, install(t))
        self.inside, self.ctl = self.systemd.inside, self.systemd.ctl
        self.show = self.systemd.show
        self.inside("systemd-tmpfiles", "--create", "kcmfs.conf")
        self.user = t.user()
        t.realm.write_conf(t.krb5_conf, SOCKET)
        self.env = dict(self.user.env, PATH=os.environ["PATH"])
        self.log = os.path.join(t.dir, "service.log")
        for unit in ("kcmfs", "kcmd"):
            self.systemd.write(unit + ".service.d/test.conf",
                               "[Service]\nStandardError=append:%s\n"
                               "Environment=KRB5_CONFIG=%s\n"
                               % (self.log, t.krb5_conf))

    def as_user(self, *command, env=None, **options):
        return self.inside(*command, user=self.user.uid,
                           env=dict(self.env, **(env or {})), **options)

    def kinit(self):
        r = self.as_user("kinit", "-k", "-t", self.user.keytab,
                         self.user.principal, code=None)
        check(r.code == 0, "%s\n%s\n%s", r, self.ctl(
            "status", "-l", "kcmd.service", code=None), self.log_text())

    def reads(self, path="/run/kcmfs"):
        out = self.as_user("klist", env={
            "KRB5CCNAME": "FILE:%s/default/cache" % path}).out
        has(out, self.user.principal)
        has(out, TGT)

    def mounts(self, path="/run/kcmfs"):
        text = self.inside("cat", "/proc/self/mounts").out
        return [s for s in text.splitlines() if s.split()[1] == path]

    def another_kcmfs(self):
        """systemd noticed its end and started it again, ready."""
        def running():
            return self.show("kcmfs.service", "NRestarts") == "1" and \
                self.show("kcmfs.service", "ActiveState") == "active"
        try:
            wait_for("another kcmfs", running)
        except Failed as e:
            raise Failed("%s\n%s\n%s" % (e, self.ctl(
                "status", "kcmfs.service", code=None), self.log_text())) \
                from None

    def log_text(self):
        with open(self.log) as f:
            return f.read()


@test("none")
@not_under("asan", CONFINES)
def system_service(t):
    """Started, used, restarted, killed, stopped: the mount is everybody's,
    there when `systemctl start` returns, and gone when stop does."""
    h = Host(t)
    h.ctl("start", "kcmd.socket")
    eq(h.show("kcmd.service", "ActiveState"), "inactive")
    h.ctl("start", "kcmfs.service")
    eq(len(h.mounts()), 1, "mounts that others see")
    has(h.show("kcmfs.service", "StatusText"), "/run/kcmfs")
    h.kinit()
    h.reads()
    # the socket started it
    eq(h.show("kcmd.service", "ActiveState"), "active")
    kcmd = int(h.show("kcmd.service", "MainPID"))
    owner = h.inside("stat", "-c", "%U", "/proc/%d" % kcmd).out
    check(kcmd > 0 and owner, "kcmd runs")
    uid = h.inside("sed", "-n", "s/^Uid:\t\\([0-9]*\\).*/\\1/p",
                   "/proc/%d/status" % kcmd).out.strip()
    check(uid != "0", "kcmd runs as root")
    pid = int(h.show("kcmfs.service", "MainPID"))
    status = h.inside("cat", "/proc/%d/status" % pid).out
    for line in ("CapEff:\t00000000000000c0", "CapBnd:\t0000000000000000",
                 "NoNewPrivs:\t1"):
        has(status, line)
    h.ctl("restart", "kcmfs.service")
    eq(len(h.mounts()), 1, "mounts after a restart")
    h.reads()
    # A crash: systemd starts it again, which cleans up the dead mount.
    pid = int(h.show("kcmfs.service", "MainPID"))
    h.inside("kill", "-KILL", pid)
    h.another_kcmfs()
    eq(len(h.mounts()), 1, "mounts after a crash")
    h.reads()
    h.ctl("stop", "kcmfs.service")
    eq(h.mounts(), [], "mounts after the stop")
    eq(h.show("kcmfs.service", "Result"), "success")
    bad = BAD_LOG.search(h.log_text())
    check(not bad, "the log has %s", bad)
    lacks(h.log_text(), "error:")


@test("none")
def caches_outlive_a_restart_of_kcmd(t):
    """Left in the descriptor store, which the unit must ask for; not a stop."""
    h = Host(t)
    h.ctl("start", "kcmd.socket")
    h.kinit()
    before = h.as_user("klist", env={"KRB5CCNAME": "KCM:"}).out
    for _ in range(2):
        pid = h.show("kcmd.service", "MainPID")
        h.ctl("restart", "kcmd.service")
        check(h.show("kcmd.service", "MainPID") != pid, "the same process")
        eq(h.as_user("klist", env={"KRB5CCNAME": "KCM:"}, code=None).out,
           before, "after a restart")
        eq(h.show("kcmd.service", "NFileDescriptorStore"), "0", "kept")
    lacks(h.log_text(), "error:")
    h.ctl("stop", "kcmd.service")
    r = h.as_user("klist", env={"KRB5CCNAME": "KCM:"}, code=None)
    check(r.code != 0, "there after a stop: %s", r.out)


@test("none")
def watchdog(t):
    """A kcmfs that does nothing any more is ended and started again."""
    h = Host(t)
    h.systemd.write("kcmfs.service.d/watchdog.conf",
                    "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n"
                    "TimeoutStopFailureMode=kill\n")
    h.ctl("start", "kcmd.socket", "kcmfs.service")
    h.kinit()
    # It is fed: what is answered after two of its periods is no restart.
    first = h.show("kcmfs.service", "WatchdogTimestampMonotonic")
    wait_for("a sign of life", lambda: h.show(
        "kcmfs.service", "WatchdogTimestampMonotonic") != first)
    h.inside("kill", "-STOP", h.show("kcmfs.service", "MainPID"))
    h.another_kcmfs()
    h.reads()


@test("none")
@not_under("asan", CONFINES)
def failure_is_seen(t):
    """Where it cannot mount, the start fails and systemd knows."""
    h = Host(t)
    h.inside("mount", "-t", "tmpfs", "tmpfs", "/run/kcmfs")
    h.systemd.write("kcmfs.service.d/once.conf", "[Service]\nRestart=no\n")
    h.ctl("start", "kcmfs.service", code=1)
    eq(h.show("kcmfs.service", "ExecMainStatus"), "32")
    has(h.log_text(), "something else mounted")


@test("none")
def by_mount_unit_and_fstab(t):
    """mount(8), by a mount unit and by a line of fstab."""
    h = Host(t)
    h.ctl("start", "kcmd.socket")
    with open(os.path.join(UNITS, "run-kcmfs.mount")) as f:
        h.systemd.write("run-kcmfs.mount", f.read())
    h.kinit()
    h.ctl("start", "run-kcmfs.mount")
    h.reads()
    h.ctl("stop", "run-kcmfs.mount")
    eq(h.mounts(), [], "mounts after the stop")

    h.inside("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    with open(os.path.join(UNITS, "fstab")) as f:
        line = [s for s in f if s.startswith("kcm ")][0]
    table = os.path.join(t.dir, "fstab")
    with open(table, "w") as f:
        f.write(line.replace("/run/kcmfs", "/mnt/tickets"))
    h.inside("mount", "-T", table, "-a", env=h.env)
    h.reads("/mnt/tickets")
    h.inside("mount", "-t", "fuse.kcmfs", "kcm", "/run/kcmfs",
             "-o", "nofail,x-systemd.automount", env=h.env)
    h.reads()
    h.inside("umount", "/run/kcmfs")
    h.inside("umount", "/mnt/tickets")
    h.inside("mount.kcmfs", "kcm", "/run/kcmfs", "-o", "rw,_netdev", "-n",
             env=h.env)
    h.reads()
    h.inside("umount", "/run/kcmfs")
    eq(h.mounts(), [])


@test("none")
def of_a_user(t):
    """The user's unit, under a systemd --user: fusermount3 is setuid."""
    h = Host(t)
    uid = h.user.uid
    runtime = "/run/user/%d" % uid
    h.ctl("start", "kcmd.socket")
    h.kinit()
    h.inside("install", "-d", "-m", "700", "-o", uid, "-g", uid, runtime)
    h.systemd.write("manager.service", """\
[Service]
Type=notify
User=%d
Delegate=yes
Environment=XDG_RUNTIME_DIR=%s HOME=%s KRB5_CONFIG=%s
ExecStart=/lib/systemd/systemd --user --unit=sockets.target
StandardOutput=append:%s
StandardError=append:%s
""" % (uid, runtime, h.user.home, t.krb5_conf, h.log, h.log))
    h.ctl("start", "manager.service")
    env = {"XDG_RUNTIME_DIR": runtime}
    h.as_user("systemctl", "--user", "start", "kcmfs", env=env)
    eq(len(h.mounts(runtime + "/kcmfs")), 1)
    h.reads(runtime + "/kcmfs")
    # nobody else, root included, gets in
    r = h.inside("ls", runtime + "/kcmfs", code=None)
    check(r.code != 0, "root may look into a user's private mount")
    h.as_user("systemctl", "--user", "stop", "kcmfs", env=env)
    eq(h.mounts(runtime + "/kcmfs"), [])
    # by hand, and ended by its owner
    h.as_user("kcmfs", runtime + "/kcmfs", env=env)
    h.reads(runtime + "/kcmfs")
    h.as_user("fusermount3", "-u", runtime + "/kcmfs", env=env)
    eq(h.mounts(runtime + "/kcmfs"), [])
    h.ctl("stop", "manager.service")
