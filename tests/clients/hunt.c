/*
 * A hunt for stale and torn reads.  One thread changes a cache, through KCM:
 * and through its file, as fast as it can; others read it in one way each.
 * What was finished before an open began must be in what it reads, and what
 * it reads must be a state that the cache was in.
 *
 *   hunt [-r] [-g] [-w] -n CHANGES -s SECONDS KCM:NAME WAY=PATH...
 *     -r  no removal through KCM: (sssd has none)
 *     -g  the cache is gone for a moment when KCM: initialises it (sssd)
 *     -w  it is also replaced by a rename, and unlinked and made again
 *   The first PATH is what is written to.
 *
 * Ends with 0 and a line for each reader, or 1 and what was wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <krb5.h>
#include <libgen.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHANGES_MAX 2000000
#define READERS_MAX 32
#define FILE_MAX    (1 << 20)
#define TICKET_LEN  900
#define MANY        24 /* tickets; then the cache is made anew */

/* Tickets low..high-1 of a generation are in the cache. */
struct state {
    unsigned generation, low, high;
    unsigned first; /* read when low was that, then low moved */
    bool absent;    /* or may be */
};

static struct state states[CHANGES_MAX + 1];
static unsigned char kinds[CHANGES_MAX + 1]; /* by which change: enum change */
static atomic_uint finished, begun; /* of the states, by their number */
static atomic_bool ended;
static bool no_removal, vanishes, renames;
static const char *kcm_name, *written;

enum change {
    KCM_STORE,
    FILE_STORE,
    KCM_REMOVE,
    FILE_REMOVE,
    KCM_INITIALIZE,
    FILE_REWRITE,
    FILE_RENAME,
    FILE_UNLINK,
    FILE_CREATE,
};

static const char *const change_names[] = {
    "STORE",   "append", "REMOVE_CRED", "remove by file", "INITIALIZE",
    "rewrite", "rename", "unlink",      "create",
};

struct reader {
    const char *way, *path;
    pthread_t thread;
    unsigned reads, waits;
    unsigned char *bytes;
};

static pthread_mutex_t trouble_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned troubles;

static void __attribute__((format(printf, 1, 2)))
trouble(const char *format, ...)
{
    va_list ap;
    pthread_mutex_lock(&trouble_lock);
    if (troubles++ < 5) {
        va_start(ap, format);
        vprintf(format, ap);
        va_end(ap);
        printf("\n");
    }
    ended = true;
    pthread_mutex_unlock(&trouble_lock);
}

/* --- what a file says --------------------------------------------------- */

struct cursor {
    const unsigned char *p, *end;
    bool bad;
};

static const unsigned char *
skip(struct cursor *c, size_t len)
{
    const unsigned char *p = c->p;
    if (c->bad || (size_t)(c->end - c->p) < len) {
        c->bad = true;
        return NULL;
    }
    c->p += len;
    return p;
}

static unsigned
number(struct cursor *c, size_t len)
{
    const unsigned char *p = skip(c, len);
    unsigned n = 0;
    for (size_t i = 0; p != NULL && i < len; i++)
        n = n << 8 | p[i];
    return n;
}

/* The numbers of a principal gN/nN. */
static void
principal(struct cursor *c, unsigned numbers[2])
{
    (void)number(c, 4);
    unsigned count = number(c, 4);
    (void)skip(c, number(c, 4));
    for (unsigned i = 0; i < count && !c->bad; i++) {
        char text[16] = "";
        unsigned len = number(c, 4);
        const unsigned char *p = skip(c, len);
        if (p != NULL && i < 2 && len > 1 && len < sizeof(text)) {
            memcpy(text, p + 1, len - 1);
            numbers[i] = (unsigned)strtoul(text, NULL, 10);
        }
    }
}

static void
typed(struct cursor *c)
{
    for (unsigned n = number(c, 4); n > 0 && !c->bad; n--) {
        (void)number(c, 2);
        (void)skip(c, number(c, 4));
    }
}

/* A ticket of these numbers was read: what it makes of *s, or what is odd. */
static const char *
add(struct state *s, bool *seen, unsigned generation, unsigned n)
{
    if (n >= CHANGES_MAX)
        return "a ticket of no number";
    if (s->high == 0)
        s->generation = generation;
    if (s->generation != generation)
        return "tickets of two generations";
    if (seen[n])
        return "a ticket twice";
    seen[n] = true;
    s->low = s->high == 0 || n < s->low ? n : s->low;
    s->high = n >= s->high ? n + 1 : s->high;
    return NULL;
}

/*
 * No number between is missing.  But an entry that was removed by its file
 * may have been read before, and what stands behind it after that: what was
 * there then begins behind the last gap.
 */
static void
settle(struct state *s, const bool *seen)
{
    s->first = s->low;
    for (unsigned n = s->low; n < s->high; n++)
        if (!seen[n])
            s->low = n + 1;
}

static const char *
parse(const unsigned char *bytes, size_t len, struct state *s, bool *seen)
{
    struct cursor c = {bytes, bytes + len, false};
    const char *odd = NULL;
    unsigned ignored[2];
    if (number(&c, 2) != 0x0504)
        return "no cache";
    (void)skip(&c, number(&c, 2));
    principal(&c, ignored);
    while (!c.bad && c.p < c.end && odd == NULL) {
        unsigned numbers[2] = {CHANGES_MAX, CHANGES_MAX};
        principal(&c, ignored);
        principal(&c, numbers);
        (void)number(&c, 2);
        (void)skip(&c, number(&c, 4));
        unsigned authtime = number(&c, 4);
        (void)number(&c, 4);
        unsigned endtime = number(&c, 4);
        (void)skip(&c, 4 + 1 + 4);
        typed(&c);
        typed(&c);
        (void)skip(&c, number(&c, 4));
        (void)skip(&c, number(&c, 4));
        if (!c.bad && (endtime != 0 || authtime == 0))
            odd = add(s, seen, numbers[0], numbers[1]);
    }
    if (c.bad)
        return "torn: it ends within an entry";
    if (odd == NULL)
        settle(s, seen);
    return odd;
}

/* --- judging ------------------------------------------------------------ */

/* Was the cache so at some time between the two?  An entry that is removed
 * by its file may have been read before, and what came later after that. */
static bool
was_so(const struct state *s, unsigned from, unsigned to)
{
    bool first = false, low = false;
    for (unsigned i = from; i <= to; i++) {
        const struct state *was = &states[i];
        if (s->absent ? was->absent : s->high == 0 && was->low == was->high)
            return true;
        if (was->generation != s->generation || s->absent) {
            first = low = false;
            continue;
        }
        first |= was->low == s->first;
        low |= first && was->low == s->low;
        if (low && was->high == s->high)
            return true;
    }
    return false;
}

static void
judge(const struct reader *r, const struct state *s, unsigned from)
{
    unsigned to = begun;
    if (was_so(s, from, to))
        return;
    const struct state *a = &states[from], *b = &states[to];
    char changes[512] = "";
    for (unsigned i = from > 6 ? from - 6 : 1; i <= to && i <= from + 12; i++)
        snprintf(changes + strlen(changes), sizeof(changes) - strlen(changes),
                 "%s%s", i == from + 1 ? "; then " : ", ",
                 change_names[kinds[i]]);
    trouble("%s: %s: generation %u tickets %u..%u; there were %u %u..%u "
            "(change %u) to %u %u..%u (change %u)%s",
            r->way, s->absent ? "no cache" : "read", s->generation, s->low,
            s->high, a->generation, a->low, a->high, from, b->generation,
            b->low, b->high, to, changes);
}

/* --- reading ------------------------------------------------------------ */

static int
open_by(const struct reader *r, int held)
{
    char text[64];
    if (strcmp(r->way, "openat") == 0)
        return openat(held, "cache", O_RDONLY);
    if (strcmp(r->way, "append") == 0)
        return open(r->path, O_RDWR | O_APPEND);
    if (strcmp(r->way, "proc") != 0)
        return open(r->path, O_RDONLY);
    snprintf(text, sizeof(text), "/proc/self/fd/%d", held);
    return open(text, O_RDONLY);
}

/* The bytes that fd shows, in pieces; their number or -1. */
static ssize_t
read_all(struct reader *r, int fd, unsigned *seed)
{
    static const size_t sizes[] = {700, 5000, FILE_MAX};
    size_t len = 0;
    ssize_t n;
    do {
        size_t piece = sizes[rand_r(seed) % 3];
        if (piece > FILE_MAX - len)
            piece = FILE_MAX - len;
        n = read(fd, r->bytes + len, piece);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0);
    return n < 0 ? -1 : (ssize_t)len;
}

/* Who does not come by the name of what is open already reads what it is
 * now, which may have grown. */
static bool
may_be_longer(const struct reader *r)
{
    return strcmp(r->way, "proc") == 0 || strcmp(r->way, "bind") == 0 ||
           strcmp(r->way, "append") == 0;
}

/* While a file is open it only grows: what fstat() says fits what is read. */
static ssize_t
read_open(struct reader *r, int fd, unsigned *seed)
{
    struct stat before, after;
    if (fstat(fd, &before) != 0)
        return -1;
    ssize_t len = read_all(r, fd, seed);
    if (len < 0 || fstat(fd, &after) != 0)
        return -1;
    if (len < before.st_size || (len > after.st_size && !may_be_longer(r)))
        trouble("%s: size %ld, then %ld bytes were read, then size %ld",
                r->way, (long)before.st_size, (long)len, (long)after.st_size);
    return len;
}

static void
read_once(struct reader *r, int held, bool *seen, unsigned *seed)
{
    struct state s = {0};
    unsigned from = finished;
    int fd = open_by(r, held);
    ssize_t len = fd >= 0 ? read_open(r, fd, seed) : -1;
    int error = errno;
    if (fd >= 0)
        close(fd);
    /* Created, and empty yet, is no cache either. */
    if (fd < 0 ? error == ENOENT : len == 0) {
        s.absent = true;
        r->waits++;
        judge(r, &s, from);
        return;
    }
    if (len < 0) {
        trouble("%s: %s: %s", r->way, fd < 0 ? "open" : "read",
                strerror(error));
        return;
    }
    const char *odd = parse(r->bytes, (size_t)len, &s, seen);
    if (odd != NULL)
        trouble("%s: %s (%ld bytes); after change %u, before %u", r->way, odd,
                (long)len, from, begun);
    else
        judge(r, &s, from);
    memset(seen, 0, MANY * 4 * sizeof(*seen));
    r->reads++;
}

/* A client of the whole library. */
static krb5_error_code
iterate(krb5_context context, const char *path, struct state *s, bool *seen,
        const char **odd)
{
    char name[4096];
    krb5_ccache cache;
    krb5_cc_cursor cursor;
    krb5_creds creds;
    snprintf(name, sizeof(name), "FILE:%s", path);
    krb5_error_code code = krb5_cc_resolve(context, name, &cache);
    if (code != 0)
        return code;
    code = krb5_cc_start_seq_get(context, cache, &cursor);
    if (code == 0) {
        while ((code = krb5_cc_next_cred(context, cache, &cursor, &creds)) ==
               0) {
            const krb5_data *d = creds.server->data;
            bool named = creds.server->length == 2;
            unsigned g = named ? (unsigned)atoi(d[0].data + 1) : 0;
            unsigned n = named ? (unsigned)atoi(d[1].data + 1) : CHANGES_MAX;
            *odd = *odd != NULL ? *odd : add(s, seen, g, n);
            krb5_free_cred_contents(context, &creds);
        }
        code = code == KRB5_CC_END ? 0 : code;
        krb5_cc_end_seq_get(context, cache, &cursor);
    }
    krb5_cc_close(context, cache);
    return code;
}

static void
iterate_once(struct reader *r, krb5_context context, bool *seen)
{
    struct state s = {0};
    const char *odd = NULL;
    unsigned from = finished;
    krb5_error_code code = iterate(context, r->path, &s, seen, &odd);
    settle(&s, seen);
    s.absent = code == KRB5_FCC_NOFILE;
    /* It asks for the size of the file before each entry: one that arrives
     * between may be longer than that. */
    if (code == KRB5_CC_FORMAT && begun > from)
        return;
    if (code != 0 && !s.absent)
        trouble("%s: %s", r->way, krb5_get_error_message(context, code));
    else if (odd != NULL)
        trouble("%s: %s", r->way, odd);
    else
        judge(r, &s, from);
    memset(seen, 0, MANY * 4 * sizeof(*seen));
    r->reads++;
}

static void *
read_on(void *arg)
{
    struct reader *r = arg;
    char directory[4096];
    unsigned seed = (unsigned)(r->way[0] + r->way[1]);
    bool *seen = calloc(CHANGES_MAX, sizeof(*seen));
    krb5_context context = NULL;
    int held = -1;
    snprintf(directory, sizeof(directory), "%s", r->path);
    if (strcmp(r->way, "openat") == 0)
        held = open(dirname(directory), O_PATH);
    if (strcmp(r->way, "proc") == 0)
        held = open(r->path, O_PATH);
    r->bytes = malloc(FILE_MAX);
    if (strcmp(r->way, "libkrb5") == 0 && krb5_init_context(&context) != 0)
        trouble("no context");
    while (!ended) {
        if (context != NULL)
            iterate_once(r, context, seen);
        else
            read_once(r, held, seen, &seed);
    }
    if (context != NULL)
        krb5_free_context(context);
    free(r->bytes);
    free(seen);
    return NULL;
}

/* --- changing ----------------------------------------------------------- */

struct writer {
    krb5_context context;
    krb5_ccache kcm, file;
    krb5_principal client;
};

static krb5_creds
make_creds(struct writer *w, unsigned generation, unsigned n)
{
    static char ticket[TICKET_LEN], key[32];
    char name[64];
    krb5_creds c = {0};
    memset(ticket, 't', sizeof(ticket));
    memset(key, 'k', sizeof(key));
    snprintf(name, sizeof(name), "g%u/n%u@EXAMPLE.COM", generation, n);
    if (krb5_parse_name(w->context, name, &c.server) != 0)
        abort();
    c.client = w->client;
    c.keyblock.enctype = ENCTYPE_AES256_CTS_HMAC_SHA1_96;
    c.keyblock.length = sizeof(key);
    c.keyblock.contents = (krb5_octet *)key;
    c.times.authtime = c.times.starttime = (krb5_timestamp)(1700000000 + n);
    c.times.endtime = c.times.renew_till = 2000000000;
    c.ticket.data = ticket;
    c.ticket.length = sizeof(ticket);
    return c;
}

/* A file of tickets 0..count-1; count is at most MANY. */
static size_t
file_of(struct writer *w, unsigned generation, unsigned first, unsigned count,
        bool header, unsigned char *bytes)
{
    size_t len = 0;
    for (unsigned n = first; n < first + count || (n == first && header);
         n++) {
        krb5_data *d;
        krb5_creds c = make_creds(w, generation, n);
        if (krb5_marshal_credentials(w->context, &c, &d) != 0)
            abort();
        if (n == first && header) {
            /* An entry begins with its client, as a file with its own. */
            unsigned ignored[2];
            struct cursor at = {(unsigned char *)d->data,
                                (unsigned char *)d->data + d->length, false};
            principal(&at, ignored);
            memcpy(bytes, "\5\4\0\0", 4);
            len = 4 + (size_t)(at.p - (unsigned char *)d->data);
            memcpy(bytes + 4, d->data, len - 4);
        }
        if (n < first + count) {
            memcpy(bytes + len, d->data, d->length);
            len += d->length;
        }
        krb5_free_data(w->context, d);
        krb5_free_principal(w->context, c.server);
    }
    return len;
}

static int
write_file(const char *path, int flags, const unsigned char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | flags, 0600);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, bytes, len);
    int r = close(fd);
    return n == (ssize_t)len ? r : -1;
}

/* What to do next, and what the cache is then. */
static enum change
choose(struct state *s, unsigned *seed)
{
    unsigned dice = (unsigned)rand_r(seed) % 100;
    unsigned count = s->high - s->low;
    if (s->absent) {
        *s = (struct state){.generation = s->generation + 1};
        return FILE_CREATE;
    }
    if (s->high >= MANY || dice < 4) {
        *s = (struct state){.generation = s->generation + 1};
        if (renames && dice % 2 == 0) {
            *s = (struct state){.generation = s->generation - 1,
                                .absent = true};
            return FILE_UNLINK;
        }
        if (dice % 3 == 0)
            return KCM_INITIALIZE;
        s->high = 1 + dice % 4;
        return renames && dice % 3 == 1 ? FILE_RENAME : FILE_REWRITE;
    }
    if (dice < 20 && count > 1) {
        s->low++;
        return dice % 2 == 0 || no_removal ? FILE_REMOVE : KCM_REMOVE;
    }
    s->high++;
    return dice % 2 == 0 ? KCM_STORE : FILE_STORE;
}

static int
change_by_kcm(struct writer *w, enum change what, const struct state *s)
{
    unsigned n = what == KCM_REMOVE ? s->low - 1 : s->high - 1;
    if (what == KCM_INITIALIZE)
        return krb5_cc_initialize(w->context, w->kcm, w->client);
    krb5_creds c = make_creds(w, s->generation, n);
    krb5_error_code code = what == KCM_REMOVE
                               ? krb5_cc_remove_cred(w->context, w->kcm, 0, &c)
                               : krb5_cc_store_cred(w->context, w->kcm, &c);
    krb5_free_principal(w->context, c.server);
    return code;
}

static int
change_by_file(struct writer *w, enum change what, const struct state *s)
{
    static unsigned char bytes[FILE_MAX];
    char other[4096];
    size_t len;
    krb5_error_code code;
    krb5_creds c;
    switch (what) {
    case FILE_STORE:
        len = file_of(w, s->generation, s->high - 1, 1, false, bytes);
        return write_file(written, O_APPEND, bytes, len);
    case FILE_REMOVE:
        c = make_creds(w, s->generation, s->low - 1);
        code = krb5_cc_remove_cred(w->context, w->file, 0, &c);
        krb5_free_principal(w->context, c.server);
        return code;
    case FILE_UNLINK:
        return unlink(written);
    case FILE_CREATE:
        len = file_of(w, s->generation, 0, 0, true, bytes);
        return write_file(written, O_CREAT | O_EXCL, bytes, len);
    case FILE_REWRITE:
        len = file_of(w, s->generation, 0, s->high, true, bytes);
        return write_file(written, O_TRUNC, bytes, len);
    default: /* FILE_RENAME */
        snprintf(other, sizeof(other), "%s.new", written);
        len = file_of(w, s->generation, 0, s->high, true, bytes);
        if (write_file(other, O_CREAT | O_EXCL, bytes, len) != 0)
            return -1;
        return rename(other, written);
    }
}

static bool
is_by_kcm(enum change what)
{
    return what == KCM_STORE || what == KCM_REMOVE || what == KCM_INITIALIZE;
}

/* As many changes as are wanted, or as fit into the time. */
static unsigned
change_all(struct writer *w, unsigned changes, long seconds)
{
    struct timespec now, start;
    unsigned seed = 1, done = 0;
    struct state s = states[0];
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (done < changes && !ended) {
        enum change what = choose(&s, &seed);
        states[done + 1] = s;
        kinds[done + 1] = (unsigned char)what;
        states[done + 1].absent |= what == KCM_INITIALIZE && vanishes;
        begun = done + 1;
        int r = is_by_kcm(what) ? change_by_kcm(w, what, &s)
                                : change_by_file(w, what, &s);
        if (r != 0)
            trouble("change %u, %s: %s", done + 1, change_names[what],
                    r == -1 ? strerror(errno)
                            : krb5_get_error_message(w->context, r));
        finished = ++done;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec >= seconds)
            break;
    }
    return done;
}

static void
writer_init(struct writer *w)
{
    char name[4096];
    snprintf(name, sizeof(name), "FILE:%s", written);
    if (krb5_init_context(&w->context) != 0 ||
        krb5_parse_name(w->context, "u@EXAMPLE.COM", &w->client) != 0 ||
        krb5_cc_resolve(w->context, kcm_name, &w->kcm) != 0 ||
        krb5_cc_resolve(w->context, name, &w->file) != 0 ||
        krb5_cc_initialize(w->context, w->kcm, w->client) != 0) {
        fprintf(stderr, "hunt: cannot make %s\n", kcm_name);
        exit(2);
    }
}

int
main(int argc, char **argv)
{
    static struct reader readers[READERS_MAX];
    struct writer w;
    unsigned changes = 1000, count = 0;
    long seconds = 10;
    int option;
    while ((option = getopt(argc, argv, "rgwn:s:")) != -1) {
        no_removal |= option == 'r';
        vanishes |= option == 'g';
        renames |= option == 'w';
        if (option == 'n')
            changes = (unsigned)strtoul(optarg, NULL, 10);
        if (option == 's')
            seconds = strtol(optarg, NULL, 10);
    }
    if (argc - optind < 2 || changes > CHANGES_MAX)
        return 2;
    kcm_name = argv[optind++];
    for (; optind < argc && count < READERS_MAX; optind++, count++) {
        readers[count].way = strsep(&argv[optind], "=");
        readers[count].path = argv[optind];
    }
    written = readers[0].path;
    writer_init(&w);
    for (unsigned i = 0; i < count; i++)
        if (pthread_create(&readers[i].thread, NULL, read_on, &readers[i]))
            return 2;
    unsigned done = change_all(&w, changes, seconds);
    ended = true;
    printf("%u changes\n", done);
    for (unsigned i = 0; i < count; i++) {
        pthread_join(readers[i].thread, NULL);
        printf("%s %u %u\n", readers[i].way, readers[i].reads,
               readers[i].waits);
    }
    return troubles > 0 ? 1 : 0;
}
