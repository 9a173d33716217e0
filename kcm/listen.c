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

/* With mode 0666 from the first moment on: who met a narrower one would be
 * told that they may not connect, instead of that nobody listens yet. */
static int
bind_for_all(int fd, const struct sockaddr_un *address)
{
    mode_t before = umask(0);
    int r = bind(fd, (const struct sockaddr *)address, sizeof(*address));
    int error = errno;
    umask(before);
    return r == 0 ? 0 : -error;
}

static int
bind_and_listen(int fd, const struct sockaddr_un *address)
{
    int r = fchmod(fd, 0666) != 0 ? -errno : bind_for_all(fd, address);
    if (r == -EADDRINUSE && is_stale(address)) {
        unlink(address->sun_path);
        r = bind_for_all(fd, address);
    }
    if (r != 0)
        return r;
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
