/*
 * How it is going: .kcmfs/status, what was refused, and the access log.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/user.h"
#include "fs/version.h"
#include "kcm/log.h"
#include "kcm/server.h"

/* The same failure again is worth another line after so long. */
#define REPEATED_FAILURE_S 10
/* Of one user in a minute: nobody can fill the log by what is refused. */
#define FAILURES_LOGGED 60

/* --- counting ----------------------------------------------------------- */

static struct operation_count *
counter(struct user_counts *counts, const char *operation)
{
    for (unsigned i = 0; i < OPERATIONS_COUNTED; i++) {
        struct operation_count *o = &counts->of[i];
        if (o->operation == NULL)
            o->operation = operation;
        if (o->operation == operation || strcmp(o->operation, operation) == 0)
            return o;
    }
    return &counts->of[OPERATIONS_COUNTED - 1];
}

void
status_count(struct user *u, const char *operation, uint64_t us)
{
    pthread_mutex_lock(&u->fs->lock);
    struct operation_count *o = counter(&u->counts, operation);
    o->count++;
    o->total_us += us;
    if (us > o->max_us)
        o->max_us = us;
    pthread_mutex_unlock(&u->fs->lock);
}

/* May another failure be logged? */
static bool
worth_a_line(struct user_counts *counts, time_t now)
{
    if (now - counts->minute >= 60) {
        counts->minute = now;
        counts->logged = 0;
    }
    return ++counts->logged <= FAILURES_LOGGED;
}

void
status_failed(struct user *u, const char *operation, const char *cache,
              int error)
{
    struct user_counts *counts = &u->counts;
    char text[sizeof(counts->last_error)];
    time_t now = time(NULL);
    snprintf(text, sizeof(text), "%s%s%s: %s", operation,
             cache != NULL ? " KCM:" : "", cache != NULL ? cache : "",
             strerror(error));
    pthread_mutex_lock(&u->fs->lock);
    bool again = strcmp(text, counts->last_error) == 0 &&
                 now - counts->last_error_time < REPEATED_FAILURE_S;
    counts->failures++;
    if (!again) {
        memcpy(counts->last_error, text, sizeof(text));
        counts->last_error_time = now;
    }
    bool quiet = again || !worth_a_line(counts, now);
    pthread_mutex_unlock(&u->fs->lock);
    if (quiet)
        return;
    char number[16];
    snprintf(number, sizeof(number), "%d", error);
    const struct log_field fields[] = {{"ERRNO", number},
                                       {"KCMFS_CACHE", cache}};
    if (cache != NULL)
        log_event(LOG_LEVEL_INFO, fields, 2, "cache %s: %s", cache,
                  strerror(error));
    else
        log_event(LOG_LEVEL_INFO, fields, 1, "%s", strerror(error));
}

/* --- .kcmfs/status ------------------------------------------------------ */

size_t
status_cache_limit(const struct fs *fs)
{
    return fs->config.embedded ? KCM_SERVER_CACHES : 0;
}

static void
put_counts(FILE *f, const struct user_counts *counts)
{
    fprintf(f, "\n%-12s %10s %10s %10s\n", "operation", "count", "mean us",
            "max us");
    for (unsigned i = 0; i < OPERATIONS_COUNTED; i++) {
        const struct operation_count *o = &counts->of[i];
        if (o->count == 0)
            continue;
        fprintf(f, "%-12s %10llu %10llu %10llu\n", o->operation,
                (unsigned long long)o->count,
                (unsigned long long)(o->total_us / o->count),
                (unsigned long long)o->max_us);
    }
}

static void
put_error(FILE *f, const struct user_counts *counts)
{
    struct tm tm;
    char when[40] = "";
    if (counts->last_error[0] == '\0') {
        fputs("last error: none\n", f);
        return;
    }
    if (localtime_r(&counts->last_error_time, &tm) != NULL)
        (void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S %Z", &tm);
    fprintf(f, "last error: %s (%s)\n", counts->last_error, when);
}

static void
put_mount(FILE *f, const struct fs *fs)
{
    const struct fs_config *config = &fs->config;
    fprintf(f,
            "version: %s\n"
            "source: %s\n"
            "socket: %s\n"
            "daemon: %s\n"
            "mode: %s\n"
            "access log: %s\n",
            KCMFS_VERSION, config->embedded ? "embedded" : "kcm",
            config->socket_path != NULL ? config->socket_path : "none",
            kcm_daemon_text(fs->kcm),
            config->read_only ? "read-only" : "read-write",
            config->audit ? "on" : "off");
}

static void
put_limit(FILE *f, const struct fs *fs)
{
    size_t limit = status_cache_limit(fs);
    if (limit != 0)
        fprintf(f, "cache limit: %zu\n", limit);
    else if (strcmp(kcm_daemon_text(fs->kcm), "kcmd") == 0)
        fprintf(f,
                "cache limit: unknown (--max-caches of kcmd, %u by "
                "default)\n",
                KCM_SERVER_CACHES);
    else if (strncmp(kcm_daemon_text(fs->kcm), "sssd", 4) == 0)
        fputs("cache limit: unknown (max_uid_ccaches of [kcm] in sssd.conf, "
              "64 by default)\n",
              f);
    else
        fputs("cache limit: unknown\n", f);
}

/* To open it and read it is to ask three times: who looks for what hangs must
 * not hang as long. */
#define STATUS_MS 2000

int
status_text(struct fs *fs, const struct caller *caller, struct blob **out)
{
    struct user *u = user_get(fs, caller->uid);
    struct caller hasty = *caller;
    if (hasty.deadline > now_ms() + STATUS_MS)
        hasty.deadline = now_ms() + STATUS_MS;
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    _cleanup_(freep) char *primary = NULL;
    _cleanup_(freep) char *text = NULL;
    size_t size;
    FILE *f = u != NULL ? open_memstream(&text, &size) : NULL;
    if (f == NULL)
        return -ENOMEM;
    int r = user_list(u, &hasty, &l);
    if (r == 0)
        r = user_default(u, &hasty, &primary);
    pthread_mutex_lock(&fs->lock);
    struct user_counts counts = u->counts;
    pthread_mutex_unlock(&fs->lock);
    put_mount(f, fs);
    if (r == 0)
        fputs("answers: yes\n", f);
    else
        fprintf(f, "answers: no, %s\n", strerror(fs_errno(r)));
    fprintf(f, "uid: %u\ncaches: %zu\n", caller->uid,
            l != NULL ? l->count : 0);
    put_limit(f, fs);
    fprintf(f, "default: %s%s\n", primary != NULL ? "KCM:" : "",
            primary != NULL ? primary : "unknown");
    fprintf(f, "failures: %llu\n", (unsigned long long)counts.failures);
    put_error(f, &counts);
    /* What all hold together tells a user what the others do. */
    if (caller->uid == fs->owner)
        fprintf(f, "secret memory: %zu bytes%s\n", secret_in_use(),
                secret_unlocked() ? ", not all locked" : "");
    put_counts(f, &counts);
    if (fclose(f) != 0)
        return -ENOMEM;
    *out = blob_new(text, size);
    return *out != NULL ? 0 : -ENOMEM;
}

/* --- the access log ----------------------------------------------------- */

/* The name of the program, as ps shows it. */
static void
program_of(pid_t pid, char *out, size_t size)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    if (n > 0 && out[n - 1] == '\n')
        n--;
    out[n > 0 ? n : 0] = '\0';
    if (out[0] == '\0')
        snprintf(out, size, "?");
}

/* "audit: pid 7 (klist) opens cache 1000 for reading" */
static void
audit(const struct caller *caller, const char *does, const char *cache,
      const char *rest, bool writes)
{
    char program[32], pid[16];
    program_of(caller->pid, program, sizeof(program));
    snprintf(pid, sizeof(pid), "%d", (int)caller->pid);
    const struct log_field fields[] = {
        {"KCMFS_CACHE", cache},
        {"KCMFS_ACCESS", writes ? "write" : "read"},
        {"KCMFS_PID", pid},
        {"KCMFS_PROGRAM", program},
    };
    log_event(LOG_LEVEL_INFO, fields, 4, "audit: pid %s (%s) %s cache %s%s",
              pid, program, does, cache, rest);
}

void
status_audit(const struct fs *fs, const struct handle *h)
{
    const struct node *n = h->node;
    if (!fs->config.audit || n->content == NULL ||
        (n->kind != NODE_CACHE && n->kind != NODE_TICKET))
        return;
    bool writes = (h->flags & O_ACCMODE) != O_RDONLY;
    const char *how = writes ? " for writing" : " for reading";
    _cleanup_(freep) char *rest = NULL;
    if (n->kind == NODE_TICKET &&
        asprintf(&rest, " ticket %s%s", n->name, how) < 0)
        rest = NULL;
    audit(&h->caller, "opens", n->content->name, rest != NULL ? rest : how,
          writes);
}

void
status_audit_change(const struct fs *fs, const struct caller *caller,
                    const char *does, const struct content *c)
{
    if (fs->config.audit)
        audit(caller, does, c->name, "", true);
}
