"""A stand-in for systemd: a socket to pass and the descriptor store."""
import array
import os
import signal
import socket
import subprocess
import sys

import harness
from util import eq, has

KEPT = "kcmd-caches"
# Starts a program as systemd does, with these descriptors from 3 on; what is
# to be in its environment alone comes as FOR_IT_NAME.
LAUNCH = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 100)
       for n in sys.argv[1].split(",")]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
    os.close(fd)
for name in [n for n in os.environ if n.startswith("FOR_IT_")]:
    os.environ[name[7:]] = os.environ.pop(name)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)),
                  LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


class Systemd:
    """As much of it as kcmd sees: a socket to pass, a place for messages,
    the descriptor store."""

    def __init__(self, t, env=None):
        self.t, self.env = t, env or {}
        self.dir = os.path.join(t.dir, "systemd")
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o755)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.dir + "/notify")
        os.chmod(self.dir + "/notify", 0o777)
        self.notify.settimeout(20)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.dir + "/kcm")
        os.chmod(self.dir + "/kcm", 0o666)
        self.listener.listen(64)
        self.log = self.dir + "/log"
        self.kept = None
        self.process = None
        t.cleanup(self.end)

    def start(self, kept=None):
        self.launch(kept)
        self.until("READY=1")

    def launch(self, kept=None):
        fds, names = [self.listener.fileno()], ["kcm.socket"]
        if kept is not None:
            fds.append(kept)
            names.append(KEPT)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, ",".join(map(str, fds)),
                 ":".join(names), os.path.join(harness.BUILD, "kcmd"), "-f"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=fds, start_new_session=True,
                env=dict(os.environ, NOTIFY_SOCKET=self.dir + "/notify",
                         **{"FOR_IT_" + k: v for k, v in self.env.items()}))

    def message(self):
        """The next message and the descriptor that came with it, or None."""
        data, control, _, _ = self.notify.recvmsg(
            4096, socket.CMSG_SPACE(array.array("i").itemsize))
        fds = array.array("i")
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload)
        return data.decode(), fds[0] if fds else None

    def until(self, wanted):
        """Messages up to one with this line in it: that one's descriptor."""
        while True:
            text, fd = self.message()
            lines = text.split("\n")
            if "FDSTOREREMOVE=1" in lines:
                has(text, "FDNAME=" + KEPT)
                os.close(self.kept)
                self.kept = None
            if wanted in lines:
                if fd is not None:
                    has(text, "FDNAME=" + KEPT)
                return fd

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.kept = self.until("FDSTORE=1")
        eq(self.process.wait(20), 0, "status")

    def text(self):
        with open(self.log) as f:
            return f.read()

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for s in (self.notify, self.listener):
            s.close()
        if self.kept is not None:
            os.close(self.kept)


def under_systemd(t, env=None):
    s = Systemd(t, env)
    t.kcm_socket = s.dir + "/kcm"
    return s


def everything(t, u):
    """All that a client can see of this user's caches but credential ids."""
    w = t.wire(u)
    return (w.caches(), w.default(), {
        name: (w.principal(name), w.offset(name), w.creds(name))
        for name in w.caches().values()})
