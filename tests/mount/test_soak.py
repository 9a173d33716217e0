"""Many uids, caches, tickets and open files for a while: nothing grows, and
the last minute is as quick as the first.

A few seconds with a few of each; `make soak S=3600` with 64 uids, 1,000
caches, 10,000 tickets in one of them and 1,000 open files.
"""
import json
import os
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

LONG = "KCMFS_SOAK_S" in os.environ
SECONDS = float(os.environ.get("KCMFS_SOAK_S", "12"))
USERS, CACHES, TICKETS, HANDLES = (64, 1000, 10000, 1000) if LONG else \
    (6, 60, 1000, 100)


def fill(w, name, principal, tickets):
    client = ccfile.princ(principal)
    start = int(time.time()) - 20000
    creds = [ccfile.ticket(client, "h%d@X" % i, start + i).bytes()
             for i in range(tickets)]
    w.ok("REPLACE", z(name) + struct.pack(">i", 0)
         + ccfile.Writer().principal(client).out
         + struct.pack(">I", len(creds))
         + b"".join(struct.pack(">I", len(c)) + c for c in creds))


def prepare(t, users):
    """Caches beside those that the clients work on; their paths."""
    paths = []
    for number, u in enumerate(users):
        with Client(t.kcm_socket, u.uid) as w:
            for i in range(CACHES // len(users)):
                name = "%d:s%d" % (u.uid, i)
                big = number == 0 and i == 0
                fill(w, name, u.principal, TICKETS if big else 5)
                paths.append((u, "by-name/%s/cache" % by_name(name)))
    return paths


def median(values):
    return sorted(values)[len(values) // 2] if values else 0


@test("kcmd")
def no_growth(t):
    m = t.mount()
    users = [t.user() for _ in range(USERS)]
    paths = prepare(t, users)
    held = []
    for i in range(HANDLES):
        u, path = paths[i % len(paths)]
        held.append(u.call(os.open, m / path, os.O_RDONLY))
    hands = [chaos.Hand(t, m, u, "%d:tktx" % u.uid, t.daemon, SECONDS + 60,
                        u.uid) for u in users]
    begin = time.monotonic()
    samples = []
    while time.monotonic() < begin + SECONDS:
        time.sleep(SECONDS / 24)
        samples.append(chaos.figures_of(m))
        if LONG:
            print("%5.0f s: %s" % (time.monotonic() - begin,
                                   json.dumps(samples[-1])),
                  file=sys.stderr, flush=True)
    for hand in hands:
        hand.signal(15)
    early, late, total = [], [], 0
    for hand in hands:
        account = hand.account()
        eq(account["violations"], [], "violations by %s" % hand.name)
        # EINTR: by the signal that ends it
        eq(set(account["errors"]) - {"ENOENT", "EINTR"}, set(),
           "errors of %s" % hand.name)
        chaos.compare(t, hand, account)
        total += sum(account["count"].values())
        for at, took in account["times"]:
            if at < begin + SECONDS * 0.3:
                early.append(took)
            elif at > begin + SECONDS * 0.7:
                late.append(took)
    for fd in held:
        os.close(fd)
    warm, last = samples[len(samples) // 3], samples[-1]
    ratio = median(late) / max(median(early), 1e-6)
    print("soak: %d operations, median read %.0f us, later %.0f us (%.2f), "
          "after warm-up %s, at the end %s" % (
              total, median(early) * 1e6, median(late) * 1e6, ratio,
              json.dumps(warm), json.dumps(last)), file=sys.stderr)
    check(last["kB"] < warm["kB"] * 1.25 + 8192, "memory: %s, then %s", warm,
          last)
    check(last["threads"] <= warm["threads"] * 1.5 + 16,
          "threads: %s, then %s", warm, last)
    check(last["descriptors"] <= warm["descriptors"] * 1.5 + 16,
          "descriptors: %s, then %s", warm, last)
    check(ratio < 2 or not LONG, "reads got slower: %.2f", ratio)
