/*
 * kcmd as a whole: the server's loop with many clients, which send requests
 * whole, in pieces or many at once, read or do not, close, and are too many.
 * The loop runs in this thread; each time that it would wait, the clients
 * take their next steps (epoll_wait(2) is wrapped).
 *
 * Each request reaches the operations just as it was sent, with the uid of
 * who sent it, in order and once; each client gets the replies to its own
 * requests and not a byte else, in order; who sends nonsense is closed after
 * them, and nobody else is; when the loop is at rest, nothing is left undone.
 *
 * input = steps; step = u8 client and kind, then what the kind takes
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../../kcm/server.h"
#include "requests.h"

#define CLIENTS      8
#define STEPS        60
#define PER_UID      3 /* connections */
#define SMALL_BUFFER 4096

struct client {
    int fd;       /* -1: none */
    bool refused; /* one too many: closed before anything */
    bool perhaps; /* the same, if others have not been closed */
    bool doomed;  /* it sent what no request begins with */
    bool stuck;   /* for longer than is allowed */
    uid_t uid;
    struct writer sent;   /* all that it sent */
    size_t handled;       /* of that, by the server */
    struct writer wanted; /* all replies to it */
    size_t received;      /* of those */
};

static struct client clients[CLIENTS];
static struct kcm_server *server;
static struct reader input;
static int listen_fd, stop_pipe[2], steps;
static struct sockaddr_un address;
static socklen_t address_len;
static int connecting; /* the client that connect(2) was called for last */
static int64_t later;  /* seconds that the clock is ahead */
static const uid_t uids[] = {1001, 1002, 0};

/* What it sent and the server has not come to. */
static void
unhandled(const struct client *c, struct reader *r)
{
    reader_init(r, c->sent.p, c->sent.len);
    (void)read_data(r, c->handled);
}

/* --- what the server calls ----------------------------------------------- */

int __real_epoll_wait(int fd, struct epoll_event *events, int most,
                      int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int most,
                      int timeout);
int __real_accept4(int fd, struct sockaddr *peer, socklen_t *len, int flags);
int __wrap_accept4(int fd, struct sockaddr *peer, socklen_t *len, int flags);
int __real_getsockopt(int fd, int level, int option, void *value,
                      socklen_t *len);
int __wrap_getsockopt(int fd, int level, int option, void *value,
                      socklen_t *len);
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __real_kcm_server_handle(struct kcm_server *s, uid_t uid, gid_t gid,
                             struct data request, struct writer *reply);
int __wrap_kcm_server_handle(struct kcm_server *s, uid_t uid, gid_t gid,
                             struct data request, struct writer *reply);

/* Replies soon fill it. */
int
__wrap_accept4(int fd, struct sockaddr *peer, socklen_t *len, int flags)
{
    int size = SMALL_BUFFER, accepted = __real_accept4(fd, peer, len, flags);
    if (accepted >= 0)
        setsockopt(accepted, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    return accepted;
}

/* The peer is the client that connects; its number is in the gid. */
int
__wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
    if (level != SOL_SOCKET || option != SO_PEERCRED)
        return __real_getsockopt(fd, level, option, value, len);
    *(struct ucred *)value = (struct ucred){
        .pid = 1,
        .uid = clients[connecting].uid,
        .gid = (gid_t)connecting,
    };
    return 0;
}

/* That somebody has too many connections is said each time. */
void __wrap_log_line(int level, const char *format, ...);

void
__wrap_log_line(int level, const char *format, ...)
{
    (void)level;
    (void)format;
}

int
__wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    int result = __real_clock_gettime(clock, ts);
    ts->tv_sec += later;
    return result;
}

int
__wrap_kcm_server_handle(struct kcm_server *s, uid_t uid, gid_t gid,
                         struct data request, struct writer *reply)
{
    struct reader r;
    assert(s == server && gid < CLIENTS);
    struct client *c = &clients[gid];
    assert(c->uid == uid && !c->doomed && !c->refused);
    unhandled(c, &r);
    assert(data_equal(read_data32(&r), request) && !r.bad);
    c->handled += 4 + request.len;
    size_t before = reply->len;
    int result = __real_kcm_server_handle(s, uid, gid, request, reply);
    assert(result == 0 || (result == -EPROTO && reply->len == before));
    c->doomed = result != 0;
    if (result == 0)
        write_bytes(&c->wanted, reply->p + before, reply->len - before);
    return result;
}

/* --- the clients --------------------------------------------------------- */

/* What it sent may still be done. */
static void
client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void
client_clear(struct client *c)
{
    client_close(c);
    writer_free(&c->sent);
    writer_free(&c->wanted);
    *c = (struct client){.fd = -1};
}

/* Is its next request there as a whole, or is it nonsense? */
static bool
next_is_whole(const struct client *c, bool *nonsense)
{
    struct reader r;
    unhandled(c, &r);
    uint32_t len = read_u32(&r);
    *nonsense = !r.bad && (len < 4 || len > KCM_MESSAGE_MAX);
    return !r.bad && !*nonsense && reader_left(&r) >= len;
}

/* It gets what is on its way: the next bytes of what it is to get. */
static void
client_receive(struct client *c, size_t most)
{
    uint8_t bytes[8192];
    while (most > 0) {
        size_t size = most < sizeof(bytes) ? most : sizeof(bytes);
        ssize_t n = recv(c->fd, bytes, size, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            /* Closed: only who deserves it. */
            bool nonsense;
            (void)next_is_whole(c, &nonsense);
            assert(c->perhaps || c->doomed || nonsense || c->stuck);
            client_close(c);
            return;
        }
        assert((size_t)n <= c->wanted.len - c->received);
        assert(memcmp(bytes, c->wanted.p + c->received, (size_t)n) == 0);
        c->received += (size_t)n;
        most -= (size_t)n;
    }
}

static void
client_connect(struct client *c, uid_t uid)
{
    unsigned others = 0, sure = 0;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *o = &clients[i];
        bool nonsense = false;
        if (o->fd < 0 || o->uid != uid || o->refused)
            continue;
        (void)next_is_whole(o, &nonsense);
        others++;
        sure += !o->perhaps && !o->doomed && !o->stuck && !nonsense;
    }
    client_clear(c);
    c->uid = uid;
    c->refused = sure >= PER_UID;
    c->perhaps = others >= PER_UID;
    connecting = (int)(c - clients);
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert(c->fd >= 0 &&
           connect(c->fd, (struct sockaddr *)&address, address_len) == 0);
}

/* What the socket takes of it, in one piece. */
static void
client_send(struct client *c, struct data d)
{
    ssize_t n = send(c->fd, d.p, d.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    assert(n >= 0 || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
    if (n > 0)
        write_bytes(&c->sent, d.p, (size_t)n);
}

/* Some requests, perhaps cut, perhaps with other bytes behind them. */
static void
client_speak(struct client *c)
{
    struct writer w = {0}, one = {0};
    uint8_t how = read_u8(&input);
    unsigned count = (how & 7) + 1;
    for (unsigned i = 0; i < count; i++) {
        unsigned opcode = some_opcode(&input);
        writer_reset(&one);
        some_request(&input, opcode, read_u8(&input), &one);
        write_data32(&w, writer_data(&one));
    }
    if (how & 0x40)
        write_data(&w, some_data(&input, read_u8(&input) & 31));
    if (how & 0x80 && w.len > 0)
        w.len -= read_u8(&input) % w.len;
    if (how & 0x20 && w.len > 0)
        w.p[0] = read_u8(&input); /* a length that lies */
    client_send(c, writer_data(&w));
    writer_free(&one);
    writer_free(&w);
}

/* A large credential, so that lists do not fit into a socket. */
static void
client_store(struct client *c)
{
    static char text[3000];
    struct writer w = {0};
    char name[16], server_name[16];
    snprintf(name, sizeof(name), "%u", c->uid);
    snprintf(server_name, sizeof(server_name), "h%u@X", read_u8(&input));
    memset(text, 'x', sizeof(text) - 1);
    write_u32(&w, 0);
    write_u32(&w, 0x02000000 | KCM_OP_STORE);
    write_string(&w, name);
    sample_cred(&w, &(struct sample){.server = server_name, .ticket = text});
    write_u32_at(&w, 0, (uint32_t)w.len - 4);
    client_send(c, writer_data(&w));
    writer_free(&w);
}

/* --- the steps ----------------------------------------------------------- */

/* False: the loop is to have a look before the next one. */
static bool
step(void)
{
    uint8_t what = read_u8(&input);
    struct client *c = &clients[what & 7];
    if (c->fd < 0) {
        client_connect(c, uids[read_u8(&input) % 3]);
        return false; /* the peer's number must not be another's */
    }
    switch (what >> 3 & 7) {
    case 0:
    case 1:
        client_speak(c);
        break;
    case 2:
        client_store(c);
        break;
    case 3:
        client_send(c, some_data(&input, read_u16(&input)));
        break;
    case 4:
        client_receive(c, SIZE_MAX);
        break;
    case 5:
        client_receive(c, read_u8(&input));
        break;
    case 6:
        if (what & 0x80) {
            client_close(c);
            return false; /* the server is to know before another comes */
        }
        shutdown(c->fd, SHUT_WR);
        c->stuck = true;
        break;
    default:
        if (what & 0x80)
            later += 40;
        return false;
    }
    return what & 0x40;
}

/* At rest, who is not stuck with unread replies has been served in full. */
static void
check_rest(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        bool nonsense;
        if (c->fd < 0)
            continue;
        bool whole = next_is_whole(c, &nonsense);
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        bool readable = poll(&p, 1, 0) > 0;
        assert(!whole || readable || c->doomed || c->perhaps);
        assert(!nonsense || readable || c->doomed || c->perhaps);
        assert(c->received == c->wanted.len || readable || c->stuck);
    }
}

/* Everybody reads all there is; is there nothing left to be done? */
static bool
read_all(void)
{
    bool rest = true;
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        if (c->fd < 0)
            continue;
        size_t before = c->received;
        client_receive(c, SIZE_MAX);
        rest = rest && (c->fd < 0 || c->received == before);
    }
    return rest;
}

/* Everything that was asked is answered. */
static void
check_end(void)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        bool nonsense;
        if (c->fd < 0)
            continue;
        assert(!c->refused && !c->doomed); /* they are closed by now */
        assert(!next_is_whole(c, &nonsense) && !nonsense);
        assert(c->received == c->wanted.len);
    }
}

/* The server is about to wait. */
static void
at_rest(void)
{
    bool more = steps > 0 && reader_left(&input) > 0;
    check_rest();
    if (!more && read_all()) {
        check_end();
        assert(write(stop_pipe[1], "", 1) == 1);
    }
    while (more) {
        steps--;
        more = step() && steps > 0 && reader_left(&input) > 0;
    }
}

/* A timeout is over at once; a stuck connection may be closed from then on. */
int
__wrap_epoll_wait(int fd, struct epoll_event *events, int most, int timeout)
{
    int n = __real_epoll_wait(fd, events, most, 0);
    if (n != 0 || timeout == 0)
        return n;
    for (int i = 0; later > 0 && i < CLIENTS; i++) {
        struct client *c = &clients[i];
        c->stuck |= c->handled < c->sent.len || c->received < c->wanted.len;
    }
    at_rest();
    return __real_epoll_wait(fd, events, most, 0);
}

static void
open_all(void)
{
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = (struct client){.fd = -1};
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    /* The kernel chooses an abstract name. */
    assert(bind(listen_fd, (struct sockaddr *)&address, sizeof(sa_family_t)) ==
           0);
    address_len = sizeof(address);
    assert(getsockname(listen_fd, (struct sockaddr *)&address, &address_len) ==
           0);
    assert(listen(listen_fd, CLIENTS) == 0);
    assert(pipe(stop_pipe) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct kcm_server_limits limits = {.caches_per_uid = 4,
                                       .bytes_per_uid = 64 * 1024,
                                       .connections_per_uid = PER_UID};
    reader_init(&input, bytes, len);
    steps = STEPS;
    open_all();
    assert(kcm_server_new(&limits, &server) == 0);
    assert(kcm_server_run(server, listen_fd, stop_pipe[0]) == 0);
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        uint8_t byte;
        errno = 0;
        assert(c->fd < 0 || recv(c->fd, &byte, 1, MSG_DONTWAIT) <= 0);
        assert(errno != EAGAIN); /* the server has closed its end */
        client_clear(c);
    }
    close(listen_fd);
    close(stop_pipe[0]);
    close(stop_pipe[1]);
    kcm_server_free(server);
    later = 0; /* it is the fuzzer's clock, too */
    assert(secret_in_use() == 0);
    return 0;
}
