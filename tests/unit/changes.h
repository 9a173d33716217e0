/*
 * Two caches of one user on daemons of several kinds, what they hold, and
 * each change that kcm.h has.
 */
#ifndef TESTS_CHANGES_H
#define TESTS_CHANGES_H

#define KCM_INTERNAL
#include "../../kcm/kcm.h"

#include "../../kcm/log.h"
#include "peer.h"

#define TIMEOUT_MS 10000
#define MOST       16

static struct peer peer;
static struct kcm *kcm;
static struct caller caller;
static char name_a[32], name_b[32];

/* What daemons lack. */
enum kind {
    MIT,     /* nothing: kcmd */
    HEIMDAL, /* REPLACE and GET_CRED_LIST */
    SSSD,    /* REPLACE, REMOVE_CRED and MOVE_CACHE */
    KINDS
};

static inline void
be(enum kind kind)
{
    static const unsigned lacks[] = {KCM_OP_REPLACE, KCM_OP_REMOVE_CRED,
                                     KCM_OP_MOVE_CACHE, KCM_OP_NOOP};
    peer_rules_clear(&peer);
    for (int i = 0; kind == SSSD && i < 4; i++) {
        struct rule rule = RULE(lacks[i], 1, OUTER, KCM_CODE_FCC_INTERNAL);
        rule.always = true;
        peer_rule_set(&peer, i + 1, rule);
    }
}

static inline void
start_kcm(void)
{
    struct kcm_config config = {.socket_path = peer.path,
                                .timeout_ms = TIMEOUT_MS};
    ck_assert_int_eq(kcm_new(&config, &kcm), 0);
}

/* bytes: the quota, 0 for the usual one. */
static inline void
start_with(enum kind kind, size_t bytes)
{
    struct kcm_server_limits limits = {.no_mit_extensions = kind == HEIMDAL,
                                       .bytes_per_uid = bytes};
    log_open("test", LOG_LEVEL_ERROR, false);
    peer_start(&peer, &limits);
    be(kind);
    snprintf(name_a, sizeof(name_a), "%u:a", geteuid());
    snprintf(name_b, sizeof(name_b), "%u:b", geteuid());
    start_kcm();
    caller = (struct caller){.uid = geteuid(), .gid = getegid()};
    caller.wake = wake_mine();
}

static inline void
start(enum kind kind)
{
    start_with(kind, 0);
}

static inline void
finish(void)
{
    kcm_free(kcm);
    peer_stop(&peer);
    peer_await_end(&peer);
}

/* --- the model ----------------------------------------------------------- */

static int32_t
model(unsigned opcode, const char *name, const struct writer *args,
      struct writer *out)
{
    struct writer w = {0}, reply = {0};
    struct reader r;
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_string(&w, name);
    if (args != NULL)
        write_data(&w, writer_data(args));
    ck_assert_int_eq(kcm_server_handle(peer.server, geteuid(), getegid(),
                                       writer_data(&w), &reply),
                     0);
    reader_init(&r, reply.p + 8, reply.len - 8);
    int32_t code = (int32_t)read_u32(&r);
    if (out != NULL)
        write_data(out, read_data(&r, reader_left(&r)));
    writer_free(&w);
    writer_free(&reply);
    return code;
}

static inline void
store(const char *name, unsigned n, const char *ticket)
{
    struct writer w = {0};
    sample_cred(
        &w, &(struct sample){.starttime = n, .flags = n, .ticket = ticket});
    ck_assert_int_eq(model(KCM_OP_STORE, name, &w, NULL), 0);
    writer_free(&w);
}

static inline void
initialize(const char *name, const char *principal, uint32_t offset)
{
    struct writer w = {0};
    sample_principal(&w, principal);
    ck_assert_int_eq(model(KCM_OP_INITIALIZE, name, &w, NULL), 0);
    writer_reset(&w);
    write_u32(&w, offset);
    ck_assert_int_eq(model(KCM_OP_SET_KDC_OFFSET, name, &w, NULL), 0);
    writer_free(&w);
}

/* Caches a and b before each change. */
static inline void
reset(void)
{
    initialize(name_a, "alice@EX.ORG", 5);
    for (unsigned n = 1; n <= 4; n++)
        store(name_a, n, NULL);
    /* REMOVE_CRED would take it for the second. */
    store(name_a, 2, "twin");
    initialize(name_b, "bob@EX.ORG", 0);
    store(name_b, 9, NULL);
}

static inline int
by_bytes(const void *a, const void *b)
{
    return data_compare(*(const struct data *)a, *(const struct data *)b);
}

/* A cache's content, its credentials sorted. */
static inline void
dump_one(const char *name, struct writer *out)
{
    struct data creds[MOST];
    struct reader r;
    size_t count = 0;
    if (model(KCM_OP_GET_PRINCIPAL, name, NULL, out) != 0)
        return;
    model(KCM_OP_GET_KDC_OFFSET, name, NULL, out);
    struct writer uuids = {0}, cred[MOST] = {{0}};
    model(KCM_OP_GET_CRED_UUID_LIST, name, NULL, &uuids);
    reader_init(&r, uuids.p, uuids.len);
    for (; reader_left(&r) > 0 && count < MOST; count++) {
        struct writer arg = {0};
        write_data(&arg, read_data(&r, KCM_UUID_LEN));
        model(KCM_OP_GET_CRED_BY_UUID, name, &arg, &cred[count]);
        creds[count] = writer_data(&cred[count]);
        writer_free(&arg);
    }
    qsort(creds, count, sizeof(creds[0]), by_bytes);
    for (size_t i = 0; i < count; i++)
        write_data32(out, creds[i]);
    for (size_t i = 0; i < count; i++)
        writer_free(&cred[i]);
    writer_free(&uuids);
}

static inline void
dump(struct writer *out)
{
    writer_reset(out);
    dump_one(name_a, out);
    write_string(out, "and");
    dump_one(name_b, out);
}

/* --- changes ------------------------------------------------------------- */

/* Called, if set, when the arguments of a change are made. */
static void (*about_to_change)(void);

static inline void
begin(void)
{
    if (about_to_change != NULL)
        about_to_change();
}

static struct kcm_snapshot *
fetch(const char *name)
{
    struct kcm_known known = {0};
    kcm_start(kcm, &caller);
    int r = kcm_fetch(kcm, &caller, name, &known);
    ck_assert_msg(r == 0 || r == KCM_NOT_FOUND, "%d", r);
    return known.snapshot;
}

static inline int
do_initialize(const struct kcm_snapshot *old)
{
    struct writer w = {0};
    (void)old;
    sample_principal(&w, "carol@EX.ORG");
    begin();
    int r = kcm_initialize(kcm, &caller, name_a, writer_data(&w), 0, NULL);
    writer_free(&w);
    return r;
}

static inline int
do_store(const struct kcm_snapshot *old)
{
    struct writer w = {0};
    (void)old;
    sample_cred(&w, &(struct sample){.flags = 20});
    struct data d = writer_data(&w);
    begin();
    int r = kcm_store(kcm, &caller, name_a, &d, 1, NULL);
    writer_free(&w);
    return r;
}

static inline int
do_edit(const struct kcm_snapshot *old)
{
    static const bool remove[5] = {false, true, false, true, false};
    struct writer w = {0};
    sample_cred(&w, &(struct sample){.flags = 20});
    struct data d = writer_data(&w);
    begin();
    int r = kcm_edit(kcm, &caller, name_a, old, remove, &d, 1);
    writer_free(&w);
    return r;
}

static inline int
do_remove(const struct kcm_snapshot *old)
{
    static const bool remove[5] = {true, false, false, true, false};
    begin();
    return kcm_edit(kcm, &caller, name_a, old, remove, NULL, 0);
}

/* One alone, of which a request may not even begin. */
static inline int
do_remove_one(const struct kcm_snapshot *old)
{
    static const bool remove[5] = {true};
    begin();
    return kcm_edit(kcm, &caller, name_a, old, remove, NULL, 0);
}

static inline int
do_replace(const struct kcm_snapshot *old)
{
    struct writer p = {0}, a = {0}, b = {0};
    sample_principal(&p, "dave@EX.ORG");
    sample_cred(&a, &(struct sample){.flags = 30});
    sample_cred(&b, &(struct sample){.flags = 31});
    struct data creds[2] = {writer_data(&a), writer_data(&b)};
    struct kcm_content content = {writer_data(&p), 8, creds, 2};
    begin();
    int r = kcm_replace(kcm, &caller, name_a, old, &content);
    writer_free(&p);
    writer_free(&a);
    writer_free(&b);
    return r;
}

static inline int
do_destroy(const struct kcm_snapshot *old)
{
    (void)old;
    begin();
    return kcm_destroy(kcm, &caller, name_a, NULL);
}

static inline int
do_move(const struct kcm_snapshot *old)
{
    (void)old;
    begin();
    return kcm_move(kcm, &caller, name_b, name_a);
}

static const struct change {
    int (*run)(const struct kcm_snapshot *old);
    bool steps; /* of several requests that are not undone */
} changes[] = {
    {do_initialize, true}, {do_store, false},      {do_edit, true},
    {do_remove, true},     {do_replace, false},    {do_destroy, false},
    {do_move, false},      {do_remove_one, false},
};
#define CHANGES ((int)(sizeof(changes) / sizeof(changes[0])))

/* No work cache is left. */
static inline void
check_tidy(void)
{
    struct kcm_listing *l;
    kcm_start(kcm, &caller);
    ck_assert_int_eq(kcm_list_all(kcm, &caller, NULL, &l), 0);
    for (size_t i = 0; i < l->count; i++)
        ck_assert_ptr_null(strstr(l->caches[i].name, KCM_WORK_PREFIX));
    kcm_listing_free(l);
}

static inline int
run(const struct change *change)
{
    struct kcm_snapshot *old = fetch(name_a);
    kcm_start(kcm, &caller);
    int r = change->run(old);
    kcm_snapshot_unref(old);
    return r;
}

#endif
