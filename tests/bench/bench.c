/*
 * What credential caches cost a libkrb5 program, by turns on several caches.
 *
 *   bench fill CACHE COUNT          initialize, store COUNT tickets
 *   bench [options] OPERATION LABEL=CACHE...
 *     -n ROUNDS   each round runs the operation once on every cache
 *     -t THREADS  rounds are windows of -s SECONDS with that many threads
 *     -f CACHE    where `fresh` stores the ticket that is new to the reader
 *     -o NUMBER   of the first ticket that is stored
 *
 * An OPERATION is one of the table below.  A CACHE is FILE:PATH, KCM:NAME or
 * COPY:PATH, which is what a script does: copy the KCM cache of -f to PATH by
 * rename, then read that.  One JSON object per LABEL is printed: microseconds
 * of one operation, or operations per second, and how many failed.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <krb5.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

#define REALM        "EXAMPLE.COM"
#define PRINCIPAL    "bench@" REALM
#define TICKET_BYTES 1000 /* 1200 with the names around it */

/* One thread's view. */
struct client {
    krb5_context k5;
    krb5_principal principal;
    unsigned next; /* number of the next ticket to store */
};

struct target {
    const char *label, *cache;
    double *us; /* of each operation */
    size_t count, room, failed;
    double seconds; /* of all windows */
};

static const char *fresh_cache; /* -f */
static unsigned middle;         /* -m: the ticket that is retrieved */
static const char *operation_name;

static void
client_start(struct client *c, unsigned next)
{
    c->next = next;
    if (krb5_init_context(&c->k5) != 0 ||
        krb5_parse_name(c->k5, PRINCIPAL, &c->principal) != 0)
        fail("libkrb5 does not start");
}

static void
client_end(struct client *c)
{
    krb5_free_principal(c->k5, c->principal);
    krb5_free_context(c->k5);
}

/* --- credentials ------------------------------------------------------- */

static krb5_error_code
server_of(struct client *c, unsigned number, krb5_principal *out)
{
    char text[64];
    snprintf(text, sizeof(text), "svc%u/host.example.com@" REALM, number);
    return krb5_parse_name(c->k5, text, out);
}

static krb5_error_code
store(struct client *c, krb5_ccache cc, unsigned number)
{
    static const unsigned start = 1700000000;
    unsigned char key[32], ticket[TICKET_BYTES];
    krb5_creds creds;
    memset(&creds, 0, sizeof(creds));
    memset(key, (int)(number & 0xff), sizeof(key));
    for (size_t i = 0; i < sizeof(ticket); i++)
        ticket[i] =
            (unsigned char)(number >> (i % 4 * 8)) ^ (unsigned char)(i * 197);
    creds.client = c->principal;
    creds.keyblock.enctype = ENCTYPE_AES256_CTS_HMAC_SHA1_96;
    creds.keyblock.length = sizeof(key);
    creds.keyblock.contents = key;
    creds.times.authtime = (krb5_timestamp)start;
    creds.times.starttime = (krb5_timestamp)(start + number);
    creds.times.endtime = 2000000000;
    creds.ticket.length = sizeof(ticket);
    creds.ticket.data = (char *)ticket;
    krb5_error_code code = server_of(c, number, &creds.server);
    if (code != 0)
        return code;
    code = krb5_cc_store_cred(c->k5, cc, &creds);
    krb5_free_principal(c->k5, creds.server);
    return code;
}

/* --- operations: 0 or an error ------------------------------------------- */

static krb5_error_code
read_all(struct client *c, const char *cache)
{
    krb5_ccache cc;
    krb5_principal principal = NULL;
    krb5_cc_cursor cursor;
    krb5_creds creds;
    krb5_error_code code = krb5_cc_resolve(c->k5, cache, &cc);
    if (code != 0)
        return code;
    code = krb5_cc_get_principal(c->k5, cc, &principal);
    if (code == 0)
        code = krb5_cc_start_seq_get(c->k5, cc, &cursor);
    if (code == 0) {
        while ((code = krb5_cc_next_cred(c->k5, cc, &cursor, &creds)) == 0)
            krb5_free_cred_contents(c->k5, &creds);
        if (code == KRB5_CC_END)
            code = 0;
        krb5_cc_end_seq_get(c->k5, cc, &cursor);
    }
    krb5_free_principal(c->k5, principal);
    krb5_cc_close(c->k5, cc);
    return code;
}

static krb5_error_code
retrieve(struct client *c, const char *cache)
{
    krb5_ccache cc;
    krb5_creds want, got;
    memset(&want, 0, sizeof(want));
    want.client = c->principal;
    krb5_error_code code = krb5_cc_resolve(c->k5, cache, &cc);
    if (code != 0)
        return code;
    code = server_of(c, middle, &want.server);
    if (code == 0)
        code = krb5_cc_retrieve_cred(c->k5, cc, 0, &want, &got);
    if (code == 0)
        krb5_free_cred_contents(c->k5, &got);
    krb5_free_principal(c->k5, want.server);
    krb5_cc_close(c->k5, cc);
    return code;
}

static krb5_error_code
store_next(struct client *c, const char *cache)
{
    krb5_ccache cc;
    krb5_error_code code = krb5_cc_resolve(c->k5, cache, &cc);
    if (code != 0)
        return code;
    code = store(c, cc, c->next++);
    krb5_cc_close(c->k5, cc);
    return code;
}

/* What kinit does. */
static krb5_error_code
initialize(struct client *c, const char *cache)
{
    krb5_ccache cc;
    krb5_error_code code = krb5_cc_resolve(c->k5, cache, &cc);
    if (code != 0)
        return code;
    code = krb5_cc_initialize(c->k5, cc, c->principal);
    for (unsigned i = 0; i < 2 && code == 0; i++)
        code = store(c, cc, c->next++);
    krb5_cc_close(c->k5, cc);
    return code;
}

static const char *
path_of(const char *cache)
{
    return strncmp(cache, "FILE:", 5) == 0 ? cache + 5 : NULL;
}

static krb5_error_code
open_raw(struct client *c, const char *cache)
{
    static __thread char bytes[1 << 20];
    ssize_t n;
    (void)c;
    int fd = open(path_of(cache), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    while ((n = read(fd, bytes, sizeof(bytes))) > 0)
        ;
    int error = n < 0 ? errno : 0;
    close(fd);
    return error;
}

static krb5_error_code
stat_raw(struct client *c, const char *cache)
{
    struct stat st;
    (void)c;
    return stat(path_of(cache), &st) == 0 ? 0 : errno;
}

/* The directory above that of the cache, where the user's caches are. */
static krb5_error_code
list(struct client *c, const char *cache)
{
    char path[4096];
    (void)c;
    snprintf(path, sizeof(path), "%s", path_of(cache));
    for (int i = 0; i < 2; i++)
        *strrchr(path, '/') = '\0';
    DIR *dir = opendir(path);
    if (dir == NULL)
        return errno;
    while (readdir(dir) != NULL)
        ;
    closedir(dir);
    return 0;
}

static krb5_error_code
copy_and_read(struct client *c, const char *cache)
{
    char name[4096];
    krb5_ccache from, to;
    krb5_principal principal = NULL;
    snprintf(name, sizeof(name), "FILE:%s.%d.%lx", cache + 5, (int)getpid(),
             (unsigned long)pthread_self());
    krb5_error_code code = krb5_cc_resolve(c->k5, fresh_cache, &from);
    if (code != 0)
        return code;
    code = krb5_cc_resolve(c->k5, name, &to);
    if (code == 0) {
        code = krb5_cc_get_principal(c->k5, from, &principal);
        if (code == 0)
            code = krb5_cc_initialize(c->k5, to, principal);
        if (code == 0)
            code = krb5_cc_copy_creds(c->k5, from, to);
        krb5_free_principal(c->k5, principal);
        krb5_cc_close(c->k5, to);
    }
    krb5_cc_close(c->k5, from);
    if (code == 0 && rename(name + 5, cache + 5) != 0)
        code = errno;
    if (code != 0)
        return code;
    snprintf(name, sizeof(name), "FILE:%s", cache + 5);
    return read_all(c, name);
}

/* --- the table ----------------------------------------------------------- */

static krb5_error_code
read_any(struct client *c, const char *cache)
{
    if (strncmp(cache, "COPY:", 5) == 0)
        return copy_and_read(c, cache);
    return read_all(c, cache);
}

/* Before the clock starts: a ticket that the reader has not seen. */
static krb5_error_code
make_change(struct client *c, const char *cache)
{
    bool own = path_of(cache) != NULL && fresh_cache == NULL;
    return store_next(c, own ? cache : fresh_cache);
}

static const struct operation {
    const char *name;
    krb5_error_code (*prepare)(struct client *, const char *);
    krb5_error_code (*run)(struct client *, const char *);
} operations[] = {
    {"read", NULL, read_any},         /* resolve, principal, all, close */
    {"retrieve", NULL, retrieve},     /* one ticket of many (-m NUMBER) */
    {"fresh", make_change, read_any}, /* read after one change */
    {"store", NULL, store_next},
    {"init", NULL, initialize}, /* initialize and two stores */
    {"open", NULL, open_raw},   /* open, read, close */
    {"stat", NULL, stat_raw},
    {"ls", NULL, list},
};

static const struct operation *
find_operation(const char *name)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        if (strcmp(operations[i].name, name) == 0)
            return &operations[i];
    fail("no operation %s", name);
}

/* --- measuring ----------------------------------------------------------- */

static void
note(struct target *t, double us, krb5_error_code code, struct client *c)
{
    if (code != 0) {
        if (t->failed++ == 0)
            fprintf(stderr, "bench: %s %s: %s\n", operation_name, t->cache,
                    krb5_get_error_message(c->k5, code));
        return;
    }
    if (t->count == t->room) {
        t->room = t->room > 0 ? t->room * 2 : 64;
        t->us = reallocarray(t->us, t->room, sizeof(*t->us));
        if (t->us == NULL)
            fail("no memory");
    }
    t->us[t->count++] = us;
}

static void
run_once(struct client *c, const struct operation *op, struct target *t)
{
    krb5_error_code code = 0;
    if (op->prepare != NULL)
        code = op->prepare(c, t->cache);
    double start = now();
    if (code == 0)
        code = op->run(c, t->cache);
    note(t, (now() - start) * 1e6, code, c);
}

struct worker {
    pthread_t thread;
    const struct operation *op;
    struct target target; /* its own counts */
    double seconds;
    unsigned first;
};

static pthread_barrier_t barrier;

static void *
work(void *arg)
{
    struct worker *w = arg;
    struct client c;
    client_start(&c, w->first);
    pthread_barrier_wait(&barrier);
    double end = now() + w->seconds;
    while (now() < end)
        run_once(&c, w->op, &w->target);
    client_end(&c);
    return NULL;
}

/* One window of all threads on one cache. */
static void
run_window(const struct operation *op, struct target *t, unsigned threads,
           double seconds, unsigned *next)
{
    struct worker *workers = calloc(threads, sizeof(*workers));
    if (workers == NULL)
        fail("no memory");
    pthread_barrier_init(&barrier, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){
            .op = op,
            .target = {.label = t->label, .cache = t->cache},
            .seconds = seconds,
            .first = *next + i * 1000000,
        };
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            fail("no thread");
    }
    pthread_barrier_wait(&barrier);
    double start = now();
    for (unsigned i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    t->seconds += now() - start;
    for (unsigned i = 0; i < threads; i++) {
        struct target *own = &workers[i].target;
        t->us = reallocarray(t->us, t->count + own->count + 1, sizeof(*t->us));
        if (t->us == NULL)
            fail("no memory");
        memcpy(t->us + t->count, own->us, own->count * sizeof(*own->us));
        t->count += own->count;
        t->room = t->count;
        t->failed += own->failed;
        free(own->us);
    }
    pthread_barrier_destroy(&barrier);
    free(workers);
}

static double
quantile(const struct target *t, double q)
{
    return t->us[(size_t)(q * (double)(t->count - 1))];
}

static void
report(struct target *t, unsigned threads)
{
    printf("{\"target\": \"%s\", \"operation\": \"%s\", \"threads\": %u, "
           "\"count\": %zu, \"failed\": %zu",
           t->label, operation_name, threads, t->count, t->failed);
    if (t->count > 0) {
        qsort(t->us, t->count, sizeof(*t->us), compare_doubles);
        printf(", \"p10\": %.1f, \"p50\": %.1f, \"p99\": %.1f",
               quantile(t, 0.1), quantile(t, 0.5), quantile(t, 0.99));
    }
    if (t->seconds > 0)
        printf(", \"per_second\": %.1f", (double)t->count / t->seconds);
    printf("}\n");
}

static int
fill(const char *cache, unsigned count)
{
    struct client c;
    krb5_ccache cc;
    client_start(&c, 0);
    krb5_error_code code = krb5_cc_resolve(c.k5, cache, &cc);
    if (code == 0)
        code = krb5_cc_initialize(c.k5, cc, c.principal);
    for (unsigned i = 0; i < count && code == 0; i++)
        code = store(&c, cc, i);
    if (code != 0)
        fail("fill %s: %s", cache, krb5_get_error_message(c.k5, code));
    krb5_cc_close(c.k5, cc);
    client_end(&c);
    return 0;
}

int
main(int argc, char **argv)
{
    unsigned rounds = 20, threads = 0, next = 10000000;
    double seconds = 0.3;
    int option;
    if (argc == 4 && strcmp(argv[1], "fill") == 0)
        return fill(argv[2], (unsigned)atoi(argv[3]));
    while ((option = getopt(argc, argv, "n:t:s:f:m:o:")) != -1) {
        switch (option) {
        case 'n':
            rounds = (unsigned)atoi(optarg);
            break;
        case 't':
            threads = (unsigned)atoi(optarg);
            break;
        case 's':
            seconds = atof(optarg);
            break;
        case 'f':
            fresh_cache = optarg;
            break;
        case 'm':
            middle = (unsigned)atoi(optarg);
            break;
        case 'o':
            next = (unsigned)atoi(optarg);
            break;
        default:
            fail("see the head of bench.c");
        }
    }
    if (argc - optind < 2)
        fail("see the head of bench.c");
    const struct operation *op = find_operation(argv[optind++]);
    operation_name = op->name;
    size_t count = (size_t)(argc - optind);
    struct target *targets = calloc(count, sizeof(*targets));
    struct client c;
    if (targets == NULL)
        fail("no memory");
    client_start(&c, next);
    for (size_t i = 0; i < count; i++) {
        char *cache = strchr(argv[optind + (int)i], '=');
        if (cache == NULL)
            fail("no LABEL=CACHE: %s", argv[optind + (int)i]);
        *cache = '\0';
        targets[i].label = argv[optind + (int)i];
        targets[i].cache = cache + 1;
    }
    for (unsigned round = 0; round < rounds; round++) {
        for (size_t i = 0; i < count; i++) {
            if (threads == 0)
                run_once(&c, op, &targets[i]);
            else
                run_window(op, &targets[i], threads, seconds, &next);
            next += threads > 0 ? 100000 : 0;
        }
    }
    for (size_t i = 0; i < count; i++)
        report(&targets[i], threads > 0 ? threads : 1);
    client_end(&c);
    return 0;
}
