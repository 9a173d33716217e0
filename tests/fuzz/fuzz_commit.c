/*
 * Changes to caches: edits, replacements and moves through kcm.h on an
 * embedded server of several kinds, some with a request that is refused on
 * the way.  What is read back is what a model says; after a change that
 * failed it is what was there before.
 *
 * input = u8 kind of server, u8 which request is refused, steps
 */
#define KCM_INTERNAL
#include <errno.h>
#include <unistd.h>

#include "../../kcm/fault.h"
#include "../../kcm/image.h"
#include "../../kcm/log.h"
#include "../../kcm/server.h"
#include "fuzz.h"

#define ROOM   64u
#define STEPS  12
#define CACHES 2

/* What a cache should hold. */
struct model {
    bool exists;
    struct blob *principal;
    int32_t offset;
    struct blob *creds[ROOM];
    size_t count;
};

static const char *const names[CACHES] = {"1:a", "1:b"};
static struct model models[CACHES];
static struct kcm *kcm;
static bool scarce; /* a quota that is soon reached */
static struct caller caller;
static struct fault fault;

static struct data
data_of(const struct blob *b)
{
    return (struct data){b->bytes, b->len};
}

static void
model_clear(struct model *m)
{
    for (size_t i = 0; i < m->count; i++)
        blob_unref(m->creds[i]);
    blob_unref(m->principal);
    *m = (struct model){0};
}

static struct model
model_copy(const struct model *m)
{
    struct model n = *m;
    for (size_t i = 0; i < n.count; i++)
        blob_ref(n.creds[i]);
    if (n.principal != NULL)
        blob_ref(n.principal);
    return n;
}

/* As kcmd stores: the same bytes once, a configuration entry per name. */
static void
model_add(struct model *m, struct data d)
{
    struct cred c, other;
    assert(cred_parse(d, &c));
    for (size_t i = 0; i < m->count; i++) {
        struct data have = data_of(m->creds[i]);
        assert(cred_parse(have, &other));
        if (data_equal(have, d))
            return;
        if (!cred_is_config(&c) || !cred_is_config(&other) ||
            !principal_equal(&c.server, &other.server) ||
            !principal_equal(&c.client, &other.client))
            continue;
        blob_unref(m->creds[i]);
        m->creds[i] = blob_new(d.p, d.len);
        return;
    }
    assert(m->count < ROOM);
    m->creds[m->count++] = blob_new(d.p, d.len);
}

static void
model_start(struct model *m, struct data principal, int32_t offset)
{
    model_clear(m);
    m->exists = true;
    m->principal = blob_new(principal.p, principal.len);
    m->offset = offset;
}

static bool
model_has(const struct model *m, struct data d)
{
    for (size_t i = 0; i < m->count; i++)
        if (data_equal(data_of(m->creds[i]), d))
            return true;
    return false;
}

/* Does s hold just that?  Neither holds the same bytes twice. */
static bool
model_is(const struct model *m, const struct kcm_snapshot *s)
{
    if (!m->exists || s == NULL)
        return !m->exists && s == NULL;
    if (s->kdc_offset != m->offset || s->count != m->count ||
        !data_equal(data_of(s->principal), data_of(m->principal)))
        return false;
    for (size_t i = 0; i < s->count; i++)
        if (!model_has(m, data_of(s->creds[i].bytes)))
            return false;
    return true;
}

/* It counts down to 0, happens, and goes on below. */
static bool
is_armed(void)
{
    return fault.countdown > 0 && fault.countdown <= UINT8_MAX;
}

static struct kcm_snapshot *
fetch(const char *name)
{
    struct kcm_known known = {0};
    fault.kind = FAULT_NONE; /* what is checked here is the change */
    kcm_start(kcm, &caller);
    int r = kcm_fetch(kcm, &caller, name, &known);
    assert(r == 0 || r == KCM_NOT_FOUND);
    fault.kind = FAULT_REFUSE;
    return known.snapshot;
}

/* Credentials of the input, new to the cache or not. */
struct creds {
    struct writer bytes[4];
    struct data list[4];
    size_t count;
};

static void
some_creds(struct reader *in, struct creds *c)
{
    *c = (struct creds){.count = read_u8(in) & 3};
    for (size_t i = 0; i < c->count; i++) {
        some_cred(in, &c->bytes[i]);
        c->list[i] = writer_data(&c->bytes[i]);
    }
}

static void
free_creds(struct creds *c)
{
    for (size_t i = 0; i < c->count; i++)
        writer_free(&c->bytes[i]);
}

static int
store(struct reader *in, const char *name, struct model *want)
{
    struct creds c;
    size_t stored;
    some_creds(in, &c);
    int r = kcm_store(kcm, &caller, name, c.list, c.count, &stored);
    assert(r != 0 || stored == c.count);
    for (size_t i = 0; i < stored; i++)
        model_add(want, c.list[i]);
    free_creds(&c);
    return r;
}

static int
edit(struct reader *in, const char *name, struct model *want)
{
    struct kcm_snapshot *old = fetch(name);
    struct creds c;
    bool remove[ROOM] = {false};
    uint32_t mask = read_u16(in);
    some_creds(in, &c);
    if (old == NULL) {
        free_creds(&c);
        return 0;
    }
    struct model next = {0};
    model_start(&next, data_of(old->principal), old->kdc_offset);
    for (size_t i = 0; i < old->count; i++) {
        remove[i] = mask >> i % 16 & 1;
        if (!remove[i])
            model_add(&next, data_of(old->creds[i].bytes));
    }
    for (size_t i = 0; i < c.count; i++)
        model_add(&next, c.list[i]);
    int r = kcm_edit(kcm, &caller, name, old, remove, c.list, c.count);
    model_clear(want);
    *want = next;
    free_creds(&c);
    kcm_snapshot_unref(old);
    return r;
}

/* Rewrite the file: its canonical image, with marks and appended bytes. */
static void
rewrite(struct reader *in, const struct kcm_snapshot *old, struct writer *w)
{
    struct image *i;
    struct cred c;
    assert(image_render(old, &i) == 0);
    write_bytes(w, image_bytes(i).p, i->body);
    uint32_t mask = read_u16(in);
    for (size_t n = 0; n < i->count; n++) {
        assert(cred_parse(image_entry_bytes(i, n), &c));
        if (mask >> n % 16 & 1)
            cred_write_removed(w, &c);
        else
            write_data(w, c.raw);
    }
    image_unref(i);
}

static int
replace(struct reader *in, const char *name, struct model *want)
{
    struct kcm_snapshot *old = fetch(name);
    struct writer w = {0};
    struct image_file f;
    struct creds c;
    struct cred cred;
    struct data live[ROOM];
    size_t count = 0;
    if (old != NULL && read_u8(in) & 1) {
        rewrite(in, old, &w);
    } else {
        uint8_t offset = read_u8(in) & 3;
        write_u16(&w, 0x0504);
        write_u16(&w, offset > 0 ? 12 : 0);
        if (offset > 0)
            write_u32(&w, 0x00010008);
        if (offset > 0)
            write_u32(&w, offset);
        if (offset > 0)
            write_u32(&w, 0);
        sample_principal(&w, some_principal(read_u8(in)));
    }
    some_creds(in, &c);
    for (size_t i = 0; i < c.count; i++)
        write_data(&w, c.list[i]);
    assert(image_parse(writer_data(&w), &f) == 0 && f.whole == w.len);
    for (size_t i = 0; i < f.count; i++)
        if (cred_parse(f.creds[i], &cred) && !cred_is_removed(&cred))
            live[count++] = f.creds[i];
    struct kcm_content content = {f.principal, f.kdc_offset, live, count};
    model_start(want, f.principal, f.kdc_offset);
    for (size_t i = 0; i < count; i++)
        model_add(want, live[i]);
    int r = kcm_replace(kcm, &caller, name, old, &content);
    free_creds(&c);
    image_file_free(&f);
    writer_free(&w);
    kcm_snapshot_unref(old);
    return r;
}

/* Nothing of ours is left lying about. */
static void
check_leftovers(void)
{
    struct kcm_listing *l;
    fault.kind = FAULT_NONE;
    kcm_start(kcm, &caller);
    assert(kcm_list_all(kcm, &caller, NULL, &l) == 0);
    for (size_t i = 0; i < l->count; i++)
        assert(strstr(l->caches[i].name, KCM_WORK_PREFIX) == NULL);
    kcm_listing_free(l);
    fault.kind = FAULT_REFUSE;
}

static int
change(struct reader *in, uint8_t operation, unsigned n, struct model *want,
       struct model *other)
{
    const char *name = names[n];
    struct writer w = {0};
    int r;
    switch (operation % 8) {
    case 0:
        return store(in, name, want);
    case 1:
        r = kcm_destroy(kcm, &caller, name, NULL);
        model_clear(want);
        return r;
    case 2:
        r = kcm_move(kcm, &caller, names[1 - n], name);
        if (!other->exists)
            return r;
        model_clear(want);
        *want = *other;
        *other = (struct model){0};
        return r;
    case 3:
        sample_principal(&w, some_principal(read_u8(in)));
        model_start(want, writer_data(&w), read_u8(in) & 1 ? 7 : 0);
        r = kcm_initialize(kcm, &caller, name, writer_data(&w), want->offset,
                           NULL);
        writer_free(&w);
        return r;
    case 4:
    case 5:
        return replace(in, name, want);
    default:
        return edit(in, name, want);
    }
}

/* False when there is no telling any more how it should be. */
static bool
step(struct reader *in)
{
    uint8_t operation = read_u8(in);
    unsigned n = operation >> 7;
    struct model want[CACHES] = {model_copy(&models[0]),
                                 model_copy(&models[1])};
    bool armed = is_armed();
    kcm_start(kcm, &caller);
    int r = change(in, operation, n, &want[n], &want[1 - n]);
    bool happened = armed && !is_armed();
    if (getenv("FUZZ_TRACE") != NULL)
        fprintf(stderr, "operation %u on %s: %d%s\n", operation % 8, names[n],
                r, happened ? ", one request refused" : "");
    /* Refused for the quota, and then the undoing was refused too. */
    if (happened && scarce) {
        model_clear(&want[0]);
        model_clear(&want[1]);
        return false;
    }
    for (unsigned i = 0; i < CACHES; i++) {
        struct kcm_snapshot *s = fetch(names[i]);
        bool is_new = model_is(&want[i], s), is_old = model_is(&models[i], s);
        if (getenv("FUZZ_TRACE") != NULL)
            fprintf(stderr, "%s: %zu creds, offset %d; wanted %zu, %d\n",
                    names[i], s != NULL ? s->count : 0,
                    s != NULL ? s->kdc_offset : 0, want[i].count,
                    want[i].offset);
        /* INITIALIZE is two requests; of many STOREs, those before the one
         * that is refused are there. */
        if (r == 0 || operation % 8 == 0)
            assert(is_new);
        else
            assert(is_old || (operation % 8 == 3 && happened));
        model_clear(&models[i]);
        model_clear(&want[i]);
        if (s == NULL)
            continue;
        model_start(&models[i], data_of(s->principal), s->kdc_offset);
        for (size_t k = 0; k < s->count; k++)
            model_add(&models[i], data_of(s->creds[k].bytes));
        kcm_snapshot_unref(s);
    }
    check_leftovers();
    return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct reader in;
    reader_init(&in, bytes, len);
    uint8_t kind = read_u8(&in);
    fault = (struct fault){.kind = FAULT_REFUSE, .opcode = FAULT_ANY_OPCODE};
    struct kcm_server_limits limits = {
        .no_mit_extensions = kind & 1,
        .bytes_per_uid = kind & 8 ? 8 * 1024 : 64 * 1024,
        .fault = &fault,
    };
    struct kcm_config config = {.timeout_ms = PATIENCE_MS};
    log_open("fuzz",
             getenv("FUZZ_TRACE") != NULL ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR,
             false);
    caller = (struct caller){.uid = 1, .gid = 1, .wake = wake_mine()};
    assert(kcm_server_new(&limits, &config.server) == 0);
    assert(kcm_new(&config, &kcm) == 0);
    kcm->move = kind & 2 ? SUPPORT_NO : SUPPORT_UNKNOWN;
    kcm->remove = kind & 4 ? SUPPORT_NO : SUPPORT_UNKNOWN;
    if (kind & 16)
        kcm->peer = PEER_SSSD;
    kcm_snapshot_unref(fetch(names[0]));
    fault.countdown = read_u8(&in);
    scarce = kind & 8;
    bool known = true;
    for (int i = 0; i < STEPS && known && reader_left(&in) > 0; i++)
        known = step(&in);
    kcm_free(kcm);
    kcm_server_free(config.server);
    for (int i = 0; i < CACHES; i++)
        model_clear(&models[i]);
    assert(secret_in_use() == 0);
    return 0;
}
