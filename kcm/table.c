/*
 * Intrusive hash tables and the keyed hash that they are used with.
 */
#include "table.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>

static uint64_t seed;
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void
make_seed(void)
{
    /* Before the kernel's generator is ready there is nobody to attack. */
    if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
        seed = (uintptr_t)&seed;
    seed |= 1;
}

/* A multiply whose high half is folded in: every input bit reaches the low
 * bits that choose a bucket. */
static uint64_t
mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t
hash_more(uint64_t so_far, struct data d)
{
    static const uint64_t odd = 0x9e3779b97f4a7c15u;
    pthread_once(&seed_once, make_seed);
    uint64_t h = mix(so_far ^ seed, odd ^ d.len), word;
    size_t i = 0;
    for (; i + sizeof(word) <= d.len; i += sizeof(word)) {
        memcpy(&word, d.p + i, sizeof(word));
        h = mix(h ^ word, odd ^ seed);
    }
    if (i < d.len) {
        word = 0;
        memcpy(&word, d.p + i, d.len - i);
        h = mix(h ^ word, odd ^ seed);
    }
    return h;
}

uint64_t
hash_data(struct data d)
{
    return hash_more(0, d);
}

static struct table_link **
bucket(struct table *t, uint64_t hash)
{
    if (t->buckets == NULL)
        return &t->few[hash & (TABLE_FEW - 1)];
    return &t->buckets[hash & (t->size - 1)];
}

/* Links with one hash keep their order, whatever the table does. */
static void
append(struct table *t, struct table_link *link)
{
    struct table_link **at = bucket(t, link->hash);
    while (*at != NULL)
        at = &(*at)->next;
    link->next = NULL;
    *at = link;
}

/* Double the buckets; without memory the chains get longer, no more. */
static void
grow(struct table *t)
{
    size_t old_size = t->buckets == NULL ? TABLE_FEW : t->size;
    struct table old = *t;
    struct table_link **buckets =
        calloc(old_size * 4, sizeof(struct table_link *));
    if (buckets == NULL)
        return;
    t->buckets = buckets;
    t->size = old_size * 4;
    memset(t->few, 0, sizeof(t->few));
    for (size_t i = 0; i < old_size; i++) {
        struct table_link *link =
            old.buckets == NULL ? old.few[i] : old.buckets[i];
        while (link != NULL) {
            struct table_link *next = link->next;
            append(t, link);
            link = next;
        }
    }
    free(old.buckets);
}

void
table_insert(struct table *t, struct table_link *link, uint64_t hash)
{
    if (t->count >= (t->buckets == NULL ? TABLE_FEW : t->size))
        grow(t);
    link->hash = hash;
    append(t, link);
    t->count++;
}

void
table_remove(struct table *t, struct table_link *link)
{
    struct table_link **at = bucket(t, link->hash);
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    link->next = NULL;
    t->count--;
}

struct table_link *
table_find(const struct table *t, uint64_t hash)
{
    struct table_link *link = *bucket((struct table *)t, hash);
    while (link != NULL && link->hash != hash)
        link = link->next;
    return link;
}

struct table_link *
table_next(const struct table_link *link)
{
    struct table_link *next = link->next;
    while (next != NULL && next->hash != link->hash)
        next = next->next;
    return next;
}

void
table_free(struct table *t)
{
    free(t->buckets);
    *t = (struct table){0};
}
