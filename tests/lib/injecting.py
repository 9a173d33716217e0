"""Failures on demand: tests/inject/inject.c, built and told what to do; and
what a process holds, before and after."""
import collections
import errno
import mmap
import os
import re
import struct

import harness
from util import Failed, check, run, wait_for

(MEMORY, LARGE, SOCKETS, IDS, FILES, LOOP, CHANCE, ACCEPT,
 LATE) = range(1, 10)
FITTING = {
    MEMORY: {errno.ENOMEM, errno.EIO},
    LARGE: {errno.ENOMEM, errno.EIO},
    SOCKETS: {errno.EIO, errno.ECONNREFUSED, errno.EMFILE, errno.ENOMEM,
              errno.ETIMEDOUT, errno.EFBIG},
    IDS: {errno.EPERM},
    CHANCE: set(),
}
# test_failing, which makes allocations fail in one process, runs under it.
OWN_ALLOCATOR = "malloc() is the sanitizer's: it cannot be made to fail"
MOST = 400              # failures of one kind on one operation


class Injector:
    """The library, built, and the file through which it is told."""

    def __init__(self, t):
        self.library = os.path.join(t.dir, "inject.so")
        run(["cc", "-shared", "-fPIC", "-O1", "-o", self.library,
             os.path.join(harness.REPO, "tests", "inject", "inject.c"),
             "-ldl"])
        path = os.path.join(t.dir, "inject")
        with open(path, "wb") as f:
            f.write(bytes(16))
        os.chmod(path, 0o666)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 16)
        known = os.path.join(t.dir, "lsan")
        with open(known, "w") as f:
            f.write("leak:dl_open_worker_begin\n")   # known, but through us
        # Before AddressSanitizer's library, whose malloc() it calls.
        self.env = {"LD_PRELOAD": self.library, "INJECT_FILE": path,
                    "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "")
                    + ":verify_asan_link_order=0"
                    ":fast_unwind_on_malloc=0",
                    "LSAN_OPTIONS": os.environ.get("LSAN_OPTIONS", "")
                    + ":suppressions=" + known}

    def arm(self, kind, number, all_after=False):
        """The call of that number fails, or that one and all after it."""
        self.map[4:16] = struct.pack("=iII", number, 0, all_after)
        self.map[0:4] = struct.pack("=I", kind)

    def failed(self):
        return struct.unpack("=I", self.map[8:12])[0]

    def disarm(self):
        """True if the failure was reached."""
        self.map[0:4] = bytes(4)
        return self.failed() > 0


def until_unreached(attempt, what="it"):
    """attempt(number) has the call of that number fail, and says whether it
    was reached.  How many were."""
    for number in range(1, MOST):
        if not attempt(number):
            return number - 1
    raise Failed("%s does not come to an end" % what)


def each_kind(kinds, attempt):
    """The same of attempt(kind, number); of each kind something must fail.
    (A sanitizer's memory is all of one kind.)"""
    for kind in kinds:
        if kind == LARGE and harness.sanitizer():
            continue
        check(until_unreached(lambda number: attempt(kind, number)),
              "nothing of kind %d was made to fail", kind)


def descriptors(pid):
    """What the process has open, counted by kind."""
    found = collections.Counter()
    path = "/proc/%d/fd" % pid
    for fd in os.listdir(path):
        try:
            what = os.readlink(os.path.join(path, fd))
        except FileNotFoundError:
            continue            # closed meanwhile
        found[re.sub(r"\d+", "N", what)] += 1
    return found


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


class Held:
    """What a process has open, and its threads; it is to hold no more later.

    growing: threads may be started that stay.  Each has one eventfd at most,
    and there are two besides.
    """

    def __init__(self, pid, growing=False):
        self.pid, self.growing = pid, growing
        self.before, self.threads = self._now()

    def _now(self):
        return descriptors(self.pid), threads(self.pid)

    def _more(self):
        now, count = self._now()
        more = now - self.before
        count -= self.threads
        if self.growing:
            more["anon_inode:[eventfd]"] = \
                now["anon_inode:[eventfd]"] - (count + self.threads + 2)
            count = 0
        more["thread"] = count
        return +more

    def check(self, after):
        """What is under way ends first: an abandoned connection, say."""
        try:
            wait_for("what it held to be given back",
                     lambda: not self._more())
        except Failed:
            more = self._more()
            check(not more, "left after %s: %s", after, dict(more))
