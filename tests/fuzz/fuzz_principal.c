/*
 * Principals: reading, components, and conversion from older versions.
 */
#include "fuzz.h"

static void
check_view(struct data d)
{
    struct reader r;
    struct principal p;
    struct writer again = {0};
    reader_init(&r, d.p, d.len);
    principal_read(&r, &p);
    if (r.bad) {
        assert(!principal_parse(d, &p));
        return;
    }
    assert(p.raw.p == d.p && p.raw.len == d.len - reader_left(&r));
    write_u32(&again, p.type);
    write_u32(&again, p.count);
    write_data32(&again, p.realm);
    for (uint32_t i = 0; i < p.count && i < 1000; i++)
        write_data32(&again, principal_component(&p, i));
    assert(p.count >= 1000 || data_equal(writer_data(&again), p.raw));
    assert(principal_component(&p, p.count).len == 0);
    assert(principal_equal(&p, &p));
    for (size_t n = 0; n < p.raw.len; n++) {
        struct principal part;
        assert(!principal_parse((struct data){d.p, n}, &part));
    }
    writer_free(&again);
}

static void
check_conversion(struct data d, int version, bool little)
{
    struct reader r;
    struct principal p;
    struct writer out = {0};
    reader_init(&r, d.p, d.len);
    r.little = little;
    principal_convert(&r, version, &out);
    assert(out.len <= 2 * d.len + 16);
    if (!r.bad) {
        size_t used = d.len - reader_left(&r);
        assert(principal_parse(writer_data(&out), &p));
        assert(out.len == used + (version == 1 ? 4 : 0));
        if (version >= 2 && !little)
            assert(data_equal(p.raw, (struct data){d.p, used}));
    }
    writer_free(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct data d = {bytes, len};
    if (len > 4096)
        return 0;
    check_view(d);
    for (int version = 1; version <= 4; version++) {
        check_conversion(d, version, false);
        check_conversion(d, version, true);
    }
    return 0;
}
