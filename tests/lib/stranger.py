"""A host as somebody finds it who has read the README: default paths.

A mount namespace in which /run is the daemon's directory (so the KCM socket
is where clients look for it), krb5.conf names no socket, the programs are in
PATH, and the source tree is at hand; commands run there by bash.
"""
import os
import subprocess

import harness
from util import HEIMDAL_SOCKET, Failed, connectable, end_process, wait_for
from util import run as command

MOUNT = "/run/kcmfs"
EXAMPLES = os.path.join(harness.REPO, "examples")


class Host:
    def __init__(self, t, daemon=True):
        self.t = t
        self.dir = os.path.join(t.dir, "host")
        self.run_dir = os.path.join(self.dir, "run")
        self.programs = os.path.join(self.dir, "bin")
        for path in (self.dir, self.run_dir, self.programs):
            os.mkdir(path)
            os.chmod(path, 0o755)
        if daemon and t.kcm_run_dir and connectable(t.kcm_socket):
            # Everybody's socket here is the proxy's.
            self.run_dir = t.proxy(log=False, only="kcmfs").run_dir
        for name in ("kcmfs", "kcmd", "kcmls"):
            os.symlink(os.path.join(harness.BUILD, name),
                       os.path.join(self.programs, name))
        self.conf = os.path.join(self.dir, "krb5.conf")
        t.realm.write_conf(self.conf)
        self.holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             'mount --bind "$1" /run && exec sleep 3600', "sh", self.run_dir],
            stdin=subprocess.DEVNULL)
        t.cleanup(self.end)
        wait_for("the namespace", lambda: self.sh(
            "[ $(stat -c %i /run) = " + str(os.stat(self.run_dir).st_ino)
            + " ]", code=None).code == 0)

    def sh(self, script, user=None, env=None, **options):
        """The script, by `bash -e`, as root or as this user."""
        environment = {
            "PATH": self.programs + ":/usr/sbin:/usr/bin:/sbin:/bin",
            "KRB5_CONFIG": self.conf, "LC_ALL": "C", "TZ": "UTC",
            "HOME": user.home if user else self.dir,
            "USER": "u%d" % user.uid if user else "root",
            "KCMFS_BUILD": harness.BUILD, "EXAMPLES": EXAMPLES, **(env or {})}
        # sanitizers
        environment.update((k, v) for k, v in os.environ.items()
                           if k.endswith("SAN_OPTIONS"))
        become = ["setpriv", "--reuid", user.uid, "--regid", user.gid,
                  "--clear-groups"] if user else []
        return command(["nsenter", "-t", self.holder.pid, "-m", *become,
                        "bash", "-euc", 'cd "$HOME"\n' + script],
                       env=environment, **options)

    def mount(self):
        """What `make run` does once it is built; the output."""
        return self.sh('"$EXAMPLES/run.sh" ' + MOUNT).out

    def end(self):
        """Unmounts: kcmfs ends with its mount."""
        self.sh("! grep -q ' %s fuse.kcmfs ' /proc/mounts || umount %s" % (
            MOUNT, MOUNT))
        wait_for("the end of kcmfs", lambda: not self.served())
        end_process(self.holder)

    def served(self):
        """pids of kcmfs in this namespace."""
        mine = os.readlink("/proc/%d/ns/mnt" % self.holder.pid)
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/comm" % pid) as f:
                    name = f.read().strip()
                if name in ("kcmfs", "kcmd") and os.readlink(
                        "/proc/%s/ns/mnt" % pid) == mine:
                    found.append(int(pid))
            except OSError:
                pass
        return found
