/*
 * kcmd: the KCM daemon as a program of its own.
 *
 *   1. harden, options
 *   2. a listening socket, systemd's or ours
 *   3. to the background; the parent waits
 *   4. drop privileges, tell who waits
 *   5. serve until SIGTERM or SIGINT, remove the socket
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "fault.h"
#include "harden.h"
#include "keep.h"
#include "log.h"
#include "notify.h"
#include "proto.h"
#include "server.h"

#ifndef KCMFS_VERSION
#define KCMFS_VERSION "0"
#endif

#define FIRST_PASSED_FD 3 /* SD_LISTEN_FDS_START of sd_listen_fds(3) */
#define KEPT_NAME       "kcmd-caches" /* in systemd's descriptor store */

struct settings {
    const char *socket;
    bool foreground;
    bool debug;
    struct kcm_server_limits limits;
    struct fault fault;
};

static void
usage(FILE *out)
{
    fprintf(out,
            "usage: kcmd [-f] [-d] [--socket=PATH]\n"
            "A KCM daemon: keeps Kerberos caches in memory for KCM: clients.\n"
            "  -f             stay in the foreground, log to stderr\n"
            "  -d             debug messages (implies -f)\n"
            "  --socket=PATH  listen there (default %s)\n"
            "  -V             version\n"
            "  -h             this help\n"
            "A listening socket from systemd (LISTEN_FDS) takes precedence.\n"
            "testing:\n"
            "  --no-mit-extensions    no GET_CRED_LIST, no REPLACE\n"
            "  --max-caches=N         quota per uid (default %u)\n"
            "  --max-bytes=N          quota per uid (default %u)\n"
            "  --fault=OPCODE:N:KIND  at the Nth request with that opcode\n"
            "                         (a number or \"any\"): die, die-after,\n"
            "                         hang or refuse\n",
            KCM_DEFAULT_SOCKET, KCM_SERVER_CACHES, KCM_SERVER_BYTES);
}

static int
bad_usage(const char *what)
{
    fprintf(stderr, "kcmd: %s; kcmd -h lists the options\n", what);
    return 2;
}

static bool
parse_number(const char *text, size_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    *out = (size_t)n;
    return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 && n > 0;
}

/* -1: go on; else the exit status. */
static int
parse_option(int option, struct settings *s)
{
    size_t n = 0;
    switch (option) {
    case 'd':
        s->debug = true;
        s->foreground = true;
        return -1;
    case 'f':
        s->foreground = true;
        return -1;
    case 's':
        s->socket = optarg;
        return -1;
    case 'n':
        s->limits.no_mit_extensions = true;
        return -1;
    case 'c':
        if (!parse_number(optarg, &n) || n > UINT32_MAX)
            return bad_usage("--max-caches takes a number");
        s->limits.caches_per_uid = (unsigned)n;
        return -1;
    case 'b':
        if (!parse_number(optarg, &s->limits.bytes_per_uid))
            return bad_usage("--max-bytes takes a number");
        return -1;
    case 'F':
        if (!fault_parse(optarg, &s->fault))
            return bad_usage("--fault takes OPCODE:N:KIND");
        s->limits.fault = &s->fault;
        return -1;
    case 'V':
        puts("kcmd " KCMFS_VERSION);
        return 0;
    case 'h':
        usage(stdout);
        return 0;
    default:
        return bad_usage("unknown option");
    }
}

static int
parse_options(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 's'},
        {"no-mit-extensions", no_argument, NULL, 'n'},
        {"max-caches", required_argument, NULL, 'c'},
        {"max-bytes", required_argument, NULL, 'b'},
        {"fault", required_argument, NULL, 'F'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option, status = -1;
    while (status < 0 &&
           (option = getopt_long(argc, argv, "fdVh", options, NULL)) != -1)
        status = parse_option(option, s);
    if (status < 0 && optind < argc)
        return bad_usage("an argument too many");
    return status;
}

/* Is that the nth name, from 0, of the colon-separated list? */
static bool
is_named(const char *list, int n, const char *name)
{
    for (; list != NULL && n > 0; n--) {
        list = strchr(list, ':');
        list = list != NULL ? list + 1 : NULL;
    }
    size_t len = strlen(name);
    return list != NULL && strncmp(list, name, len) == 0 &&
           (list[len] == ':' || list[len] == '\0');
}

/* Of count passed descriptors, take out the one that keeps caches, which is
 * what comes last or the only one before the socket. */
static int
passed_socket_of(int count, int *kept_fd)
{
    const char *names = getenv("LISTEN_FDNAMES");
    int socket_fd = -1;
    for (int i = 0; i < count; i++) {
        int fd = FIRST_PASSED_FD + i;
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (*kept_fd < 0 && is_named(names, i, KEPT_NAME))
            *kept_fd = fd;
        else if (socket_fd < 0)
            socket_fd = fd;
        else
            log_warn("systemd passed too many sockets: the first is used");
    }
    return socket_fd;
}

/*
 * The listening socket that systemd passed, or -1, and the caches that the
 * last process left with it, or -1.  False: what it passed is no socket to
 * serve; another one is none that the clients of systemd's would reach.
 * Protocol: sd_listen_fds(3).
 */
static bool
passed_socket(int *listen_fd, int *kept_fd)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    int listening = 0;
    socklen_t len = sizeof(listening);
    if (pid == NULL || count == NULL || atol(pid) != (long)getpid() ||
        atoi(count) < 1)
        return true;
    int fd = passed_socket_of(atoi(count), kept_fd);
    if (fd >= 0 &&
        (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) != 0 ||
         !listening)) {
        log_error("what systemd passed is no listening socket");
        return false;
    }
    *listen_fd = fd;
    return true;
}

/*
 * Go to the background.  The parent waits for the child's byte and exits
 * with it; the child gets the descriptor to write it to.
 */
static int
daemonize(int *report_fd)
{
    int ends[2], null;
    unsigned char status = 1;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child > 0) {
        close(ends[1]);
        if (read(ends[0], &status, 1) != 1)
            status = 1;
        _exit(status);
    }
    close(ends[0]);
    setsid();
    if (chdir("/") != 0 || (null = open("/dev/null", O_RDWR)) < 0)
        return -errno;
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    if (null > STDERR_FILENO)
        close(null);
    *report_fd = ends[1];
    return 0;
}

/* Tell the parent that all is well, and let the terminal go. */
static void
report_ready(int report_fd)
{
    if (report_fd < 0)
        return;
    dup2(STDOUT_FILENO, STDERR_FILENO);
    log_open("kcmd", LOG_LEVEL_INFO, true);
    (void)!write(report_fd, "", 1);
    close(report_fd);
}

/* Remove the socket file, if it is still the one that was made. */
static void
remove_socket(const char *path, const struct stat *made)
{
    struct stat now;
    if (lstat(path, &now) == 0 && now.st_dev == made->st_dev &&
        now.st_ino == made->st_ino && unlink(path) != 0)
        log_warn("cannot remove %s: %s", path, strerror(errno));
}

/* systemd forgets what the last process left: of two it would pass the older
 * one first. */
static bool
forget_kept(void)
{
    return notify_systemd_fd("FDSTOREREMOVE=1\nFDNAME=" KEPT_NAME, -1);
}

/* Take over what the last process left; false: systemd was not told. */
static bool
take_kept(struct kcm_server *server, int fd)
{
    if (fd < 0)
        return true;
    int result = kcm_server_load(server, fd);
    if (result == 0)
        log_info("took over the caches of the process before");
    else
        log_error("cannot take over all caches of the process before: %s",
                  strerror(-result));
    return forget_kept();
}

/* Leave the caches with systemd for the next process. */
static void
leave_kept(struct kcm_server *server, int fd, bool forgotten)
{
    int result = fd < 0 ? fd : kcm_server_save(server, fd);
    if (!forgotten)
        forgotten = forget_kept();
    if (result != 0)
        log_error("cannot keep the caches: %s", strerror(-result));
    else if (forgotten &&
             notify_systemd_fd("FDSTORE=1\nFDNAME=" KEPT_NAME, fd))
        log_info("left the caches with systemd");
    else
        log_error("cannot leave the caches with systemd: they end here");
    if (fd >= 0)
        close(fd);
}

static int
serve(const struct settings *s, int listen_fd, int kept_fd, int report_fd)
{
    _cleanup_(kcm_server_freep) struct kcm_server *server = NULL;
    bool keeps = getenv("NOTIFY_SOCKET") != NULL;
    int keep_fd = keeps ? keep_new() : -1; /* later it may not be made */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int stop_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    harden_memory();
    int result = stop_fd < 0 ? -errno : harden_drop(0);
    if (result == 0)
        result = confine(CONFINE_KCMD, s->socket);
    if (result == 0)
        result = kcm_server_new(&s->limits, &server);
    if (result != 0) {
        log_error("cannot start: %s", strerror(-result));
        return result;
    }
    report_ready(report_fd);
    bool forgotten = take_kept(server, kept_fd);
    log_info("serving %s; caches are kept in memory only and %s",
             s->socket == NULL ? "systemd's socket" : s->socket,
             keep_fd < 0 ? "end with this process"
                         : "left with systemd over a restart");
    notify_systemd("READY=1");
    result = kcm_server_run(server, listen_fd, stop_fd);
    notify_systemd("STOPPING=1");
    if (keeps)
        leave_kept(server, keep_fd, forgotten);
    if (result != 0)
        log_error("cannot go on: %s", strerror(-result));
    close(stop_fd);
    return result;
}

/* The path is made absolute: going to the background leaves this
 * directory, and the file is to be removed at the end. */
static int
own_socket(struct settings *s, struct stat *made, int *listen_fd_out)
{
    static char absolute[PATH_MAX];
    int result = kcm_server_listen(s->socket, listen_fd_out);
    if (result != 0) {
        log_error("cannot listen on %s: %s", s->socket, strerror(-result));
        return result;
    }
    if (realpath(s->socket, absolute) != NULL)
        s->socket = absolute;
    (void)lstat(s->socket, made);
    return 0;
}

static int
run(struct settings *s)
{
    int report_fd = -1, kept_fd = -1, listen_fd = -1;
    struct stat made = {0};
    if (!passed_socket(&listen_fd, &kept_fd))
        return 1;
    bool passed = listen_fd >= 0;
    if (passed)
        s->socket = NULL;
    else if (own_socket(s, &made, &listen_fd) != 0)
        return 1;
    int result = s->foreground ? 0 : daemonize(&report_fd);
    if (result != 0)
        log_error("cannot go to the background: %s", strerror(-result));
    else
        result = serve(s, listen_fd, kept_fd, report_fd);
    close(listen_fd);
    if (!passed)
        remove_socket(s->socket, &made);
    return result == 0 ? 0 : 1;
}

int
main(int argc, char **argv)
{
    struct settings s = {.socket = KCM_DEFAULT_SOCKET};
    harden_start();
    int status = parse_options(argc, argv, &s);
    if (status >= 0)
        return status;
    log_open("kcmd", s.debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, false);
    status = run(&s);
    harden_end();
    return status;
}
