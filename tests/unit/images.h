/*
 * Snapshots and their images for unit tests.
 */
#ifndef TESTS_IMAGES_H
#define TESTS_IMAGES_H

#include <check.h>

#include "../../kcm/image.h"
#include "samples.h"

#define MOST 16

/* Credentials from which the tests choose, and the canonical order of all:
 * the TGT, tickets by start time, configuration. */
static const struct sample samples[] = {
    {.server = "krbtgt/EX.ORG@EX.ORG", .starttime = 50, .endtime = 90},
    {.server = "host/a@EX.ORG", .starttime = 10, .endtime = 90},
    {.server = "krbtgt/EX.COM@EX.ORG", .starttime = 20, .endtime = 90},
    {.server = "host/b@EX.ORG", .authtime = 30, .endtime = 90},
    {.server = "host/a@EX.ORG", .starttime = 40, .enctype = 17, .endtime = 90},
    {.server = "host/a@EX.ORG",
     .starttime = 60,
     .second = "u2u",
     .endtime = 90},
    {.server = "krb5_ccache_conf_data/a@X-CACHECONF:"},
    {.server = "krb5_ccache_conf_data/b@X-CACHECONF:"},
};
#define SAMPLES ((size_t)(sizeof(samples) / sizeof(samples[0])))

static struct writer w;

static inline struct kcm_snapshot *
empty(int32_t offset)
{
    struct kcm_snapshot *s =
        calloc(1, sizeof(*s) + MOST * sizeof(s->creds[0]));
    s->refs = 1;
    s->kdc_offset = offset;
    writer_reset(&w);
    sample_principal(&w, "alice@EX.ORG");
    s->principal = blob_new(w.p, w.len);
    return s;
}

static inline void
add(struct kcm_snapshot *s, const struct sample *sample)
{
    writer_reset(&w);
    sample_cred(&w, sample);
    ck_assert_uint_lt(s->count, MOST);
    s->creds[s->count++].bytes = blob_new(w.p, w.len);
}

/* A snapshot of the samples in this order. */
static inline struct kcm_snapshot *
snapshot(const char *order)
{
    struct kcm_snapshot *s = empty(0);
    for (; *order != '\0'; order++)
        add(s, &samples[*order - '0']);
    return s;
}

static inline struct image *
render(struct kcm_snapshot *s)
{
    struct image *i;
    ck_assert_int_eq(image_render(s, &i), 0);
    return i;
}

/* Entries follow each other and are what they say. */
static inline void
check_table(const struct image *i)
{
    size_t at = i->body;
    for (size_t n = 0; n < i->count; n++) {
        const struct image_entry *e = &image_entries(i)[n];
        struct cred c;
        ck_assert_uint_eq(e->offset, at);
        ck_assert(cred_parse(image_entry_bytes(i, n), &c));
        ck_assert_int_eq(cred_is_removed(&c), e->removed);
        at += e->length;
    }
    ck_assert_uint_eq(at, i->len);
    ck_assert_uint_eq(image_bytes(i).len, at);
}

#endif
