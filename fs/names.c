/*
 * Names of caches, principals and UUIDs as file names, and back.
 *
 * No name holds a ":" (paths are pasted into lists and TYPE:residual), so it
 * is written "."; a "." of a cache name is %2E, which keeps by-name forms
 * reversible.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <uuid/uuid.h>

#include "fs/tree.h"

static bool
must_escape(unsigned char c)
{
    return c < 0x20 || c > 126 || c == '/' || c == '%';
}

static char *
escape(const char *text, bool dots)
{
    static const char hex[] = "0123456789ABCDEF";
    char *out = malloc(strlen(text) * 3 + 1), *o = out;
    if (out == NULL)
        return NULL;
    for (const char *t = text; *t != '\0'; t++) {
        unsigned char c = (unsigned char)*t;
        bool dot = c == '.' && (dots || t == text);
        if (c == ':') {
            *o++ = '.';
        } else if (must_escape(c) || dot) {
            *o++ = '%';
            *o++ = hex[c >> 4];
            *o++ = hex[c & 15];
        } else {
            *o++ = (char)c;
        }
    }
    *o = '\0';
    /* ":" and "::" are no other directory. */
    if (strcmp(out, ".") == 0 || strcmp(out, "..") == 0) {
        memmove(out + 3, out + 1, (size_t)(o - out));
        memcpy(out, "%3A", 3);
    }
    return out;
}

char *
name_escape(const char *cache_name)
{
    return escape(cache_name, true);
}

char *
name_of_principal(const char *principal_text)
{
    return escape(principal_text, false);
}

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Undo %XX and, for cache names, "."; NULL for what is malformed, with EINVAL,
 * and without memory, with ENOMEM. */
static char *
unescape(const char *file_name, bool dots)
{
    _cleanup_(freep) char *out = malloc(strlen(file_name) + 1);
    char *o = out;
    if (out == NULL)
        return NULL;
    errno = EINVAL;
    for (const char *f = file_name; *f != '\0'; f++) {
        if (*f == '.' && dots) {
            *o++ = ':';
        } else if (*f == '%') {
            int high = hex_value(f[1]);
            int low = high >= 0 ? hex_value(f[2]) : -1;
            if (low < 0 || (high == 0 && low == 0))
                return NULL;
            *o++ = (char)(high << 4 | low);
            f += 2;
        } else {
            *o++ = *f;
        }
    }
    *o = '\0';
    return take(out);
}

char *
name_unescape(const char *file_name)
{
    _cleanup_(freep) char *out = unescape(file_name, true);
    if (out == NULL || out[0] == '\0')
        return NULL;
    /* One cache has one form: what would be written otherwise is none. */
    _cleanup_(freep) char *again = name_escape(out);
    if (again == NULL)
        return NULL;
    if (strcmp(again, file_name) != 0) {
        errno = EINVAL;
        return NULL;
    }
    return take(out);
}

char *
name_unescape_text(const char *file_name)
{
    return unescape(file_name, false);
}

static int
by_name(const void *x, const void *y)
{
    const struct ticket_name *a = x, *b = y;
    int order = strcmp(a->name, b->name);
    return order != 0 ? order : (a->index > b->index) - (a->index < b->index);
}

static int
by_text(const void *x, const void *y)
{
    return strcmp(*(char *const *)x, *(char *const *)y);
}

/* name#N for the smallest N from *n on that is nobody's name; *n is the next
 * one.  taken is sorted. */
static char *
numbered(const char *name, size_t *n, char *const *taken, size_t count)
{
    for (;;) {
        char *unique;
        if (asprintf(&unique, "%s#%zu", name, (*n)++) < 0)
            return NULL;
        if (bsearch(&unique, taken, count, sizeof(*taken), by_text) == NULL)
            return unique;
        free(unique); /* an entry has that name by itself */
    }
}

int
names_make_unique(struct ticket_name *names, size_t count)
{
    _cleanup_(freep) char **taken = calloc(count + 1, sizeof(*taken));
    if (taken == NULL)
        return -1;
    if (count == 0)
        return 0; /* names may be NULL */
    qsort(names, count, sizeof(*names), by_name);
    for (size_t i = 0; i < count; i++)
        taken[i] = names[i].name;
    int r = 0;
    for (size_t i = 0, next; i < count && r == 0; i = next) {
        size_t n = 2;
        next = i + 1;
        while (next < count && strcmp(taken[next], taken[i]) == 0 && r == 0) {
            names[next].name = numbered(taken[i], &n, taken, count);
            r = names[next++].name != NULL ? 0 : -1;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (names[i].name == NULL)
            names[i].name = taken[i]; /* without memory */
        else if (names[i].name != taken[i])
            free(taken[i]);
    }
    qsort(names, count, sizeof(*names), by_name);
    return r;
}

bool
uuid_parse_text(const char *text, uint8_t uuid[KCM_UUID_LEN])
{
    char again[37];
    if (strlen(text) != 36 || uuid_parse(text, uuid) != 0)
        return false;
    uuid_unparse_lower(uuid, again);
    return strcmp(text, again) == 0; /* the lower-case form alone */
}

void
uuid_format_text(const uint8_t uuid[KCM_UUID_LEN], char text[37])
{
    uuid_unparse_lower(uuid, text);
}
