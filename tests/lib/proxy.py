"""A KCM proxy that counts and checks what goes through it.

It listens as the daemon would and connects on with its peer's uid and gid,
so that the daemon sees whom it would see without it.  Per connection two
threads copy whole messages.  What the client does wrong on the wire is
collected in `violations`:

  - a request not 2.0, too short, of an opcode that kcmfs has no use for, or
    (up to 32 KiB, where the kernel never splits) not in one piece
  - arguments that are not what the opcode has, to the last byte
  - a connection closed with a reply unread or a request half sent, unless we
    or the daemon ended it, or sent nonsense on it

It follows its daemon (daemons.py): while that is down nobody listens here
either, so that a mount sees what it would see without it.

Faults on demand: hold(OPCODE) keeps the replies back until release(),
replace_reply(OPCODE, BYTES) answers that instead, drop(OPCODE) closes
without an answer; hold_uid(UID) holds all replies to one user; fail_at(N,
KIND) lets the Nth request from now on go wrong; before(NAME, ARGUMENTS), if
it is set, is called with each request before it goes on.  mangle(OPCODE,
FUNCTION, UID) has FUNCTION(reply) say what is done instead: bytes to send,
seconds to wait, CLOSE, STALL, which is to send nothing more on this
connection, and OTHER, which is to send the last reply to a request of another
opcode; hits(OPCODE, UID) counts the replies spoiled so since then.
"""
import collections
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections import Counter

import ccfile
from kcmwire import OPCODES, connect_as
from util import Failed, HEIMDAL_SOCKET, wait_for

CLOSE, STALL, OTHER = "close", "stall", "other"
ONE_PIECE = 32768
NOTHING = struct.pack(">Iii", 4, 0, 0)
REFUSAL = struct.pack(">Iii", 4, 0, -1765328188)        # INTERNAL


def _name(r):
    end = r.data.find(b"\0", r.at)
    if end <= r.at:
        raise ValueError("an empty name, or none")
    r.raw(end + 1 - r.at)


def _uuid(r):
    r.raw(16)


def _u32(r):
    return r.number("I")


def _principal(r):
    r.principal()


def _cred(r):
    r.cred()


def _creds(r):
    for i in range(_u32(r)):
        cred = r.counted()
        if i < 100:                     # it is slow
            ccfile.parse_cred(cred)


def _match(r):
    """REMOVE_CRED's: a credential of which a tag says what it has."""
    tag = _u32(r)
    for bit in (1, 2):
        if tag & bit:
            r.principal()
    if tag & 4:
        r.number("H")
        r.counted()
    r.raw(4 * 4 + 1 + 4)                # times, is_skey, flags
    if tag & ~0x17:
        raise ValueError("tag %x" % tag)
    if tag & 16:
        r.counted()


# What kcmfs sends.  RETRIEVE is not of it: Heimdal may ask the KDC for what
# it does not have, and no other operation that may crash a real daemon.
ARGUMENTS = {
    "NOOP": (), "GET_CACHE_UUID_LIST": (), "GET_DEFAULT_CACHE": (),
    "DESTROY": (_name,), "GET_PRINCIPAL": (_name,),
    "GET_CRED_UUID_LIST": (_name,), "GET_KDC_OFFSET": (_name,),
    "GET_CRED_LIST": (_name,), "SET_DEFAULT_CACHE": (_name,),
    "GET_CACHE_BY_UUID": (_uuid,), "GET_CRED_BY_UUID": (_name, _uuid),
    "INITIALIZE": (_name, _principal), "STORE": (_name, _cred),
    "SET_KDC_OFFSET": (_name, _u32), "MOVE_CACHE": (_name, _name),
    "REMOVE_CRED": (_name, _u32, _match),
    "REPLACE": (_name, _u32, _principal, _creds),
}


def unread(s):
    """Bytes that have come and were not received."""
    try:
        return struct.unpack("i", fcntl.ioctl(s, termios.FIONREAD, bytes(4)))[0]
    except (OSError, ValueError):       # closed
        return 0


class Proxy:
    def __init__(self, upstream, directory, log=True, only=None):
        """log: whether to keep it, which takes memory; only: the name of the
        program that is judged, where others come this way, too."""
        self.upstream, self._logs, self.only = upstream, log, only
        self.run_dir = os.path.join(directory, "run")
        self.socket = os.path.join(self.run_dir, HEIMDAL_SOCKET)
        self.lock = threading.Condition()
        self.calls = Counter()          # opcode name -> requests
        self.log = []                   # [(uid, opcode name, arguments)]
        self.peers = set()              # (uid, gid) that made requests
        self.connections = 0
        self.round_trips = 0            # exchanges; a pipelined batch is one
        self.violations = []
        self.may_abandon = False        # close with replies to come
        self._held, self._replies, self._drops = set(), {}, set()
        self._mangled = {}              # (opcode, uid or None): function
        self._hits = Counter()          # the same: replies
        self._fail = None               # [requests left, kind, function]
        self.before = None              # called with each request, before it
                                        # goes on: opcode name, arguments
        self.failed = None              # the opcode that went wrong
        self._links = set()
        self._listener = None
        os.makedirs(self.run_dir, exist_ok=True)

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        os.chmod(self.socket, 0o666)
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=(self._listener,),
                         daemon=True).start()
        return self

    def refuse(self):
        """No listener any more."""
        with self.lock:
            listener, self._listener = self._listener, None
        if listener:
            _shutdown(listener)
            listener.close()

    def stop(self):
        """As a daemon that ends: no listener, connections closed."""
        self.refuse()
        with self.lock:
            links = list(self._links)
            self._held.clear()
            self.lock.notify_all()
        for link in links:
            link.end()
            _shutdown(link.server)

    def settle(self):
        """After the clients' end: until all that they did is judged."""
        self.heal()
        wait_for("the proxy's connections to end", lambda: not self._links)

    # -- faults

    def disconnect(self):
        """Closes all connections that there are; new ones are taken."""
        with self.lock:
            links = list(self._links)
        for link in links:
            link.end()

    def hold(self, opcode):
        with self.lock:
            self._held.add(opcode)

    def hold_uid(self, uid):
        self.hold(uid)

    def release(self):
        with self.lock:
            self._held.clear()
            self.lock.notify_all()

    def replace_reply(self, opcode, data):
        self._replies[opcode] = data

    def drop(self, opcode):
        self._drops.add(opcode)

    def fail_at(self, number, kind, function=None):
        """The request of this number, from now on, is not done and answered
        INTERNAL ("refuse") or not at all ("hang"); or function() is called
        and the connection closed, before it is done ("before") or when it
        was, before the answer ("after"); or only that, before ("as")."""
        with self.lock:
            self._fail, self.failed = [number, kind, function], None

    def disarm(self):
        """None goes wrong from now on; the opcode that did, or None."""
        with self.lock:
            self._fail = None
            return self.failed

    def mangle(self, opcode, function, uid=None):
        self._hits[opcode, uid] = 0
        self._mangled[opcode, uid] = function

    def hits(self, opcode, uid=None):
        with self.lock:
            return self._hits[opcode, uid]

    def quiet(self, uid):
        """Until all that this user's requests so far bring is sent."""
        def sent():
            with self.lock:
                links = [link for link in self._links if link.uid == uid]
            return not any(link.busy or link.pending or unread(link.client)
                           for link in links if not link.silent)
        wait_for("the replies to uid %d" % uid, sent)

    def heal_uid(self, uid):
        for key in [k for k in list(self._mangled) if k[1] == uid]:
            del self._mangled[key]

    def _due(self, name):
        with self.lock:
            if self._fail is None:
                return None, None
            self._fail[0] -= 1
            if self._fail[0] != 0:
                return None, None
            self.failed = name
            return self._fail[1:]

    def heal(self):
        self._fail = None
        self._mangled.clear()
        self._replies.clear()
        self._drops.clear()
        self.release()

    # -- what was seen

    def reset(self):
        with self.lock:
            self.calls.clear()
            self.log.clear()
            self.connections = self.round_trips = 0

    def waiting(self, opcode):
        """Requests of this opcode seen since the last reset()."""
        with self.lock:
            return self.calls[opcode]

    def waiting_uid(self, uid):
        with self.lock:
            return any(entry[0] == uid for entry in self.log)

    def check(self):
        with self.lock:
            if self.violations:
                raise Failed("on the wire: " + "; ".join(self.violations[:5]))

    def _violation(self, text, *args):
        with self.lock:
            self.violations.append(text % args)

    # -- the two directions

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,),
                             daemon=True).start()

    def _serve(self, client):
        pid, uid, gid = struct.unpack("3i", client.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            server = connect_as(self.upstream, uid, gid, None)
        except OSError:
            client.close()
            return
        # Large requests: sssd wants each whole in one read.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        with self.lock:
            self.connections += 1
            link = _Link(self, client, server, uid, gid)
            link.judged = self.only in (None, program_of(pid))
            self._links.add(link)
        back = threading.Thread(target=link.replies, daemon=True)
        back.start()
        link.requests()
        _shutdown(server)
        back.join()
        with self.lock:
            self._links.discard(link)
        client.close()
        server.close()


class _Link:
    """One client connection and its upstream one."""

    def __init__(self, proxy, client, server, uid, gid):
        self.proxy, self.client, self.server = proxy, client, server
        self.uid, self.gid = uid, gid
        self.pending = collections.deque()  # (opcode name, function)
        self.order = threading.Lock()       # of changes to it
        self.unanswered = 0
        self.last, self.other = (None, NOTHING), NOTHING
        self.hung = False
        self.judged = True
        self.ended = False          # by us or by the daemon
        self.spoiled = False        # something else than its reply was sent
        self.silent = False         # no more replies
        self.busy = False           # with requests that were received

    def end(self):
        self.ended = True
        _shutdown(self.client)

    def requests(self):
        try:
            self._requests()
        finally:
            self.busy = False

    def _requests(self):
        buffer = b""
        come = select.poll()
        come.register(self.client, select.POLLIN)
        while True:
            try:
                come.poll()
                # For quiet(): what is not unread any more is busy by then.
                self.busy = True
                part = self.client.recv(1 << 20)
            except ConnectionResetError:
                self._closed("with a reply unread")
                return
            except OSError:
                return
            if not part:
                if buffer:
                    self._closed("in the middle of a request")
                elif self.unanswered:
                    self._closed("with %d replies to come" % self.unanswered)
                return
            buffer += part
            try:
                buffer = self._forward(buffer)
            except OSError:             # upstream is gone
                self.end()
                return
            self.busy = False

    def _closed(self, how):
        if not (self.ended or self.spoiled or self.hung
                or self.proxy.may_abandon):
            self._violation("closed %s", how)

    def _violation(self, text, *args):
        if self.judged:
            self.proxy._violation(text, *args)

    def _forward(self, buffer):
        first = True
        while len(buffer) >= 4:
            size, = struct.unpack(">I", buffer[:4])
            if len(buffer) < 4 + size:
                break
            body, buffer = buffer[4:4 + size], buffer[4 + size:]
            name = self._examine(body)
            with self.proxy.lock:
                self.proxy.calls[name] += 1
                self.proxy.peers.add((self.uid, self.gid))
                if self.proxy._logs:
                    self.proxy.log.append((self.uid, name, body[4:]))
                if first and self.unanswered == 0:
                    self.proxy.round_trips += 1
                self.unanswered += 1
            first = False
            if self.proxy.before:
                self.proxy.before(name, body[4:])
            kind, function = self.proxy._due(name)
            if name in self.proxy._drops or kind == "before":
                if function:
                    function()
                self.end()
                raise ConnectionError("dropped on demand")
            if kind == "hang":
                self.hung = True
            if self.hung:
                continue
            if kind == "as":
                function()
                kind = function = None
            with self.order:
                self.pending.append((kind or name, function))
                self._refuse()
            if kind == "refuse":
                continue
            self.server.sendall(struct.pack(">I", size) + body)
        if buffer:
            size = struct.unpack(">I", buffer[:4])[0] if len(buffer) >= 4 \
                else 0
            if size < ONE_PIECE:
                self._violation("a request of %d bytes in pieces (%d "
                                      "came first)", size, len(buffer))
        return buffer

    def _examine(self, body):
        if len(body) < 4 or body[:2] != b"\2\0":
            self._violation("malformed request %r", body[:8])
            return "?"
        number, = struct.unpack(">H", body[2:4])
        name = OPCODES.get(number, str(number))
        if name not in ARGUMENTS:
            self._violation("%s sent", name)
            return name
        r = ccfile.Reader(body[4:])
        try:
            for part in ARGUMENTS[name]:
                part(r)
            if r.at != len(r.data):
                raise ValueError("%d bytes more" % (len(r.data) - r.at))
        except (EOFError, ValueError) as e:
            self._violation("arguments of %s: %s", name, e)
        return name

    def replies(self):
        try:
            while True:
                head = self._exactly(8)
                size, = struct.unpack(">I", head[:4])
                message = head + self._exactly(size)
                name, function = self.pending[0]
                if function:
                    function()
                    self.end()
                    return
                with self.proxy.lock:
                    while {name, self.uid} & self.proxy._held:
                        self.proxy.lock.wait()
                    self.unanswered -= 1
                mangle = None
                if name in self.proxy._replies:
                    self.spoiled = True
                    message = self.proxy._replies[name]
                for key in ((name, self.uid), (name, None)):
                    mangle = mangle or self.proxy._mangled.get(key)
                    with self.proxy.lock:
                        self.proxy._hits[key] += mangle is not None
                if self.last[0] != name:
                    self.other = self.last[1]
                self.last = name, message
                if mangle is None:
                    self._answer(message)
                elif not self._send(mangle(message), message):
                    return
                with self.order:
                    self.pending.popleft()
                    self._refuse()
        except (OSError, EOFError):
            self.end()
        finally:
            self.silent = True

    def _send(self, actions, message):
        actions = [self.other if a == OTHER else a for a in actions]
        # It may come late, and in pieces, and still be the reply.
        if STALL in actions or message != b"".join(
                a for a in actions if isinstance(a, bytes)):
            self.spoiled = True
        for action in actions:
            if action == CLOSE:
                self.end()
                return False
            if action == STALL:
                return False
            if isinstance(action, float):
                time.sleep(action)
            else:
                self._answer(action)
        return True

    def _answer(self, data):
        try:
            self.client.sendall(data)
        except OSError:
            self._closed("before it was answered")
            raise

    def _refuse(self):
        """Answer what is to be refused, as soon as it is its turn."""
        while self.pending and self.pending[0][0] == "refuse":
            self.pending.popleft()
            with self.proxy.lock:
                self.unanswered -= 1
            self._answer(REFUSAL)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.server.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def program_of(pid):
    try:
        with open("/proc/%d/comm" % pid) as f:
            return f.read().strip()
    except OSError:
        return None


def _shutdown(s):
    try:
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


