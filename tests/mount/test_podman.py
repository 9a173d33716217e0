"""Containers of podman, rootless and rootful, and of systemd-nspawn: the root
directory is this system's own /usr, so that no image is fetched."""
import os
import shutil

from harness import REAL, REPO, test
from util import Failed, check, eq, has, lacks, run

PODMAN = os.path.join(REPO, "examples/container/podman.sh")
NSPAWN = os.path.join(REPO, "examples/container/nspawn.sh")
TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"

# In a mount namespace of its own: cgroups of the one kind that crun and
# systemd-nspawn take (the host's are mixed where tests run in some
# containers), the user's line in subuid, and kcmfs at its usual place.
HOST = r"""
set -e
mount --make-rprivate /
if grep -q 'cgroup.*name=systemd' /proc/self/mounts; then
    umount -l /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/kcmfs
mkdir -m 700 /run/own
chown "$3" /run/own
mount --bind "$1" /run/kcmfs
for name in subuid subgid; do
    [ -e /etc/$name ] || continue
    mount --bind "$2" /etc/$name
done
shift 3
exec "$@"
"""


class Box:
    """What a container gets for its root: this system's programs, no
    configuration of Kerberos, nothing in /run."""

    def __init__(self, t, mount):
        for program in ("podman", "crun", "newuidmap", "systemd-nspawn"):
            if not shutil.which(program):
                raise Failed("%s is not installed (make deps-test)" % program)
        self.t, self.mount = t, mount
        self.root = os.path.join(t.dir, "root")
        for name in ("", "etc", "proc", "sys", "dev", "run", "run/kcmfs",
                     "tmp", "usr", "var"):
            os.mkdir(os.path.join(self.root, name))
        for name in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + name, os.path.join(self.root, name))
        for name in ("passwd", "group"):
            shutil.copy("/etc/" + name, self.root + "/etc")
        run(["mount", "--bind", "/usr", self.root + "/usr"])
        run(["mount", "-o", "remount,bind,ro", self.root + "/usr"])
        t.cleanup(lambda: run(["umount", self.root + "/usr"]))

    def conf(self):
        """A realm, and no word of KCM."""
        path = self.root + "/etc/krb5.conf"
        self.t.realm.write_conf(path)
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(text.replace("    default_cc_type = KCM\n", ""))

    def host(self, *command, uid=0, ids="", env=None, **options):
        """A command on a host that has kcmfs at /run/kcmfs, and a directory
        /run/own of that uid."""
        names = os.path.join(self.t.dir, "subids")
        with open(names, "w") as f:
            f.write(ids)
        return run(["unshare", "--mount", "--pid", "--fork", "--kill-child",
                    "--mount-proc", "sh", "-c", HOST, "sh", self.mount.path,
                    names, uid, *command],
                   env=dict({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                             "LC_ALL": "C"}, **(env or {})), cwd="/",
                   **options)

    def podman(self, *arguments, user=None, run_args="", env=None, **options):
        """podman.sh, which stores nothing outside of the test's directory."""
        home = user.home if user else self.t.dir
        identity = ["setpriv", "--reuid", user.uid, "--regid", user.gid,
                    "--clear-groups"] if user else []
        if user:
            for name in ("", "etc", "run", "dev"):      # podman adds to them
                os.chown(os.path.join(self.root, name), user.uid, user.gid)
        script = os.path.join(self.t.dir, "podman.sh")
        shutil.copy(PODMAN, script)
        os.chmod(script, 0o755)
        ids = "u%d:%d:65536\n" % (user.uid, 1000000) if user else ""
        return self.host(
            *identity, script, *arguments, uid=user.uid if user else 0,
            ids=ids, env=dict({
                "HOME": home, "XDG_RUNTIME_DIR": "/run/own",
                "PODMAN_ARGS": "--root %s/storage --runroot /run/own/root "
                "--storage-driver vfs --cgroup-manager cgroupfs "
                "--events-backend none" % home,
                "RUN_ARGS": "--ulimit nofile=1024:1024 --ulimit "
                "nproc=1000:1000 --network host --cgroups disabled " +
                run_args}, **(env or {})), **options)


@test(*REAL)
def podman_rootless(t):
    """Root inside is the user: reads, and stores what KCM has outside."""
    m, u, other = t.mount(), t.user(), t.user(principal=None)
    u.kinit()
    box = Box(t, m)
    box.conf()
    r = box.podman("--rootfs", box.root, "sh", "-c", "id -u; klist; ls /run; "
                   "kvno -q svc1/host.example.com", user=u)
    eq(r.out[:2], "0\n", "uid inside: %s" % r)
    has(r.out, u.principal)
    has(r.out, TGT)
    lacks(r.out, "heim_org")
    check("svc1/host.example.com@EXAMPLE.COM" in u.klist()[1],
          "outside: %s\n%s", u.klist(), r)
    # as the same uid as outside, too
    out = box.podman("--rootfs", box.root, "sh", "-c", "id -u; klist", user=u,
                     run_args="--userns=keep-id").out
    has(out, "%d\n" % u.uid)
    has(out, TGT)
    # another uid of the container is nobody out here
    r = box.podman("--rootfs", box.root, "sh", "-c", "id -u; klist", user=u,
                   run_args="--user 77:77 --passwd=false", code=None)
    eq(r.out[:3], "77\n", "uid inside: %s" % r)
    lacks(r.out, TGT)
    # nor has another user of the host more in a container
    r = box.podman("--rootfs", box.root, "klist", user=other, code=None)
    has(r.err, "No credentials cache")


@test(*REAL)
def podman_rootful(t):
    """Root out here is root in there; --user is that user."""
    m, u = t.mount(), t.user()
    u.kinit()
    box = Box(t, m)
    box.conf()
    r = box.podman("--rootfs", box.root, "sh", "-c", "klist; ls -a /run/kcmfs",
                   code=None)
    lacks(r.out, TGT)
    lacks(r.out, str(u.uid))
    r = box.podman("--rootfs", box.root, "sh", "-c",
                   "klist; kvno -q svc2/host.example.com",
                   env={"KCM_UID": str(u.uid)})
    has(r.out, TGT)
    check("svc2/host.example.com@EXAMPLE.COM" in u.klist()[1],
          "outside: %s", u.klist())


@test(*REAL)
def command_in_nspawn(t):
    """A FILE client in a systemd-nspawn container, as a user and as root."""
    m, u = t.mount(), t.user()
    u.kinit()
    box = Box(t, m)
    box.conf()
    options = ["--register=no", "--keep-unit", "--settings=no",
               "--console=pipe", "--as-pid2", "--resolv-conf=off",
               "--timezone=off", "--link-journal=no"]
    out = box.host(NSPAWN, box.root, *options, "--user=u%d" % u.uid,
                   "sh", "-c", "klist; ls /run; kvno -q "
                   "svc3/host.example.com").out
    has(out, TGT)
    lacks(out, "heim_org")
    check("svc3/host.example.com@EXAMPLE.COM" in u.klist()[1],
          "outside: %s", u.klist())
    r = box.host(NSPAWN, box.root, *options, "sh", "-c",
                 "klist; ls -a /run/kcmfs", code=None)
    lacks(r.out, TGT)
    lacks(r.out, str(u.uid))
