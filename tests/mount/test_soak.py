"""Many uids, caches, tickets and open files for a while: nothing grows, and
the last minute is as quick as the first.

A few seconds with a few of each; `make soak S=3600` with 64 uids, 1,000
caches, 10,000 tickets in one of them and 1,000 open files.
"""
import json
import os
import random
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "chaos"))

import ccfile                                           # noqa: E402
import chaos                                            # noqa: E402
from harness import test                                # noqa: E402
from kcmwire import Client, z                           # noqa: E402
from tree import by_name                                # noqa: E402
from util import check, eq                              # noqa: E402
from writing import append, is_tombstone                # noqa: E402

LONG = "KCMFS_SOAK_S" in os.environ
SECONDS = float(os.environ.get("KCMFS_SOAK_S", "12"))
# So long it takes until there are all the threads that there will be, and
# each arena of malloc() has had the most that it will hold.
WARM = 900
USERS, CACHES, TICKETS, HANDLES = (64, 1000, 10000, 1000) if LONG else \
    (6, 60, 1000, 100)


class Cache:
    """One beside those that the clients work on, with a path and handles.

    It is read by its handles and anew, and appended to, in turns; from time
    to time it is made as it was, by KCM, and its handles are opened anew:
    they keep what was removed in the file.
    """
    BEFORE = 50                 # so many appends

    def __init__(self, t, m, u, number, tickets):
        self.socket, self.u = t.kcm_socket, u
        self.name = "%d:s%d" % (u.uid, number)
        self.path = m / ("by-name/%s/cache" % by_name(self.name))
        self.client = ccfile.princ(u.principal)
        self.start = int(time.time()) - 20000
        self.fds, self.serial = [], tickets
        self.creds = [self.ticket(i).bytes() for i in range(tickets)]
        self.size = len(ccfile.Cache(self.client).bytes()) + sum(
            map(len, self.creds))
        self.more = []          # appended since it was filled
        self.fill()

    def ticket(self, number):
        return ccfile.ticket(self.client, "h%d@X" % number,
                             self.start + number)

    def fill(self):
        with Client(self.socket, self.u.uid) as w:
            w.ok("REPLACE", z(self.name) + struct.pack(">i", 0)
                 + ccfile.Writer().principal(self.client).out
                 + struct.pack(">I", len(self.creds))
                 + b"".join(struct.pack(">I", len(c)) + c
                            for c in self.creds))
        self.more = []

    def start_over(self):
        count = len(self.fds)
        self.close()
        self.fill()
        for _ in range(count):
            self.hold()

    def close(self):
        while self.fds:
            os.close(self.fds.pop())

    def hold(self):
        self.fds.append(self.u.call(os.open, self.path, os.O_RDONLY))

    def read_held(self):
        """What it shows may be of before or after any change, but whole."""
        for fd in self.fds:
            data, at = b"", 0
            while part := os.pread(fd, 1 << 20, at):
                data, at = data + part, at + len(part)
            check(data[:2] == b"\5\4" and len(data) >= self.size,
                  "%s by a handle: %d bytes, not %d", self.name, len(data),
                  self.size)

    def read_anew(self):
        data = self.u.read(self.path)
        check(len(data) >= self.size and all(c in data for c in self.more),
              "%s lacks what was stored", self.name)
        if len(self.creds) < 100:
            live = [c.bytes() for c in ccfile.parse(data).creds
                    if not is_tombstone(c)]
            eq(sorted(live), sorted(self.creds + self.more), self.name)

    def append(self):
        if len(self.more) >= self.BEFORE:
            self.start_over()
        self.serial += 1
        self.more.append(self.ticket(self.serial).bytes())
        append(self.u, self.path, self.more[-1])


def prepare(t, m, users):
    caches = [Cache(t, m, u, i, TICKETS if u is users[0] and i == 0 else 5)
              for u in users for i in range(CACHES // len(users))]
    for i in range(HANDLES):
        caches[i % len(caches)].hold()
    return caches


def use(big, caches, chance, times):
    """One round; times: of what was done to the big one."""
    for what in (big.read_held, big.append, big.read_anew):
        begin = time.monotonic()
        what()
        times.setdefault("big " + what.__name__, []).append(
            (begin, time.monotonic() - begin))
    for cache in chance.sample(caches, min(20, len(caches))):
        cache.read_held()
    for cache in chance.sample(caches, min(20, len(caches))):
        cache.read_anew()
    for cache in chance.sample(caches, 4):
        cache.append()


def figures_of(t, m):
    return {**chaos.figures_of(m), **{
        "kcmd " + k: v for k, v in
        chaos.process_figures(t.daemon.process.pid).items()}}


def median(values):
    return sorted(values)[len(values) // 2] if values else 0


def grown(samples):
    """What is more in the last quarter than the second one allows, by the
    medians of both."""
    quarter = len(samples) // 4
    warm, last = [{key: median([s[key] for s in part]) for key in part[0]}
                  for part in (samples[quarter:2 * quarter],
                               samples[-quarter:])]
    print("soak: after warm-up %s, at the end %s" % (
        json.dumps(warm), json.dumps(last)), file=sys.stderr)
    found = []
    for key, value in warm.items():
        count = "threads" in key or "descriptors" in key
        factor, more = (1.2, 16) if count else (1.1, 8192)
        if key not in ("secret", "kcmd threads", "kcmd descriptors") and \
                SECONDS < WARM:
            factor = 2.5
        if last[key] > value * factor + more:
            found.append("%s: %d, then %d" % (key, value, last[key]))
    return found


def quick(values):
    """The quickest tenth: others on the machine do not show in it."""
    return sorted(values)[len(values) // 10] if values else 0


def slower(times, begin):
    """times: {what: [(when, how long)]}."""
    found = []
    for what, all_of_it in times.items():
        parts = ([took for at, took in all_of_it
                  if at < begin + SECONDS * 0.3],
                 [took for at, took in all_of_it
                  if at > begin + SECONDS * 0.7])
        check(all(parts), "%s: not done at the begin or the end", what)
        early, late = map(quick, parts)
        medians = [median(part) for part in parts]
        print("soak: %s: %d, quickest tenth and median %.0f, %.0f us, later "
              "%.0f, %.0f us, ratios %.2f, %.2f" % (
                  what, len(all_of_it), early * 1e6, medians[0] * 1e6,
                  late * 1e6, medians[1] * 1e6, late / early,
                  medians[1] / medians[0]), file=sys.stderr)
        if late > 2 * early and LONG:
            found.append("%s: %.0f us, then %.0f us" % (
                what, early * 1e6, late * 1e6))
    return found


@test("kcmd")
def no_growth(t):
    m = t.mount(direct=True)
    users = [t.user() for _ in range(USERS)]
    caches = prepare(t, m, users)
    hands = [chaos.Hand(t, m, u, "%d:tktx" % u.uid, False, SECONDS + 60,
                        u.uid) for u in users]
    begin = time.monotonic()
    samples, times, chance = [], {}, random.Random(1)
    while time.monotonic() < begin + SECONDS:
        use(caches[0], caches, chance, times)
        if time.monotonic() > begin + SECONDS / 24 * (len(samples) + 1):
            samples.append(figures_of(t, m))
            if LONG:
                print("%5.0f s: %s" % (time.monotonic() - begin,
                                       json.dumps(samples[-1])),
                      file=sys.stderr, flush=True)
        time.sleep(1 if LONG else 0.2)
    for hand in hands:
        hand.signal(15)
    total, times["reads"], times["stores"] = 0, [], []
    for hand in hands:
        account = hand.account()
        eq(account["violations"], [], "violations by %s" % hand.name)
        # EINTR: by the signal that ends it
        eq(set(account["errors"]) - {"ENOENT", "EINTR"}, set(),
           "errors of %s" % hand.name)
        chaos.compare(t, hand, account)
        total += sum(account["count"].values())
        times["reads"] += account["times"]
        times["stores"] += account["stores"]
    for cache in caches:
        cache.read_held()
        cache.close()
    print("soak: %d operations" % total, file=sys.stderr)
    check(len(samples) >= 8, "%d samples only", len(samples))
    found = grown(samples) + slower(times, begin)
    check(not found, "%s", "; ".join(found))
