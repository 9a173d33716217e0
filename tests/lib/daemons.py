"""The KCM daemons, each private: its own socket, state and namespace.

All of them put their socket at DIR/run/.heim_org.h5l.kcm-socket, so that
DIR/run bound over /run is what Heimdal's tools need (their path is compiled
in); see users.User.heimdal.
"""
import os
import signal
import subprocess

from mount import BAD_LOG
from util import (HEIMDAL_SOCKET, Failed, check, connectable, end_process,
                  tail, wait_for)

ALL = ("heimdal", "sssd", "kcmd", "embedded")


class Daemon:
    """start, stop (SIGTERM), kill (SIGKILL), restart; state in self.dir."""
    name = "?"
    keeps_state = False         # over a restart

    def __init__(self, directory, conf):
        self.dir = directory
        self.run_dir = os.path.join(directory, "run")
        self.socket = os.path.join(self.run_dir, HEIMDAL_SOCKET)
        self.conf = conf            # krb5.conf
        self.log = os.path.join(directory, "log")
        self.process = None
        self.followers = []         # proxies, down while it is
        os.makedirs(self.run_dir, exist_ok=True)
        os.chmod(directory, 0o755)

    def start(self):
        self.process = self._spawn()

        def ready():
            if self.process.poll() is not None:
                raise Failed("%s ended with status %d at start:\n%s" % (
                    self.name, self.process.returncode, tail(self.log)))
            return connectable(self.socket)
        wait_for("%s's socket" % self.name, ready)
        for proxy in self.followers:
            proxy.start()
        return self

    def _popen(self, command):
        with open(self.log, "ab") as log:
            # a session of its own: a daemon may signal its process group
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
                env=dict(os.environ, KRB5_CONFIG=self.conf, LC_ALL="C"))

    def stop(self):
        self._bring_down(signal.SIGTERM)

    def kill(self):
        self._bring_down(signal.SIGKILL)

    def pid(self):
        """Of the process that serves."""
        return self.process.pid

    def freeze(self):
        os.kill(self.pid(), signal.SIGSTOP)

    def thaw(self):
        os.kill(self.pid(), signal.SIGCONT)

    def _bring_down(self, sig):
        """Also where it ended by itself: its followers do not know yet."""
        for proxy in self.followers:
            proxy.refuse()
        if self.running():
            self._end(sig)
        for proxy in self.followers:
            proxy.stop()

    def _end(self, sig):
        end_process(self.process, sig)

    def restart(self):
        self.stop()
        return self.start()

    def check(self):
        """Did it do what none of ours may, now or when it ended?"""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def assert_alive(self):
        if not self.running():
            raise Failed("%s is dead:\n%s" % (self.name, tail(self.log)))


class Heimdal(Daemon):
    name = "heimdal"

    def _spawn(self):
        # exec all the way: the pid is kcm's
        return self._popen([
            "unshare", "-m", "--propagation", "private", "sh", "-c",
            'mount --bind "$1" /run && exec /usr/sbin/kcm',
            "sh", self.run_dir])


class Sssd(Daemon):
    name = "sssd"
    keeps_state = True
    # It clears two buffers of 10 MiB for each request.  Kept by malloc they
    # cost 1 ms; fresh pages from the kernel each time cost some machines 300.
    malloc = "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456"

    def __init__(self, directory, conf, *lines):
        """lines: more of [kcm], as "max_uid_ccaches = 4"."""
        super().__init__(directory, conf)
        self.keeps_state = not any("memory" in line for line in lines)
        for d in ("etc", "lib/db", "lib/secrets"):
            os.makedirs(os.path.join(directory, d), exist_ok=True)
        path = os.path.join(directory, "etc", "sssd.conf")
        with open(path, "w") as f:
            f.write("[sssd]\nservices =\n[kcm]\nsocket_path = %s\n"
                    % self.socket)
            # not set twice: which counts then is not said
            if not any("responder_idle_timeout" in line for line in lines):
                f.write("responder_idle_timeout = 0\n")
            f.writelines(line + "\n" for line in lines)
        os.chmod(path, 0o600)

    def _spawn(self):
        # sssd_kcm ends with its parent, so the shell stays and waits
        pid = os.path.join(self.dir, "pid")
        if os.path.exists(pid):
            os.unlink(pid)
        process = self._popen([
            "unshare", "-m", "--propagation", "private", "sh", "-c",
            'mount --bind "$1/lib" /var/lib/sss && '
            'mount --bind "$1/etc" /etc/sssd && '
            'sssd --genconf-section=kcm && { '
            + self.malloc +
            ' /usr/libexec/sssd/sssd_kcm --uid 0 --gid 0 --logger=stderr -d 0 &'
            ' echo $! >"$1/pid.new"; mv "$1/pid.new" "$1/pid"; wait $!; }',
            "sh", self.dir])
        wait_for("sssd_kcm's pid", lambda: os.path.exists(pid) or
                 process.poll() is not None)
        return process

    def pid(self):
        with open(os.path.join(self.dir, "pid")) as f:
            return int(f.read())

    def _end(self, sig):
        os.kill(self.pid(), sig)
        # the shell ends by itself, with its child's status
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed("sssd_kcm did not end on signal %d" % sig) from None


class Kcmd(Daemon):
    name = "kcmd"

    def __init__(self, directory, conf, binary, *options):
        super().__init__(directory, conf)
        self.binary, self.options = binary, options
        self.looked = 0             # so much of the log was checked

    def _spawn(self):
        if not os.access(self.binary, os.X_OK):
            raise Failed("%s is not built (make)" % self.binary)
        return self._popen([self.binary, "-f", "--socket=" + self.socket,
                            *self.options])

    def stop(self):
        super().stop()
        self.check()

    def _end(self, sig):
        code = end_process(self.process, sig)
        self.check()
        check(sig == signal.SIGKILL or code == 0,
              "kcmd ended with status %d on signal %d:\n%s", code, sig,
              tail(self.log))

    def check(self):
        try:
            with open(self.log, "rb") as f:
                f.seek(self.looked)
                text = f.read().decode("utf-8", "replace")
                self.looked = f.tell()
        except FileNotFoundError:
            return                  # never started
        bad = BAD_LOG.search(text)
        check(not bad, "kcmd's log has %r:\n%s", bad and bad.group(0),
              tail(self.log, 80))
        code = self.process.returncode if not self.running() else 0
        check(code >= 0 or code == -signal.SIGKILL,
              "kcmd died by signal %d:\n%s", -code, tail(self.log))
