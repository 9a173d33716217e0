"""A KCM daemon that is down, late, restarted, hung or talks nonsense."""
import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import ccfile
from harness import ALL, REAL, test
from kcmwire import OPCODES
from made import made_cache, usual_creds
from proxy import ARGUMENTS
from tree import paths_of, ticket_name
from util import Failed, check, eq, has, lacks, raises, wait_for
from writing import Subject, put

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"
READ_OPS = [name for name in OPCODES.values() if name.startswith("GET_")]


def refused(u, *paths):
    for path in paths:
        raises(errno.ECONNREFUSED, u.read, path)


@test(*REAL)
def down_at_mount_then_started(t):
    """[33] ECONNREFUSED, never ENOENT, for a daemon that is not there."""
    d = t.own_daemon(start=False)
    m, u = t.mount(), t.user()
    refused(u, m / "default/cache", m / ("krb5cc_%d" % u.uid),
            m / "00000000-0000-0000-0000-000000000001/cache")
    raises(errno.ECONNREFUSED, u.list, m / "by-name")
    raises(errno.ECONNREFUSED, u.list, m / "by-principal")
    r = u.run("klist", cc="FILE:%s/default/cache" % m, code=1)
    lacks(r.err, "No credentials cache found", "klist's message")
    d.start()
    u.kinit()
    eq(u.klist("FILE:%s/default/cache" % m), (u.principal, [TGT]))
    eq(u.klist("DIR:%s/collection" % m)[0], u.principal)


@test(*REAL)
def stopped_and_started_again(t):
    d = t.own_daemon()
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    image = u.read(paths.cache)
    for end in (d.stop, d.kill):
        end()
        refused(u, *paths.forms.values())
        d.start()
        if not d.keeps_state:
            wait_for("the empty daemon to show",
                     lambda: not u.exists(paths.forms["default"]))
            u.kinit()
            eq(u.klist("FILE:" + paths.forms["default"])[0], u.principal)
            paths = paths_of(t, m, u)
        else:
            eq(u.read(paths.cache), image)
            eq(u.klist("FILE:" + paths.forms["default"]),
               (u.principal, [TGT]))
        eq(u.klist("DIR:%s/collection" % m)[0], u.principal)


@test(*REAL)
def restarted_between_two_reads(t):
    """Kept connections are dead, and nobody notices."""
    d = t.own_daemon()
    m, u = t.mount(), t.user()
    u.kinit()
    path = m / "default/cache"
    before = u.read(path)
    d.restart()
    if not d.keeps_state:
        u.kinit()
    after = ccfile.parse(u.read(path))
    eq(str(after.principal), u.principal)
    if d.keeps_state:
        eq(after.bytes(), before)
    eq(after.servers(), [TGT])


SSSD_IDLE_EXIT = 120    # after 60 to 90 s: responder_idle_timeout's least
SSSD_IDLE_CLOSE = 40    # after 10 to 15 s: client_idle_timeout's least


@test("sssd")
def sssd_ends_when_idle(t):
    """responder_idle_timeout: its own end, as without socket activation
    nothing starts it again; then it is started, and nothing else is done."""
    d = t.own_daemon("responder_idle_timeout = 60")
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("svc0/host.example.com")
    paths = paths_of(t, m, u)
    want = {path: u.read(path) for path in paths.forms.values()}
    listed = u.list(paths / "tickets")
    check(len(listed) > 1, "too few tickets: %s", listed)
    wait_for("sssd's own end", lambda: not d.running(), SSSD_IDLE_EXIT)
    eq(d.process.returncode, 0, "status of sssd_kcm")
    d.stop()                            # the proxy before it, too
    refused(u, *paths.forms.values())
    raises(errno.ECONNREFUSED, u.call, os.mkdir,
           m / ("by-name/%d.new" % u.uid))
    d.start()
    eq({path: u.read(path) for path in want}, want)
    eq(u.list(paths / "tickets"), listed)
    u.kvno("svc1/host.example.com", cc="FILE:" + paths.cache)
    eq(len(u.list(paths / "tickets")), len(listed) + 1)


def peers_of(path):
    """How many connections to this socket somebody has accepted."""
    with open("/proc/net/unix") as f:
        rows = [line.split() for line in f]
    # flags of a listener: 00010000; state 03: connected
    return sum(row[-1] == path and row[5] == "03" for row in rows)


@test("sssd")
def sssd_closes_idle_connections(t):
    """client_idle_timeout: the daemon closes, the next call reconnects.

    That a kept connection was closed is seen before the mount is asked.
    """
    d = t.own_daemon("client_idle_timeout = 10")
    m, u = t.mount(), t.user()
    u.kinit()
    path = m / "default/cache"
    before = u.read(path)
    check(peers_of(d.socket), "no connection was kept")
    wait_for("sssd to close", lambda: not peers_of(d.socket),
             SSSD_IDLE_CLOSE)
    d.assert_alive()
    eq(u.read(path), before)
    check(peers_of(d.socket), "no connection is kept any more")
    u.kvno("svc0/host.example.com", cc="FILE:" + path)
    eq(u.klist("FILE:" + path), u.klist())


@test("sssd")
def closed_connections_are_replaced(t):
    """As above, at once and for all connections, and nobody listens."""
    t.own_daemon()
    p = t.proxy()
    m = t.mount(socket=p.socket)
    u = t.user()
    u.kinit()
    path = m / "default/cache"
    before = u.read(path)
    p.stop()
    refused(u, path)
    p.start()
    eq(u.read(path), before)


@test(*REAL)
def open_files_outlive_the_daemon(t):
    d = t.own_daemon()
    m, u = t.mount(), t.user()
    creds = usual_creds(u, 30)
    name = made_cache(t, u, creds, offset=0)
    path = paths_of(t, m, u, name).cache
    want = u.read(path)
    fd = u.call(os.open, path, os.O_RDONLY)
    try:
        d.kill()
        got = b""
        while part := os.read(fd, 1000):
            got += part
        eq(got, want)
    finally:
        os.close(fd)
    d.start()


@test(*REAL)
def listings_say_so_too(t):
    """Never an empty directory for a dead daemon, never ENOENT."""
    d = t.own_daemon()
    m, u = t.mount(), t.user()
    u.kinit()
    paths = paths_of(t, m, u)
    u.list(m.path)
    d.stop()
    for path in (m.path, m / "by-name", m / "by-principal", paths.dir,
                 paths / "tickets", paths / "config"):
        try:
            listed = u.list(path)
        except OSError as e:
            eq(e.errno, errno.ECONNREFUSED, path)
            continue
        # what needs no answer of the daemon may still be listed
        check(path in (m.path, paths.dir), "%s lists %s", path, listed)
        lacks(" ".join(listed), paths.uuid, path)
    for name in ("principal", "info", "info.json"):
        raises(errno.ECONNREFUSED, u.read, paths / name)
    # primary is always readable: MIT overwrites it otherwise
    u.read(m / "collection/primary")
    has(u.text(m / ".kcmfs/status"), t.checked())
    d.start()
    if d.keeps_state:
        eq(u.text(paths / "principal"), u.principal + "\n")


@test(*REAL)
def a_missing_socket(t):
    """ENOENT of connect(2) is not "no such cache"."""
    d = t.own_daemon()
    m, u = t.mount(), t.user()
    u.kinit()
    u.read(m / "default/cache")
    d.stop()
    for path in {d.socket, t.checked()}:
        if os.path.exists(path):
            os.unlink(path)
    refused(u, m / "default/cache")
    d.start()
    u.kinit()
    eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)


@test(*REAL)
def no_answer_in_time(t):
    p = t.proxy()
    m = t.mount("-o", "timeout=1", socket=p.socket)
    u = t.user()
    u.kinit()
    want = u.read(m / "default/cache")
    for op in READ_OPS:
        p.hold(op)
    raises(errno.ETIMEDOUT, u.read, m / "default/cache")
    p.release()
    p.reset()
    eq(u.read(m / "default/cache"), want)
    check(p.connections, "the connection was used again")


@test(*REAL)
def one_hangs_the_others_work(t):
    """A waits for an answer; B's calls go on."""
    p = t.proxy()
    m = t.mount("-o", "timeout=60", socket=p.socket)
    a, b = t.user(), t.user()
    path = m / "default/cache"
    want = {}
    for u in (a, b):
        u.kinit()
        want[u] = u.read(path)
    p.reset()
    p.hold_uid(a.uid)
    got = []
    thread = threading.Thread(target=lambda: got.append(a.read(path)))
    thread.start()
    wait_for("A's request", lambda: p.waiting_uid(a.uid))
    for _ in range(20):
        eq(b.read(path), want[b])
    b.list(m / "by-name")
    eq(got, [], "A's read, whose answer is held")
    p.release()
    thread.join()
    eq(got, [want[a]])


@test(*REAL)
def interrupted_by_a_signal(t):
    p = t.proxy()
    m = t.mount("-o", "timeout=60", socket=p.socket)
    u = t.user()
    u.kinit()
    u.read(m / "default/cache")
    p.reset()
    for op in READ_OPS:
        p.hold(op)
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c",
         "import signal, sys\n"
         "def caught(*_): raise InterruptedError\n"
         "signal.signal(signal.SIGUSR1, caught)\n"
         "try: open(sys.argv[1], 'rb').read()\n"
         "except InterruptedError: print('EINTR')\n",
         m / "default/cache"],
        user=u.uid, group=u.gid, extra_groups=[], env=u.env,
        stdout=subprocess.PIPE, text=True)
    try:
        wait_for("the held request", lambda: sum(p.calls.values()) > 0)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    eq(out.strip(), "EINTR")
    p.release()
    eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)


# Does one of these when it is told to, and dies by SIGINT.
WAITS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
what, path, temp, ticket = sys.argv[1:]
directory = os.path.dirname(path)
if what == "store":
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
if what == "close":
    fd = os.open(path, os.O_RDWR | os.O_TRUNC)
    os.write(fd, bytes.fromhex(ticket))
print("ready", flush=True)
sys.stdin.readline()
{"open": lambda: os.open(path, os.O_RDONLY),
 "list": lambda: os.listdir(os.path.dirname(directory)),
 "store": lambda: os.write(fd, bytes.fromhex(ticket)),
 "close": lambda: os.close(fd),
 "rename": lambda: os.rename(temp, path),
 "remove": lambda: os.unlink(directory + "/tickets/" + temp),
 "unlink": lambda: os.unlink(path)}[what]()
print("done", flush=True)
"""
CHANGES = {name for name in ARGUMENTS if not name.startswith("GET_")}


@test(*REAL)
def interrupted_by_ctrl_c(t):
    """Whatever waits for the daemon is free at once; what it was about is
    there before or after, and its connection is read to the end (the proxy
    sees to that)."""
    p = t.proxy()
    m = t.mount("-o", "timeout=60", socket=p.socket)
    for what in ("open", "list", "store", "close", "rename", "remove",
                 "unlink"):
        ctrl_c(t, p, m, what, ())       # asks what the daemon can, too
        changes = CHANGES & ctrl_c(t, p, m, what, ())
        eq(bool(changes), what not in ("open", "list"), "changes of " + what)
        for held in sorted(changes):
            ctrl_c(t, p, m, what, (held,))
        if what != "store":             # which asks for nothing else
            ctrl_c(t, p, m, what, READ_OPS)


def ctrl_c(t, p, m, what, held):
    """While one of these is not answered; without any: what is asked for."""
    u = t.user()
    s = Subject(t, m, u)
    before = [s.tgt(), s.ticket()]
    s.make(*before)
    path, temp = s.path(), s.path() + ".new"
    u.read(path)
    new = s.ticket()
    after = {"store": before + [new], "rename": [s.tgt(), new],
             "close": [s.tgt(), new], "remove": before[:1], "unlink": None}.get(what, before)
    if what == "remove":
        temp = ticket_name(str(before[1].server))
    if what == "rename":
        put(u, temp, s.cache(*after).bytes())
    data = s.cache(*after) if what == "close" else new
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, what, path, temp, data.bytes().hex()],
        user=u.uid, group=u.gid, extra_groups=[], env=u.env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    where = "%s at %s" % (what, " ".join(held[:1]))
    try:
        eq(process.stdout.readline(), "ready\n")
        p.reset()
        for op in held:
            p.hold(op)
        process.stdin.write("go\n")
        process.stdin.flush()
        if not held:
            eq(process.communicate(timeout=60)[0], "done\n", what)
            return set(p.calls)
        wait_for("the request of " + where,
                 lambda: any(p.waiting(op) for op in held))
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            raise Failed("Ctrl-C does not free " + where) from None
        took = time.monotonic() - begin
        eq((out, process.returncode), ("", -signal.SIGINT), where)
        check(took < 3, "Ctrl-C of %s took %.1f s", where, took)
    finally:
        p.release()
        process.kill()
        process.communicate()
    states = [sorted(c.bytes() for c in creds) if creds is not None else None
              for creds in (before, after)]

    def whole():
        """As KCM has it, and that is one of the two."""
        p.quiet(u.uid)
        in_kcm = None if s.gone() else sorted(
            c.bytes() for c in s.in_kcm().creds)
        try:
            shown = sorted(c.bytes() for c in ccfile.parse(
                u.read(path)).creds)
        except FileNotFoundError:
            shown = None
        return shown == in_kcm and shown in states
    wait_for("a whole cache after Ctrl-C of " + where, whole)
    eq([n for n in s.wire.caches().values() if ".kcmfs" in n], [], where)
    return None


def asked_at_open(t):
    """The request that an open of a known cache always makes."""
    return (("GET_CRED_UUID_LIST", 9) if t.on == "sssd"
            else ("GET_PRINCIPAL", 8))


@test(*REAL)
def nonsense_is_eio(t):
    """Answers that no daemon should give: EIO, logged with the opcode."""
    p = t.proxy()
    m = t.mount("-o", "timeout=5", socket=p.socket)
    u = t.user()
    u.kinit()
    want = u.read(m / "default/cache")
    op, number = asked_at_open(t)
    p.reset()
    u.read(m / "default/cache")
    check(p.calls[op], "no %s among %s", op, p.calls)
    ok = struct.pack(">ii", 0, 0)
    for bad in (struct.pack(">I", 2) + ok[:6],              # too short
                struct.pack(">I", 0xfffffff0) + ok,         # too long
                struct.pack(">I", 8) + ok + b"\xff\xff\xff\xff",
                struct.pack(">I", 4 + 12) + ok              # lying count
                + struct.pack(">III", 1, 0x7fffffff, 4)):
        p.replace_reply(op, bad)
        raises(errno.EIO, u.read, m / "default/cache")
        p.heal()
        eq(u.read(m / "default/cache"), want)
    text = m.log_text()
    check(op in text or "opcode %d" % number in text,
          "the log does not name the opcode: %s", text)


@test(*REAL)
def connection_dropped_in_the_middle(t):
    """The daemon closes instead of an answer: once is repaired silently."""
    p = t.proxy()
    m = t.mount("-o", "timeout=5", socket=p.socket)
    u = t.user()
    u.kinit()
    path = m / "default/cache"
    want = u.read(path)
    p.drop(asked_at_open(t)[0])
    try:
        u.read(path)
        check(False, "read in spite of a daemon that always closes")
    except OSError as e:
        check(e.errno in (errno.ECONNREFUSED, errno.EIO, errno.ETIMEDOUT),
              "errno %s", os.strerror(e.errno))
    p.heal()
    eq(u.read(path), want)


@test(*REAL)
def frugal_on_the_wire(t):
    """One open-read-close is few exchanges on one kept connection.

    What they are is a number to state; this keeps it from growing unseen.
    """
    p = t.proxy()
    m = t.mount(socket=p.socket)
    u = t.user()
    u.kinit()
    u.kvno("svc0/host.example.com")
    path = paths_of(t, m, u).cache
    u.read(path)
    p.reset()
    u.read(path)
    check(p.connections <= 1, "%d connections", p.connections)
    check(p.round_trips <= 4, "%d exchanges: %s", p.round_trips,
          dict(p.calls))
    check(sum(p.calls.values()) <= 12, "%s", dict(p.calls))


@test("embedded")
def embedded_never_refuses(t):
    """Its own server is there as soon as the mount is."""
    m, u = t.mount(), t.user()
    raises(errno.ENOENT, u.read, m / "default/cache")
    u.kinit()
    u.read(m / "default/cache")


@test(*ALL)
def expired_tickets_are_shown(t):
    m, u = t.mount(), t.user()
    start = int(time.time()) - 90000
    name = made_cache(t, u, usual_creds(u, 2, start), offset=0)
    path = paths_of(t, m, u, name).cache
    eq(len(ccfile.parse(u.read(path)).tickets()), 3)
    eq(len(u.klist("FILE:" + path)[1]), 3)
    eq(u.run("klist", "-s", "-c", "FILE:" + path, code=1).code, 1)
