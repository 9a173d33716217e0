/*
 * One datagram to systemd.
 */
#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

/* The address of systemd's socket; false: there is none. */
static bool
notify_address(struct sockaddr_un *address, socklen_t *size)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL || (path[0] != '/' && path[0] != '@'))
        return false;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len >= sizeof(address->sun_path))
        return false;
    memcpy(address->sun_path, path, len);
    /* '@' stands for the NUL of an abstract name. */
    if (path[0] == '@')
        address->sun_path[0] = '\0';
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    return true;
}

bool
notify_systemd_fd(const char *state, int passed)
{
    struct sockaddr_un address;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec text = {(void *)(uintptr_t)state, strlen(state)};
    struct msghdr m = {
        .msg_name = &address, .msg_iov = &text, .msg_iovlen = 1};
    if (!notify_address(&address, &m.msg_namelen))
        return false;
    if (passed >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &passed, sizeof(int));
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool sent = sendmsg(fd, &m, MSG_NOSIGNAL) >= 0;
    if (!sent)
        log_debug("cannot notify systemd: %s", strerror(errno));
    close(fd);
    return sent;
}

void
notify_systemd(const char *state)
{
    (void)notify_systemd_fd(state, -1);
}

int64_t
notify_watchdog_ms(void)
{
    const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (us == NULL || (pid != NULL && atol(pid) != (long)getpid()))
        return 0;
    return atoll(us) / 1000;
}
