"""A systemd of a test's own: PID 1 of namespaces made for it.

It has a /run and cgroup trees of its own, starts no unit of the host, and
sees the file system as the test does.  Units are those of the installed
tree; overlay() shows an installed tree below /usr.
"""
import os
import subprocess

from util import Failed, Skip, end_process, run, tail, wait_for

SYSTEMD = "/lib/systemd/systemd"

# Only the name= hierarchy and devices (DeviceAllow=): what the host uses of
# cgroups is not touched.  Where there is cgroup v2 alone, that.
START = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/user
if grep -q 'cgroup.*name=systemd' /proc/self/mounts; then
    umount -l /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/devices
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup -o devices cgroup /sys/fs/cgroup/devices
else
    umount -l /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
[ -z "$1" ] || mount -t overlay -o "lowerdir=$1:/usr" overlay /usr
# A host's own units are nothing to us.
mount -t tmpfs tmpfs /etc/systemd/system
cat >/run/systemd/system/tests.target <<END
[Unit]
Description=nothing
DefaultDependencies=no
END
export container=tests
exec /lib/systemd/systemd --system --unit=tests.target
"""


class Systemd:
    def __init__(self, t, usr=None):
        """usr: a directory shown over /usr, as DESTDIR/usr."""
        if not os.access(SYSTEMD, os.X_OK):
            raise Failed("systemd is not installed (make deps-test)")
        self.t, self.log = t, os.path.join(t.dir, "systemd.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc",
                 "--fork", "--kill-child=KILL", "sh", "-c", START, "sh",
                 usr or ""],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        t.cleanup(self.stop)
        self.pid = None

        def up():
            if self.process.poll() is not None:
                raise Skip("systemd does not run in these namespaces: %s"
                           % tail(self.log))
            self.pid = self.pid or self._child()
            return self.pid and self.inside(
                "systemctl", "is-system-running",
                code=None).out.strip() in ("running", "degraded")
        try:
            wait_for("systemd", up)
        except Failed as e:
            raise Skip("%s\n%s" % (e, tail(self.log))) from None

    def _child(self):
        path = "/proc/%d/task/%d/children" % ((self.process.pid,) * 2)
        with open(path) as f:
            pids = f.read().split()
        if not pids:
            return None
        with open("/proc/%s/comm" % pids[0]) as f:
            return int(pids[0]) if f.read() == "systemd\n" else None

    def inside(self, *command, user=None, env=None, **options):
        """A command as seen from this systemd's host."""
        identity = ["setpriv", "--reuid", user, "--regid", user,
                    "--clear-groups"] if user else []
        return run(["nsenter", "-t", self.pid, "-m", "-p", "-u", "-i", "-C",
                    *identity, *command], env=env, cwd="/", **options)

    def write(self, name, text):
        """A unit, or a drop-in of one, below /run/systemd/system."""
        path = "/run/systemd/system/" + name
        self.inside("mkdir", "-p", os.path.dirname(path))
        self.inside("sh", "-c", 'cat >"$1"', "sh", path, input=text.encode())
        self.inside("systemctl", "daemon-reload")

    def ctl(self, *arguments, code=0):
        result = self.inside("systemctl", "--no-pager", *arguments, code=None)
        if code is not None and result.code != code:
            units = [a for a in arguments[1:] if "." in a]
            raise Failed("%s\n%s" % (result, self.inside(
                "systemctl", "--no-pager", "-l", "status", *units,
                code=None).out))
        return result.out

    def show(self, unit, name):
        return self.ctl("show", "-p", name, "--value", unit).strip()

    def stop(self):
        if self.process.poll() is None:
            end_process(self.process)
