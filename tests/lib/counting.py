"""What an operation costs in requests: FUSE's, from the mount's debug log,
and KCM's, from the proxy, or from that log where the mount is the daemon.

Counts do not depend on the load of the machine, but what is done may: an
entry that the kernel keeps for half a second is gone after a pause, and one
of many tries pays for that.  So an operation is counted several times, and
what it costs is the median.
"""
import os
import re
from collections import Counter

import clients

ASYNCHRONOUS = {"RELEASE", "RELEASEDIR", "FORGET", "BATCH_FORGET",
                "INTERRUPT"}
REQUEST = re.compile(rb"opcode: (\w+) \(\d+\), nodeid")
ANSWERED = re.compile(rb"uid \d+ (\w+): code ")       # by --embedded


class Cost:
    """fuse: synchronous requests; kcm, trips, connections: the daemon's.
    An embedded daemon has requests alone."""

    def __init__(self, log, proxy):
        def count(pattern):
            return Counter(m.group(1).decode() for m in pattern.finditer(log))
        self.requests = count(REQUEST)
        self.fuse = sum(n for name, n in self.requests.items()
                        if name not in ASYNCHRONOUS)
        self.calls = Counter(proxy.calls) if proxy else count(ANSWERED)
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
            return Cost(f.read(), self.proxy)

    def usual(self, operation, tries=9, before=None):
        """The median of several; before() runs uncounted before each."""
        costs = []
        for _ in range(tries):
            if before:
                before()
            self.start()
            operation()
            costs.append(self.stop())
        return sorted(costs, key=Cost.key)[tries // 2]


def bench(user, operation, cache, *options, rounds=1):
    """One operation of tests/bench/bench.c, by libkrb5."""
    user.run(clients.program(user, "bench"), "-n", rounds, *options,
             operation, "x=" + cache)
