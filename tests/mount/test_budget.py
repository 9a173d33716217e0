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
         "kcmd": (1, 100, 1000, 10000), "embedded": (1, 100, 1000)}
SEARCHED = 1000     # for so many tickets a log is searched in seconds

# Requests that ask whether a cache changed, in one round trip: for the list of
# its tickets, and but on sssd, which takes a millisecond for each, for its
# principal and offset.
ASK = {"heimdal": 3, "sssd": 1, "kcmd": 3, "embedded": 3}
PAUSE = 1.1         # s, longer than anything is taken for granted
FETCHES = {"GET_CRED_BY_UUID", "GET_CRED_LIST"}


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


def each_size(t):
    """(number of tickets, user, path, meter): a cache of each size."""
    u, _, _, meter = setup(t, 1)
    for count in SIZES[t.on]:
        name = filled(t, u, count, name="%d:of%d" % (u.uid, count))
        path = paths_of(t, meter.mount, u, name).forms["by-name"]
        yield count, u, path, meter
        if count > SEARCHED:
            eq(t.wire(u).destroy(name).name, "OK")


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


def within(cost, fuse, kcm, trips, what):
    check(cost.fuse <= fuse, "%s: %s", what, cost)
    check(0 < cost.kcm <= kcm, "%s: %s", what, cost)
    check(cost.trips <= trips, "%s: %s", what, cost)
    eq(cost.connections, 0, "new connections")


@test(*ALL)
def open_read_close(t):
    """[34] Of what did not change: OPEN and one lookup, one question."""
    for count, u, path, meter in each_size(t):
        read = reader(u, path)
        read()
        within(meter.usual(read), 2, ASK[t.on], 1, "%d tickets" % count)


@test(*ALL)
def each_path(t):
    """All are as cheap, but that those of the default cache ask which one it
    is, in a round trip of their own: krb5cc_UID by its lookup, and the link
    default by READLINK, with a lookup of what it leads to."""
    u, name, _, meter = setup(t, 10)
    eq(t.wire(u).set_default(name).name, "OK")
    forms = paths_of(t, meter.mount, u, name).forms
    ask = ASK[t.on]
    for form, fuse, kcm, trips in (
            ("uuid", 2, ask, 1), ("by-name", 2, ask, 1),
            ("collection", 2, ask, 1), ("default", 4, ask + 1, 2),
            ("krb5cc", 2, ask + 1, 2)):
        read = reader(u, forms[form])
        read()
        within(meter.usual(read), fuse, kcm, trips, form)
        full = lambda: bench(u, "read", "FILE:" + forms[form])  # noqa: E731
        within(meter.usual(full), 2 * fuse, 2 * kcm, 2 * trips,
               "read of " + form)


@test(*ALL)
def after_a_pause(t):
    """A lookup that nothing recent answers asks, too, and then OPEN.  On sssd
    the first of them asks for principal and offset, which no list tells of."""
    u, _, path, meter = setup(t, 10)
    read = reader(u, path)
    read()
    cost = meter.usual(read, tries=3, before=lambda: time.sleep(PAUSE))
    within(cost, 3, 3 + ASK[t.on], 2, "after a pause")
    if t.on == "sssd":
        eq((cost.calls["GET_PRINCIPAL"], cost.calls["GET_KDC_OFFSET"]),
           (1, 1), str(cost))


@test(*REAL)
def open_read_close_in_private(t):
    """A user's own mount need not ask whose names these are."""
    u, _, path, meter = setup(t, 10, private=True)
    read = reader(u, path)
    read()
    within(meter.usual(read), 1, ASK[t.on], 1, "open")


@test(*ALL)
def full_read_by_libkrb5(t):
    for count, u, path, meter in each_size(t):
        read = lambda: bench(u, "read", "FILE:" + path)  # noqa: E731
        read()
        within(meter.usual(read), 4, 2 * ASK[t.on], 2, "%d tickets" % count)


@test(*ALL)
def after_one_new_ticket(t):
    """It alone is fetched."""
    u, name, path, meter = setup(t, 100)
    read, numbers = reader(u, path), iter(range(100))
    read()
    cost = meter.usual(read, before=lambda: add_one(t, u, name,
                                                    next(numbers)))
    within(cost, 4, 9, 2, "after STORE")
    eq(cost.calls["GET_CRED_BY_UUID"], 1, str(cost))


@test(*ALL)
def store(t):
    """By libkrb5, the same at any size."""
    costs = []
    for count, u, path, meter in each_size(t):
        numbers = iter(range(100))
        reader(u, path)()
        add = lambda: bench(u, "store", "FILE:" + path,  # noqa: E731
                            "-o", next(numbers))
        add()
        cost = meter.usual(add)
        within(cost, 6, 4, 4, "%d tickets" % count)
        costs.append((cost.fuse, cost.kcm))
    eq(costs, costs[:1] * len(costs), "not flat in the number of tickets")


@test(*ALL)
def initialize_and_two_stores(t):
    """A new file in the place of the old one, as krb5_cc_initialize() makes
    it, and two tickets: one exchange for each step that changes something,
    and one that finds no cache in between.  sssd is asked for the default
    before each step, and what it answers then is looked at, and it is told it
    again."""
    u, name, path, meter = setup(t, 10)
    eq(t.wire(u).set_default(name).name, "OK")
    make = lambda: bench(u, "init", "FILE:" + path)  # noqa: E731
    make()
    within(meter.usual(make), 21, 15, 10 if t.on == "sssd" else 6, "init")


@test(*ALL)
def nothing_is_fetched_to_list(t):
    u, name, path, meter = setup(t, 5)
    for number in range(5):
        filled(t, u, 3, name="%d:more%d" % (u.uid, number))
    root = str(meter.mount)
    meter.start()
    for directory in ("", "by-name", "collection", "by-principal"):
        u.list(os.path.join(root, directory))
    cost = meter.stop()
    check(cost.kcm > 0, "%s", cost)
    check(not (FETCHES | {"GET_CRED_UUID_LIST"}) & set(cost.calls), "%s",
          cost)


@test(*ALL)
def a_long_list_fetches_once(t):
    """`ls -l` tells sizes and times, which are those of the tickets: of a
    cache that was not read yet it fetches them, and what did not change since
    never again."""
    u, _, _, meter = setup(t, 5)
    for number in range(5):
        filled(t, u, 3, name="%d:more%d" % (u.uid, number))
    root = str(meter.mount)

    def body():
        for entry in os.scandir(root):
            os.lstat(entry.path)
            os.stat(entry.path)
    meter.start()
    u.call(body)
    cost = meter.stop()
    check(cost.calls["GET_CRED_BY_UUID"] <= 5 + 5 * 3, "%s", cost)
    check(cost.calls["GET_CRED_LIST"] <= 6, "%s", cost)
    again = meter.usual(lambda: u.call(body), tries=3,
                        before=lambda: time.sleep(PAUSE))
    check(again.kcm > 0, "%s", again)
    check(not FETCHES & set(again.calls), "%s", again)


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
