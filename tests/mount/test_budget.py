"""How many requests operations may cost: counts, which hold on any machine
and under any load, not times."""
import os
import time

import ccfile
from counting import Meter, bench
from harness import ALL, REAL, test
from made import made_cache
from tree import paths_of
from util import check, eq

SIZES = {"heimdal": (1, 100, 1000), "sssd": (1, 30, 100),
         "kcmd": (1, 100, 1000), "embedded": (1, 100, 1000)}


def setup(t, count, private=False):
    """(user, cache name, path, meter) of a mount that counts."""
    u = t.user(principal=None)
    u.principal = "bench@EXAMPLE.COM"
    proxy = None
    if t.on != "embedded":
        proxy = t.proxy()
    m = t.mount("-d", socket=proxy.socket if proxy else None,
                uid=u.uid if private else None)
    name = filled(t, u, count)
    path = paths_of(t, m, u, name).forms["by-name"]
    return u, name, path, Meter(m, proxy)


def filled(t, u, count, name=None):
    start = int(time.time()) - 2000
    creds = [ccfile.ticket(u.principal, "svc%d/h@EXAMPLE.COM" % n, start + n)
             for n in range(count)]
    return made_cache(t, u, creds, name=name, offset=0)


def add_one(t, u, name, number):
    """Somebody else's STORE, past the mount."""
    cred = ccfile.ticket(u.principal, "new%d/h@EXAMPLE.COM" % number,
                         int(time.time()) - 100 + number)
    eq(t.wire(u).store(name, cred.bytes()).name, "OK")


def reader(u, path):
    """Opens, reads and closes as the user: in one thread, at once."""
    def body():
        fd = os.open(path, os.O_RDONLY)
        try:
            while os.read(fd, 1 << 20):
                pass
        finally:
            os.close(fd)
    return lambda: u.call(body)


@test(*ALL)
def open_read_close(t):
    """[34] Of what did not change: OPEN and one lookup, one question."""
    for count in SIZES[t.on]:
        u, _, path, meter = setup(t, count)
        read = reader(u, path)
        read()
        cost = meter.least(read)
        check(cost.fuse <= 2, "%d tickets: %s", count, cost)
        check(cost.trips <= 1, "%d tickets: %s", count, cost)
        if t.on == "sssd":
            eq(cost.kcm, 1, str(cost))
        eq(cost.connections, 0, "new connections")


@test(*REAL)
def open_read_close_in_private(t):
    """A user's own mount need not ask whose names these are."""
    u, _, path, meter = setup(t, 10, private=True)
    read = reader(u, path)
    read()
    cost = meter.least(read)
    check(cost.fuse <= 1, "%s", cost)
    check(cost.trips <= 1, "%s", cost)


@test(*ALL)
def full_read_by_libkrb5(t):
    for count in SIZES[t.on]:
        u, _, path, meter = setup(t, count)
        read = lambda: bench(u, "read", "FILE:" + path)  # noqa: E731
        read()
        cost = meter.least(read)
        check(cost.fuse <= 4, "%d tickets: %s", count, cost)
        check(cost.trips <= 2, "%d tickets: %s", count, cost)
        eq(cost.connections, 0, "new connections")


@test(*REAL)
def after_one_new_ticket(t):
    """It alone is fetched."""
    u, name, path, meter = setup(t, 100)
    read, numbers = reader(u, path), iter(range(100))
    read()
    cost = meter.least(read, before=lambda: add_one(t, u, name,
                                                    next(numbers)))
    check(cost.kcm <= 9, "%s", cost)
    eq(cost.connections, 0, "new connections")


@test(*ALL)
def store(t):
    """By libkrb5, the same at any size."""
    costs = []
    for count in SIZES[t.on]:
        u, _, path, meter = setup(t, count)
        numbers = iter(range(100))
        reader(u, path)()
        add = lambda: bench(u, "store", "FILE:" + path,  # noqa: E731
                            "-o", next(numbers))
        add()
        cost = meter.least(add)
        check(cost.fuse <= 6, "%d tickets: %s", count, cost)
        check(cost.kcm <= 4, "%d tickets: %s", count, cost)
        eq(cost.connections, 0, "new connections")
        costs.append((cost.fuse, cost.kcm))
    eq(costs, costs[:1] * len(costs), "not flat in the number of tickets")


@test(*REAL)
def initialize_and_two_stores(t):
    """A new file in the place of the old one, as krb5_cc_initialize() makes
    it, and two tickets: one exchange for each step that changes something,
    and one that finds no cache in between.  sssd is asked for the default
    before each step, and told it again."""
    u, name, path, meter = setup(t, 10)
    eq(t.wire(u).set_default(name).name, "OK")
    make = lambda: bench(u, "init", "FILE:" + path)  # noqa: E731
    make()
    cost = meter.least(make)
    check(cost.fuse <= 22, "%s", cost)
    check(cost.trips <= (16 if t.on == "sssd" else 6), "%s", cost)
    eq(cost.connections, 0, "new connections")


@test(*REAL)
def nothing_is_fetched_to_list(t):
    u, name, path, meter = setup(t, 5)
    for number in range(5):
        filled(t, u, 3, name="%d:more%d" % (u.uid, number))
    root = str(meter.mount)
    meter.start()
    for directory in ("", "by-name", "collection", "by-principal"):
        u.list(os.path.join(root, directory))
    cost = meter.stop()
    fetched = {"GET_CRED_UUID_LIST", "GET_CRED_BY_UUID", "GET_CRED_LIST"}
    check(not fetched & set(cost.calls), "%s", cost)


@test(*REAL)
def connections_are_kept(t):
    """None is made by any number of operations of one user at a time."""
    u, name, path, meter = setup(t, 10)
    read, numbers = reader(u, path), iter(range(100))
    read()
    meter.start()
    for _ in range(20):
        read()
        bench(u, "store", "FILE:" + path, "-o", next(numbers))
        u.list(str(meter.mount))
    eq(meter.stop().connections, 0, "new connections")
