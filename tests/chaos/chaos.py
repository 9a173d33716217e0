"""Clients at work on a mount while the KCM daemon has a bad time.

    run(t, daemon, seconds, seed) -> figures

Several uids with several caches each; every moment or two the daemon is
killed, stopped, restarted, or its socket goes away and comes back; or a
client is stopped, or interrupted while it waits.  Then all is well again, and
each client's account (client.py) is held against what the daemon has.
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
from tree import by_name
from util import check, eq, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 2             # of a KCM operation, in the mount
# A rename waits for what it changes and then for putting the default back.
DEADLINE = 2 * TIMEOUT + 3.0
USERS, CACHES = 3, 2


class Hand:
    """The clients of a run, each a process of its own."""

    def __init__(self, t, m, user, name, daemon, seconds, seed):
        self.user, self.name = user, name
        self.dir = m / ("by-name/" + by_name(name))
        self.stopped = False
        self.out = open(os.path.join(t.dir, "account-%s" % name), "wb+")
        self.process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(HERE, "client.py"), self.dir,
             t.realm.name, str(seconds), str(DEADLINE),
             "0" if daemon.keeps_state else "1", str(seed)],
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
        self.random = random.Random(seed)
        self.victim = t.user()
        self.done = {}

    def daemon_pid(self):
        path = os.path.join(self.daemon.dir, "pid")
        if self.daemon.name == "sssd":
            with open(path) as f:
                return int(f.read())
        return self.daemon.process.pid

    def kill(self):
        self.daemon.kill()
        time.sleep(self.random.uniform(0, 1))
        self.daemon.start()

    def restart(self):
        self.daemon.stop()
        time.sleep(self.random.uniform(0, 0.5))
        self.daemon.start()

    def freeze(self):
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, TIMEOUT + 1.5))
        os.kill(pid, signal.SIGCONT)

    def hide_socket(self):
        path = self.daemon.socket
        os.rename(path, path + ".away")
        time.sleep(self.random.uniform(0.1, 1))
        os.rename(path + ".away", path)

    def new_socket(self):
        """Removed while the daemon runs, and made by the next one."""
        os.unlink(self.daemon.socket)
        time.sleep(self.random.uniform(0.1, 0.5))
        self.daemon.kill()
        self.daemon.start()

    def stop_client(self):
        hand = self.random.choice(self.hands)
        others = [h for h in self.hands if h is not hand]
        hand.signal(signal.SIGSTOP)
        begin = time.monotonic()
        for other in self.random.sample(others, 2):
            other.user.stat(self.m / "by-name")
            try:
                other.user.read(other.dir + "/cache")
            except (FileNotFoundError, TimeoutError):
                pass                    # not made yet; a busy machine
        took = time.monotonic() - begin
        check(took < 2 * DEADLINE, "a stopped client blocks others: %.1f s",
              took)
        time.sleep(self.random.uniform(0, 0.5))
        hand.signal(signal.SIGCONT)

    def interrupt(self):
        """Ctrl-C while the daemon says nothing: gone at once.

        By a name that nobody else looks up: the kernel lets two that look up
        the same one wait for the first one's answer, signals or not.
        """
        pid, user = self.daemon_pid(), self.victim
        path = self.m / ("%s/cache" % uuid.uuid4())
        os.kill(pid, signal.SIGSTOP)
        try:
            process = subprocess.Popen(
                ["env", "--default-signal=INT", "cat", path], user=user.uid, group=user.gid,
                extra_groups=[], env=user.env, cwd="/",
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.5)
            check(process.poll() is None, "it did not wait")
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(20)
            took = time.monotonic() - begin
        finally:
            os.kill(pid, signal.SIGCONT)
        check(took < 1.0, "Ctrl-C took %.1f s", took)

    def trouble(self):
        what = self.random.choice((
            self.kill, self.restart, self.freeze, self.freeze,
            self.hide_socket, self.new_socket, self.stop_client,
            self.interrupt))
        what()
        self.done[what.__name__] = self.done.get(what.__name__, 0) + 1


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


def run(t, daemon, seconds, seed):
    m = t.mount("-o", "timeout=%d" % TIMEOUT)
    users = [t.user() for _ in range(USERS)]
    hands = [Hand(t, m, u, "%d:tkt%d" % (u.uid, i), daemon, seconds,
                  seed + 10 * u.uid + i)
             for u in users for i in range(CACHES)]
    chaos = Chaos(t, m, daemon, hands, seed)
    end = time.monotonic() + seconds
    time.sleep(1)
    begin = figures_of(m)
    most = dict(begin)
    while time.monotonic() < end:
        chaos.trouble()
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
