/*
 * Names of caches, principals and UUIDs as file names, and back.
 */
#include "../../fs/tree.h"
#include "fuzz.h"

static void
check_file_name(const char *name, const char *original)
{
    assert(name != NULL);
    assert(strlen(name) <= 3 * strlen(original));
    assert(name[0] != '.' || original[0] == ':');
    assert(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
    for (const char *p = name; *p != '\0'; p++)
        assert(*p >= ' ' && *p < 127 && *p != '/' && *p != ':');
}

static void
check_text(const char *text)
{
    char *name = name_escape(text), *back;
    check_file_name(name, text);
    back = name_unescape(name);
    if (text[0] != '\0')
        assert(back != NULL && strcmp(back, text) == 0);
    free(back);
    free(name);
    name = name_of_principal(text);
    check_file_name(name, text);
    back = name_unescape_text(name);
    assert(back != NULL);
    free(back);
    free(name);
    /* As somebody might type it. */
    back = name_unescape(text);
    if (back != NULL) {
        name = name_escape(back);
        assert(strcmp(name, text) == 0);
        free(name);
    }
    free(back);
    back = name_unescape_text(text);
    assert(back == NULL || strlen(back) <= strlen(text));
    free(back);
}

static void
check_uuid(const char *text)
{
    uint8_t uuid[KCM_UUID_LEN];
    char again[37];
    if (!uuid_parse_text(text, uuid))
        return;
    uuid_format_text(uuid, again);
    assert(strcmp(text, again) == 0);
}

/* Many names, some alike: each its own in the end. */
static void
check_unique(struct data d)
{
    struct ticket_name names[32] = {{0}};
    size_t count = 0;
    struct reader r;
    reader_init(&r, d.p, d.len);
    while (count < 32 && reader_left(&r) > 0) {
        struct data one = some_data(&r, read_u8(&r) % 4);
        char text[8] = "";
        for (size_t i = 0; i < one.len; i++)
            text[i] = "a#2b"[one.p[i] % 4];
        names[count].name = strdup(text);
        names[count].index = count;
        count++;
    }
    assert(names_make_unique(names, count) == 0);
    for (size_t i = 1; i < count; i++)
        assert(strcmp(names[i - 1].name, names[i].name) < 0);
    for (size_t i = 0; i < count; i++)
        free(names[i].name);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char *text = malloc(len + 1);
    assert(text != NULL);
    if (len > 0)
        memcpy(text, bytes, len);
    text[len] = '\0';
    check_text(text);
    check_uuid(text);
    check_unique((struct data){bytes, len});
    free(text);
    return 0;
}
