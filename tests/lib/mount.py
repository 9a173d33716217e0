"""A kcmfs mount of a test: start, ready, log, end; and what must hold then."""
import base64
import os
import re
import signal
import subprocess

from util import (Failed, bind_mount, check, end_process, run, tail,
                  wait_for)

BAD_LOG = re.compile(
    r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|runtime error:|"
    r"Assertion .* failed|core dumped", re.I)


def mounts():
    """[(source, mount point, type, options)] of our namespace."""
    with open("/proc/self/mounts") as f:
        return [(s.split(" ")[0],
                 s.split(" ")[1].encode().decode("unicode_escape"),
                 s.split(" ")[2], s.split(" ")[3]) for s in f]


def mounted(path):
    return [m for m in mounts() if m[1] == path]


def bind(t, u, path):
    """A bind mount of what the user sees there, by root's right; mount(8)
    would look for the path as root, who does not see it."""
    bound = os.path.join(t.dir, "bound%d" % len(os.listdir(t.dir)))
    if u.call(os.path.isdir, path):
        os.mkdir(bound)
    else:
        open(bound, "w").close()
    held = u.call(os.open, path, os.O_PATH)
    try:
        bind_mount("/proc/self/fd/%d" % held, bound)
    finally:
        os.close(held)
    t.cleanup(lambda: run(["umount", "-l", bound]))
    return bound


class Mount:
    """kcmfs -f on path; arguments are its options and SOURCE."""

    def __init__(self, binary, path, log, arguments, env, uid=None):
        self.binary, self.path, self.log = binary, path, log
        self.arguments, self.env, self.uid = arguments, env, uid
        self.process = None

    def __str__(self):
        return self.path

    def __truediv__(self, name):
        return os.path.join(self.path, name)

    def start(self, says="mounted on"):
        """Until it is mounted, and its log says so ("": logs elsewhere)."""
        if not os.access(self.binary, os.X_OK):
            raise Failed("%s is not built (make)" % self.binary)
        identity = {} if self.uid is None else {
            "user": self.uid, "group": self.uid, "extra_groups": []}
        with open(self.log, "ab"):
            before = len(self.log_text())
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "-f", *self.arguments, self.path],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.env, cwd="/", start_new_session=True, **identity)

        def ready():
            if self.process.poll() is not None:
                raise Failed("kcmfs ended with status %d at start:\n%s" % (
                    self.process.returncode, tail(self.log)))
            # A dead mount that is to be cleaned up looks mounted too.
            return says in self.log_text()[before:] and any(
                m[2] == "fuse.kcmfs" for m in mounted(self.path))
        wait_for("the mount", ready)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def log_text(self):
        with open(self.log, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def signal(self, sig):
        self.process.send_signal(sig)

    def kill(self):
        """A crash: the process goes, the mount stays, dead."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def detach(self):
        """Whatever is still mounted here, in whatever state, goes."""
        while mounted(self.path):
            subprocess.run(["umount", "-l", self.path], check=False,
                           stderr=subprocess.DEVNULL)

    def discard(self):
        """After a failed test: leave nothing, say nothing."""
        self.kill()
        self.detach()

    def finish(self, secrets=()):
        """The end of a good test: alive, clean log, clean unmount."""
        try:
            if self.process is None:
                return
            check(self.alive(), "kcmfs died (status %s):\n%s",
                  self.process.returncode, tail(self.log))
            code = end_process(self.process, signal.SIGTERM)
            check(code == 0, "kcmfs ended with status %d on SIGTERM:\n%s",
                  code, tail(self.log))
            check(not mounted(self.path), "still mounted after SIGTERM")
            self.check_log(secrets)
        finally:
            self.discard()

    def check_log(self, secrets=()):
        text = self.log_text()
        bad = BAD_LOG.search(text)
        check(not bad, "the log has %r:\n%s", bad and bad.group(0),
              tail(self.log, 80))
        leaked = find_secret(text.encode("utf-8", "replace"), secrets)
        check(not leaked, "the log shows a secret (%s)", leaked)


def find_secret(text, secrets):
    """Which of the byte strings occurs in text, raw or in a usual coding.

    A piece of 8 bytes is enough to call it a leak, so the start, middle and
    end of each secret are looked for.
    """
    flat = re.sub(rb"[^0-9a-f]", b"", text.lower())
    for secret in secrets:
        middle = len(secret) // 2
        for piece in (secret[:8], secret[middle:middle + 8], secret[-8:]):
            if len(piece) < 8 or len(set(piece)) < 4:
                continue        # zeros and the like occur by themselves
            if piece in text:
                return "raw"
            if piece.hex().encode() in flat:
                return "hex"
        if len(secret) >= 12 and base64.b64encode(secret[:12]) in text:
            return "base64"
    return None
