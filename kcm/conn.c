/*
 * One connection.  The usual turn is one recv(2) into the shared scratch
 * buffer and one send(2) from the shared reply buffer; a connection gets
 * buffers of its own only while a request is here in part, or a reply does
 * not fit into the socket.  Nothing is received while replies are unsent,
 * which is the back-pressure on a peer that does not read.
 */
#include "conn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "proto.h"

/* Enough replies for one send(2). */
#define REPLIES_HIGH ((size_t)256 * 1024)

int64_t
now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

enum request_state {
    REQUEST_PART,
    REQUEST_WHOLE,
    REQUEST_BAD,
};

/* Look at what have begins with.  A bad length is known at once. */
static enum request_state
next_request(struct data have, struct data *request_out)
{
    struct reader r;
    reader_init(&r, have.p, have.len);
    uint32_t len = read_u32(&r);
    *request_out = (struct data){NULL, 0};
    if (r.bad)
        return REQUEST_PART;
    if (len < 4 || len > KCM_MESSAGE_MAX)
        return REQUEST_BAD;
    if (reader_left(&r) < len)
        return REQUEST_PART;
    *request_out = read_data(&r, len);
    return REQUEST_WHOLE;
}

static struct data
input_left(const struct conn *conn)
{
    if (conn->in.len == 0)
        return (struct data){NULL, 0};
    return (struct data){conn->in.p + conn->in_done,
                         conn->in.len - conn->in_done};
}

/* Where the next bytes go, and how many fit. */
static uint8_t *
input_room(struct conn *conn, struct conn_work *work, size_t *size_out)
{
    *size_out = CONN_SCRATCH;
    if (conn->in.len == 0)
        return work->scratch;
    if (conn->in_done > 0) {
        size_t left = conn->in.len - conn->in_done;
        memmove(conn->in.p, conn->in.p + conn->in_done, left);
        explicit_bzero(conn->in.p + left, conn->in_done);
        conn->in.len = left;
        conn->in_done = 0;
    }
    if (!writer_reserve(&conn->in, CONN_SCRATCH))
        return NULL;
    *size_out = conn->in.cap - conn->in.len;
    return conn->in.p + conn->in.len;
}

/*
 * Receive once: IDLE when nothing is there, else MORE, and have is all that
 * there is to answer now.
 */
static enum conn_state
receive(struct conn *conn, struct conn_work *work, struct data *have_out)
{
    size_t size;
    uint8_t *room = input_room(conn, work, &size);
    if (room == NULL)
        return CONN_CLOSE;
    ssize_t n = recv(conn->fd, room, size, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? CONN_IDLE : CONN_CLOSE;
    if (n == 0)
        return CONN_CLOSE;
    *have_out = (struct data){room, (size_t)n};
    if (room != work->scratch) {
        conn->in.len += (size_t)n;
        *have_out = input_left(conn);
    }
    return CONN_MORE;
}

/* Of what was received, the first used bytes are done with. */
static bool
consume(struct conn *conn, struct conn_work *work, struct data have,
        size_t used)
{
    if (work->scratch != NULL && have.p == work->scratch) {
        write_bytes(&conn->in, have.p + used, have.len - used);
        explicit_bzero(work->scratch, have.len);
        return !conn->in.failed;
    }
    conn->in_done += used;
    if (conn->in_done == conn->in.len) {
        writer_free(&conn->in);
        conn->in_done = 0;
    }
    return true;
}

/* Answer whole requests; true if the connection may go on. */
static bool
answer(struct conn *conn, struct conn_work *work, struct data have)
{
    size_t used = 0;
    int64_t start = 0;
    int result = 0;
    struct data request;
    enum request_state state = next_request(have, &request);
    while (state == REQUEST_WHOLE && result == 0) {
        result = kcm_server_handle(work->server, conn->uid, conn->gid, request,
                                   &work->replies);
        used += 4 + request.len;
        conn->since = 0;
        state = next_request((struct data){have.p + used, have.len - used},
                             &request);
        if (state != REQUEST_WHOLE || work->replies.len >= REPLIES_HIGH)
            break;
        int64_t now = now_us();
        if (start == 0)
            start = now;
        else if (now - start > CONN_TURN_US)
            break;
    }
    conn->hung = result == -ECANCELED;
    if (!consume(conn, work, have, used))
        return false;
    return state != REQUEST_BAD && (result == 0 || conn->hung);
}

/* Send what the peer has not taken: IDLE when all is sent. */
static enum conn_state
flush(struct conn *conn)
{
    size_t left = conn->out.len - conn->out_done;
    ssize_t n = send(conn->fd, conn->out.p + conn->out_done, left,
                     MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? CONN_BLOCKED : CONN_CLOSE;
    conn->since = 0;
    conn->out_done += (size_t)n;
    if ((size_t)n < left)
        return CONN_BLOCKED;
    writer_free(&conn->out);
    conn->out_done = 0;
    return CONN_IDLE;
}

/* Send the replies; what does not fit becomes the connection's. */
static enum conn_state
send_replies(struct conn *conn, struct writer *replies)
{
    if (replies->len == 0)
        return CONN_IDLE;
    ssize_t n =
        send(conn->fd, replies->p, replies->len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return CONN_CLOSE;
    if (n == (ssize_t)replies->len)
        return CONN_IDLE;
    conn->out = *replies;
    conn->out_done = n > 0 ? (size_t)n : 0;
    *replies = (struct writer){0};
    return CONN_BLOCKED;
}

static enum conn_state
turn(struct conn *conn, struct conn_work *work)
{
    struct data have = input_left(conn), request;
    enum conn_state state;
    if (conn->hung)
        return CONN_CLOSE; /* it can only be the end that woke it */
    if (conn->out.len > 0 && (state = flush(conn)) != CONN_IDLE)
        return state;
    if (next_request(have, &request) != REQUEST_WHOLE &&
        (state = receive(conn, work, &have)) != CONN_MORE)
        return state;
    bool go_on = answer(conn, work, have);
    state = send_replies(conn, &work->replies);
    if (!go_on)
        return CONN_CLOSE;
    if (state != CONN_IDLE)
        return state;
    if (conn->hung)
        return CONN_HUNG;
    return next_request(input_left(conn), &request) == REQUEST_WHOLE
               ? CONN_MORE
               : CONN_IDLE;
}

enum conn_state
conn_turn(struct conn *conn, struct conn_work *work)
{
    enum conn_state state = turn(conn, work);
    if (work->replies.cap > REPLIES_HIGH || work->replies.failed)
        writer_free(&work->replies);
    else
        writer_reset(&work->replies);
    bool stuck =
        state == CONN_BLOCKED || (state == CONN_IDLE && conn->in.len > 0);
    if (!stuck)
        conn->since = 0;
    else if (conn->since == 0)
        conn->since = now_us();
    return state;
}

void
conn_clear(struct conn *conn)
{
    writer_free(&conn->in);
    writer_free(&conn->out);
}
