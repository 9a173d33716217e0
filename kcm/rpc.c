/*
 * Framing and exchange.  A batch goes out in chunks: as many requests as fit
 * CHUNK_BYTES in one send, then their replies.  A longer request goes alone.
 */
#include "rpc.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

/* sssd takes a request cut at a chunk of the kernel's (~36 KiB) for broken,
 * so never send more than this at once if it can be helped. */
#define CHUNK_BYTES    (16u * 1024)
#define CHUNK_REQUESTS 256u
#define REPLY_HEADER   8u
/* A reply of more is nonsense. Heimdal has no limit, so allow its lists. */
#define REPLY_MAX (64u * 1024 * 1024)
/* And so are all replies to one batch, if they take more. */
#define REPLIES_MAX ((size_t)256 * 1024 * 1024)
/* To receive into: while no length is known, and at most at once. */
#define ROOM_MIN ((size_t)4096)
#define ROOM_MAX ((size_t)1024 * 1024)

void
batch_free(struct batch *b)
{
    writer_free(&b->out);
    writer_free(&b->in);
    free(b->at);
    *b = (struct batch){0};
}

void
batch_finish(struct batch *b)
{
    if (b->count > 0 && !b->out.failed) {
        uint32_t at = b->at[2 * (b->count - 1)];
        write_u32_at(&b->out, at, (uint32_t)(b->out.len - at - 4));
    }
}

static bool
make_room(struct batch *b, unsigned room)
{
    uint32_t *at = reallocarray(b->at, room, 2 * sizeof(*at));
    if (at == NULL)
        return false;
    b->at = at;
    b->room = room;
    return true;
}

bool
batch_reserve(struct batch *b, unsigned count, size_t out, size_t in)
{
    return (count <= b->room || make_room(b, count)) &&
           writer_reserve(&b->out, out) && writer_reserve(&b->in, in);
}

void
batch_add(struct batch *b, enum kcm_opcode op)
{
    batch_finish(b);
    if (b->count == b->room && !make_room(b, b->room > 0 ? b->room * 2 : 8)) {
        b->out.failed = true;
        return;
    }
    b->at[2 * b->count] = (uint32_t)b->out.len;
    b->count++;
    write_u32(&b->out, 0);
    write_u8(&b->out, KCM_PROTOCOL_MAJOR);
    write_u8(&b->out, KCM_PROTOCOL_MINOR);
    write_u16(&b->out, (uint16_t)op);
}

void
batch_add_named(struct batch *b, enum kcm_opcode op, const char *name)
{
    batch_add(b, op);
    write_string(&b->out, name);
}

void
batch_rewind(struct batch *b)
{
    writer_reset(&b->in);
    b->answered = 0;
}

enum kcm_opcode
batch_opcode(const struct batch *b, unsigned n)
{
    const uint8_t *p = b->out.p + b->at[2 * n] + 6;
    return (enum kcm_opcode)(p[0] << 8 | p[1]);
}

struct reply
batch_reply(const struct batch *b, unsigned n)
{
    struct reader r;
    uint32_t at = b->at[2 * n + 1];
    reader_init(&r, b->in.p + at, b->in.len - at);
    uint32_t len = read_u32(&r);
    int32_t outer = (int32_t)read_u32(&r);
    struct data rest = read_data(&r, len);
    struct reply reply = {.code = outer, .outer = outer != 0};
    if (outer != 0)
        return reply;
    reader_init(&r, rest.p, rest.len);
    reply.code = (int32_t)read_u32(&r);
    reply.body = read_data(&r, reader_left(&r));
    return reply;
}

static size_t
request_end(const struct batch *b, unsigned n)
{
    return n + 1 < b->count ? b->at[2 * (n + 1)] : b->out.len;
}

struct data
batch_request(const struct batch *b, unsigned n)
{
    size_t start = b->at[2 * n] + 4;
    return (struct data){b->out.p + start, request_end(b, n) - start};
}

/* The requests from b->answered on that go out together. */
static struct data
next_chunk(const struct batch *b, unsigned *count_out)
{
    uint32_t start = b->at[2 * b->answered];
    unsigned n = b->answered;
    size_t end = start;
    while (n < b->count && n - b->answered < CHUNK_REQUESTS) {
        size_t next = request_end(b, n);
        if (n > b->answered && next - start > CHUNK_BYTES)
            break;
        end = next;
        n++;
    }
    *count_out = n - b->answered;
    return (struct data){b->out.p + start, end - start};
}

/* Send what the socket takes: 0, -EAGAIN, -EPIPE or another -errno. */
static int
send_some(struct conn *c)
{
    while (c->unsent.len > 0) {
        ssize_t n = send(c->fd, c->unsent.p, c->unsent.len,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == ECONNRESET ? -EPIPE : -errno;
        c->unsent.p += n;
        c->unsent.len -= (size_t)n;
    }
    return 0;
}

/* What is in w from there on. */
static struct data
behind(const struct writer *w, size_t at)
{
    if (at == w->len)
        return (struct data){NULL, 0};
    return (struct data){w->p + at, w->len - at};
}

/* Receive what is there behind w, with room for so much at least: bytes
 * received, 0 at the end, -errno. */
static ssize_t
receive_some(struct conn *c, struct writer *w, size_t room)
{
    if (!writer_reserve(w, room))
        return -ENOMEM;
    ssize_t n;
    do
        n = recv(c->fd, w->p + w->len, w->cap - w->len, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) /* reset: the peer closed, and had not read what was sent */
        return errno == ECONNRESET ? -EPIPE : -errno;
    w->len += (size_t)n;
    c->received += (size_t)n;
    return n;
}

/* Length of the whole reply at p; 0 while that is not known. */
static int
reply_length(struct data d, size_t *len_out)
{
    struct reader r;
    reader_init(&r, d.p, d.len);
    uint32_t len = read_u32(&r);
    int32_t outer = (int32_t)read_u32(&r);
    *len_out = 0;
    if (r.bad)
        return 0;
    if (len > REPLY_MAX || (len < 4 && outer == 0))
        return -EIO;
    *len_out = (size_t)len + REPLY_HEADER;
    return 0;
}

/* Room for the rest of the reply under way, if its length is known: each step
 * of a growing buffer would cost a poll() and a recv().  A peer that announces
 * much must send it before it is given more. */
static size_t
room_for(struct data d)
{
    size_t len;
    (void)reply_length(d, &len);
    if (len == 0)
        return ROOM_MIN;
    return len - d.len < ROOM_MAX ? len - d.len : ROOM_MAX;
}

/* Count the replies that b->in holds whole behind *parsed. */
static int
take_replies(struct conn *c, struct batch *b, size_t *parsed)
{
    while (c->awaited > 0) {
        struct data d = behind(&b->in, *parsed);
        size_t len;
        int r = reply_length(d, &len);
        if (r < 0)
            return r;
        if (len == 0 || len > d.len)
            return 0;
        b->at[2 * b->answered + 1] = (uint32_t)*parsed;
        *parsed += len;
        b->answered++;
        c->awaited--;
    }
    return *parsed == b->in.len ? 0 : -EIO; /* more than was asked for */
}

/* A kept connection on which something came unasked, or the end: what came
 * would be taken for the reply to the next request. */
static bool
is_stale(const struct conn *c)
{
    char byte;
    return c->used && (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
                       errno != EAGAIN);
}

/* Replies up to *parsed have been counted. */
static int
exchange_chunk(struct conn *c, struct batch *b, size_t *parsed,
               const struct caller *caller)
{
    c->unsent = next_chunk(b, &c->awaited);
    c->requests += c->awaited;
    while (c->awaited > 0) {
        int r = send_some(c);
        if (r < 0 && r != -EAGAIN)
            return r;
        r = wait_fd(c->fd, c->unsent.len > 0 ? POLLIN | POLLOUT : POLLIN,
                    caller);
        if (r < 0)
            return r;
        ssize_t n = receive_some(c, &b->in, room_for(behind(&b->in, *parsed)));
        if (n == -EAGAIN)
            continue;
        if (n == 0)
            n = -EPIPE;
        if (n < 0)
            return n == -EPIPE && b->in.len > *parsed ? -EIO : (int)n;
        r = take_replies(c, b, parsed);
        if (r == 0 && b->in.len > REPLIES_MAX)
            r = -EIO;
        if (r < 0)
            return r;
    }
    if (c->unsent.len > 0)
        return -EIO; /* answered before it was sent */
    c->used = true;
    return 0;
}

/* What is begun goes out to its end, for which the daemon waits; what is not
 * begun is not done any more. */
static void
drop_unbegun(struct conn *c, const struct batch *b)
{
    if (c->awaited == 0) /* answered before it was sent */
        c->unsent.len = 0;
    if (c->unsent.len == 0)
        return;
    size_t at = (size_t)(c->unsent.p - b->out.p);
    unsigned n = b->answered;
    while (request_end(b, n) <= at)
        n++;
    bool begun = b->at[2 * n] < at;
    c->unsent.len = begun ? request_end(b, n) - at : 0;
    c->awaited = n - b->answered + begun;
}

/* What the drain needs of a batch, which may be gone by then. */
static void
leave_rest(struct conn *c, const struct batch *b, size_t parsed)
{
    struct data d = behind(&b->in, parsed);
    size_t len;
    drop_unbegun(c, b);
    write_data(&c->rest, c->unsent);
    c->unsent = writer_data(&c->rest);
    (void)reply_length(d, &len);
    if (c->awaited > 0 && len > 0) {
        c->skip = len - d.len;
        c->awaited--;
    } else { /* part of a header, or no reply */
        write_bytes(&c->piece, d.p,
                    d.len < REPLY_HEADER ? d.len : REPLY_HEADER);
    }
}

int
conn_exchange(struct conn *c, struct batch *b, const struct caller *caller)
{
    batch_finish(b);
    if (b->out.failed)
        return -ENOMEM;
    if (is_stale(c))
        return -EPIPE;
    size_t parsed = b->in.len;
    while (b->answered < b->count) {
        int r = exchange_chunk(c, b, &parsed, caller);
        if (r < 0) {
            leave_rest(c, b, parsed);
            return r;
        }
    }
    return 0;
}

void
conn_free(struct conn *c)
{
    if (c == NULL)
        return;
    close(c->fd);
    writer_free(&c->rest);
    writer_free(&c->piece);
    free(c);
}

/* Replies to nobody can be long and many: they are dropped by the piece. */
#define DRAIN_PIECE ((size_t)16 * 1024)

static void
drop(struct conn *c, size_t n)
{
    if (n == 0)
        return;
    memmove(c->piece.p, c->piece.p + n, c->piece.len - n);
    c->piece.len -= n;
    c->skip -= n;
}

/* Drop what came but for part of a header: true when that was the last of
 * the last reply, or what is there is no reply. */
static bool
drop_replies(struct conn *c)
{
    for (;;) {
        drop(c, c->skip < c->piece.len ? c->skip : c->piece.len);
        if (c->skip > 0)
            return false;
        if (c->awaited == 0 ||
            reply_length(writer_data(&c->piece), &c->skip) < 0)
            return true;
        if (c->skip == 0)
            return false;
        c->awaited--;
    }
}

/* One step of draining: true when nothing is left to send or to read. */
static bool
drain_step(struct conn *c)
{
    int r = send_some(c);
    if (r < 0 && r != -EAGAIN)
        return true;
    while (!drop_replies(c)) {
        ssize_t n = receive_some(c, &c->piece, DRAIN_PIECE);
        if (n == -EAGAIN)
            return false;
        if (n <= 0)
            return true;
    }
    return true;
}

/* A peer that answers nothing for this long is not going to. */
#define DRAIN_MS (10 * 60 * 1000)
/* Of a daemon that answers nobody: more are closed unread. */
#define DRAINS_MAX 64u

static unsigned drains; /* atomic */

static void *
drain(void *arg)
{
    struct conn *c = arg;
    int64_t end = now_ms() + DRAIN_MS;
    while (!drain_step(c)) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        if (c->unsent.len > 0)
            p.events |= POLLOUT;
        int64_t left = end - now_ms();
        if (left <= 0 || (poll(&p, 1, (int)left) < 0 && errno != EINTR))
            break;
    }
    conn_free(c);
    __atomic_fetch_sub(&drains, 1, __ATOMIC_RELAXED);
    return NULL;
}

void
conn_abandon(struct conn *c)
{
    pthread_t thread;
    pthread_attr_t attr;
    if (c->awaited == 0 && c->skip == 0) {
        conn_free(c);
        return;
    }
    if (__atomic_add_fetch(&drains, 1, __ATOMIC_RELAXED) > DRAINS_MAX) {
        __atomic_fetch_sub(&drains, 1, __ATOMIC_RELAXED);
        conn_free(c);
        return;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, (size_t)256 * 1024);
    if (pthread_create(&thread, &attr, drain, c) != 0) {
        log_warn("no thread to drain an abandoned KCM connection");
        __atomic_fetch_sub(&drains, 1, __ATOMIC_RELAXED);
        conn_free(c);
    }
    pthread_attr_destroy(&attr);
}
