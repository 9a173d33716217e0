"""As test_inject.py: who kcmfs is when it connects, its start, its threads."""
import os
import signal
import threading

from harness import not_under, test
from injecting import (FITTING, IDS, LATE, MEMORY, MOST, OWN_ALLOCATOR,
                       SOCKETS, Injector, each_kind)
from kcmwire import Client
from made import made_cache, usual_creds
from mount import mounted
from tree import by_name
from util import Failed, check, eq, has, wait_for

IDS_OF_A_CONNECT = 4    # gid and uid, and back


def identities(pid):
    """All ids that the threads of the process have."""
    found = set()
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, thread)) as f:
            for line in f:
                if line.startswith(("Uid:", "Gid:")):
                    found.update(line.split()[1:])
    return found


def sleeps(pid):
    with open("/proc/%d/task/%d/status" % (pid, pid)) as f:
        return "State:\tS" in f.read()


class Switching:
    """A mount, and what its daemon sees of who connects."""

    def __init__(self, t):
        self.t, self.injector = t, Injector(t)
        self.proxy = t.proxy()
        self.m = t.mount("-s", "-o", "timeout=5", env=self.injector.env,
                         socket=self.proxy.socket)

    def user(self):
        """Somebody for whom there is no connection yet."""
        u = self.t.user()
        made_cache(self.t, u, usual_creds(u), "%d:x" % u.uid)
        self.creds = usual_creds(u)
        self.path = self.m / ("by-name/%s/cache" % by_name("%d:x" % u.uid))
        return u

    def holds(self, u):
        """The daemon has what it had."""
        with Client(self.t.kcm_socket, u.uid) as w:
            eq(len(w.creds("%d:x" % u.uid)), len(self.creds), "in KCM")

    def read(self, u, number, all_after=False):
        """Reads with that failure: the errno, or None."""
        self.proxy.reset()
        self.injector.arm(IDS, number, all_after)
        code = None
        try:
            u.read(self.path)
        except OSError as e:
            code = e.errno
        self.reached = self.injector.disarm()
        for uid, name, _ in self.proxy.log:
            eq(uid, u.uid, "who asks with %s" % name)
        return code

    def aborted(self):
        """It ends rather than go on as somebody else; who starts it again
        finds all as it was."""
        eq(self.m.process.wait(20), -signal.SIGABRT, "how kcmfs ended")
        has(self.m.log_text(), "cannot take back the identity")
        self.m.start()


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def nobody_else_is_asked(t):
    """Who cannot become the user does not connect; who cannot become root
    again goes no further."""
    s = Switching(t)
    for number in range(1, IDS_OF_A_CONNECT + 2):
        u = s.user()
        code = s.read(u, number)
        there = number <= IDS_OF_A_CONNECT
        eq(s.reached, there, "reached at %d" % number)
        if 2 < number <= IDS_OF_A_CONNECT:
            check(code, "read by a process that ended")
            s.aborted()
        else:
            check((code in FITTING[IDS]) if there else code is None,
                  "number %d: %s", number, code)
            eq(s.proxy.connections, 0 if there else 1, "connections")
            eq(identities(s.m.process.pid), {"0"}, "who kcmfs is")
        s.holds(u)
        eq(s.read(u, MOST), None, "when all is well again")
    for number in (1, 2):
        u = s.user()
        check(s.read(u, number, True), "read, but all failed")
        eq(s.proxy.connections, 0, "connections")
        s.aborted()
        s.holds(u)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def kcmfs_starts_in_turn(t):
    """It serves, or says why not, and leaves nothing mounted."""
    injector = Injector(t)
    u = t.user()
    made_cache(t, u, usual_creds(u), "%d:x" % u.uid)

    def attempt(kind, number):
        m = t.mount("-o", "timeout=5", env=injector.env, start=False,
                    direct=True)
        injector.arm(kind, number)
        try:
            m.start()
            started = True
        except Failed as e:
            started, why = False, str(e)
        reached = injector.disarm()
        if started:
            u.read(m / ("by-name/%s/cache" % by_name("%d:x" % u.uid)))
            m.finish()
        else:
            code = m.process.wait(20)
            check(reached and code > 0 and "error: " in m.log_text(),
                  "kind %d, number %d: %s", kind, number, why)
            wait_for("nothing to be mounted",
                     lambda: not mounted(m.path))
        m.process = None
        return reached
    each_kind((MEMORY, SOCKETS), attempt)


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def the_housekeeper_stays(t):
    """Whose poll() fails is there for the next one: it also tells systemd
    that all is well."""
    injector = Injector(t)
    m = t.mount("-s", "-o", "idle=1", env=injector.env)
    for _ in range(2):
        injector.arm(SOCKETS, 1)
        wait_for("poll() to fail", injector.failed)
        injector.disarm()
    check(m.alive(), "died")


@test("kcmd")
@not_under("tsan", OWN_ALLOCATOR)
def ended_before_it_sleeps(t):
    """A signal that comes when the one thread has seen that it is to go on,
    and does not wait for a request yet."""
    injector = Injector(t)
    m = t.mount("-s", "--embedded", socket=False, env=injector.env)
    os.listdir(m / "by-name")       # known from now on

    def one_request():
        try:
            os.stat(m / "by-name/none")
        except OSError:             # it may end before it answers
            pass
    wait_for("it to sleep", lambda: sleeps(m.process.pid))
    injector.arm(LATE, 1)
    thread = threading.Thread(target=one_request, daemon=True)
    thread.start()
    wait_for("a read() that comes late", injector.failed)
    m.signal(signal.SIGTERM)
    eq(m.process.wait(20), 0, "how kcmfs ended")
    thread.join(20)
    m.process = None                # ended as it should
