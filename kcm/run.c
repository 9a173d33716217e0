/*
 * The server's loop: one thread, epoll(7), uids in turns.
 *
 * An event only queues its connection with the others of its uid.  Between
 * two calls of epoll_wait(2) every uid in the ring gets one turn, so the
 * calls per request are epoll_wait, recv and send when few are busy, and
 * nobody waits for more than one turn of each other uid when many are.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn.h"
#include "log.h"

#define EVENTS        64
#define ACCEPTS       64 /* in a round */
#define SECOND        1000000
#define STUCK_LIMIT   ((int64_t)30 * SECOND)
#define BUFFERS_LIMIT ((size_t)128 * 1024 * 1024) /* of one uid */

struct loop {
    struct conn_work work;
    int epoll_fd;
    int listen_fd;
    int stop_fd;
    bool deaf; /* out of descriptors: not accepting for a while */
    bool stopped;
    unsigned stuck; /* connections that a limit of time runs for */
    int64_t swept;  /* when the limits were looked at */
    struct peers peers;
    struct conn *conns;
};

static int
watch(struct loop *loop, int op, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data.ptr = what};
    return epoll_ctl(loop->epoll_fd, op, fd, &event) != 0 ? -errno : 0;
}

static void
conn_queue(struct loop *loop, struct conn *conn)
{
    struct peer *peer = conn->peer;
    if (conn->queued)
        return;
    conn->queued = true;
    conn->turn_next = NULL;
    *(peer->first == NULL ? &peer->first : &peer->last->turn_next) = conn;
    peer->last = conn;
    peers_push(&loop->peers, peer);
}

/* The connection must not be queued. */
static void
conn_close(struct loop *loop, struct conn *conn)
{
    *(conn->prev == NULL ? &loop->conns : &conn->prev->next) = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    conn->peer->buffered -= conn->charged;
    loop->stuck -= conn->since != 0;
    peer_put(&loop->peers, conn->peer);
    close(conn->fd);
    conn_clear(conn);
    free(conn);
}

static void
warn_once(struct peer *peer, const char *what)
{
    if (!peer->warned)
        log_warn("uid %u has too many %s: closing", (unsigned)peer->uid, what);
    peer->warned = true;
}

static struct conn *
conn_new(struct loop *loop, int fd, const struct ucred *peer)
{
    struct conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        return NULL;
    conn->peer = peer_get(&loop->peers, peer->uid);
    if (conn->peer == NULL) {
        free(conn);
        return NULL;
    }
    conn->fd = fd;
    conn->uid = peer->uid;
    conn->gid = peer->gid;
    conn->events = EPOLLIN;
    conn->next = loop->conns;
    if (conn->next != NULL)
        conn->next->prev = conn;
    loop->conns = conn;
    return conn;
}

static void
greet(struct loop *loop, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    struct conn *conn = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
        conn = conn_new(loop, fd, &peer);
    if (conn == NULL) {
        close(fd);
        return;
    }
    unsigned limit = kcm_server_connections(loop->work.server);
    if (conn->peer->count > limit) {
        warn_once(conn->peer, "connections");
        conn_close(loop, conn);
    } else if (watch(loop, EPOLL_CTL_ADD, fd, EPOLLIN, conn) != 0) {
        conn_close(loop, conn);
    }
}

/*
 * Many at a time: who connects must not wait for a turn of the busy for each
 * connection that is before his.  The event comes again while more are
 * waiting.
 */
static void
accept_some(struct loop *loop)
{
    int fd = 0;
    for (int i = 0; i < ACCEPTS && fd >= 0; i++) {
        fd =
            accept4(loop->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            greet(loop, fd);
    }
    if (fd >= 0)
        return;
    if (errno == ECONNABORTED || errno == EINTR || errno == EAGAIN)
        return;
    /* A listening socket that stays ready would keep the loop busy. */
    log_warn("cannot accept connections for a second: %s", strerror(errno));
    watch(loop, EPOLL_CTL_DEL, loop->listen_fd, 0, NULL);
    loop->deaf = true;
}

/* Account for the buffers that the connection holds; false: too much. */
static bool
charge(struct conn *conn)
{
    size_t size = conn->in.cap + conn->out.cap, before = conn->charged;
    conn->peer->buffered += size - before;
    conn->charged = size;
    if (size <= before || conn->peer->buffered <= BUFFERS_LIMIT)
        return true;
    warn_once(conn->peer, "unread replies or unfinished requests");
    return false;
}

static void
conn_serve(struct loop *loop, struct conn *conn)
{
    bool was_stuck = conn->since != 0;
    enum conn_state state = conn_turn(conn, &loop->work);
    loop->stuck += (unsigned)(conn->since != 0) - (unsigned)was_stuck;
    uint32_t events = state == CONN_BLOCKED ? EPOLLOUT
                      : state == CONN_HUNG  ? 0
                                            : EPOLLIN;
    if (!charge(conn))
        state = CONN_CLOSE;
    if (state != CONN_CLOSE && events != conn->events &&
        watch(loop, EPOLL_CTL_MOD, conn->fd, events, conn) != 0)
        state = CONN_CLOSE;
    conn->events = events;
    if (state == CONN_CLOSE)
        conn_close(loop, conn);
    else if (state == CONN_MORE)
        conn_queue(loop, conn);
}

static struct conn *
conn_pop(struct peer *peer)
{
    struct conn *conn = peer->first;
    peer->first = conn->turn_next;
    conn->queued = false;
    return conn;
}

static void
peer_serve(struct loop *loop, struct peer *peer)
{
    int64_t start = 0, now = 0;
    peer->count++;        /* keeps it while its last connection closes */
    peer->in_ring = true; /* its place is given at the end */
    do {
        conn_serve(loop, conn_pop(peer));
        if (peer->first == NULL)
            break;
        now = now_us();
        start = start == 0 ? now : start;
    } while (now - start < CONN_TURN_US);
    peer->in_ring = false;
    if (peer->first != NULL)
        peers_push(&loop->peers, peer);
    peer_put(&loop->peers, peer);
}

static void
serve_round(struct loop *loop)
{
    struct peer *last = loop->peers.last;
    bool done = last == NULL;
    while (!done) {
        struct peer *peer = peers_pop(&loop->peers);
        done = peer == last;
        peer_serve(loop, peer);
    }
}

/* Close what is stuck for too long, and listen again. */
static void
sweep(struct loop *loop)
{
    int64_t now = now_us();
    if (now - loop->swept < SECOND)
        return;
    loop->swept = now;
    struct conn *conn = loop->conns, *next;
    for (; conn != NULL; conn = next) {
        next = conn->next;
        if (conn->since != 0 && !conn->queued &&
            now - conn->since > STUCK_LIMIT)
            conn_close(loop, conn);
    }
    if (loop->deaf &&
        watch(loop, EPOLL_CTL_ADD, loop->listen_fd, EPOLLIN, loop) == 0)
        loop->deaf = false;
}

static int
wait_for_events(struct loop *loop)
{
    struct epoll_event events[EVENTS];
    bool timed = loop->stuck > 0 || loop->deaf;
    if (timed)
        sweep(loop); /* now, while who drips bytes is not queued */
    int timeout = loop->peers.first != NULL ? 0 : timed ? 1000 : -1;
    int n = epoll_wait(loop->epoll_fd, events, EVENTS, timeout);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        void *what = events[i].data.ptr;
        if (what == &loop->stop_fd)
            loop->stopped = true;
        else if (what == loop)
            accept_some(loop);
        else
            conn_queue(loop, what);
    }
    return 0;
}

static int
loop_start(struct loop *loop)
{
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->work.scratch = secret_alloc(CONN_SCRATCH);
    if (loop->epoll_fd < 0)
        return -errno;
    if (loop->work.scratch == NULL)
        return -ENOMEM;
    int flags = fcntl(loop->listen_fd, F_GETFL);
    if (flags < 0 || fcntl(loop->listen_fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return -errno;
    int result =
        watch(loop, EPOLL_CTL_ADD, loop->stop_fd, EPOLLIN, &loop->stop_fd);
    if (result != 0)
        return result;
    return watch(loop, EPOLL_CTL_ADD, loop->listen_fd, EPOLLIN, loop);
}

static void
loop_end(struct loop *loop)
{
    while (loop->conns != NULL) {
        /* Nothing is served any more: queued or not does not matter. */
        loop->conns->peer->first = NULL;
        conn_close(loop, loop->conns);
    }
    table_free(&loop->peers.by_uid);
    writer_free(&loop->work.replies);
    secret_free(loop->work.scratch);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
}

int
kcm_server_run(struct kcm_server *server, int listen_fd, int stop_fd)
{
    struct loop loop = {
        .work.server = server, .listen_fd = listen_fd, .stop_fd = stop_fd};
    int result = loop_start(&loop);
    while (result == 0 && !loop.stopped) {
        result = wait_for_events(&loop);
        serve_round(&loop);
    }
    loop_end(&loop);
    return result;
}
