"""A systemd of a test's own: PID 1 of namespaces made for it.

It sees the file system as the test does, with /run, /tmp and cgroup trees of
its own, and knows no unit but those that are under test.
"""
import os
import signal
import subprocess

from util import Failed, Skip, run, tail, wait_for

SYSTEMD = "/lib/systemd/systemd"

# Nothing of the host is touched: /run, /tmp and /var/tmp are its own, of
# cgroups the name= hierarchy and devices (DeviceAllow=) alone are used (v2
# where there is nothing else), and no unit of the host is known, so that
# nothing is started that cleans, loads or configures anything.
TARGETS = ("sysinit", "basic", "sockets", "shutdown", "umount", "local-fs",
           "multi-user", "default", "remote-fs", "local-fs-pre", "final",
           "remote-fs-pre", "network", "network-online", "tests", "timers",
           "paths", "slices")
START = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/user /run/generators
mkdir /run/tests && mount --bind "$2" /run/tests
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mkdir -p "$2"
mount --bind /run/tests "$2"
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
if [ -n "$1" ]; then
    mount -t overlay -o "lowerdir=$1/usr:/usr" overlay /usr
    cp "$1"/usr/lib/systemd/system/kcm* /run/systemd/system
fi
for name in $3; do
    printf '[Unit]\nDefaultDependencies=no\n' \
        >/run/systemd/system/$name.target
done
# What is left of the host can be looked at only.
for path in / /dev /proc/sys /sys; do
    [ $path = / ] || mount --rbind $path $path
    mount -o remount,bind,ro $path
done
export container=tests
export SYSTEMD_UNIT_PATH=/run/systemd/system
export SYSTEMD_GENERATOR_PATH=/run/generators
export SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/generators
exec /lib/systemd/systemd --system --unit=tests.target
"""


class Systemd:
    def __init__(self, t, installed=None):
        """installed: a DESTDIR whose usr is shown over /usr."""
        if not os.access(SYSTEMD, os.X_OK):
            raise Failed("systemd is not installed (make deps-test)")
        self.t, self.log = t, os.path.join(t.dir, "systemd.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc",
                 "--fork", "--kill-child=KILL", "sh", "-c", START, "sh",
                 installed or "", os.environ["KCMFS_TESTS_INSIDE"],
                 " ".join(TARGETS)],
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
            # PID 1 of its namespace: everything there ends with it
            os.kill(self._child() or self.process.pid, signal.SIGKILL)
            self.process.wait()
