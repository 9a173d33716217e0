"""A hunt for stale and torn reads: a writer changes a cache thousands of
times, through KCM and through its file, while readers open it in every way
there is.  What was finished before an open began must be in what it reads,
and what it reads must be one state of the cache."""
import ctypes
import os
import random
import threading
import time

import ccfile
from harness import ALL, test
from made import made_cache
from tree import paths_of
from util import Failed, check, run

libc = ctypes.CDLL(None, use_errno=True)
MS_BIND = 4096

CHANGES = 2000
SECONDS = 20
GENERATION = 24                 # changes until the cache is made anew
LEAST = {"sssd": 50}            # where a change takes milliseconds


def cred(u, generation, number):
    """Its name tells which state of the cache it belongs to."""
    made = ccfile.ticket(u.principal, "g%d/n%d@EXAMPLE.COM"
                         % (generation, number), 1700000000 + number)
    return ccfile.replace(made, ticket=made.ticket.ljust(900, b"t"))


def state_of(u, data):
    """(generation, number of tickets) of a file's bytes; generation None
    when it has none.  Fails for a file that never was."""
    cache = ccfile.parse(data)
    check(str(cache.principal) == u.principal, "principal %s",
          cache.principal)
    live = [c for c in cache.creds if c.endtime or not c.authtime]
    names = [tuple(int(part[1:]) for part in c.server.parts) for c in live]
    generations = {generation for generation, _ in names}
    check(len(generations) <= 1, "torn: generations %s in one image",
          generations)
    numbers = sorted(number for _, number in names)
    check(numbers == list(range(len(numbers))), "torn: tickets %s", numbers)
    return (generations.pop() if generations else None), len(numbers)


class Hunt:
    def __init__(self, u):
        self.u = u
        self.done = threading.Event()
        self.state = (0, 0)     # finished: generation, its tickets
        self.trouble, self.reads = [], {}

    def judge(self, before, data):
        """before is the state when the open began."""
        generation, count = state_of(self.u, data)
        wanted, least = before
        if least == 0:          # it was being made anew
            check(generation is None or generation >= wanted - 1,
                  "stale: generation %s when %s was made", generation, wanted)
            return
        now = self.state[0]
        if generation is None:
            check(now > wanted, "stale: empty, generation %d had %d tickets",
                  wanted, least)
            return
        check(generation >= wanted, "stale: generation %d after %d",
              generation, wanted)
        check(generation > wanted or count >= least,
              "stale: %d tickets of generation %d, there were %d", count,
              generation, least)

    def read(self, form, opened):
        """One reader's life; opened() gives a descriptor."""
        chunk = random.Random(form)
        self.reads[form] = 0
        while not self.done.is_set() and not self.trouble:
            before = self.state
            try:
                fd = opened()
                try:
                    parts = []
                    while part := os.read(fd, chunk.choice((700, 5000,
                                                            1 << 20))):
                        parts.append(part)
                finally:
                    os.close(fd)
                self.judge(before, b"".join(parts))
                self.reads[form] += 1
            except FileNotFoundError as e:
                # sssd has none for a moment at INITIALIZE
                if before[1] and self.state[0] == before[0]:
                    self.trouble.append("%s: %r" % (form, e))
            except Exception as e:
                self.trouble.append("%s: %r" % (form, e))


def forms(t, u, path):
    """{name: opener} of the ways to open the file."""
    bound = os.path.join(t.dir, "bound")
    open(bound, "w").close()
    held = u.call(os.open, path, os.O_PATH)
    directory = u.call(os.open, os.path.dirname(path), os.O_PATH)
    t.cleanup(lambda: (os.close(held), os.close(directory)))
    # A bind mount of what the user sees, by root's right; mount(8) would
    # look for the path as root, who does not see it.
    if libc.mount(b"/proc/self/fd/%d" % held, bound.encode(), None,
                  ctypes.c_ulong(MS_BIND), None):
        raise OSError(ctypes.get_errno(), "mount --bind")
    t.cleanup(lambda: run(["umount", "-l", bound]))
    return {
        "path": lambda: os.open(path, os.O_RDONLY),
        "openat": lambda: os.open("cache", os.O_RDONLY, dir_fd=directory),
        "proc": lambda: os.open("/proc/self/fd/%d" % held, os.O_RDONLY),
        "bind": lambda: os.open(bound, os.O_RDONLY),
        "append": lambda: os.open(path, os.O_RDWR | os.O_APPEND),
    }


def append(u, path, data):
    """A FILE client's store."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def change(hunt, t, wire, name, path, number):
    """The next change: a ticket more, or a cache of one ticket."""
    u = hunt.u
    generation, count = hunt.state
    if count >= GENERATION:
        generation, count = generation + 1, 0
        hunt.state = (generation, 0)
        answer = wire.init(name, ccfile.Writer().principal(
            ccfile.princ(u.principal)).out)
        check(not answer.code, "INITIALIZE: %r", answer)
    data = cred(u, generation, count).bytes()
    if number % 2 and count:
        append(u, path, data)
    else:
        answer = wire.store(name, data)
        check(not answer.code, "STORE: %r", answer)
    hunt.state = (generation, count + 1)


@test(*ALL)
def neither_stale_nor_torn(t):
    m, u = t.mount(), t.user(principal=None)
    u.principal = "u@EXAMPLE.COM"
    name = made_cache(t, u, [], offset=0)
    path = paths_of(t, m, u, name).forms["by-name"]
    hunt, wire = Hunt(u), t.wire(u)
    readers = [threading.Thread(target=u.call,
                                args=(hunt.read, form, opened))
               for form, opened in forms(t, u, path).items()]
    end = time.monotonic() + SECONDS
    made = 0

    def write():
        nonlocal made
        while made < CHANGES and time.monotonic() < end and \
                not hunt.trouble:
            change(hunt, t, wire, name, path, made)
            made += 1
    for reader in readers:
        reader.start()
    try:
        u.call(write)
    finally:
        hunt.done.set()
        for reader in readers:
            reader.join()
    if hunt.trouble:
        raise Failed("after %d changes: %s" % (made, hunt.trouble[:3]))
    check(made >= LEAST.get(t.on, 200), "only %d changes", made)
    check(all(hunt.reads.values()), "reads: %s", hunt.reads)
