"""A KCM client on the wire level, independent of any Kerberos library.

Client(path, uid, gid).call(opcode, arguments) -> Reply; nothing is checked
or repaired on the way, so that a test can send what it likes and sees what
the daemon really answered.
"""
import socket
import struct
import threading

from util import DEADLINE, thread_setids

OPCODES = {
    0: "NOOP", 1: "GET_NAME", 2: "RESOLVE", 3: "GEN_NEW", 4: "INITIALIZE",
    5: "DESTROY", 6: "STORE", 7: "RETRIEVE", 8: "GET_PRINCIPAL",
    9: "GET_CRED_UUID_LIST", 10: "GET_CRED_BY_UUID", 11: "REMOVE_CRED",
    12: "SET_FLAGS", 13: "CHOWN", 14: "CHMOD", 15: "GET_INITIAL_TICKET",
    16: "GET_TICKET", 17: "MOVE_CACHE", 18: "GET_CACHE_UUID_LIST",
    19: "GET_CACHE_BY_UUID", 20: "GET_DEFAULT_CACHE",
    21: "SET_DEFAULT_CACHE", 22: "GET_KDC_OFFSET", 23: "SET_KDC_OFFSET",
    24: "ADD_NTLM_CRED", 25: "HAVE_NTLM_CRED", 26: "DEL_NTLM_CRED",
    27: "DO_NTLM_AUTH", 28: "GET_NTLM_USER_LIST",
    13001: "GET_CRED_LIST", 13002: "REPLACE",
}
OP = {name: number for number, name in OPCODES.items()}

ERRORS = {
    0: "OK", -1765328245: "BADNAME", -1765328243: "NOTFOUND",
    -1765328242: "END", -1765328191: "IO", -1765328190: "PERM",
    -1765328189: "NOFILE", -1765328188: "INTERNAL", -1765328137: "NOSUPP",
    -1980176635: "EOF", 11: "EAGAIN", 22: "EINVAL",
}

# Flag bits of RETRIEVE and REMOVE_CRED (Heimdal's values).
TC_DONT_MATCH_REALM = 1 << 31
TC_MATCH_KEYTYPE = 1 << 30
TC_MATCH_FLAGS_EXACT = 1 << 28
TC_MATCH_TIMES_EXACT = 1 << 26
GC_CACHED = 1


class Reply:
    """outer and inner status and the bytes after them."""

    def __init__(self, outer, body):
        self.outer, self.body = outer, body
        self.inner = struct.unpack(">i", body[:4])[0] if len(body) >= 4 \
            else None
        self.result = body[4:]
        self.code = outer or self.inner or 0
        self.name = ERRORS.get(self.code, str(self.code))

    def __repr__(self):
        return "<%s outer=%s inner=%s %d bytes>" % (
            self.name, self.outer, self.inner, len(self.result))

    def text(self):
        """The result as one NUL-terminated string."""
        return self.result.split(b"\0", 1)[0].decode("utf-8", "replace")

    def uuids(self):
        return [self.result[i:i + 16] for i in range(0, len(self.result), 16)]

    def blobs(self):
        """The result as a GET_CRED_LIST reply."""
        count, = struct.unpack(">I", self.result[:4])
        at, found = 4, []
        for _ in range(count):
            size, = struct.unpack(">I", self.result[at:at + 4])
            found.append(self.result[at + 4:at + 4 + size])
            at += 4 + size
        return found


def connect_as(path, uid, gid, timeout=DEADLINE):
    """A connected socket whose peer sees this uid and gid."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    outcome = []

    def body():
        # The thread ends here, and its changed identity with it.
        try:
            if uid is not None:
                thread_setids(uid, gid, False)
            s.connect(path)
        except OSError as e:
            outcome.append(e)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if outcome:
        s.close()
        raise outcome[0]
    return s


def request(opcode, arguments=b""):
    number = OP[opcode] if isinstance(opcode, str) else opcode
    return struct.pack(">IBBH", 4 + len(arguments), 2, 0, number) + arguments


def recv_exactly(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part:
            raise EOFError("connection closed after %d of %d bytes"
                           % (len(data), count))
        data += part
    return data


class Client:
    """One connection as uid:gid (None: as we are); threads may share it."""

    def __init__(self, path, uid=None, gid=None):
        self.path, self.uid = path, uid
        self.lock = threading.Lock()    # from a request to its reply
        self.socket = connect_as(path, uid, uid if gid is None else gid)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        size, outer = struct.unpack(">Ii", recv_exactly(self.socket, 8))
        return Reply(outer, recv_exactly(self.socket, size))

    def call(self, opcode, arguments=b""):
        return self.pipeline((opcode, arguments))[0]

    def pipeline(self, *calls):
        """All requests in one write, then all the replies."""
        with self.lock:
            self.send(b"".join(request(*c) for c in calls))
            return [self.reply() for _ in calls]

    # -- what tests need often

    def ok(self, opcode, arguments=b""):
        answer = self.call(opcode, arguments)
        if answer.code:
            raise AssertionError("%s: %r" % (opcode, answer))
        return answer

    def init(self, name, principal):
        return self.call("INITIALIZE", z(name) + principal)

    def store(self, name, cred):
        return self.call("STORE", z(name) + cred)

    def caches(self):
        """{uuid bytes: name} of what the daemon lists for us."""
        listed = self.call("GET_CACHE_UUID_LIST")
        if listed.code:
            return {}
        found = {}
        for uuid in listed.uuids():
            answer = self.call("GET_CACHE_BY_UUID", uuid)
            if not answer.code:
                found[uuid] = answer.text()
        return found

    def uuid(self, name):
        """The UUID of this cache in the form of a directory name."""
        for uuid, found in self.caches().items():
            if found == name:
                return uuid_text(uuid)
        raise KeyError(name)

    def default(self):
        return self.ok("GET_DEFAULT_CACHE").text()

    def set_default(self, name):
        return self.call("SET_DEFAULT_CACHE", z(name))

    def destroy(self, name):
        """DESTROY; Heimdal's passing EAGAIN is tried again."""
        for _ in range(4):
            answer = self.call("DESTROY", z(name))
            if answer.name != "EAGAIN":
                break
        return answer

    def creds(self, name):
        """The credentials of a cache as raw bytes, by either route."""
        answer = self.call("GET_CRED_LIST", z(name))
        if not answer.code:
            return answer.blobs()
        listed = self.ok("GET_CRED_UUID_LIST", z(name))
        return [self.ok("GET_CRED_BY_UUID", z(name) + u).result
                for u in listed.uuids()]

    def principal(self, name):
        return self.ok("GET_PRINCIPAL", z(name)).result

    def offset(self, name):
        return struct.unpack(
            ">i", self.ok("GET_KDC_OFFSET", z(name)).result[:4])[0]

    def set_offset(self, name, seconds):
        return self.call("SET_KDC_OFFSET", z(name)
                         + struct.pack(">i", seconds))


def z(name):
    return (name.encode() if isinstance(name, str) else name) + b"\0"


def uuid_text(raw):
    h = raw.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))
