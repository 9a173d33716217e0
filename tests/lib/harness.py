"""Test registration and the context that each test function is given.

    @test(*ALL)                 # once for each of these daemons
    def something(t): ...

    @test("kcmd")
    @not_under("asan tsan", "searches the memory of kcmfs")
    def something_else(t): ...

t.user() makes users, t.mount() mounts, t.daemon is the running KCM daemon,
t.realm the KDC; whatever was made ends with the test, in reverse order.
"""
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback

import ccfile
import daemons
import users
from kcmwire import Client
from mount import Mount
from proxy import Proxy
from realm import Realm
from util import Failed, Skip, run, tail

ALL = daemons.ALL
REAL = ("heimdal", "sssd", "kcmd")      # a process apart from the mount
# What the mount sends these is checked on the way (proxy.py), in all tests but
#   - test_service and test_packaging, and of test_docs what begins with no
#     daemon: systemd or run.sh starts the daemon and the mount, on the one
#     socket that both know
#   - test_soak.no_growth, which measures for hours, not the proxy too
# Where kcmfs is the daemon itself (embedded) there is nothing between.
CHECKED = ("heimdal", "sssd", "kcmd")
TEST_DEADLINE = int(os.environ.get("KCMFS_TEST_LIMIT", "180"))

REPO = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.environ.get("KCMFS_BUILD", os.path.join(REPO, "build"))
# clients and unpacked packages, the same for all build variants
TOOLS = os.environ.get("KCMFS_TEST_TOOLS", os.path.join(REPO, "build"))

_registered = []


def sanitizer():
    """That of the programs under test: "asan", "tsan" or ""."""
    try:
        with open(os.path.join(BUILD, "flags")) as f:
            flags = f.read()
    except OSError:
        return ""
    return ("asan" if "-fsanitize=address" in flags else
            "tsan" if "-fsanitize=thread" in flags else "")


def test(*on):
    """The function is a test, on these daemons; without any: on none."""
    def register(function):
        for daemon in on or ("none",):
            _registered.append((function, daemon))
        return function
    return register


# Reasons for not_under().
MEASURES = "measures memory, and that of a sanitizer is many times the program's"
SEARCHES = "searches memory, of which a sanitizer keeps copies and what was freed"
CONFINES = "confines the program where LeakSanitizer has to look at it"
CLOCK = "holds deadlines against the clock, and a sanitizer takes ten times as long"


def not_under(sanitizers, reason):
    """The function cannot hold under these; it is not run there, which is
    said and counted, in tests/run."""
    def mark(function):
        function.not_under = {**getattr(function, "not_under", {}),
                              **{s: reason for s in sanitizers.split()}}
        return function
    return mark


def collect(module):
    """[(id, function, daemon)] of a module that was just imported."""
    found = [("%s.%s[%s]" % (module, f.__name__, d), f, d)
             for f, d in _registered if f.__module__ == module]
    ids = [i for i, _, _ in found]
    if len(ids) != len(set(ids)):
        raise SystemExit("%s: two tests of one name" % module)
    return found


class Embedded:
    """kcmfs --embedded in the place of a daemon: the mount is it."""
    name = "embedded"
    keeps_state = False

    def __init__(self, group):
        self.group = group


class Group:
    """What the tests of one module on one daemon share."""

    def __init__(self, directory, realm, daemon_name, first_uid):
        self.dir, self.realm, self.daemon_name = directory, realm, daemon_name
        self.next_uid = first_uid
        self.serial = 0
        self._daemon = None
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)

    def new_dir(self, name):
        self.serial += 1
        path = os.path.join(self.dir, "%s%d" % (name, self.serial))
        os.mkdir(path)
        os.chmod(path, 0o755)
        return path

    def make_daemon(self, name, *options):
        """A daemon that is not started yet."""
        directory = self.new_dir(name)
        conf = self.realm.write_conf(os.path.join(directory, "krb5.conf"))
        if name == "kcmd":
            return daemons.Kcmd(directory, conf,
                                os.path.join(BUILD, "kcmd"), *options)
        kind = {"heimdal": daemons.Heimdal, "sssd": daemons.Sssd}[name]
        return kind(directory, conf, *options)

    def daemon(self):
        """The shared one, started at first use, or again if a test broke it.
        """
        if self._daemon is None:
            self._daemon = self.make_daemon(self.daemon_name)
        if not self._daemon.running():
            self._daemon.start()
        return self._daemon

    def close(self):
        if self._daemon:
            self._daemon.stop()


class Test:
    """One test function's world."""

    def __init__(self, group):
        self.group, self.realm, self.tools = group, group.realm, TOOLS
        self.dir = group.new_dir("test")
        self.krb5_conf = os.path.join(self.dir, "krb5.conf")
        self.kcm_socket = self.kcm_run_dir = None
        self._daemon = None
        self._cleanups, self._mounts, self._users = [], [], []
        self._own, self._proxies, self._checking = [], [], None
        if group.daemon_name == "embedded":
            self._point_to(os.path.join(self.dir, "run"))
            os.mkdir(self.kcm_run_dir)
        elif group.daemon_name != "none":
            self.use_daemon(group.daemon())
        else:
            self.realm.write_conf(self.krb5_conf)

    def _point_to(self, run_dir):
        """From now on KCM: of the test's users is this daemon."""
        self.kcm_run_dir = run_dir
        self.kcm_socket = os.path.join(run_dir, daemons.HEIMDAL_SOCKET)
        self.realm.write_conf(self.krb5_conf, self.kcm_socket)

    # -- daemons

    @property
    def daemon(self):
        return self._daemon

    @property
    def on(self):
        """The name of the daemon that this run of the test is on."""
        return self.group.daemon_name

    def use_daemon(self, daemon):
        self._daemon = daemon
        self._point_to(daemon.run_dir)

    def own_daemon(self, *options, start=True):
        """A daemon for this test alone, to stop and to configure."""
        daemon = self.group.make_daemon(self.on, *options)
        self._own.append(daemon)
        self.use_daemon(daemon)
        if self._checking:
            self._checking = None       # was before another one
        if start:
            daemon.start()
        return daemon

    def proxy(self, **options):
        """A counting proxy before the daemon; mount(socket=proxy.socket)."""
        path = os.path.join(self.dir, "proxy%d" % len(self._proxies))
        os.mkdir(path)
        os.chmod(path, 0o755)
        proxy = Proxy(self.kcm_socket, path, **options)
        self._proxies.append((proxy, self._daemon))
        self._daemon.followers.append(proxy)
        if self._daemon.running():
            proxy.start()
        return proxy

    def checked(self):
        """The socket of the proxy that only looks on, or the daemon's."""
        if self._checking is None and self.on in CHECKED:
            self._checking = self.proxy(log=False)
        return self._checking.socket if self._checking else self.kcm_socket

    # -- users and mounts

    def user(self, principal=True):
        """A fresh uid; with a principal u<uid> and its keytab, unless it is
        told another one's name or None."""
        uid = self.group.next_uid
        self.group.next_uid += 1
        home = os.path.join(self.dir, "home%d" % uid)
        os.mkdir(home, 0o700)
        os.chown(home, uid, uid)
        user = users.User(self, uid, home)
        if principal:
            name = "u%d" % uid if principal is True else principal
            self.realm.add(name)
            user.keytab = self.realm.keytab(name)
            user.principal = "%s@%s" % (name, self.realm.name)
        self._users.append(user)
        return user

    def root(self):
        """uid 0 as one more user; what is in its caches goes at the end."""
        user = users.User(self, 0, self.dir)
        self._users.append(user)
        return user

    def mount(self, *options, socket=None, uid=None, start=True, env=None,
              direct=False):
        """kcmfs on a new mount point, served by the test's daemon; direct:
        with nothing between."""
        path = os.path.join(self.dir, "mnt%d" % len(self._mounts))
        os.mkdir(path)
        if uid is not None:
            os.chown(path, uid, uid)
        arguments = list(options)
        if socket is None and not direct and self.on in CHECKED:
            socket = self.checked()
        if socket is None and self.on == "embedded" and not self._mounts:
            arguments += ["--embedded", "--kcm-socket=" + self.kcm_socket]
        elif socket is not False and self.kcm_socket:
            arguments += ["-o", "kcm_socket=" + (socket or self.kcm_socket)]
        mount = Mount(os.path.join(BUILD, "kcmfs"), path, path + ".log",
                      arguments, self.mount_env(env), uid)
        self._mounts.append(mount)
        return mount.start() if start else mount

    def mount_env(self, more=None):
        return dict({**os.environ, "KRB5_CONFIG": self.krb5_conf}, TZ="UTC",
                    LC_ALL="C", **(more or {}))

    def wire(self, user=None):
        """A wire client as this user (None: as we are), closed at the end."""
        client = Client(self.kcm_socket, user and user.uid)
        self.cleanup(client.close)
        return client

    # -- the end

    def cleanup(self, function):
        self._cleanups.append(function)

    def secrets(self):
        """Keys and tickets of all that is in the users' caches now."""
        found = []
        for user in self._users:
            try:
                with Client(self.kcm_socket, user.uid) as wire:
                    for name in wire.caches().values():
                        for raw in wire.creds(name):
                            cred = ccfile.parse_cred(raw)
                            if not cred.is_config():
                                found += [cred.key, cred.ticket]
            except (OSError, EOFError, AssertionError, ValueError):
                pass            # no daemon any more, or odd caches on purpose
        return found

    def _empty_caches(self):
        for user in self._users:
            try:
                with Client(self.kcm_socket, user.uid) as wire:
                    own = wire.caches().values()
                    for name in own:
                        if user.uid or not _foreign(name):
                            wire.destroy(name)
            except (OSError, EOFError):
                pass

    def finish(self, failed):
        """Ends all; raises where what must hold at the end does not."""
        errors = []

        def attempt(function, *args):
            try:
                function(*args)
            except Exception as e:
                errors.append(e)

        for function in reversed(self._cleanups):
            attempt(function)
        secrets = []
        if self.kcm_socket:
            secrets = self.secrets()
            if self.on != "embedded":
                self._empty_caches()
        # The first mount of an embedded test is its daemon, so it goes last.
        for mount in reversed(self._mounts):
            if failed:
                attempt(mount.discard)
            elif mount.process is not None:
                attempt(mount.finish, secrets)
        for proxy, daemon in self._proxies:
            if not failed:
                attempt(proxy.settle)
            daemon.followers.remove(proxy)
            attempt(proxy.stop)
            if not failed:
                attempt(proxy.check)
        for daemon in self._own:
            attempt(daemon.stop)
        if self._daemon is not None:
            attempt(self._daemon.check)
        if errors and not failed:
            raise errors[0]

    def report(self):
        """The logs, for a failure's output."""
        text = ""
        for mount in self._mounts:
            text += "--- log of kcmfs %s\n%s\n" % (
                " ".join(mount.arguments), tail(mount.log))
        if self._daemon is not None:
            text += "--- log of %s\n%s\n" % (self._daemon.name,
                                             tail(self._daemon.log, 15))
        return text

    def abort(self):
        """From the watchdog: nothing may hang on a mount of ours."""
        for mount in self._mounts:
            if mount.process:
                mount.process.kill()


def _foreign(name):
    """Heimdal shows root everybody's caches; those are not root's to end."""
    return not (name == "0" or name.startswith("0:"))


def run_one(group, function):
    """(status, text): ok, FAIL, skip or plain, and what to print below it.
    """
    reason = getattr(function, "not_under", {}).get(sanitizer())
    if reason:
        return "plain", reason
    try:
        t = Test(group)
    except Exception as e:
        return "FAIL", _explain(e)
    hung = []

    def watchdog():
        hung.append(True)
        faulthandler.dump_traceback(all_threads=True)
        t.abort()
    timer = threading.Timer(TEST_DEADLINE, watchdog)
    timer.daemon = True
    timer.start()
    status, text, failed = "ok", "", True
    try:
        function(t)
        failed = False
    except Skip as e:
        status, text, failed = "skip", str(e), False
    except Exception as e:
        status, text = "FAIL", _explain(e)
    try:
        t.finish(failed)
    except Exception as e:
        status, text = "FAIL", "at the end of the test: " + _explain(e)
    timer.cancel()
    if hung:
        status = "FAIL"
        text = "no end after %d s; %s" % (TEST_DEADLINE, text)
    if status == "FAIL":
        text += "\n" + t.report()
    shutil.rmtree(t.dir, ignore_errors=True)
    return status, text


def _explain(e):
    if isinstance(e, Failed):
        frames = [f for f in traceback.extract_tb(e.__traceback__)
                  if "/tests/mount/" in f.filename]
        where = "%s:%d: " % (os.path.basename(frames[-1].filename),
                             frames[-1].lineno) if frames else ""
        return where + str(e)
    return "".join(traceback.format_exception(e)).rstrip()


def close(group, status, text):
    """After the last test, which fails if its group does not end well."""
    try:
        group.close()
    except Exception as e:
        return "FAIL", "%s\nat the end of the group: %s" % (text,
                                                            _explain(e))
    return status, text


# ------------------------------------------------------- a worker's life

def worker(job):
    """Runs one group in this process; a JSON line per test on stdout."""
    from util import unshare_mounts
    unshare_mounts()
    passwd = job["passwd"]
    for name in ("passwd", "group"):
        run(["mount", "--bind", os.path.join(passwd, name), "/etc/" + name])
    sys.path.insert(0, os.path.join(REPO, "tests", "mount"))
    __import__(job["module"])
    todo = [(name, function) for name, function, daemon in
            collect(job["module"])
            if name in job["tests"] and daemon == job["daemon"]]
    group = Group(job["dir"], Realm.attach(job["realm"]), job["daemon"],
                  job["first_uid"])
    try:
        for name, function in todo:
            begin = time.monotonic()
            status, text = run_one(group, function)
            if name == todo[-1][0]:
                status, text = close(group, status, text)
            print(json.dumps({"id": name, "status": status, "text": text,
                              "time": time.monotonic() - begin}), flush=True)
    finally:
        group.close()
        shutil.rmtree(job["dir"], ignore_errors=True)


def start_worker(job):
    return subprocess.Popen(
        [sys.executable, os.path.join(REPO, "tests", "run"), "--worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ.copy())
