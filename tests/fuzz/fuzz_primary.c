/*
 * The file collection/primary, and what file names in collection/ stand for.
 */
#include <errno.h>

#include "../../fs/tree.h"
#include "fuzz.h"

#define UID 1000

/* What libkrb5 needs to read the name back from primary. */
static void
check_form(const char *form)
{
    assert(strncmp(form, "tkt", 3) == 0 && strlen(form) <= 62);
    for (const char *p = form; *p != '\0'; p++)
        assert(*p >= ' ' && *p < 127 && *p != '/' && *p != '\\' && *p != ':');
}

/* A name of a cache that has a form is found by it. */
static void
check_cache(const char *cache)
{
    char *form, *again;
    uint8_t uuid[KCM_UUID_LEN];
    assert(collection_form(UID, cache, &form) == 0);
    if (form == NULL || cache[0] == '\0') {
        free(form);
        return;
    }
    check_form(form);
    int r = collection_parse(UID, form, &again, uuid);
    assert(r == 0);
    /* A cache whose name is written like a UUID is known by that. */
    assert(again == NULL ? uuid_parse_text(cache, uuid)
                         : strcmp(again, cache) == 0);
    free(again);
    free(form);
}

static void
check_file(const char *file)
{
    char *cache;
    uint8_t uuid[KCM_UUID_LEN];
    int r = collection_parse(UID, file, &cache, uuid);
    assert(r == 0 || r == KCM_NOT_FOUND);
    assert(r == 0 || cache == NULL);
    if (r == 0)
        assert(strncmp(file, "tkt", 3) == 0);
    if (cache != NULL) {
        assert(cache[0] != '\0');
        check_cache(cache);
    }
    free(cache);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char line[PRIMARY_LINE_MAX];
    char *text = malloc(len + 1);
    uint8_t *exact = exact_copy((struct data){bytes, len});
    assert(text != NULL);
    int r = primary_parse((struct data){exact, len}, line);
    assert(r == 0 || r == -EINVAL);
    assert(strlen(line) < PRIMARY_LINE_MAX && strchr(line, '\n') == NULL);
    if (r == 0 && line[0] != '\0') {
        assert(memcmp(line, exact, strlen(line)) == 0);
        assert(exact[strlen(line)] == '\n');
        check_file(line);
    } else {
        assert(line[0] == '\0');
        assert(r != 0 || len == 0 || exact[0] == '\0');
    }
    if (len > 0)
        memcpy(text, bytes, len);
    text[len] = '\0';
    check_file(text);
    check_cache(text);
    free(exact);
    free(text);
    return 0;
}
