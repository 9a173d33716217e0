/*
 * connect(2) as somebody: the only place that switches identity.
 *
 * The kernel fixes SO_PEERCRED at connect(): effective uid and gid of the
 * connecting thread.  glibc's setresuid() changes all threads, so the raw
 * calls are used; they change the calling thread alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "harden.h"
#include "kcm.h"
#include "log.h"
#include "rpc.h"

/* sssd reads a request with one readv: let a large one fit the buffer. */
#define SEND_BUFFER (4 * 1024 * 1024)

static int
set_ids(uid_t uid, gid_t gid, uid_t old_uid)
{
    /* Groups first while the uid still allows it, and last on the way back. */
    if (uid != old_uid && uid == getuid()) {
        if (syscall(SYS_setresuid, -1, uid, -1) != 0)
            return -errno;
        return syscall(SYS_setresgid, -1, gid, -1) != 0 ? -errno : 0;
    }
    if (syscall(SYS_setresgid, -1, gid, -1) != 0)
        return -errno;
    return syscall(SYS_setresuid, -1, uid, -1) != 0 ? -errno : 0;
}

static int
set_thread_ids(uid_t uid, gid_t gid, uid_t old_uid)
{
    int r = set_ids(uid, gid, old_uid);
    harden_switched();
    return r;
}

static int
connect_path(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int r;
    do
        r = connect(fd, (struct sockaddr *)&address, sizeof(address));
    while (r != 0 && errno == EINTR);
    if (r == 0)
        return 0;
    /* No socket file and nobody behind it are the same: no daemon. */
    return errno == ENOENT ? -ECONNREFUSED : -errno;
}

static int
connect_as(int fd, const char *path, uid_t uid, gid_t gid)
{
    uid_t old_uid = geteuid();
    gid_t old_gid = getegid();
    if (uid == old_uid && gid == old_gid)
        return connect_path(fd, path);
    int r = set_thread_ids(uid, gid, old_uid);
    if (r == 0)
        r = connect_path(fd, path);
    if (set_thread_ids(old_uid, old_gid, uid) != 0) {
        /* Nothing may go on under a foreign identity. */
        log_error("cannot take back the identity of the daemon");
        abort();
    }
    return r;
}

int
conn_open(const char *path, uid_t uid, gid_t gid, struct conn **conn_out)
{
    *conn_out = NULL;
    struct conn *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->uid = uid;
    c->gid = gid;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        int r = -errno;
        free(c);
        return r;
    }
    int size = SEND_BUFFER;
    (void)setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    int r = connect_as(c->fd, path, uid, gid);
    if (r < 0) {
        conn_free(c);
        return r;
    }
    *conn_out = c;
    return 0;
}

int
kcm_listens(const char *path)
{
    struct conn *c;
    int r = conn_open(path, geteuid(), getegid(), &c);
    conn_free(c);
    return r == -EAGAIN ? 0 : r;
}
