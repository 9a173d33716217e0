/*
 * All that is done with libfuse besides answering requests.
 */
#include "mount.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/user.h"
#include "kcm/log.h"
#include "kcm/mem.h"
#include "kcm/wait.h"
#include "ops.h"
#include "options.h"

/* A request waits in its thread while the KCM daemon works, so there may be
 * many.  Idle threads are not ended: making new ones was measured to cost
 * more than half of the throughput. */
#define MAX_THREADS 1024
#define OLD_IDLE    64 /* of libfuse before 3.12, which has no limit */

/* Virtual memory of each thread.  The sanitizers need much more. */
#define THREAD_STACK "262144"

const char *
mount_library_version(void)
{
    return fuse_pkgversion();
}

static void __attribute__((format(printf, 2, 0)))
log_of_library(enum fuse_log_level level, const char *format, va_list ap)
{
    char text[512];
    if (vsnprintf(text, sizeof(text), format, ap) < 0)
        return;
    text[strcspn(text, "\n")] = '\0';
    enum log_level ours = level <= FUSE_LOG_ERR       ? LOG_LEVEL_ERROR
                          : level == FUSE_LOG_WARNING ? LOG_LEVEL_WARN
                          : level <= FUSE_LOG_INFO    ? LOG_LEVEL_INFO
                                                      : LOG_LEVEL_DEBUG;
    log_line(ours, "%s", text);
}

static bool
is_for_all(const struct options *o)
{
    return !o->allow_root && (o->allow_other || geteuid() == 0);
}

bool
mount_is_private(const struct options *o)
{
    return !o->allow_root && !is_for_all(o);
}

/* What every mount has, and what only root's or only some have. */
static char *
make_mount_options(const struct options *o)
{
    bool all = is_for_all(o);
    char *text = NULL;
    if (asprintf(&text,
                 "fsname=kcmfs,subtype=kcmfs,default_permissions,nosuid,"
                 "nodev,noexec%s%s%s%s%s",
                 all ? ",allow_other" : "", o->allow_root ? ",allow_root" : "",
                 o->read_only ? ",ro" : "",
                 o->mount_options != NULL ? "," : "",
                 o->mount_options != NULL ? o->mount_options : "") < 0)
        return NULL;
    return text;
}

struct fuse_session *
mount_new(const struct options *o, struct fs *fs)
{
    fuse_set_log_func(log_of_library);
    _cleanup_(freep) char *list = make_mount_options(o);
    if (list == NULL)
        return NULL;
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_session *session = NULL;
    if (fuse_opt_add_arg(&args, "kcmfs") == 0 &&
        fuse_opt_add_arg(&args, "-o") == 0 &&
        fuse_opt_add_arg(&args, list) == 0 &&
        (!o->debug || fuse_opt_add_arg(&args, "-d") == 0))
        session = fuse_session_new(&args, &fs_ops, sizeof(fs_ops), fs);
    fuse_opt_free_args(&args);
    if (session != NULL)
        fs_set_session(fs, session);
    return session;
}

int
mount_on(struct fuse_session *session, const char *absolute)
{
    if (fuse_session_mount(session, absolute) == 0)
        return 0;
    if (access("/dev/fuse", F_OK) != 0)
        log_error("%s: cannot mount: there is no /dev/fuse: load the kernel "
                  "module (modprobe fuse), or give the container the device",
                  absolute);
    else if (geteuid() != 0)
        log_error("%s: cannot mount: a user needs fusermount3 (package "
                  "fuse3), access to /dev/fuse and a directory of their own",
                  absolute);
    else
        log_error("%s: cannot mount: root needs CAP_SYS_ADMIN and access to "
                  "/dev/fuse, which containers often lack",
                  absolute);
    return -EIO;
}

/*
 * libfuse 3.14 to 3.16 do not tell the kernel of FUSE_CAP_PARALLEL_DIROPS,
 * without which it lets one LOOKUP or READDIR at a time into each directory:
 * a user whose daemon hangs would block all others.  So the reply to INIT is
 * put right on its way out.
 */
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 14) &&                               \
    FUSE_VERSION < FUSE_MAKE_VERSION(3, 17)
static bool answering_init;

static ssize_t
write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    if (answering_init && count == 2 &&
        iov[1].iov_len > offsetof(struct fuse_init_out, flags) + 4) {
        struct fuse_init_out *reply = iov[1].iov_base;
        reply->flags |= FUSE_PARALLEL_DIROPS;
    }
    return writev(fd, iov, count);
}

static ssize_t
read_request(int fd, void *buf, size_t size, void *userdata)
{
    (void)userdata;
    return read(fd, buf, size);
}

static void
answer(struct fuse_session *session, const struct fuse_buf *buf)
{
    static const struct fuse_custom_io io = {.writev = write_reply,
                                             .read = read_request};
    if (fuse_session_custom_io(session, &io, fuse_session_fd(session)) != 0)
        log_warn("lookups in one directory wait for each other");
    answering_init = true;
    fuse_session_process_buf(session, buf);
    answering_init = false;
}
#else
#define answer fuse_session_process_buf
#endif

int
mount_answer_init(struct fuse_session *session)
{
    struct fuse_buf buf = {0};
    int r;
    do
        r = fuse_session_receive_buf(session, &buf);
    while (r == -EINTR);
    if (r > 0)
        answer(session, &buf);
    free(buf.mem);
    if (r < 0)
        return r;
    return r == 0 || fuse_session_exited(session) ? -ENODEV : 0;
}

static sigset_t
ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return set;
}

/*
 * libfuse's loop of one thread looks whether it is to end, and then sleeps in
 * read(2): a signal between the two would wait for the next request.
 */
static int
loop_alone(struct fuse_session *session)
{
    struct pollfd p = {.fd = fuse_session_fd(session), .events = POLLIN};
    struct fuse_buf buf = {0};
    sigset_t ending = ending_signals(), open;
    int r = 1;
    pthread_sigmask(SIG_BLOCK, &ending, &open);
    while (!fuse_session_exited(session) && (r > 0 || r == -EINTR)) {
        r = ppoll(&p, 1, NULL, &open) < 0 ? -errno : 1;
        if (r < 0)
            continue;
        pthread_sigmask(SIG_SETMASK, &open, NULL);
        r = fuse_session_receive_buf(session, &buf);
        if (r > 0)
            fuse_session_process_buf(session, &buf);
        pthread_sigmask(SIG_BLOCK, &ending, NULL);
    }
    free(buf.mem);
    return r == -EINTR ? 0 : r;
}

static int
loop_threads(struct fuse_session *session)
{
#ifndef INSPECTABLE
    (void)setenv("FUSE_THREAD_STACK", THREAD_STACK, 0);
#endif
#if FUSE_USE_VERSION >= FUSE_MAKE_VERSION(3, 12)
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (config == NULL)
        return -ENOMEM;
    fuse_loop_cfg_set_max_threads(config, MAX_THREADS);
    int r = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return r;
#else
    struct fuse_loop_config config = {.max_idle_threads = OLD_IDLE};
    return fuse_session_loop_mt(session, &config);
#endif
}

static struct fuse_session *volatile serving;

/* libfuse's own handler would let requests wait for their daemon. */
static void
end_serving(int sig)
{
    (void)sig;
    if (serving != NULL)
        fuse_session_exit(serving);
    wait_end();
}

static int
set_handlers(struct fuse_session *session)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = end_serving};
    int r = fuse_set_signal_handlers(session) != 0 ? -EIO : 0;
    wait_end_prepare();
    serving = session;
    for (size_t i = 0; r == 0 && i < sizeof(signals) / sizeof(int); i++)
        if (sigaction(signals[i], &action, NULL) != 0)
            r = -errno;
    return r;
}

int
mount_serve(struct fuse_session *session, bool single_threaded)
{
    if (set_handlers(session) != 0)
        return -EIO;
    sigset_t ending = ending_signals();
    pthread_sigmask(SIG_UNBLOCK, &ending, NULL);
    int r = single_threaded ? loop_alone(session) : loop_threads(session);
    fuse_remove_signal_handlers(session);
    serving = NULL;
    /* Positive is the signal that ended it. */
    return r < 0 ? r : 0;
}

#ifdef INSPECTABLE
/*
 * libfuse frees its copy of the path in fuse_session_unmount() alone, which
 * would try to unmount without the right to: that is the unmounter's.
 */
const char *__lsan_default_suppressions(void);

const char *
__lsan_default_suppressions(void)
{
    return "leak:fuse_session_mount\n";
}
#endif

void
mount_drop_pages(struct fs *fs, uint64_t ino)
{
    (void)fuse_lowlevel_notify_inval_inode(fs->session, ino, 0, 0);
}

void
mount_end(struct fuse_session *session)
{
    if (session != NULL)
        fuse_session_destroy(session);
}
