"""Small helpers that every other module uses: failures, waiting, uids.

A test fails by an exception.  `Failed` is one whose text says it all; any
other exception is shown with its traceback.
"""
import ctypes
import os
import platform
import signal
import socket
import subprocess
import threading
import time

DEADLINE = float(os.environ.get("KCMFS_TEST_DEADLINE", "20"))
HEIMDAL_SOCKET = ".heim_org.h5l.kcm-socket"     # its name in /run is fixed


class Failed(Exception):
    """A check did not hold."""


class Skip(Exception):
    """Debian 12 cannot provide what the test needs; the text says what."""


def check(condition, text="check failed", *args):
    if not condition:
        raise Failed(text % args if args else text)


def eq(got, want, what="value"):
    if got != want:
        raise Failed("%s:\n  got  %s\n  want %s" % (what, shorten(got),
                                                   shorten(want)))


def has(text, part, what="output"):
    if part not in text:
        raise Failed("%s lacks %r:\n%s" % (what, part, shorten(text)))


def lacks(text, part, what="output"):
    if part in text:
        raise Failed("%s has %r:\n%s" % (what, part, shorten(text)))


def shorten(value, limit=2000):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[:limit] + "... (cut)"


def raises(errno_wanted, function, *args):
    """function(*args) must fail with exactly this errno."""
    try:
        result = function(*args)
    except OSError as e:
        if e.errno != errno_wanted:
            raise Failed("errno %s instead of %s from %s%r" % (
                os.strerror(e.errno), os.strerror(errno_wanted),
                getattr(function, "__name__", function), args)) from e
        return e
    raise Failed("no error, but %s wanted, from %s%r: %s" % (
        os.strerror(errno_wanted), getattr(function, "__name__", function),
        args, shorten(result, 200)))


def wait_for(what, condition, deadline=None):
    """Polls until condition() is true and returns what it returned.

    It is the only way in which tests wait; they never count on a time in
    which something happens, only on that it happens before the deadline.
    """
    end = time.monotonic() + (deadline or DEADLINE)
    pause = 0.001
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise Failed("waited in vain for " + what)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


# ---------------------------------------------------------------- identities

_libc = ctypes.CDLL(None, use_errno=True)
_SETRES = {"x86_64": (117, 119, 116), "aarch64": (147, 149, 159),
           "riscv64": (147, 149, 159)}


def _syscall(*args):
    if _libc.syscall(*(ctypes.c_long(a) for a in args)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def thread_setids(uid, gid, forever):
    """Changes the ids of the calling thread alone (raw system calls).

    forever: real, effective and saved ones, as after a login; otherwise the
    effective ones, and thread_setids(0, 0, False) is the way back.
    """
    setresuid, setresgid, setgroups = _SETRES[platform.machine()]
    same = -1
    if not forever and uid == 0:        # the way back: uid first
        _syscall(setresuid, same, 0, same)
        _syscall(setresgid, same, 0, same)
        return
    if forever:
        _syscall(setgroups, 0, 0)
        _syscall(setresgid, gid, gid, gid)
        _syscall(setresuid, uid, uid, uid)
    else:
        _syscall(setresgid, same, gid, same)
        _syscall(setresuid, same, uid, same)


def call_as(uid, gid, function, *args, **kwargs):
    """function(...) in a thread of its own that is this user altogether."""
    outcome = {}

    def body():
        try:
            thread_setids(uid, gid, True)
            outcome["value"] = function(*args, **kwargs)
        except BaseException as e:      # handed to the caller, whatever it is
            outcome["error"] = e

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def at_once(functions):
    """Runs them in threads; raises what one of them raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as e:      # noqa: B902
            errors.append(e)
    threads = [threading.Thread(target=guarded, args=(f,))
               for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# ----------------------------------------------------------------- processes

def unshare_mounts():
    """A mount namespace of our own, nothing of which is seen elsewhere."""
    CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
    if _libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE),
                   None):
        raise OSError(ctypes.get_errno(), "mount --make-rprivate /")


def bind_mount(source, target):
    MS_BIND = 0x1000
    if _libc.mount(source.encode(), target.encode(), None,
                   ctypes.c_ulong(MS_BIND), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()),
                      target)


def umount(path):
    """Without umount(8)'s looks at what is mounted, which may not answer."""
    if _libc.umount2(path.encode(), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()),
                      path)


class Result:
    """What a command did."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __str__(self):
        return "%s\n  exit status %d\n  stdout: %s\n  stderr: %s" % (
            " ".join(map(str, self.command)), self.code,
            shorten(self.out).rstrip(), shorten(self.err).rstrip())


def run(command, code=0, text=True, **options):
    """Runs a command; code is the exit status wanted, None for any."""
    options.setdefault("timeout", 60)
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    command = [str(c) for c in command]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **options)
    except subprocess.TimeoutExpired as e:
        raise Failed("%s: no end after %d s\n%s\n%s" % (
            " ".join(command), e.timeout, e.stdout, e.stderr)) from None
    out, err = done.stdout, done.stderr
    if text:
        out = out.decode("utf-8", "replace")
    err = err.decode("utf-8", "replace")
    result = Result(command, done.returncode, out, err)
    if code is not None and done.returncode != code:
        raise Failed("exit status %s wanted of: %s" % (code, result))
    return result


def end_process(process, sig=signal.SIGTERM, deadline=None):
    """Signals one process and reaps it; SIGKILL if it does not obey."""
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(deadline or DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed("%s did not end on signal %d" % (
                process.args, sig)) from None
    return process.returncode


def connectable(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def free_port():
    """A port of 127.0.0.1 that nobody has right now, for UDP and TCP."""
    while True:
        with socket.socket() as tcp, \
                socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


def tail(path, lines=40):
    try:
        with open(path, "rb") as f:
            return b"\n".join(f.read().splitlines()[-lines:]).decode(
                "utf-8", "replace")
    except OSError as e:
        return "(%s)" % e
