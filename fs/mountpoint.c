/*
 * Mount points.  /proc/self/mountinfo is the source: a stat(2) of a mount
 * may hang in its daemon, or be refused by it.
 */
#include "mountpoint.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kcm/confine.h"
#include "kcm/harden.h"
#include "kcm/log.h"
#include "kcm/mem.h"

#define FS_TYPE "fuse.kcmfs"
/* More dead mounts than this on one directory are no accident. */
#define MAX_STACKED 16

/* What is mounted last, and so seen, on a directory. */
struct mounted {
    char type[64];
    char source[128];
    dev_t device;
};

/* Undo the \NNN of mountinfo, in place. */
static void
unescape(char *s)
{
    char *out = s;
    for (; *s != '\0'; s++) {
        unsigned c;
        if (*s == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
            *out++ = (char)c;
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

/*
 * One line of mountinfo (proc_pid_mountinfo(5)):
 * ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
 */
static bool
parse_line(char *line, const char *path, struct mounted *m)
{
    unsigned major, minor;
    int at = 0;
    if (sscanf(line, "%*u %*u %u:%u %*s %n", &major, &minor, &at) != 2 ||
        at == 0)
        return false;
    char *point = line + at;
    char *end = strchr(point, ' ');
    char *rest = end != NULL ? strstr(end, " - ") : NULL;
    if (rest == NULL)
        return false;
    *end = '\0';
    unescape(point);
    if (strcmp(point, path) != 0)
        return false;
    m->device = makedev(major, minor);
    return sscanf(rest, " - %63s %127s", m->type, m->source) == 2;
}

/* Later lines are mounted later: the last one counts. */
static bool
find_mounted(const char *path, struct mounted *m)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (f == NULL)
        return false;
    bool found = false;
    _cleanup_(freep) char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, f) >= 0) {
        if (parse_line(line, path, m))
            found = true;
    }
    fclose(f);
    return found;
}

bool
mountpoint_device(const char *absolute, dev_t *device_out)
{
    struct mounted m;
    *device_out = 0;
    if (!find_mounted(absolute, &m) || strcmp(m.type, FS_TYPE) != 0)
        return false;
    *device_out = m.device;
    return true;
}

/*
 * The absolute path.  Where the last component cannot be looked at (a dead
 * mount, another user's) it is taken as it is.
 */
static int
make_absolute(const char *path, char **out)
{
    *out = realpath(path, NULL);
    if (*out != NULL || (errno != ENOTCONN && errno != EACCES))
        return *out != NULL ? 0 : -errno;
    int saved = errno;
    _cleanup_(freep) char *copy = strdup(path);
    if (copy == NULL)
        return -ENOMEM;
    size_t len = strlen(copy);
    while (len > 1 && copy[len - 1] == '/')
        copy[--len] = '\0';
    char *slash = strrchr(copy, '/');
    const char *name = slash != NULL ? slash + 1 : copy;
    if (slash != NULL)
        *slash = '\0';
    const char *above = slash == NULL ? "." : *copy == '\0' ? "/" : copy;
    _cleanup_(freep) char *parent = realpath(above, NULL);
    if (parent == NULL || *name == '\0' || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0)
        return -saved;
    if (asprintf(out, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) <
        0) {
        *out = NULL;
        return -ENOMEM;
    }
    return 0;
}

static void __attribute__((noreturn)) exec_fusermount(const char *path)
{
    execlp("fusermount3", "fusermount3", "-u", "-z", "-q", "--", path,
           (char *)NULL);
    _exit(127);
}

static int
wait_for(pid_t pid)
{
    int status;
    pid_t r;
    do
        r = waitpid(pid, &status, 0);
    while (r < 0 && errno == EINTR);
    return r == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0
                                                                     : -EIO;
}

/* Take what is mounted on path away, also when it is in use. */
static int
unmount(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return 0;
    if (geteuid() == 0)
        return -errno;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        exec_fusermount(path);
    return wait_for(pid);
}

static int
refuse_mounted(const char *path, const struct mounted *m)
{
    if (strcmp(m->type, FS_TYPE) == 0)
        log_error(
            "%s: %s is mounted there already (to end it: umount %s)", path,
            access(path, F_OK) != 0 && errno == EACCES ? "another user's kcmfs"
                                                       : "kcmfs",
            path);
    else
        log_error("%s: there is something else mounted there (%s, %s)", path,
                  m->source, m->type);
    return -EBUSY;
}

/* Only a mount without its daemon answers ENOTCONN, or ECONNABORTED to who
 * asked when it went.  A stat(2) may be answered from what the kernel keeps.
 */
static bool
is_dead(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

static int
clear_mounted(const char *path)
{
    struct mounted m;
    for (int i = 0; i < MAX_STACKED; i++) {
        if (!find_mounted(path, &m))
            return 0;
        if (strcmp(m.type, FS_TYPE) != 0 || !is_dead(path))
            break;
        int r = unmount(path);
        if (r < 0) {
            log_error("%s: cannot unmount the dead kcmfs there: %s", path,
                      strerror(-r));
            return r;
        }
        log_info("%s: unmounted a kcmfs whose daemon is gone", path);
    }
    return refuse_mounted(path, &m);
}

static int
check_directory(const char *path)
{
    struct stat st;
    int r = stat(path, &st) != 0 ? -errno : 0;
    if (r == 0 && S_ISDIR(st.st_mode))
        return 0;
    if (r == 0)
        r = -ENOTDIR;
    if (r == -ENOENT)
        log_error("%s: no such directory; make it first: mkdir -p %s", path,
                  path);
    else
        log_error("%s: cannot mount there: %s", path, strerror(-r));
    return r;
}

int
mountpoint_prepare(const char *path, char **absolute_out)
{
    *absolute_out = NULL;
    _cleanup_(freep) char *absolute = NULL;
    int r = make_absolute(path, &absolute);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return check_directory(path) < 0 ? r : -EINVAL;
    r = clear_mounted(absolute);
    if (r == 0)
        r = check_directory(absolute);
    if (r == 0)
        *absolute_out = take(absolute);
    return r;
}

/* --- the unmounting process ------------------------------------------- */

/* Descriptors 0 to 2 on /dev/null, fd at 3, and nothing else. */
static void
keep_only(int fd)
{
    if (fd != 3 && dup2(fd, 3) != 3)
        _exit(1);
    close_range(4, ~0U, 0);
    FILE *null = fopen("/dev/null", "r+");
    if (null == NULL)
        _exit(1);
    for (int i = 0; i < 3; i++)
        dup2(fileno(null), i);
    fclose(null);
}

static void
ignore_signals(void)
{
    /* systemd and a terminal signal all processes of a service or group:
     * the daemon alone decides when it is over. */
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], SIG_IGN);
}

static void __attribute__((noreturn)) run_unmounter(int fd, const char *path)
{
    ignore_signals();
    keep_only(fd);
    if (chdir("/") != 0)
        _exit(1);
    (void)prctl(PR_SET_NAME, "kcmfs-unmount", 0, 0, 0);
    /* A user's goes through the setuid fusermount3. */
    bool root = geteuid() == 0;
    if ((root ? harden_drop(HARDEN_CAP(CAP_SYS_ADMIN))
              : harden_drop_capabilities(0)) < 0 ||
        (root && confine(CONFINE_UNMOUNTER, NULL) < 0))
        _exit(1);
    uint64_t device = 0;
    ssize_t n;
    do
        n = read(3, &device, sizeof(device));
    while (n < 0 && errno == EINTR);
    dev_t now;
    if (n != sizeof(device) || !mountpoint_device(path, &now) || now != device)
        _exit(0);
    /* Ours lost its daemon by now.  If it is unmounted already, the kernel may
     * have given its number to another one there. */
    if (!is_dead(path))
        _exit(0);
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        _exit(0);
    if (root)
        _exit(1);
    exec_fusermount(path);
}

int
unmounter_start(struct unmounter *u, const char *absolute)
{
    *u = (struct unmounter){0, -1};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        run_unmounter(pair[1], absolute);
    }
    int r = pid < 0 ? -errno : 0;
    close(pair[1]);
    if (r < 0) {
        close(pair[0]);
        return r;
    }
    *u = (struct unmounter){pid, pair[0]};
    return 0;
}

int
unmounter_finish(struct unmounter *u, dev_t device)
{
    if (u->pid == 0)
        return 0;
    uint64_t message = device;
    if (device != 0)
        (void)send(u->fd, &message, sizeof(message), MSG_NOSIGNAL);
    close(u->fd);
    int r = wait_for(u->pid);
    *u = (struct unmounter){0, -1};
    return r;
}
