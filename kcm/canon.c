/*
 * Canonical order.  Caches may hold ten thousand tickets whose bytes begin
 * alike: what is compared often is hashed or looked up once before.
 */
#include "canon.h"

#include <errno.h>
#include <stdlib.h>

#include "image.h"
#include "table.h"

static int
compare_u32(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int
compare_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int
compare_principals(const struct principal *a, const struct principal *b)
{
    int order = data_compare(a->realm, b->realm);
    return order != 0 ? order : data_compare(a->components, b->components);
}

static int
compare_purpose(const struct cred *a, const struct cred *b)
{
    int order = compare_principals(&a->server, &b->server);
    if (order == 0)
        order = compare_principals(&a->client, &b->client);
    if (order == 0)
        order = compare_u32(a->enctype, b->enctype);
    if (order == 0)
        order = data_compare(a->second_ticket, b->second_ticket);
    if (order == 0)
        order = data_compare(a->authdata, b->authdata);
    return order;
}

static uint64_t
hash_purpose(const struct cred *c)
{
    uint64_t h = hash_more(c->enctype, c->server.realm);
    h = hash_more(h, c->server.components);
    h = hash_more(h, c->client.realm);
    h = hash_more(h, c->client.components);
    h = hash_more(h, c->second_ticket);
    return hash_more(h, c->authdata);
}

/* By purpose, the newest last. */
static int
by_purpose(const void *x, const void *y)
{
    const struct canon_item *a = x, *b = y;
    int order = compare_u64(a->purpose, b->purpose);
    if (order == 0)
        order = compare_purpose(&a->cred, &b->cred);
    if (order == 0)
        order = compare_u32(a->start, b->start);
    if (order == 0)
        order = compare_u32(a->cred.endtime, b->cred.endtime);
    if (order == 0)
        order = compare_u64(a->index, b->index);
    return order;
}

static int
by_canon(const void *x, const void *y)
{
    const struct canon_item *a = x, *b = y;
    int order = (int)a->hidden - (int)b->hidden;
    if (order == 0)
        order = compare_u32(a->rank, b->rank);
    if (order == 0)
        order = compare_u32(a->start, b->start);
    if (order == 0)
        order = data_compare(a->cred.raw, b->cred.raw);
    return order;
}

static uint32_t
rank_of(const struct cred *c)
{
    if (cred_is_config(c))
        return 2;
    return cred_is_local_tgt(c) ? 0 : 1;
}

static void
item_init(struct canon_item *item, size_t index, const struct blob *b)
{
    item->index = index;
    item->hidden = b == NULL ||
                   !cred_parse((struct data){b->bytes, b->len}, &item->cred) ||
                   cred_is_removed(&item->cred);
    if (item->hidden) {
        item->cred = (struct cred){0};
        return;
    }
    item->purpose = hash_purpose(&item->cred);
    item->rank = rank_of(&item->cred);
    item->start = cred_start(&item->cred);
}

/* The credentials of s by purpose, with what is not shown marked. */
static struct canon_item *
sort_items(const struct kcm_snapshot *s)
{
    struct canon_item *items = calloc(s->count + 1, sizeof(*items));
    if (items == NULL)
        return NULL;
    for (size_t i = 0; i < s->count; i++)
        item_init(&items[i], i, s->creds[i].bytes);
    qsort(items, s->count, sizeof(*items), by_purpose);
    for (size_t i = 0; i + 1 < s->count; i++)
        if (!items[i].hidden && !items[i + 1].hidden &&
            cred_same_purpose(&items[i].cred, &items[i + 1].cred))
            items[i].hidden = true;
    return items;
}

int
image_superseded(const struct kcm_snapshot *s, bool *superseded)
{
    struct canon_item *items = sort_items(s);
    if (items == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++)
        superseded[items[i].index] = items[i].hidden;
    free(items);
    return 0;
}

struct canon_item *
canon_items(const struct kcm_snapshot *s, size_t *count_out)
{
    struct canon_item *items = sort_items(s);
    size_t count = 0;
    *count_out = 0;
    if (items == NULL)
        return NULL;
    qsort(items, s->count, sizeof(*items), by_canon);
    while (count < s->count && !items[count].hidden)
        count++;
    *count_out = count;
    return items;
}

/* --- by bytes ---------------------------------------------------------- */

static int
by_bytes(const void *x, const void *y)
{
    const struct canon_ref *a = x, *b = y;
    int order = compare_u64(a->hash, b->hash);
    return order != 0 ? order
                      : data_compare(a->item->cred.raw, b->item->cred.raw);
}

struct canon_ref *
canon_index(struct canon_item *items, size_t count)
{
    struct canon_ref *refs = calloc(count + 1, sizeof(*refs));
    for (size_t i = 0; refs != NULL && i < count; i++)
        refs[i] = (struct canon_ref){hash_data(items[i].cred.raw), &items[i]};
    if (refs != NULL)
        qsort(refs, count, sizeof(*refs), by_bytes);
    return refs;
}

struct canon_item *
canon_find(const struct canon_ref *refs, size_t count, struct data bytes)
{
    struct canon_item item = {.cred.raw = bytes};
    struct canon_ref key = {hash_data(bytes), &item};
    struct canon_ref *found =
        bsearch(&key, refs, count, sizeof(*refs), by_bytes);
    return found != NULL ? found->item : NULL;
}
