"""What an operation costs in requests: FUSE's, from the mount's debug log,
and KCM's, from the proxy.

Counts do not depend on the load of the machine, but what is done may: an
entry that the kernel keeps for half a second is gone after a pause.  So an
operation is counted several times and the least is what it costs.
"""
import os
import re
from collections import Counter

import clients

ASYNCHRONOUS = {"RELEASE", "RELEASEDIR", "FORGET", "BATCH_FORGET",
                "INTERRUPT"}
REQUEST = re.compile(rb"opcode: (\w+) \(\d+\), nodeid")


class Cost:
    """fuse: synchronous requests; kcm, trips, connections: the daemon's."""

    def __init__(self, fuse, proxy):
        self.requests = fuse
        self.fuse = sum(n for name, n in fuse.items()
                        if name not in ASYNCHRONOUS)
        self.calls = Counter(proxy.calls) if proxy else Counter()
        self.kcm = sum(self.calls.values())
        self.trips = proxy.round_trips if proxy else 0
        self.connections = proxy.connections if proxy else 0

    def __str__(self):
        return "%d FUSE %s, %d KCM in %d round trips %s, %d connections" % (
            self.fuse, dict(self.requests), self.kcm, self.trips,
            dict(self.calls), self.connections)

    def key(self):
        return (self.kcm, self.fuse, self.trips, self.connections)


class Meter:
    """Counts what happens on a mount made with -d, and behind it."""

    def __init__(self, mount, proxy=None):
        self.mount, self.proxy = mount, proxy
        self.at = 0

    def start(self):
        self.at = os.path.getsize(self.mount.log)
        if self.proxy:
            self.proxy.reset()

    def stop(self):
        with open(self.mount.log, "rb") as f:
            f.seek(self.at)
            text = f.read()
        names = (m.group(1).decode() for m in REQUEST.finditer(text))
        return Cost(Counter(names), self.proxy)

    def least(self, operation, tries=6, before=None):
        """The least of several; before() runs uncounted before each."""
        costs = []
        for _ in range(tries):
            if before:
                before()
            self.start()
            operation()
            costs.append(self.stop())
        return min(costs, key=Cost.key)


def bench(user, operation, cache, *options, rounds=1):
    """One operation of tests/bench/bench.c, by libkrb5."""
    user.run(clients.program(user, "bench"), "-n", rounds, *options,
             operation, "x=" + cache)
