/*
 * SipHash-2-4 (Aumasson and Bernstein, 2012), twice under two keys, added up
 * over the entries.
 */
#include "digest.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static uint64_t key[2][2]; /* set once */

static void
make_key(void)
{
    if (getrandom(key, sizeof(key), 0) != sizeof(key))
        key[0][0] = (uintptr_t)&key_once; /* no secret hangs on it */
}

static uint64_t
rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static void
rounds(uint64_t v[4], unsigned count)
{
    while (count-- > 0) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static uint64_t
siphash(const uint64_t k[2], struct data d)
{
    uint64_t v[4] = {k[0] ^ 0x736f6d6570736575u, k[1] ^ 0x646f72616e646f6du,
                     k[0] ^ 0x6c7967656e657261u, k[1] ^ 0x7465646279746573u};
    uint64_t word;
    size_t at = 0;
    for (; at + 8 <= d.len; at += 8) {
        memcpy(&word, d.p + at, 8);
        v[3] ^= word;
        rounds(v, 2);
        v[0] ^= word;
    }
    word = 0;
    if (d.len > at)
        memcpy(&word, d.p + at, d.len - at);
    word |= (uint64_t)d.len << 56;
    v[3] ^= word;
    rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void
add(struct digest *out, struct data d)
{
    for (int i = 0; i < 2; i++)
        out->sum[i] += siphash(key[i], d);
}

struct digest
image_digest(const struct image *i)
{
    struct digest out = {{0, 0}};
    pthread_once(&key_once, make_key);
    struct data all = image_bytes(i);
    add(&out, (struct data){all.p, i->body});
    for (size_t n = 0; n < i->count; n++)
        if (!image_entries(i)[n].removed)
            add(&out, image_entry_bytes(i, n));
    return out;
}

bool
digest_equal(const struct digest *a, const struct digest *b)
{
    return a->sum[0] == b->sum[0] && a->sum[1] == b->sum[1];
}
