/*
 * kcmfs: from the command line to the end of the mount.
 *
 *   1. options; -f or to the background, where the rest is done while the
 *      parent waits
 *   2. harden; find the KCM socket; check the mount point; leave a process
 *      behind that can unmount
 *   3. the KCM service, embedded or not; the file system over it; mount
 *   4. drop privileges; answer the kernel's INIT: ready
 *   5. threads; serve until unmounted or signalled
 *   6. take it all down in reverse order
 *
 * There is one thread until step 5, so that step 4 holds for all.
 */
#include <errno.h>
#include <linux/capability.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "background.h"
#include "fs/fs.h"
#include "idle.h"
#include "kcm/conf.h"
#include "kcm/confine.h"
#include "kcm/harden.h"
#include "kcm/log.h"
#include "kcm/mem.h"
#include "kcm/notify.h"
#include "kcm/server.h"
#include "mount.h"
#include "mountpoint.h"
#include "options.h"
#include "version.h"

/* The embedded KCM daemon, and its thread where it listens. */
struct embedded {
    struct kcm_server *server;
    const char *path; /* of the socket; NULL: none */
    struct stat made; /* the socket file */
    int listen_fd;
    int stop_fd;
    bool running;
    pthread_t thread;
};

struct daemon {
    struct options *options;
    struct background background;
    char *mountpoint;
    char *socket; /* of the KCM daemon; NULL: embedded */
    struct embedded embedded;
    struct unmounter unmounter;
    dev_t device; /* of the mount; 0: not mounted */
    struct kcm *kcm;
    struct fs *fs;
    struct fuse_session *session;
    struct housekeeper *housekeeper;
};

static int
failed(const char *what, int r)
{
    if (r < 0)
        log_error("%s: %s", what, strerror(-r));
    return r < 0 ? EXIT_RUN : EXIT_OK;
}

/* --- the embedded KCM daemon ------------------------------------------- */

static void *
run_embedded(void *arg)
{
    struct embedded *e = arg;
    int r = kcm_server_run(e->server, e->listen_fd, e->stop_fd);
    if (r < 0)
        log_error("the socket %s is not served any more: %s", e->path,
                  strerror(-r));
    return NULL;
}

static int
listen_embedded(struct embedded *e, const char *path)
{
    e->stop_fd = eventfd(0, EFD_CLOEXEC);
    int r = e->stop_fd < 0 ? -errno : kcm_server_listen(path, &e->listen_fd);
    if (r < 0) {
        log_error("cannot listen on %s: %s", path, strerror(-r));
        return EXIT_RUN;
    }
    e->path = path;
    (void)lstat(path, &e->made);
    return EXIT_OK;
}

/* Signals are for the thread that loops over the session. */
static int
start_embedded_thread(struct embedded *e)
{
    if (e->path == NULL)
        return EXIT_OK;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = -pthread_create(&e->thread, NULL, run_embedded, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    e->running = r == 0;
    return failed("cannot start a thread", r);
}

static void
end_embedded(struct embedded *e)
{
    if (e->running) {
        (void)eventfd_write(e->stop_fd, 1);
        pthread_join(e->thread, NULL);
    }
    if (e->listen_fd >= 0)
        close(e->listen_fd);
    if (e->stop_fd >= 0)
        close(e->stop_fd);
    /* Somebody else may have put their own socket there. */
    struct stat now;
    if (e->path != NULL && lstat(e->path, &now) == 0 &&
        now.st_dev == e->made.st_dev && now.st_ino == e->made.st_ino)
        (void)unlink(e->path);
    kcm_server_free(e->server);
}

/* --- the steps ---------------------------------------------------------- */

static int
find_socket(struct daemon *d)
{
    if (d->options->embedded)
        return EXIT_OK;
    if (d->options->socket != NULL) {
        d->socket = strdup(d->options->socket);
        if (d->socket == NULL)
            return failed("cannot start", -ENOMEM);
    } else if (kcm_conf_socket(&d->socket) == -EINVAL) {
        return EXIT_RUN;
    } else if (d->socket == NULL) {
        log_error("krb5.conf: " OPTIONS_NO_SOCKET);
    }
    if (d->socket == NULL)
        return EXIT_RUN;
    int r = kcm_listens(d->socket);
    if (r < 0)
        log_warn("there is no KCM daemon at %s yet: %s; with --embedded, "
                 "kcmfs keeps the caches itself",
                 d->socket, strerror(-r));
    return EXIT_OK;
}

static int
start_service(struct daemon *d)
{
    struct embedded *e = &d->embedded;
    if (d->options->embedded) {
        int r = kcm_server_new(NULL, &e->server);
        if (r < 0)
            return failed("cannot start the embedded KCM daemon", r);
        if (d->options->socket != NULL &&
            listen_embedded(e, d->options->socket) != EXIT_OK)
            return EXIT_RUN;
    }
    struct kcm_config kcm = {.socket_path = d->socket,
                             .server = e->server,
                             .timeout_ms = d->options->timeout * 1000};
    int r = kcm_new(&kcm, &d->kcm);
    if (r < 0)
        return failed("cannot start", r);
    struct fs_config fs = {
        .read_only = d->options->read_only,
        .single_threaded = d->options->single_threaded,
        .embedded = d->options->embedded,
        .audit = d->options->audit,
        .one_user = mount_is_private(d->options),
        .socket_path = d->options->embedded ? d->options->socket : d->socket};
    return failed("cannot start", fs_new(d->kcm, &fs, &d->fs));
}

static int
start_mount(struct daemon *d)
{
    d->session = mount_new(d->options, d->fs);
    if (d->session == NULL) {
        log_error("%s: cannot mount with these options", d->mountpoint);
        return EXIT_MOUNT;
    }
    if (mount_on(d->session, d->mountpoint) < 0)
        return EXIT_MOUNT;
    if (!mountpoint_device(d->mountpoint, &d->device))
        log_warn("%s: the mount is not in /proc/self/mountinfo: it will not "
                 "be unmounted at the end",
                 d->mountpoint);
    return EXIT_OK;
}

/* Connecting to KCM as somebody else is all that root's rights are for. */
static int
drop_privileges(struct daemon *d)
{
    /* The directory that we were started in may have to be unmounted. */
    if (chdir("/") != 0)
        log_warn("cannot change to /: %s", strerror(errno));
    harden_memory();
    uint64_t keep = HARDEN_CAP(CAP_SETUID) | HARDEN_CAP(CAP_SETGID);
    int r = harden_drop(geteuid() == 0 ? keep : 0);
    if (r == 0)
        r = confine(d->options->audit ? CONFINE_KCMFS_AUDIT : CONFINE_KCMFS,
                    d->embedded.path);
    return failed("cannot drop privileges", r);
}

static void
notify_ready(const struct daemon *d)
{
    _cleanup_(freep) char *text = NULL;
    if (asprintf(&text, "READY=1\nSTATUS=Serving %s, source %s", d->mountpoint,
                 d->socket != NULL ? d->socket : "embedded") >= 0)
        notify_systemd(text);
}

static int
become_ready(struct daemon *d)
{
    int r = mount_answer_init(d->session);
    if (r < 0) {
        log_error("%s: the kernel did not accept the mount: %s", d->mountpoint,
                  strerror(-r));
        return EXIT_MOUNT;
    }
    if (!d->options->foreground)
        log_open("kcmfs", LOG_LEVEL_INFO, true);
    r = start_embedded_thread(&d->embedded);
    if (r == EXIT_OK)
        r = failed("cannot start a thread",
                   housekeeper_start(d->fs, d->options->idle, mount_drop_pages,
                                     &d->housekeeper));
    if (r != EXIT_OK)
        return r;
    log_info("mounted on %s, source %s", d->mountpoint,
             d->socket != NULL ? d->socket : "embedded");
    notify_ready(d);
    background_ready(&d->background);
    return EXIT_OK;
}

static int
start(struct daemon *d)
{
    int r = find_socket(d);
    if (r != EXIT_OK)
        return r;
    if (mountpoint_prepare(d->options->mountpoint, &d->mountpoint) < 0)
        return EXIT_MOUNT;
    r = failed("cannot fork", unmounter_start(&d->unmounter, d->mountpoint));
    if (r == EXIT_OK)
        r = start_service(d);
    if (r == EXIT_OK)
        r = start_mount(d);
    if (r == EXIT_OK)
        r = drop_privileges(d);
    if (r == EXIT_OK)
        r = become_ready(d);
    return r;
}

static int
end(struct daemon *d, int status)
{
    housekeeper_end(d->housekeeper);
    /* Then the connection: an unmount would wait for our answers. */
    mount_end(d->session);
    if (unmounter_finish(&d->unmounter, d->device) < 0) {
        log_error("could not unmount %s", d->mountpoint);
        status = status == EXIT_OK ? EXIT_RUN : status;
    }
    fs_free(d->fs);
    kcm_free(d->kcm);
    end_embedded(&d->embedded);
    free(d->socket);
    free(d->mountpoint);
    return status;
}

static int
run(struct options *o)
{
    struct daemon d = {.options = o,
                       .background = {-1, -1},
                       .embedded = {.listen_fd = -1, .stop_fd = -1},
                       .unmounter = {0, -1}};
    if (!o->foreground) {
        int r = background_start(&d.background);
        if (r < 0)
            return failed("cannot fork", r);
    }
    int status = start(&d);
    if (status == EXIT_OK) {
        status = failed("serving ended",
                        mount_serve(d.session, o->single_threaded));
        notify_systemd("STOPPING=1");
        log_info("ending");
    }
    return end(&d, status);
}

/*
 * Signals that end kcmfs wait until it can unmount.  A shell starts what it
 * puts in the background with SIGINT ignored, which is not meant for us;
 * nohup's SIGHUP is.
 */
static void
prepare_signals(bool foreground)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (!foreground)
        signal(SIGHUP, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_SETMASK, &set, NULL);
}

static int
act(struct options *o)
{
    switch (o->action) {
    case OPTIONS_HELP:
        options_help(stdout);
        return EXIT_OK;
    case OPTIONS_VERSION:
        printf("kcmfs %s (libfuse %s)\n", KCMFS_VERSION,
               mount_library_version());
        return EXIT_OK;
    case OPTIONS_FAKE:
        return EXIT_OK;
    case OPTIONS_MOUNT:
        break;
    }
    /* Nothing that whoever started us forgot to close is ours to hold. */
    (void)close_range(3, ~0U, 0);
    log_open("kcmfs", o->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, false);
    prepare_signals(o->foreground);
    return run(o);
}

int
main(int argc, char **argv)
{
    harden_start();
    /* The threads are many, and wait: arenas for each would only grow. */
    (void)mallopt(M_ARENA_MAX, 2);
    struct options o;
    char *error;
    int status = options_parse(argc, argv, &o, &error);
    if (status == 0)
        status = act(&o);
    else if (error != NULL)
        fprintf(stderr, "kcmfs: %s\nkcmfs -h lists the options\n", error);
    if (status < 0)
        status = failed("cannot start", status);
    free(error);
    options_free(&o);
    harden_end();
    return status;
}
