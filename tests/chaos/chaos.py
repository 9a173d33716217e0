"""Clients at work on a mount while the KCM daemon has a bad time.

    run(t, daemon, seconds, seed, troubles=ALL) -> figures

Several uids with several caches each; every moment or two the daemon is
killed, stopped, restarted, or its socket goes away and comes back; or a
client is stopped, or interrupted while it waits.  Then all is well again, and
each client's account (client.py) is held against what the daemon has, and
each cache can be appended to and read.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid

import ccfile
from kcmwire import Client as Wire
from made import made_cache
from tree import by_name
from util import check, eq, wait_for
from writing import append, rename_over

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 2             # of a KCM operation, in the mount
# A rename waits for what it changes and then for putting the default back.
DEADLINE = 2 * TIMEOUT + 3.0
USERS, CACHES = 3, 2
MILD = ("freeze", "hide_socket", "stop_client", "interrupt")
LOSING = ("kill", "restart", "new_socket")  # what the daemon kept in memory
ALL = LOSING + MILD
# Appends a line of hexadecimal digits to the file, when it comes.
APPENDS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
print("open", flush=True)
os.write(fd, bytes.fromhex(sys.stdin.readline()))
"""


class Hand:
    """The clients of a run, each a process of its own."""

    def __init__(self, t, m, user, name, volatile, seconds, seed):
        """volatile: a whole cache may be lost."""
        self.user, self.name, self.socket = user, name, t.kcm_socket
        self.dir = m / ("by-name/" + by_name(name))
        self.stopped = False
        self.out = open(os.path.join(t.dir, "account-%s" % name), "wb+")
        self.process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(HERE, "client.py"), self.dir,
             t.realm.name, str(seconds), str(DEADLINE),
             str(int(volatile)), str(seed)],
            stdin=subprocess.DEVNULL, stdout=self.out, user=user.uid,
            group=user.gid, extra_groups=[], env=user.env, cwd="/")
        t.cleanup(self.end)

    def signal(self, sig):
        self.process.send_signal(sig)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.out.close()

    def account(self):
        code = self.process.wait(90)
        self.out.seek(0)
        text = self.out.read().decode()
        check(code == 0 and text, "client %s: status %s", self.name, code)
        return json.loads(text)


class Chaos:
    def __init__(self, t, m, daemon, hands, seed):
        self.t, self.m, self.daemon, self.hands = t, m, daemon, hands
        self.sockets = [t.checked(), daemon.socket]     # from the mount's end
        self.random = random.Random(seed)
        self.victim = t.user()
        self.name = "%d:tktv" % self.victim.uid
        self.deck = []          # of troubles, each once until it is empty
        self.done = {}

    def kill(self):
        self.daemon.kill()
        time.sleep(self.random.uniform(0, 1))
        self.daemon.start()

    def restart(self):
        self.daemon.stop()
        time.sleep(self.random.uniform(0, 0.5))
        self.daemon.start()

    def freeze(self):
        self.daemon.freeze()
        time.sleep(self.random.uniform(0.2, TIMEOUT + 1.5))
        self.daemon.thaw()

    def hide_socket(self):
        for path in self.sockets:
            os.rename(path, path + ".away")
        time.sleep(self.random.uniform(0.1, 1))
        for path in reversed(self.sockets):
            os.rename(path + ".away", path)

    def new_socket(self):
        """Removed while the daemon runs, and made by the next one."""
        for path in self.sockets:
            os.unlink(path)
        time.sleep(self.random.uniform(0.1, 0.5))
        self.daemon.kill()
        self.daemon.start()

    def stop_client(self):
        """Others go on, though perhaps not at the first attempt: the daemon
        may just have come back, and the machine be busy."""
        hand = self.random.choice(self.hands)
        others = [h for h in self.hands if h is not hand]

        def work(other):
            try:
                other.user.stat(self.m / "by-name")
                other.user.read(other.dir + "/cache")
            except FileNotFoundError:
                pass                    # not made yet
            except TimeoutError:
                return False
            return True
        hand.signal(signal.SIGSTOP)
        try:
            for other in self.random.sample(others, 2):
                wait_for("%s beside a stopped client" % other.name,
                         lambda: work(other), 5 * TIMEOUT)
        finally:
            time.sleep(self.random.uniform(0, 0.5))
            hand.signal(signal.SIGCONT)

    def start(self, *command, **options):
        return subprocess.Popen(
            ["env", "--default-signal=INT", *command], user=self.victim.uid,
            group=self.victim.gid, extra_groups=[], env=self.victim.env,
            cwd="/", stderr=subprocess.DEVNULL, **options)

    def interrupt(self):
        """Ctrl-C while the daemon says nothing: gone at once.

        The lookup is of a name that nobody else looks up: the kernel lets
        two that look up the same one wait for the first one's answer, signals
        or not.
        """
        u = self.victim
        made_cache(self.t, u, [], self.name)
        path = self.m / ("by-name/%s/cache" % by_name(self.name))

        def opened():               # the daemon may be late from before
            process = self.start(sys.executable, "-c", APPENDS, path,
                                 stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
            if process.stdout.readline() == b"open\n":
                return process
            process.communicate()
            return None
        writer, reader = wait_for("one that appends", opened), None
        self.daemon.freeze()
        try:
            reader = self.start(
                "cat", self.m / ("%s/cache" % uuid.uuid4()),
                stdout=subprocess.DEVNULL)
            writer.stdin.write(ccfile.tgt(
                u.principal, 5000).bytes().hex().encode() + b"\n")
            writer.stdin.flush()
            time.sleep(0.5)
            waiting = [("cat", reader), ("an append", writer)]
            for what, process in waiting:
                check(process.poll() is None, "%s did not wait", what)
            begin = time.monotonic()
            for _, process in waiting:
                process.send_signal(signal.SIGINT)
            for what, process in waiting:
                process.wait(20)
                took = time.monotonic() - begin
                check(took < 1.0, "Ctrl-C of %s took %.1f s", what, took)
        finally:
            self.daemon.thaw()
            for process in filter(None, (reader, writer)):
                process.kill()
                process.wait()
            writer.stdin.close()
            writer.stdout.close()

    def trouble(self, troubles):
        if not self.deck:
            self.deck = self.random.sample(troubles, len(troubles))
        what = self.deck.pop()
        getattr(self, what)()
        self.done[what] = self.done.get(what, 0) + 1


def process_figures(pid):
    """heap: of malloc(), the main arena alone."""
    with open("/proc/%d/status" % pid) as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f)
    heap, inside = 0, False
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            if "-" in line.split(" ", 1)[0]:
                inside = line.endswith("[heap]\n")
            elif inside and line.startswith("Rss:"):
                heap += int(line.split()[1])
    return {"kB": int(status["VmRSS"].split()[0]), "heap": heap,
            "threads": int(status["Threads"]),
            "descriptors": len(os.listdir("/proc/%d/fd" % pid))}


def figures_of(m):
    """Of the mount; secret: of kcm/mem.c."""
    figures = process_figures(m.process.pid)
    with open(m / ".kcmfs/status") as f:
        secret = [int(line.split()[2]) // 1024 for line in f
                  if line.startswith("secret memory:")]
    return dict(figures, secret=secret[0] if secret else 0)


def compare(t, hand, account):
    """The account against the daemon itself, past the mount."""
    with Wire(t.kcm_socket, hand.user.uid) as wire:
        names = wire.caches().values()
        eq(hand.name in names, account["exists"], "%s exists" % hand.name)
        if not account["exists"]:
            return
        got = {str(c.server).split("@")[0] for c in map(
            ccfile.parse_cred, wire.creds(hand.name))}
        eq(sorted(got), account["state"], "credentials of " + hand.name)


def works(hand):
    """Its cache, made if it is lost, takes a ticket and shows it."""
    u, path = hand.user, hand.dir + "/cache"
    if not u.exists(path):
        u.call(os.makedirs, hand.dir, exist_ok=True)
        rename_over(u, path, ccfile.Cache(
            ccfile.princ(u.principal)).bytes())
    ticket = ccfile.ticket(u.principal, "end@X", 5000)
    append(u, path, ticket.bytes())
    check(ticket in ccfile.parse(u.read(path)).creds,
          "%s does not show what was stored at the end", hand.name)
    with Wire(hand.socket, u.uid) as wire:
        check(ticket.bytes() in wire.creds(hand.name),
              "%s lacks what was stored at the end", hand.name)


def run(t, daemon, seconds, seed, troubles=ALL):
    m = t.mount("-o", "timeout=%d" % TIMEOUT)
    users = [t.user() for _ in range(USERS)]
    volatile = not daemon.keeps_state and bool(set(troubles) & set(LOSING))
    hands = [Hand(t, m, u, "%d:tkt%d" % (u.uid, i), volatile,
                  seconds + 60, seed + 10 * u.uid + i)
             for u in users for i in range(CACHES)]
    chaos = Chaos(t, m, daemon, hands, seed)
    end = time.monotonic() + seconds
    time.sleep(1)
    begin = figures_of(m)
    most = dict(begin)
    while time.monotonic() < end or len(chaos.done) < len(troubles):
        chaos.trouble(troubles)
        now = figures_of(m)
        most = {k: max(most[k], now[k]) for k in most}
        check(m.alive(), "kcmfs is dead")
        time.sleep(chaos.random.uniform(0.2, 1.0))
    for hand in hands:
        hand.signal(signal.SIGTERM)
    total, errors, slowest = 0, {}, 0
    for hand in hands:
        account = hand.account()
        eq(account["violations"], [], "violations by %s" % hand.name)
        compare(t, hand, account)
        works(hand)
        total += sum(account["count"].values())
        slowest = max(slowest, account["slowest"])
        for name, n in account["errors"].items():
            errors[name] = errors.get(name, 0) + n
    check(total > 0, "nothing was done")
    wait_for("threads and descriptors to be given back",
             lambda: figures_of(m)["descriptors"] < 60)
    return {"operations": total, "errors": errors, "slowest": slowest,
            "troubles": chaos.done, "begin": begin, "most": most,
            "end": figures_of(m)}
