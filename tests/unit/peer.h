/*
 * A KCM daemon for unit tests of the client, at a socket in a directory of
 * its own.  It answers as kcmd does, except where a rule says otherwise; and
 * it notes whatever a client does that would harm a real daemon.
 */
#ifndef TESTS_PEER_H
#define TESTS_PEER_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../kcm/proto.h"
#include "../../kcm/server.h"
#include "../../kcm/wait.h"
#include "samples.h"

#define ANY        0xffffu
#define PEER_RULES 8

enum manner {
    HONEST,
    SILENT,   /* nothing, ever */
    DELAY,    /* arg milliseconds late */
    HALF,     /* half of the reply, and no more */
    CUT,      /* arg bytes of the reply, then closed */
    BYTES,    /* one by one */
    PIECES,   /* length, status and body in three writes, as sssd */
    LONGER,   /* the length says arg bytes more than come */
    SHORTER,  /* the length says arg bytes fewer */
    LENGTH,   /* the length says arg */
    TRAILING, /* arg bytes more come with it */
    STRAY,    /* arg bytes more come when peer_stray() is called */
    OUTER,    /* the code arg in the outer status, and nothing else */
    INNER,    /* the code arg in the inner status */
    BOTH,     /* the code arg in both, as Heimdal's master */
    BODY,     /* body, instead of the result */
    BEFORE,   /* closed, the request not done */
    AFTER,    /* done, then closed */
};

struct rule {
    unsigned opcode;
    unsigned nth; /* the nth such request from now on */
    enum manner manner;
    int32_t arg;
    struct data body;
    bool always;   /* and all later ones */
    unsigned hits; /* counted */
};

#define RULE(o, n, m, a)                                                      \
    ((struct rule){.opcode = (o), .nth = (n), .manner = (m), .arg = (a)})

struct peer {
    unsigned descriptors; /* before it started */
    char dir[32], path[48];
    struct kcm_server *server;
    pthread_mutex_t lock;
    struct rule rules[PEER_RULES];
    int listen_fd;
    pthread_t thread;
    int fds[512]; /* of connections by number; -1: closed */
    _Atomic bool stopping;
    _Atomic int stray; /* 1: to be sent, 2: sent */
    /* Counted: */
    _Atomic unsigned accepted, live, requests, hits;
    _Atomic unsigned seen[32]; /* requests with these opcodes; 31: others */
    _Atomic unsigned cut;      /* requests that came in more than one piece */
    _Atomic unsigned unread;   /* closed with a reply not read */
    _Atomic unsigned reused;   /* requests behind one that was not answered */
};

struct peer_conn {
    struct peer *peer;
    unsigned number;
    int fd;
    uid_t uid;
    bool mute; /* says no more */
};

static inline void
peer_put(struct peer_conn *c, const uint8_t *p, size_t len)
{
    while (len > 0 && !c->mute) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        p += n;
        len -= (size_t)n;
    }
}

/* What is to come unasked comes now. */
static inline void
peer_stray(struct peer *peer)
{
    peer->stray = 1;
    while (peer->stray != 2)
        usleep(1000);
    peer->stray = 0;
}

static inline struct rule
peer_rule(struct peer *peer, unsigned opcode)
{
    struct rule found = {.manner = HONEST};
    pthread_mutex_lock(&peer->lock);
    peer->requests++;
    peer->seen[opcode < 31 ? opcode : 31]++;
    for (int i = 0; i < PEER_RULES; i++) {
        struct rule *r = &peer->rules[i];
        if (r->manner == HONEST || (r->opcode != ANY && r->opcode != opcode))
            continue;
        if (r->nth > 1) {
            r->nth--;
            continue;
        }
        found = *r;
        peer->hits++;
        r->hits++;
        if (!r->always)
            r->manner = HONEST;
        break;
    }
    pthread_mutex_unlock(&peer->lock);
    return found;
}

/* Make the honest reply in w what the rule says; false: then close. */
static inline bool
peer_bend(struct peer_conn *c, const struct rule *rule, struct writer *w)
{
    uint32_t arg = (uint32_t)rule->arg;
    uint32_t len = w->len > 8 ? (uint32_t)w->len - 8 : 0;
    struct data most = {w->p, w->len / 2};
    switch (rule->manner) {
    case DELAY:
        usleep(arg * 1000);
        break;
    case CUT:
        peer_put(c, w->p, arg < w->len ? arg : w->len);
        return false;
    case LONGER:
        write_u32_at(w, 0, len + arg);
        break;
    case SHORTER:
        write_u32_at(w, 0, len - arg);
        break;
    case LENGTH:
        write_u32_at(w, 0, arg);
        break;
    case TRAILING:
        for (uint32_t i = 0; i < arg; i++)
            write_u8(w, (uint8_t)i);
        break;
    case OUTER:
    case INNER:
    case BOTH:
        writer_reset(w);
        write_u32(w, rule->manner == OUTER ? 0 : 4);
        write_u32(w, rule->manner == INNER ? 0 : arg);
        if (rule->manner != OUTER)
            write_u32(w, arg);
        break;
    case BODY:
        writer_reset(w);
        write_u32(w, (uint32_t)rule->body.len + 4);
        write_u32(w, 0);
        write_u32(w, 0);
        write_data(w, rule->body);
        break;
    case HALF:
        peer_put(c, most.p, most.len);
        c->mute = true;
        break;
    case SILENT:
        c->mute = true;
        break;
    default:
        break;
    }
    return true;
}

static inline void
peer_send(struct peer_conn *c, const struct rule *rule, struct writer *w)
{
    if (rule->manner == BYTES) {
        for (size_t i = 0; i < w->len; i++)
            peer_put(c, w->p + i, 1);
    } else if (rule->manner == PIECES) {
        peer_put(c, w->p, 4);
        peer_put(c, w->p + 4, 4);
        usleep(1000);
        peer_put(c, w->p + 8, w->len - 8);
    } else {
        peer_put(c, w->p, w->len);
    }
    if (rule->manner == STRAY) {
        while (c->peer->stray == 0 && !c->peer->stopping)
            usleep(1000);
        peer_put(c, w->p, (size_t)rule->arg);
        c->peer->stray = 2;
    }
}

/* False: the connection is to be closed. */
static inline bool
peer_answer(struct peer_conn *c, struct data request)
{
    unsigned opcode = (unsigned)(request.p[2] << 8 | request.p[3]);
    struct rule rule = peer_rule(c->peer, opcode);
    struct writer w = {0};
    bool refused =
        rule.manner == OUTER || rule.manner == INNER || rule.manner == BOTH;
    bool goes_on = rule.manner != BEFORE;
    if (goes_on && !refused)
        goes_on = kcm_server_handle(c->peer->server, c->uid, c->uid, request,
                                    &w) == 0;
    if (goes_on)
        goes_on = rule.manner != AFTER && peer_bend(c, &rule, &w);
    if (goes_on)
        peer_send(c, &rule, &w);
    writer_free(&w);
    return goes_on;
}

/* Answer what is whole in w, and note what is not; false: close. */
static inline bool
peer_receive(struct peer_conn *c, struct writer *w)
{
    bool was_mute = c->mute;
    size_t at = 0;
    if (was_mute)
        c->peer->reused++;
    while (w->len - at >= 4) {
        struct reader r;
        reader_init(&r, w->p + at, w->len - at);
        struct data request = read_data32(&r);
        if (r.bad)
            break;
        at += 4 + request.len;
        if (request.len < 4 || !peer_answer(c, request))
            return false;
    }
    /* The kernel itself cuts what is long. */
    if (at < w->len && w->len - at < 30000)
        c->peer->cut++;
    memmove(w->p, w->p + at, w->len - at);
    w->len -= at;
    return true;
}

static inline void *
peer_serve(void *arg)
{
    struct peer_conn *c = arg;
    struct peer *peer = c->peer;
    struct writer w = {0};
    bool goes_on = true;
    while (goes_on && writer_reserve(&w, 65536)) {
        ssize_t n = recv(c->fd, w.p + w.len, w.cap - w.len, 0);
        if (n < 0 && errno == ECONNRESET && !peer->stopping)
            peer->unread++;
        if (n == 0 && w.len > 0)
            peer->cut++;
        if (n <= 0)
            break;
        w.len += (size_t)n;
        goes_on = peer_receive(c, &w);
    }
    writer_free(&w);
    pthread_mutex_lock(&peer->lock);
    peer->fds[c->number] = -1;
    close(c->fd);
    pthread_mutex_unlock(&peer->lock);
    free(c);
    peer->live--;
    return NULL;
}

static inline void *
peer_accept(void *arg)
{
    struct peer *peer = arg;
    int fd;
    while ((fd = accept4(peer->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        pthread_t thread;
        struct ucred who;
        socklen_t size = sizeof(who);
        struct peer_conn *c = calloc(1, sizeof(*c));
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size);
        *c = (struct peer_conn){.peer = peer, .fd = fd, .uid = who.uid};
        pthread_mutex_lock(&peer->lock);
        c->number = peer->accepted++ % 512;
        peer->fds[c->number] = fd;
        pthread_mutex_unlock(&peer->lock);
        peer->live++;
        pthread_create(&thread, NULL, peer_serve, c);
        pthread_detach(thread);
    }
    return NULL;
}

/* Listen, with what the server holds already. */
static inline void
peer_listen(struct peer *peer)
{
    peer->stopping = false;
    ck_assert_int_eq(kcm_server_listen(peer->path, &peer->listen_fd), 0);
    ck_assert_int_eq(fcntl(peer->listen_fd, F_SETFL, 0), 0); /* blocking */
    pthread_create(&peer->thread, NULL, peer_accept, peer);
}

/* Close all connections and stop listening, as a daemon that ends. */
static inline void
peer_hang_up(struct peer *peer)
{
    peer->stopping = true;
    shutdown(peer->listen_fd, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    close(peer->listen_fd);
    pthread_mutex_lock(&peer->lock);
    for (int i = 0; i < 512; i++)
        if (peer->fds[i] >= 0)
            shutdown(peer->fds[i], SHUT_RDWR);
    pthread_mutex_unlock(&peer->lock);
    while (peer->live > 0)
        usleep(500);
}

static inline unsigned
open_descriptors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static inline void
peer_start(struct peer *peer, const struct kcm_server_limits *limits)
{
    *peer = (struct peer){.dir = "/tmp/test_kcm.XXXXXX",
                          .descriptors = open_descriptors()};
    pthread_mutex_init(&peer->lock, NULL);
    memset(peer->fds, -1, sizeof(peer->fds));
    ck_assert_ptr_nonnull(mkdtemp(peer->dir));
    chmod(peer->dir, 0755);
    snprintf(peer->path, sizeof(peer->path), "%s/sock", peer->dir);
    ck_assert_int_eq(kcm_server_new(limits, &peer->server), 0);
    peer_listen(peer);
}

/* The end; the client must have behaved. */
static inline void
peer_stop(struct peer *peer)
{
    /* What was closed is noticed as such, before the rest is closed. */
    for (int i = 0; i < 20; i++)
        if (peer->live > 0)
            usleep(1000);
    peer_hang_up(peer);
    kcm_server_free(peer->server);
    unlink(peer->path);
    rmdir(peer->dir);
    pthread_mutex_destroy(&peer->lock);
    ck_assert_uint_eq(peer->cut, 0);
    ck_assert_uint_eq(peer->unread, 0);
    ck_assert_uint_eq(peer->reused, 0);
}

static inline void
peer_rule_set(struct peer *peer, int n, struct rule rule)
{
    pthread_mutex_lock(&peer->lock);
    peer->rules[n] = rule;
    peer->hits = 0;
    pthread_mutex_unlock(&peer->lock);
}

static inline void
peer_rules_clear(struct peer *peer)
{
    for (int i = 0; i < PEER_RULES; i++)
        peer_rule_set(peer, i, (struct rule){.manner = HONEST});
}

/* Wait for what goes on in the background to be over. */
static inline void
await_descriptors(unsigned most)
{
    for (int i = 0; i < 2000 && open_descriptors() > most; i++)
        usleep(1000);
    ck_assert_uint_le(open_descriptors(), most);
}

/* The same after peer_stop().  A drain holds its descriptor until it needs no
 * more memory, so that comes first. */
static inline void
peer_await_end(const struct peer *p)
{
    await_descriptors(p->descriptors + 1); /* the wake */
    for (int i = 0; i < 2000 && secret_in_use() > 0; i++)
        usleep(1000);
    ck_assert_uint_eq(secret_in_use(), 0);
}

#endif
