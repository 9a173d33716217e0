/*
 * What the fuzz targets share.  Each target is a fuzz_NAME.c with the
 * libFuzzer entry; main.c makes a plain program of it that runs the files
 * that it is given, which is what AFL++ and a replay need.
 *
 * The properties are plain assertions: any input that breaks one ends the
 * process.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../unit/samples.h"

/* Nothing has to wait for anybody: what hangs is the fuzzer's to notice, and
 * a process that was stopped for a while has done nothing wrong. */
#define PATIENCE_MS 600000

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* A copy that ends where its memory ends, so that reading past it shows. */
static inline uint8_t *
exact_copy(struct data d)
{
    uint8_t *p = malloc(d.len > 0 ? d.len : 1);
    assert(p != NULL);
    if (d.len > 0)
        memcpy(p, d.p, d.len);
    return p;
}

/* Bytes of the input, cut where it ends. */
static inline struct data
some_data(struct reader *r, size_t len)
{
    size_t left = reader_left(r);
    return read_data(r, len < left ? len : left);
}

/* A principal or one of its kind, few enough that they meet again. */
static inline const char *
some_principal(unsigned n)
{
    static const char *const list[] = {
        "alice@EX.ORG",         "krbtgt/EX.ORG@EX.ORG",
        "host/a@EX.ORG",        "host/b@EX.ORG",
        "bob@EX.ORG",           "krbtgt/EX.COM@EX.ORG",
        "krbtgt/EX.COM@EX.COM", "a/b/c@X",
    };
    return list[n % (sizeof(list) / sizeof(list[0]))];
}

/* A credential that the next bytes of the input choose. */
static inline void
some_cred(struct reader *r, struct writer *w)
{
    static const char *const texts[] = {NULL, "", "one", "another"};
    uint8_t names = read_u8(r), kind = read_u8(r), times = read_u8(r);
    if (names >= 0xe0) {
        struct writer client = {0};
        sample_principal(&client, some_principal(0));
        cred_write_config(w, writer_data(&client), TEXT(names & 1 ? "k" : "l"),
                          TEXT(names & 2 ? "x@Y" : ""),
                          TEXT(kind & 1 ? "yes" : "no"));
        writer_free(&client);
        return;
    }
    struct sample s = {
        .client = some_principal(names >> 6 ? 0 : 4),
        .server = some_principal(names & 7),
        .enctype = kind & 1 ? 18 : 17,
        .authtime = 1 + (times & 3),
        .starttime = times >> 2 & 3,
        .endtime = 10 + (times >> 4 & 3),
        .renew_till = times >> 6,
        .is_skey = kind >> 1 & 1,
        .flags = kind & 4 ? 0x40000000 : 0,
        .address = kind & 8 ? "addr" : NULL,
        .authdata = kind & 16 ? "data" : NULL,
        .ticket = texts[kind >> 5 & 3],
        .second = kind & 128 ? "second" : NULL,
    };
    sample_cred(w, &s);
}

#endif
