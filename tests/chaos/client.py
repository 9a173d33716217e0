#!/usr/bin/python3
"""One client of a mount on which everything goes wrong: see chaos.py.

usage: client.py DIRECTORY REALM SECONDS DEADLINE VOLATILE SEED

It works on the cache DIRECTORY/cache, of which it is the only writer, until
SECONDS are over or it gets SIGTERM, and keeps account: what was acknowledged
must be there, what failed may be there, anything else is a violation.  No
system call may take longer than DEADLINE.  VOLATILE (0 or 1): the daemon
forgets all when it ends.  Prints its account as JSON.
"""
import errno
import json
import os
import random
import signal
import sys
import time
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))

import ccfile                                           # noqa: E402

# What the daemon's absence, silence or end in the middle may look like.
TROUBLE = {errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EIO, errno.EINTR}
APPEND = os.O_RDWR | os.O_APPEND
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


class Client:
    def __init__(self, directory, realm, deadline, volatile, seed):
        self.dir, self.path = directory, directory + "/cache"
        self.deadline, self.volatile = deadline, volatile
        self.random = random.Random(seed)
        self.principal = ccfile.princ("u%d@%s" % (os.getuid(), realm))
        self.start = int(time.time()) - 10000
        self.serial = 0
        self.states = [set()]       # what the cache may hold, all of it
        self.maybe = set()          # and what may be there besides
        self.exists = False
        self.count, self.errors = Counter(), Counter()
        self.violations = []
        self.slowest = 0.0
        self.times = []             # of each 16th read that went well
        self.stores = []            # and of such appends

    # -- system calls

    def timed(self, function, *args):
        begin = time.monotonic()
        try:
            return function(*args)
        finally:
            took = time.monotonic() - begin
            self.slowest = max(self.slowest, took)
            if took > self.deadline:
                self.violation("%s%s took %.1f s", function.__name__,
                               [str(a)[:80] for a in args], took)

    def violation(self, text, *args):
        if len(self.violations) < 20:
            self.violations.append(text % args)

    def read(self):
        fd = self.timed(os.open, self.path, os.O_RDONLY)
        try:
            data = b""
            while part := self.timed(os.read, fd, 1 << 16):
                data += part
        finally:
            self.timed(os.close, fd)
        return data

    def put(self, path, flags, data):
        fd = self.timed(os.open, path, flags, 0o600)
        try:
            self.timed(os.write, fd, data)
        finally:
            self.timed(os.close, fd)

    # -- the account

    def ticket(self):
        self.serial += 1
        return ccfile.ticket(self.principal, "s%d@X" % self.serial,
                             self.start + self.serial)

    def cache(self, tickets):
        return ccfile.Cache(self.principal, tickets).bytes()

    def see(self, got):
        """What was read must be one of the states, perhaps with more."""
        fits = [s for s in self.states if s <= got and got <= s | self.maybe]
        if not fits:
            best = min(self.states, key=lambda s: len(s ^ got))
            self.violation("lost %s, strange %s", sorted(best - got)[:5],
                           sorted(got - best - self.maybe)[:5])
        self.states, self.maybe, self.exists = [set(got)], set(), True

    def forgotten(self):
        if not self.volatile and self.exists and all(self.states):
            self.violation("the cache is not there")
        self.states, self.maybe, self.exists = [set()], set(), False

    # -- what it does

    def do_read(self):
        begin = time.monotonic()
        data = self.read()
        if not data:                    # created, and then it failed
            self.forgotten()
            self.timed(os.unlink, self.path)
            return
        cache = ccfile.parse(data)
        if self.count["read"] % 16 == 0:
            self.times.append((begin, time.monotonic() - begin))
        self.see({str(c.server).split("@")[0] for c in cache.creds
                  if not ccfile_removed(c)})

    def do_append(self):
        ticket = self.ticket()
        name = "s%d" % self.serial
        begin = time.monotonic()
        try:
            self.put(self.path, APPEND, ticket.bytes())
        except OSError:
            self.maybe.add(name)
            raise
        if self.count["append"] % 16 == 0:
            self.stores.append((begin, time.monotonic() - begin))
        for state in self.states:
            state.add(name)

    def do_replace(self):
        tickets = [self.ticket() for _ in range(self.random.randint(1, 6))]
        new = {"s%d" % n for n in range(self.serial - len(tickets) + 1,
                                        self.serial + 1)}
        temp = "%s.%d" % (self.path, self.serial)
        self.put(temp, CREATE, self.cache(tickets))
        try:
            self.timed(os.rename, temp, self.path)
        except OSError:
            self.states.append(new)
            try:
                self.timed(os.unlink, temp)
            except OSError:
                pass
            raise
        self.states, self.maybe, self.exists = [new], set(), True

    def do_create(self):
        ticket = self.ticket()
        name = "s%d" % self.serial
        try:
            self.timed(os.mkdir, self.dir)
        except FileExistsError:
            pass
        try:
            self.put(self.path, CREATE, self.cache([ticket]))
        except FileExistsError:
            self.exists = True          # it was made the last time
            return
        except OSError:
            self.states.append({name})
            self.exists = True          # or not: read it
            raise
        self.states, self.maybe, self.exists = [{name}], set(), True

    def do_look(self):
        for name in ("principal", "info", "name", "info.json"):
            fd = self.timed(os.open, os.path.join(self.dir, name), os.O_RDONLY)
            try:
                self.timed(os.read, fd, 1 << 16)
            finally:
                self.timed(os.close, fd)
        top = os.path.dirname(os.path.dirname(self.dir))
        for where in ("by-name", "collection", ""):
            self.timed(os.listdir, os.path.join(top, where))
        self.timed(os.readlink, os.path.join(top, "default"))
        self.timed(os.listdir, os.path.join(self.dir, "tickets"))

    def step(self):
        certain = len(self.states) == 1 and len(self.maybe) < 20
        if not self.exists:
            kind = "create" if self.random.random() < 0.7 else "read"
        elif not certain:
            kind = "read"
        else:
            kind = self.random.choices(
                ("read", "append", "replace", "look"), (8, 5, 1, 1))[0]
            if len(self.states[0]) > 60:
                kind = "replace"
        try:
            getattr(self, "do_" + kind)()
            self.count[kind] += 1
        except OSError as e:
            self.errors[errno.errorcode.get(e.errno, e.errno)] += 1
            if e.errno in (errno.ENOENT, errno.ESTALE):
                if kind in ("read", "append"):
                    self.absent()
            elif e.errno not in TROUBLE:
                self.violation("%s: %s", kind, e)
            time.sleep(0.02)

    def absent(self):
        """ENOENT: surely, or did a way to it just close?"""
        try:
            self.timed(os.stat, self.path)
        except FileNotFoundError:
            self.forgotten()
        except OSError:
            pass

    def settle(self):
        """At the end, with the daemon up: the last word on what is there."""
        for _ in range(200):
            try:
                self.do_read()
                return
            except FileNotFoundError:
                self.forgotten()
                return
            except OSError as e:
                self.errors[errno.errorcode.get(e.errno, e.errno)] += 1
                time.sleep(0.1)
        self.violation("cannot be read at the end")

    def account(self):
        return {"count": self.count, "errors": self.errors,
                "violations": self.violations, "slowest": self.slowest,
                "state": sorted(self.states[0]), "exists": self.exists,
                "times": self.times, "stores": self.stores}


def ccfile_removed(cred):
    return cred.server.realm == b"X-RMED-CONF:" or \
        (cred.endtime == 0 and cred.authtime != 0)


def main():
    directory, realm, seconds, deadline, volatile, seed = sys.argv[1:]
    client = Client(directory, realm, float(deadline), volatile == "1", seed)
    # Blocked: it would interrupt a change, which may be done later than it is
    # looked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end and not signal.sigpending():
        client.step()
    signal.sigwait({signal.SIGTERM})    # the daemon may be down until then
    client.settle()
    print(json.dumps(client.account()))


if __name__ == "__main__":
    main()
