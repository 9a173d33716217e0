/*
 * Binding the socket of a KCM server.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server.h"

static int
new_socket(int *fd_out)
{
    *fd_out = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return *fd_out < 0 ? -errno : 0;
}

/* True when a socket is at the address and nobody listens on it. */
static bool
is_stale(const struct sockaddr_un *address)
{
    struct stat st;
    int fd;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    if (new_socket(&fd) != 0)
        return false;
    bool refused =
        connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 &&
        errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int
bind_and_listen(int fd, const struct sockaddr_un *address)
{
    const struct sockaddr *sa = (const struct sockaddr *)address;
    if (bind(fd, sa, sizeof(*address)) != 0) {
        if (errno != EADDRINUSE || !is_stale(address))
            return -errno;
        unlink(address->sun_path);
        if (bind(fd, sa, sizeof(*address)) != 0)
            return -errno;
    }
    /* Until listen() nobody can connect, so the mode is never too narrow
     * for a client that sees a server. */
    if (chmod(address->sun_path, 0666) != 0 || listen(fd, SOMAXCONN) != 0) {
        int error = errno;
        unlink(address->sun_path);
        return -error;
    }
    return 0;
}

int
kcm_server_listen(const char *path, int *fd_out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;
    *fd_out = -1;
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int result = new_socket(&fd);
    if (result != 0)
        return result;
    result = bind_and_listen(fd, &address);
    if (result != 0) {
        close(fd);
        return result;
    }
    *fd_out = fd;
    return 0;
}
