/*
 * Text made of whatever a cache holds: it is text, and a principal's text
 * means that principal again.
 */
#include <errno.h>

#include "../../kcm/describe.h"
#include "../../kcm/describe_entry.h"
#include "../../kcm/image.h"
#include "fuzz.h"

static void
check_text(const char *text)
{
    size_t left = strlen(text);
    assert(left > 0 && text[left - 1] == '\n');
    while (left > 0) {
        size_t len = utf8_len((const uint8_t *)text, left);
        assert(len > 0 && len <= left);
        assert(len > 1 || (text[0] >= ' ' && text[0] != 127) ||
               text[0] == '\n');
        text += len;
        left -= len;
    }
}

/* No quotes, braces or brackets are left open. */
static void
check_json(const char *text)
{
    int depth = 0;
    bool quoted = false;
    for (const char *p = text; *p != '\0'; p++) {
        if (quoted && *p == '\\')
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (!quoted && (*p == '{' || *p == '['))
            depth++;
        else if (!quoted && (*p == '}' || *p == ']'))
            depth--;
        assert(*p != '\0' && depth >= 0);
        assert(!quoted || *p != '\n');
    }
    assert(depth == 0 && !quoted && text[0] == '{');
}

static void
check_principal(struct data d)
{
    char *text;
    struct writer back = {0};
    struct principal a, b;
    int r = describe_principal(d, &text);
    assert(r == 0 || r == -EINVAL);
    if (r != 0)
        return;
    assert(principal_parse(d, &a));
    /* One without components reads as that of an empty one. */
    r = describe_parse_principal(text, &back);
    assert(r == 0 || r == -EINVAL);
    if (r == 0) {
        assert(principal_parse(writer_data(&back), &b));
        assert(a.count == 0 || principal_equal(&a, &b));
    }
    writer_free(&back);
    free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct image_file f;
    char *info, *json;
    int32_t enctype;
    bool superseded[64];
    if (image_parse((struct data){bytes, len}, &f) != 0)
        return 0;
    if (f.has_principal && f.count <= 64) {
        struct describe_cache cache = {
            .name = "1000:a",
            .kdc_offset = f.kdc_offset,
            .principal = f.principal,
            .creds = f.creds,
            .superseded = superseded,
            .count = f.count,
            .now = 5,
            .file_size = len,
        };
        for (size_t i = 0; i < f.count; i++) {
            superseded[i] = i % 3 == 1;
            struct cred c;
            assert(cred_parse(f.creds[i], &c));
            (void)describe_ticket_enctype(c.ticket, &enctype);
            check_principal(c.server.raw);
        }
        check_principal(f.principal);
        assert(describe_info(&cache, &info) == 0);
        check_text(info);
        assert(describe_json(&cache, &json) == 0);
        check_text(json);
        check_json(json);
        free(info);
        free(json);
    }
    image_file_free(&f);
    assert(secret_in_use() == 0);
    return 0;
}
