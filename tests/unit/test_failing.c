/*
 * Each allocation and each system call of the connections, of fetching and of
 * changes fails in turn, in this thread alone, until all is through without
 * a failure reached: an errno that fits, the cache as it was or as it was to
 * be, nothing of ours left behind; and no leak, where AddressSanitizer looks.
 *
 * The Makefile wraps the functions.  send(), recv() and poll() are not among
 * them: a daemon that has not closed the connection would do later, behind
 * what comes on the next one, what it was asked (tests/mount/test_inject.py
 * has them; test_commit.c has connections that break).
 */
#include <dirent.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "changes.h"

#include "../../kcm/describe.h"
#include "../../kcm/image.h"

#define MOST_FAILURES 300

/* What fails: the nth call of this thread. */
enum failing {
    MEMORY,  /* malloc() and its kind */
    LARGE,   /* mmap() */
    SOCKETS, /* socket(), connect(), eventfd() */
    FAILINGS
};

static _Thread_local struct {
    bool armed, reached;
    enum failing what;
    unsigned left;
} plan;

static bool
is_due(enum failing what)
{
    if (!plan.armed || plan.what != what || --plan.left > 0)
        return false;
    plan.armed = false;
    plan.reached = true;
    return true;
}

static void
set_plan(enum failing what, unsigned nth)
{
    plan.what = what;
    plan.left = nth;
    plan.reached = false;
}

static void
arm(void)
{
    plan.armed = true;
}

/* Check allocates, too. */
static void
disarm(void)
{
    plan.armed = false;
}

#define WRAP(what, error, result, type, name, args, ...)                      \
    type __real_##name args;                                                  \
    type __wrap_##name args;                                                  \
    type __wrap_##name args                                                   \
    {                                                                         \
        if (is_due(what)) {                                                   \
            errno = error;                                                    \
            return result;                                                    \
        }                                                                     \
        return __real_##name(__VA_ARGS__);                                    \
    }

WRAP(MEMORY, ENOMEM, NULL, void *, malloc, (size_t size), size)
WRAP(MEMORY, ENOMEM, NULL, void *, calloc, (size_t n, size_t size), n, size)
WRAP(MEMORY, ENOMEM, NULL, void *, realloc, (void *p, size_t size), p, size)
WRAP(MEMORY, ENOMEM, NULL, void *, reallocarray,
     (void *p, size_t n, size_t size), p, n, size)
WRAP(MEMORY, ENOMEM, NULL, char *, strdup, (const char *s), s)
WRAP(MEMORY, ENOMEM, NULL, char *, strndup, (const char *s, size_t n), s, n)
WRAP(LARGE, ENOMEM, MAP_FAILED, void *, mmap,
     (void *at, size_t len, int prot, int flags, int fd, off_t off), at, len,
     prot, flags, fd, off)
WRAP(MEMORY, ENOMEM, NULL, FILE *, open_memstream, (char **text, size_t *size),
     text, size)
WRAP(SOCKETS, EMFILE, -1, int, socket, (int domain, int type, int protocol),
     domain, type, protocol)
WRAP(SOCKETS, ECONNREFUSED, -1, int, connect,
     (int fd, const struct sockaddr *to, socklen_t len), fd, to, len)
WRAP(SOCKETS, EMFILE, -1, int, eventfd, (unsigned start, int flags), start,
     flags)

int __real_fclose(FILE *f);
int __wrap_fclose(FILE *f);

/* Not all that was written is there. */
int
__wrap_fclose(FILE *f)
{
    int r = __real_fclose(f);
    return is_due(MEMORY) ? EOF : r;
}

/* --- what is done -------------------------------------------------------- */

static int
do_fetch(const struct kcm_snapshot *old)
{
    struct kcm_known k = {0};
    (void)old;
    begin();
    int r = kcm_fetch(kcm, &caller, name_a, &k);
    disarm();
    ck_assert(r == 0 || k.snapshot == NULL);
    kcm_snapshot_unref(k.snapshot);
    return r;
}

static int
do_list(const struct kcm_snapshot *old)
{
    struct kcm_listing *l;
    (void)old;
    begin();
    int r = kcm_list(kcm, &caller, NULL, &l);
    disarm();
    ck_assert((r == 0) == (l != NULL));
    if (r == 0) {
        ck_assert_uint_eq(l->count, 2); /* newest first */
        ck_assert_str_eq(l->caches[0].name, name_b);
        ck_assert_str_eq(l->caches[1].name, name_a);
    }
    kcm_listing_free(l);
    return r;
}

static int
do_get_principals(const struct kcm_snapshot *old)
{
    static char large[100000], name_c[32]; /* takes a mapping of its own */
    const char *const names[3] = {name_a, name_b, name_c};
    struct blob *out[3];
    (void)old;
    memset(large, 'x', sizeof(large) - 1);
    memcpy(large + sizeof(large) - 5, "@E.F", 5);
    snprintf(name_c, sizeof(name_c), "%u:c", geteuid());
    initialize(name_c, large, 0);
    begin();
    int r = kcm_get_principals(kcm, &caller, names, 3, out);
    disarm();
    for (int i = 0; i < 3; i++) {
        ck_assert(r != 0 || out[i] != NULL);
        blob_unref(out[i]);
    }
    ck_assert_int_eq(model(KCM_OP_DESTROY, name_c, NULL, NULL), 0);
    return r;
}

static int
do_get_default(const struct kcm_snapshot *old)
{
    char *name;
    (void)old;
    begin();
    int r = kcm_get_default(kcm, &caller, &name);
    disarm();
    ck_assert((r == 0) == (name != NULL));
    free(name);
    return r;
}

static int
do_set_default(const struct kcm_snapshot *old)
{
    (void)old;
    begin();
    return kcm_set_default(kcm, &caller, name_a, NULL);
}

static int
do_set_offset(const struct kcm_snapshot *old)
{
    (void)old;
    begin();
    return kcm_set_offset(kcm, &caller, name_a, 77);
}

static struct kcm_listing *
list_now(void)
{
    struct kcm_listing *l;
    ck_assert_int_eq(kcm_list(kcm, &caller, NULL, &l), 0);
    ck_assert_uint_eq(l->count, 2);
    return l;
}

/* By somebody who knows their names. */
static int
do_list_again(const struct kcm_snapshot *old)
{
    struct kcm_listing *known = list_now(), *l;
    (void)old;
    begin();
    int r = kcm_list(kcm, &caller, known, &l);
    disarm();
    ck_assert((r == 0) == (l != NULL));
    ck_assert(r != 0 || l->count == 2);
    kcm_listing_free(known);
    kcm_listing_free(l);
    return r;
}

static int
do_find_uuid(const struct kcm_snapshot *old)
{
    struct kcm_listing *l = list_now();
    char *name;
    (void)old;
    begin();
    int r = kcm_find_uuid(kcm, &caller, l->caches[0].uuid, &name);
    disarm();
    ck_assert((r == 0) == (name != NULL));
    ck_assert(r != 0 || strcmp(name, l->caches[0].name) == 0);
    free(name);
    kcm_listing_free(l);
    return r;
}

static const struct change readings[] = {
    {do_fetch, false},          {do_list, false},
    {do_get_principals, false}, {do_get_default, false},
    {do_set_default, false},    {do_set_offset, false},
    {do_list_again, false},     {do_find_uuid, false},
};
#define READINGS ((int)(sizeof(readings) / sizeof(readings[0])))
#define ALL      (CHANGES + READINGS)

static bool
fits(enum failing what, int r)
{
    if (what != SOCKETS)
        return r == -ENOMEM || r == -EIO;
    return r == -EIO || r == -ECONNREFUSED || r == -EMFILE || r == -ENOMEM ||
           r == -ETIMEDOUT || r == -EPIPE;
}

/* A client that knows nothing. */
static void
refresh(enum kind kind)
{
    kcm_free(kcm);
    be(kind);
    start_kcm();
    reset();
}

static unsigned
fail_in_turn(const struct change *change, enum kind kind, enum failing what)
{
    struct writer before = {0}, after = {0}, now = {0};
    refresh(kind);
    dump(&before);
    int honest = run(change);
    dump(&after);
    unsigned nth = 1;
    for (bool reached = true; reached && honest == 0; nth++) {
        ck_assert_uint_lt(nth, MOST_FAILURES);
        refresh(kind);
        /* Readings begin without a connection. */
        struct kcm_snapshot *old =
            change >= changes && change < changes + CHANGES ? fetch(name_a)
                                                            : NULL;
        kcm_start(kcm, &caller);
        set_plan(what, nth);
        about_to_change = arm;
        int r = change->run(old);
        disarm();
        about_to_change = NULL;
        reached = plan.reached;
        kcm_snapshot_unref(old);
        ck_assert_msg(r == 0 || (reached && fits(what, r)), "%d at %u: %d",
                      (int)what, nth, r);
        kcm_snapshot_unref(fetch(name_a)); /* and puts right what failed */
        dump(&now);
        bool is_old = data_equal(writer_data(&now), writer_data(&before));
        bool is_new = data_equal(writer_data(&now), writer_data(&after));
        ck_assert_msg(is_new || r != 0, "%d at %u: not done", (int)what, nth);
        ck_assert_msg(is_old || is_new || (change->steps && r != 0),
                      "%d at %u: neither old nor new (%d)", (int)what, nth, r);
        check_tidy();
    }
    writer_free(&before);
    writer_free(&after);
    writer_free(&now);
    return nth - 1;
}

START_TEST(in_turn)
{
    int n = _i % ALL;
    const struct change *change =
        n < CHANGES ? &changes[n] : &readings[n - CHANGES];
    const enum kind kind = (enum kind)(_i / ALL);
    unsigned descriptors;
    start(kind);
    reset();
    kcm_snapshot_unref(fetch(name_a));
    descriptors = open_descriptors();
    unsigned failures = 0;
    for (int what = 0; what < FAILINGS; what++)
        failures += fail_in_turn(change, kind, (enum failing)what);
    /* sssd moves no caches. */
    if (change->run != do_move || kind != SSSD)
        ck_assert_uint_gt(failures, 1);
    await_descriptors(descriptors + 2);
    ck_assert_uint_le(open_descriptors(), descriptors + 2);
    finish();
}
END_TEST

/* What somebody else stored since the cache was read is not lost for want of
 * memory, where an edit is a refill.  The peer has it no more when it is asked
 * for, as sssd would; that is what the rule is for. */
START_TEST(late_is_kept)
{
    struct writer late = {0}, now = {0};
    unsigned failures = 0;
    sample_cred(&late, &(struct sample){.starttime = 7, .flags = 7});
    start(SSSD);
    for (int what = 0; what < FAILINGS; what++) {
        bool reached = true;
        for (unsigned nth = 1; reached; nth++) {
            refresh(SSSD);
            struct kcm_snapshot *old = fetch(name_a);
            store(name_a, 7, NULL);
            struct rule rule = {.opcode = KCM_OP_GET_CRED_BY_UUID,
                                .manner = BODY,
                                .always = true,
                                .body = writer_data(&late)};
            peer_rule_set(&peer, 0, rule);
            kcm_start(kcm, &caller);
            set_plan((enum failing)what, nth);
            about_to_change = arm;
            int r = do_remove(old);
            disarm();
            reached = plan.reached;
            about_to_change = NULL;
            failures += reached;
            ck_assert(r == 0 || reached);
            kcm_snapshot_unref(old);
            be(SSSD);
            kcm_snapshot_unref(fetch(name_a));
            dump(&now);
            ck_assert_msg(memmem(now.p, now.len, late.p, late.len) != NULL,
                          "%d at %u: lost (%d)", what, nth, r);
            check_tidy();
        }
    }
    ck_assert_uint_gt(failures, 1);
    writer_free(&late);
    writer_free(&now);
    finish();
}
END_TEST

/* Of a reply that there is no memory for nothing is left behind those before.
 */
START_TEST(reply_in_part)
{
    struct writer request = {0}, replies = {0};
    char *large = calloc(1, 300000);
    unsigned failures = 0;
    memset(large, 'x', 299999);
    start(MIT);
    initialize(name_a, "alice@EX.ORG", 0);
    store(name_a, 1, large);
    write_u16(&request, 0x0200);
    write_u16(&request, KCM_OP_GET_CRED_LIST);
    write_string(&request, name_a);
    for (enum failing what = MEMORY; what <= LARGE; what++) {
        int r = -ENOMEM;
        for (unsigned nth = 1; r != 0; nth++) {
            writer_free(&replies);
            write_string(&replies, "before");
            set_plan(what, nth);
            arm();
            r = kcm_server_handle(peer.server, geteuid(), getegid(),
                                  writer_data(&request), &replies);
            disarm();
            ck_assert_int_eq(r, plan.reached ? -ENOMEM : 0);
            ck_assert_str_eq((const char *)replies.p, "before");
            ck_assert(r == 0 || replies.len == sizeof("before"));
            failures += plan.reached;
        }
        ck_assert_uint_gt(replies.len, 300000);
    }
    ck_assert_uint_gt(failures, 0);
    writer_free(&replies);
    writer_free(&request);
    free(large);
    finish();
}
END_TEST

/* A thread that has not waited yet, and cannot: it says why, and can later. */
static void *
wake_in_turn(void *arg)
{
    static const int errors[FAILINGS] = {ENOMEM, 0, EMFILE};
    (void)arg;
    for (enum failing what = MEMORY; what < FAILINGS; what++) {
        if (errors[what] == 0)
            continue;
        set_plan(what, 1);
        arm();
        struct wake *none = wake_mine();
        int error = errno;
        disarm();
        ck_assert(plan.reached);
        ck_assert_ptr_null(none);
        ck_assert_int_eq(error, errors[what]);
    }
    ck_assert_ptr_nonnull(wake_mine());
    return NULL;
}

/* Of descriptors: the same when none is left open. */
static int
lowest_free(void)
{
    int fd = dup(STDERR_FILENO);
    close(fd);
    return fd;
}

START_TEST(wake_of_a_new_thread)
{
    pthread_t thread;
    int before = lowest_free();
    ck_assert_int_eq(pthread_create(&thread, NULL, wake_in_turn, NULL), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(lowest_free(), before);
}
END_TEST

/* --- what is shown of a cache -------------------------------------------- */

static struct kcm_snapshot *seen, *more; /* before a STORE, and after */
static struct image *image, *longer;     /* of them */
static struct writer old_file;

/* Returns r. */
static int
no_image(int r, struct image *out)
{
    disarm();
    ck_assert((r == 0) == (out != NULL));
    image_unref(out);
    return r;
}

static int
view_render(void)
{
    struct image *out;
    arm();
    int r = image_render(more, &out);
    return no_image(r, out);
}

static int
view_merge(void)
{
    struct image *out;
    arm();
    int r = image_merge(image, more, &out);
    return no_image(r, out);
}

static int
view_append(void)
{
    struct image *out;
    struct data last = image_entry_bytes(longer, 0);
    uint32_t length = (uint32_t)last.len;
    arm();
    int r = image_append(image, last, &length, 1, &out);
    return no_image(r, out);
}

static int
view_pad(void)
{
    struct image *out;
    arm();
    int r = image_pad(image, longer, longer->body, &out);
    return no_image(r, out);
}

static int
view_patch(void)
{
    struct image *out;
    arm();
    int r = image_patch(image, 0, image_entry_bytes(image, 0), &out);
    return no_image(r, out);
}

static int
view_superseded(void)
{
    bool superseded[MOST];
    arm();
    int r = image_superseded(more, superseded);
    disarm();
    return r;
}

static int
view_file(void)
{
    struct image *out = NULL;
    struct image_file f;
    arm();
    int r = image_parse(image_bytes(longer), &f);
    if (r == 0) {
        r = image_of_file(&f, &out);
        image_file_free(&f);
    }
    return no_image(r, out);
}

/* Of version 3, which becomes version 4. */
static int
view_old_file(void)
{
    struct image_file f;
    arm();
    int r = image_parse(writer_data(&old_file), &f);
    disarm();
    if (r == 0)
        image_file_free(&f);
    return r;
}

static int
view_text(int (*describe)(const struct describe_cache *cache, char **out))
{
    struct data creds[MOST];
    char *text;
    for (size_t i = 0; i < more->count; i++)
        creds[i] = blob_data(more->creds[i].bytes);
    const struct describe_cache cache = {
        .name = name_a,
        .principal = blob_data(more->principal),
        .creds = creds,
        .count = more->count,
    };
    arm();
    int r = describe(&cache, &text);
    disarm();
    ck_assert((r == 0) == (text != NULL));
    free(text);
    return r;
}

static int
view_info(void)
{
    return view_text(describe_info);
}

static int
view_json(void)
{
    return view_text(describe_json);
}

static int
view_principal(void)
{
    _cleanup_(writer_free) struct writer w = {0};
    char *text;
    arm();
    int r = describe_principal(blob_data(more->principal), &text);
    if (r == 0)
        r = describe_parse_principal(text, &w);
    disarm();
    free(text);
    return r;
}

static int (*const views[])(void) = {
    view_render, view_merge,     view_append,     view_pad,
    view_patch,  view_file,      view_old_file,   view_info,
    view_json,   view_principal, view_superseded,
};
#define VIEWS ((int)(sizeof(views) / sizeof(views[0])))

START_TEST(views_in_turn)
{
    static char large[100000]; /* takes a mapping of its own */
    unsigned failures = 0;
    memset(large, 'x', sizeof(large) - 1);
    start(MIT);
    reset();
    seen = fetch(name_a);
    store(name_a, 7, large);
    more = fetch(name_a);
    ck_assert_int_eq(image_render(seen, &image), 0);
    ck_assert_int_eq(image_render(more, &longer), 0);
    memcpy(large + sizeof(large) - 5, "@E.F", 5);
    write_u16(&old_file, 0x0503);
    sample_principal(&old_file, large);
    set_plan(MEMORY, UINT_MAX);
    ck_assert_int_eq(views[_i](), 0); /* what is made once is there */
    size_t before = secret_in_use();
    for (enum failing what = MEMORY; what <= LARGE; what++) {
        plan.reached = true;
        for (unsigned nth = 1; plan.reached; nth++) {
            set_plan(what, nth);
            int r = views[_i]();
            ck_assert_int_eq(r, plan.reached ? -ENOMEM : 0);
            ck_assert_uint_eq(secret_in_use(), before);
            failures += plan.reached;
        }
    }
    ck_assert_uint_gt(failures, 0);
    writer_free(&old_file);
    image_unref(image);
    image_unref(longer);
    kcm_snapshot_unref(seen);
    kcm_snapshot_unref(more);
    finish();
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("failing");
    TCase *t = tcase_create("failing");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, in_turn, 0, ALL * KINDS);
    tcase_add_loop_test(t, views_in_turn, 0, VIEWS);
    tcase_add_test(t, late_is_kept);
    tcase_add_test(t, reply_in_part);
    tcase_add_test(t, wake_of_a_new_thread);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
