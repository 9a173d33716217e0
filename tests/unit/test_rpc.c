/*
 * Batches, framing and exchange: kcm/rpc.c, connect.c.
 */
#include <poll.h>

#include "../../kcm/rpc.h"
#include "peer.h"

static struct peer peer;
static struct conn *conn;
static struct batch batch;
static struct caller caller;

static void
setup(void)
{
    peer_start(&peer, NULL);
    batch = (struct batch){0};
    caller = (struct caller){.uid = geteuid(), .gid = getegid()};
    caller.wake = wake_mine();
    caller.deadline = now_ms() + 5000;
    ck_assert_int_eq(conn_open(peer.path, caller.uid, caller.gid, &conn), 0);
}

static void
teardown(void)
{
    conn_free(conn);
    batch_free(&batch);
    peer_stop(&peer);
    peer_await_end(&peer);
}

static void
check_bytes(struct data d, const char *hex)
{
    struct writer w = {0};
    sample_hex(&w, hex);
    ck_assert(data_equal(d, writer_data(&w)));
    writer_free(&w);
}

START_TEST(golden_requests)
{
    batch_add(&batch, KCM_OP_NOOP);
    batch_add_named(&batch, KCM_OP_SET_KDC_OFFSET, "1:a");
    write_u32(&batch.out, 5);
    batch_add_named(&batch, KCM_OP_REPLACE, "");
    batch_finish(&batch);
    check_bytes(writer_data(&batch.out), "00000004 0200 0000"
                                         "0000000c 0200 0017 313a6100 00000005"
                                         "00000005 0200 32ca 00");
    ck_assert_uint_eq(batch.count, 3);
    check_bytes(batch_request(&batch, 0), "0200 0000");
    check_bytes(batch_request(&batch, 1), "0200 0017 313a6100 00000005");
    check_bytes(batch_request(&batch, 2), "0200 32ca 00");
    ck_assert_int_eq(batch_opcode(&batch, 0), KCM_OP_NOOP);
    ck_assert_int_eq(batch_opcode(&batch, 1), KCM_OP_SET_KDC_OFFSET);
    ck_assert_int_eq(batch_opcode(&batch, 2), KCM_OP_REPLACE);
}
END_TEST

/* The client's, counted: the peer's are in other threads. */
static _Thread_local unsigned receives;

ssize_t
recv(int fd, void *p, size_t len, int flags)
{
    receives++;
    return recvfrom(fd, p, len, flags, NULL, NULL);
}

/* Counted likewise; the client's next fails so, and sends nothing. */
static _Thread_local unsigned sends;
static _Thread_local int send_fails;

ssize_t
send(int fd, const void *p, size_t len, int flags)
{
    sends++;
    if (send_fails == 0)
        return sendto(fd, p, len, flags, NULL, 0);
    errno = send_fails;
    return -1;
}

/* Have n NOOPs answered by these bytes and the end, before they are sent. */
static int
answer_by(struct data bytes, unsigned n, bool end)
{
    int fds[2];
    struct conn *c = calloc(1, sizeof(*c));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    ck_assert_int_eq(send(fds[1], bytes.p, bytes.len, 0), (int)bytes.len);
    if (end)
        shutdown(fds[1], SHUT_WR);
    c->fd = fds[0];
    for (unsigned i = 0; i < n; i++)
        batch_add(&batch, KCM_OP_NOOP);
    sends = 0;
    int r = conn_exchange(c, &batch, &caller);
    if (r != 0)
        shutdown(fds[1], SHUT_WR); /* for the drain */
    conn_abandon(c);
    close(fds[1]);
    return r;
}

static const struct form {
    const char *hex;
    int result;
    int32_t code;
    bool outer;
    const char *body;
} forms[] = {
    {"00000004 00000000 00000000", 0, 0, false, ""},
    {"00000007 00000000 00000000 616263", 0, 0, false, "616263"},
    {"00000004 00000000 96c73ac3", 0, KCM_CODE_FCC_NOFILE, false, ""},
    {"00000006 00000000 0000000b 6162", 0, 11, false, "6162"},
    /* sssd, and Heimdal's master */
    {"00000000 96c73ac4", 0, KCM_CODE_FCC_INTERNAL, true, ""},
    {"00000004 96c73ac4 96c73ac4", 0, KCM_CODE_FCC_INTERNAL, true, ""},
    {"00000003 96c73ac4 010203", 0, KCM_CODE_FCC_INTERNAL, true, ""},
    /* no replies */
    {"00000000 00000000", -EIO, 0, false, ""},
    {"00000003 00000000 000000", -EIO, 0, false, ""},
    {"04000001 00000000 00000000", -EIO, 0, false, ""},
    {"ffffffff 00000000 00000000", -EIO, 0, false, ""},
    {"ffffffff 96c73ac4 00000000", -EIO, 0, false, ""},
    {"00000004 00000000 00000000 00", -EIO, 0, false, ""},
    {"00000004 00000000 00000000 00000004 00000000 00000000", -EIO, 0, false,
     ""},
    {"00000005 00000000 00000000", -EIO, 0, false, ""},
    {"00000003 00000000 00000000", -EIO, 0, false, ""},
};
#define FORMS ((int)(sizeof(forms) / sizeof(forms[0])))

START_TEST(replies)
{
    const struct form *f = &forms[_i];
    struct writer w = {0};
    sample_hex(&w, f->hex);
    ck_assert_int_eq(answer_by(writer_data(&w), 1, true), f->result);
    if (f->result == 0) {
        struct reply reply = batch_reply(&batch, 0);
        ck_assert_uint_eq(batch.answered, 1);
        ck_assert_int_eq(reply.code, f->code);
        ck_assert_int_eq(reply.outer, f->outer);
        check_bytes(reply.body, f->body);
    }
    writer_free(&w);
}
END_TEST

/* Every truncation: the end before a reply is EPIPE, within one EIO. */
START_TEST(truncated)
{
    static const char two[] = "00000006 00000000 00000000 6162"
                              "00000000 96c73ac4";
    struct writer w = {0};
    sample_hex(&w, two);
    for (size_t n = 0; n <= w.len; n++) {
        int want = n == 0 || n == 14 ? -EPIPE : n < w.len ? -EIO : 0;
        ck_assert_int_eq(answer_by((struct data){w.p, n}, 2, true), want);
        ck_assert_uint_eq(batch.answered, n < 14 ? 0 : n < w.len ? 1 : 2);
        batch_free(&batch);
    }
    writer_free(&w);
}
END_TEST

/* Once its length is known there is room for the whole of it. */
START_TEST(received_at_once)
{
    struct writer w = {0};
    write_u32(&w, 100000);
    for (int i = 0; i < 100004; i++)
        write_u8(&w, 0);
    ck_assert_int_eq(answer_by(writer_data(&w), 1, false), 0);
    ck_assert_uint_eq(batch_reply(&batch, 0).body.len, 100000 - 4);
    ck_assert_uint_eq(receives, 2);
    writer_free(&w);
}
END_TEST

/* sssd takes a request for whole as soon as something of it has come. */
START_TEST(sent_at_once)
{
    struct writer w = {0};
    for (int i = 0; i < 20; i++)
        sample_hex(&w, "00000004 00000000 00000000");
    ck_assert_int_eq(answer_by(writer_data(&w), 20, false), 0);
    ck_assert_uint_eq(sends, 1);
    writer_free(&w);
}
END_TEST

/* But a length alone takes no memory. */
START_TEST(announced)
{
    struct writer w = {0};
    caller.deadline = now_ms() + 50;
    sample_hex(&w, "04000000 00000000 00000000");
    ck_assert_int_eq(answer_by(writer_data(&w), 1, false), -ETIMEDOUT);
    ck_assert_uint_lt(batch.in.cap, 2 << 20);
    writer_free(&w);
}
END_TEST

START_TEST(rewound)
{
    struct writer w = {0};
    sample_hex(&w, "00000004 00000000 00000000");
    ck_assert_int_eq(answer_by(writer_data(&w), 2, true), -EPIPE);
    ck_assert_uint_eq(batch.answered, 1);
    batch_rewind(&batch);
    ck_assert_uint_eq(batch.answered, 0);
    ck_assert_uint_eq(batch.count, 2);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    ck_assert_uint_eq(batch.answered, 2);
    writer_free(&w);
}
END_TEST

/* After the end the rest may be answered on another connection. */
START_TEST(goes_on_elsewhere)
{
    struct writer w = {0};
    sample_hex(&w, "00000000 96c73ac4");
    ck_assert_int_eq(answer_by(writer_data(&w), 3, true), -EPIPE);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    ck_assert_uint_eq(peer.requests, 2);
    ck_assert_int_eq(batch_reply(&batch, 0).code, KCM_CODE_FCC_INTERNAL);
    ck_assert_int_eq(batch_reply(&batch, 1).code, 0);
    ck_assert_int_eq(batch_reply(&batch, 2).code, 0);
    writer_free(&w);
}
END_TEST

/* Names that come back tell whether replies got mixed up. */
static void
check_pipelined(unsigned count)
{
    char name[32];
    batch_free(&batch);
    for (unsigned i = 0; i < count; i++)
        batch_add(&batch, i % 2 ? KCM_OP_GEN_NEW : KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    unsigned last = 0, n;
    for (unsigned i = 0; i < count; i++) {
        struct data body = batch_reply(&batch, i).body;
        ck_assert_uint_eq(body.len > 0, i % 2);
        if (i % 2 == 0)
            continue;
        memcpy(name, body.p, body.len);
        ck_assert_int_eq(sscanf(strchr(name, ':') + 1, "%u", &n), 1);
        ck_assert_uint_gt(n, last);
        last = n;
    }
}

START_TEST(pipelined)
{
    static const unsigned counts[] = {1, 2, 256, 257, 5000};
    check_pipelined(counts[_i]);
    ck_assert_uint_eq(peer.requests, counts[_i]);
}
END_TEST

START_TEST(in_pieces)
{
    enum manner manner = _i == 0 ? BYTES : PIECES;
    peer_rule_set(
        &peer, 0,
        (struct rule){.opcode = ANY, .manner = manner, .always = true});
    check_pipelined(100);
    ck_assert_uint_eq(peer.hits, 100);
}
END_TEST

/* 3 MiB: longer than the socket's buffer. */
START_TEST(large_request)
{
    char *big = calloc(1, 3 << 20);
    batch_add(&batch, KCM_OP_NOOP);
    batch_add(&batch, KCM_OP_NOOP);
    write_bytes(&batch.out, big, 3 << 20);
    batch_add(&batch, KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    ck_assert_uint_eq(batch.answered, 3);
    free(big);
}
END_TEST

static void *
interrupt_soon(void *arg)
{
    usleep(20000);
    wake_interrupt(arg);
    return NULL;
}

static const struct {
    enum manner manner;
    int32_t arg;
} slow[] = {{DELAY, 600}, {HALF, 0}, {SILENT, 0}, {LONGER, 1}};
#define SLOW 4

/* What is answered late is read to its end, and only then closed. */
static void
await_drained(enum manner manner)
{
    usleep(20000);
    for (int i = 0; i < 5000 && manner == DELAY && peer.live > 0; i++)
        usleep(1000);
    ck_assert(manner != DELAY || peer.live == 0);
}

/* Such a connection is drained before it is closed: see peer_stop(). */
START_TEST(timeout)
{
    peer_rule_set(&peer, 0, RULE(ANY, 2, slow[_i].manner, slow[_i].arg));
    for (int i = 0; i < 4; i++)
        batch_add(&batch, KCM_OP_GET_DEFAULT_CACHE);
    caller.deadline = now_ms() + 50;
    int r = conn_exchange(conn, &batch, &caller);
    /* A reply said to be longer swallows some of the next. */
    ck_assert(r == -ETIMEDOUT || (slow[_i].manner == LONGER && r == -EIO));
    ck_assert_int_lt(now_ms(), caller.deadline + 500);
    conn_abandon(take(conn));
    await_drained(slow[_i].manner);
}
END_TEST

START_TEST(interrupted)
{
    pthread_t thread;
    int64_t before = now_ms();
    peer_rule_set(&peer, 0, RULE(ANY, 1, slow[_i].manner, slow[_i].arg));
    batch_add(&batch, KCM_OP_NOOP);
    pthread_create(&thread, NULL, interrupt_soon, caller.wake);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), -EINTR);
    ck_assert_int_lt(now_ms() - before, 1000);
    pthread_join(thread, NULL);
    conn_abandon(take(conn));
    await_drained(slow[_i].manner);
    ck_assert_ptr_eq(wake_mine(), caller.wake);
}
END_TEST

/* A request half sent is sent to its end before the connection closes. */
START_TEST(sent_to_its_end)
{
    char *big = calloc(1, 4 << 20);
    peer_rule_set(&peer, 0, RULE(ANY, 1, DELAY, 100));
    batch_add(&batch, KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    peer_rule_set(&peer, 0, RULE(ANY, 1, DELAY, 100));
    for (int i = 0; i < 2; i++) {
        batch_add(&batch, KCM_OP_NOOP);
        write_bytes(&batch.out, big, 4 << 20);
    }
    wake_interrupt(caller.wake);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), -EINTR);
    conn_abandon(take(conn));
    batch_free(&batch);
    for (int i = 0; i < 3000 && peer.live > 0; i++)
        usleep(1000);
    ck_assert_uint_eq(peer.live, 0);
    ck_assert_uint_eq(peer.requests, 2);
    free(big);
    ck_assert_ptr_eq(wake_mine(), caller.wake);
}
END_TEST

/* Of requests that go out together, those that were not begun when they were
 * given up are not sent any more: on a full socket, and on one that fails. */
START_TEST(not_begun_is_not_sent)
{
    enum {
        REQUESTS = 16,
        SIZE = 4 + 4 + 400
    };
    static const char reply[12] = {0, 0, 0, 4};
    char args[400] = {0}, got[REQUESTS * SIZE];
    int fds[2], small = 1;
    size_t len = 0, replied = 0;
    struct conn *c = calloc(1, sizeof(*c));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    c->fd = fds[0];
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    for (int i = 0; i < REQUESTS; i++) {
        batch_add(&batch, KCM_OP_NOOP);
        write_bytes(&batch.out, args, sizeof(args));
    }
    if (_i == 1)
        send_fails = EPIPE;
    caller.deadline = now_ms() + 50;
    ck_assert_int_eq(conn_exchange(c, &batch, &caller),
                     _i == 1 ? -EPIPE : -ETIMEDOUT);
    send_fails = 0;
    conn_abandon(c);
    for (;;) {
        ssize_t n = recv(fds[1], got + len, sizeof(got) - len, 0);
        ck_assert_int_ge(n, 0);
        if (n == 0)
            break;
        len += (size_t)n;
        for (; replied < len / SIZE; replied++)
            (void)!send(fds[1], reply, sizeof(reply), MSG_NOSIGNAL);
    }
    ck_assert_uint_eq(len % SIZE, 0);
    ck_assert_uint_lt(len, sizeof(got));
    ck_assert((len > 0) == (_i == 0));
    close(fds[1]);
}
END_TEST

/* The reply to a request that is still on its way is none, and what is left of
 * the request is not the next one's. */
START_TEST(answered_before_it_was_sent)
{
    static const char bytes[13] = {0, 0, 0, 4};
    int fds[2];
    char *big = calloc(1, 4 << 20);
    struct conn *c = calloc(1, sizeof(*c));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    ck_assert_int_eq(sendto(fds[1], bytes, 12 + (size_t)_i, 0, NULL, 0),
                     12 + _i);
    c->fd = fds[0];
    batch_add(&batch, KCM_OP_NOOP);
    write_bytes(&batch.out, big, 4 << 20);
    ck_assert_int_eq(conn_exchange(c, &batch, &caller), -EIO);
    conn_abandon(c);
    close(fds[1]);
    free(big);
}
END_TEST

/* A connection on which a NOOP was given up after what is in bytes came, and
 * the peer's end. */
static int
give_up(struct data bytes, unsigned requests)
{
    int fds[2];
    struct conn *c = calloc(1, sizeof(*c));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    ck_assert_int_eq(send(fds[1], bytes.p, bytes.len, 0), (int)bytes.len);
    c->fd = fds[0];
    batch_free(&batch);
    for (unsigned i = 0; i < requests; i++)
        batch_add(&batch, KCM_OP_NOOP);
    caller.deadline = now_ms() + (bytes.len > 0 ? 50 : 1);
    ck_assert_int_eq(conn_exchange(c, &batch, &caller), -ETIMEDOUT);
    batch_free(&batch);
    conn_abandon(c);
    return fds[1];
}

static bool
is_closed(int fd, int wait_ms)
{
    char requests[64];
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    while (recv(fd, requests, sizeof(requests), MSG_DONTWAIT) > 0)
        ;
    return poll(&p, 1, wait_ms) == 1;
}

/* What nobody waits for any more is read, not kept, however long it is. */
START_TEST(drained_by_the_piece)
{
    static const size_t before[] = {0, 3, 8, 9, 100000};
    struct writer first = {0}, last = {0};
    const size_t size = 8 << 20, piece = 65536;
    sample_hex(&first, "00800000 00000000"); /* 8 MiB */
    sample_hex(&last, "00000004 00000000 00000000 00000000 96c73ac4");
    char *zeros = calloc(1, size);
    size_t sent = before[_i];
    for (size_t i = first.len; i < sent; i++)
        write_u8(&first, 0);
    int fd = give_up((struct data){first.p, sent}, 3);
    if (sent < first.len)
        ck_assert_int_gt(send(fd, first.p + sent, first.len - sent, 0), 0);
    for (size_t n, at = first.len; at < size + 8; at += n) {
        n = size + 8 - at < piece ? size + 8 - at : piece;
        ck_assert_int_eq(send(fd, zeros, n, 0), (int)n);
        ck_assert_uint_lt(secret_in_use(), 1 << 20);
    }
    ck_assert(!is_closed(fd, 50));
    for (size_t i = 0; i + 1 < last.len; i++)
        ck_assert_int_eq(send(fd, last.p + i, 1, 0), 1);
    ck_assert(!is_closed(fd, 50));
    ck_assert_int_eq(send(fd, last.p + last.len - 1, 1, 0), 1);
    ck_assert(is_closed(fd, 5000));
    close(fd);
    free(zeros);
    writer_free(&first);
    writer_free(&last);
}
END_TEST

/* Of a daemon that answers nobody some are drained, the others closed. */
START_TEST(drains_are_limited)
{
    int fds[65];
    struct data nothing = {NULL, 0};
    for (int i = 0; i < 65; i++)
        fds[i] = give_up(nothing, 1);
    for (int i = 0; i < 65; i++)
        ck_assert_int_eq(is_closed(fds[i], 0), i == 64);
    for (int i = 0; i < 65; i++)
        close(fds[i]);
    await_descriptors(peer.descriptors + 5);
    usleep(20000);
    fds[0] = give_up(nothing, 1);
    ck_assert(!is_closed(fds[0], 20));
    close(fds[0]);
}
END_TEST

/* What came unasked on a kept connection is no reply to the next request. */
START_TEST(stray_bytes)
{
    peer_rule_set(&peer, 0, RULE(ANY, 1, STRAY, _i == 0 ? 1 : 12));
    batch_add(&batch, KCM_OP_GET_DEFAULT_CACHE);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    peer_stray(&peer);
    batch_add(&batch, KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), -EPIPE);
    ck_assert_uint_eq(batch.answered, 1);
    ck_assert_uint_eq(peer.requests, 1);
    conn_abandon(take(conn));
    for (int i = 0; i < 1000 && peer.live > 0; i++)
        usleep(1000);
    ck_assert_uint_eq(peer.unread, 1);
    peer.unread = 0;
}
END_TEST

/* The other side ended while the connection was idle. */
START_TEST(closed_when_idle)
{
    batch_add(&batch, KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), 0);
    peer_hang_up(&peer);
    batch_add(&batch, KCM_OP_NOOP);
    ck_assert_int_eq(conn_exchange(conn, &batch, &caller), -EPIPE);
    ck_assert_uint_eq(batch.answered, 1);
    peer_listen(&peer);
}
END_TEST

START_TEST(cannot_open)
{
    struct conn *c = conn;
    char path[200];
    ck_assert_int_eq(conn_open("/nowhere/sock", caller.uid, caller.gid, &c),
                     -ECONNREFUSED);
    ck_assert_ptr_null(c);
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    ck_assert_int_eq(conn_open(path, caller.uid, caller.gid, &c),
                     -ENAMETOOLONG);
    peer_hang_up(&peer); /* the file stays */
    ck_assert_int_eq(conn_open(peer.path, caller.uid, caller.gid, &c),
                     -ECONNREFUSED);
    peer_listen(&peer);
}
END_TEST

/* The daemon sees the caller, and this thread is itself again. */
START_TEST(connects_as_caller)
{
    struct conn *c;
    const bool root = geteuid() == 0;
    uid_t uid = root ? 1234 : geteuid();
    gid_t gid = root ? 5678 : getegid();
    char name[32];
    ck_assert_int_eq(conn_open(peer.path, uid, gid, &c), 0);
    ck_assert_int_eq(geteuid() == 0, root);
    ck_assert_uint_eq(getegid(), caller.gid);
    batch_add(&batch, KCM_OP_GEN_NEW);
    ck_assert_int_eq(conn_exchange(c, &batch, &caller), 0);
    snprintf(name, sizeof(name), "%u:", uid);
    ck_assert_mem_eq(batch_reply(&batch, 0).body.p, name, strlen(name));
    conn_free(c);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("rpc");
    TCase *t = tcase_create("rpc");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, golden_requests);
    tcase_add_loop_test(t, replies, 0, FORMS);
    tcase_add_test(t, truncated);
    tcase_add_test(t, received_at_once);
    tcase_add_test(t, sent_at_once);
    tcase_add_test(t, announced);
    tcase_add_test(t, rewound);
    tcase_add_test(t, goes_on_elsewhere);
    tcase_add_loop_test(t, pipelined, 0, 5);
    tcase_add_loop_test(t, in_pieces, 0, 2);
    tcase_add_test(t, large_request);
    tcase_add_loop_test(t, timeout, 0, SLOW);
    tcase_add_loop_test(t, interrupted, 0, SLOW);
    tcase_add_test(t, sent_to_its_end);
    tcase_add_loop_test(t, not_begun_is_not_sent, 0, 2);
    tcase_add_loop_test(t, answered_before_it_was_sent, 0, 2);
    tcase_add_loop_test(t, drained_by_the_piece, 0, 5);
    tcase_add_test(t, drains_are_limited);
    tcase_add_loop_test(t, stray_bytes, 0, 2);
    tcase_add_test(t, closed_when_idle);
    tcase_add_test(t, cannot_open);
    tcase_add_test(t, connects_as_caller);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
