/*
 * What info and info.json both need to know of each entry of a cache.  For
 * describe_*.c alone.
 */
#ifndef KCM_DESCRIBE_ENTRY_H
#define KCM_DESCRIBE_ENTRY_H

#include <stdio.h>

#include "cred.h"
#include "describe.h"

enum entry_kind {
    ENTRY_TICKET,
    ENTRY_CONFIG,
    ENTRY_UNREADABLE,
    ENTRY_KINDS, /* how many kinds there are */
};

struct entry {
    enum entry_kind kind;
    bool superseded;
    struct cred cred;
    char *server; /* NULL where it is unreadable */
    char *client;
    bool expired;
    int64_t remaining; /* seconds until it ends, < 0: since it ended */
    bool has_ticket_enctype;
    int32_t ticket_enctype;
};

/* The nth entry of the cache; e is to be freed.  0 or -ENOMEM. */
int entry_read(const struct describe_cache *cache, size_t n, struct entry *e);
void entry_free(struct entry *e);

/* A ticket flag: klist's letter (0: it has none) and its name. */
struct flag_name {
    uint32_t value;
    char letter;
    const char *name;
};

/* The flags by klist's order, up to a row of value 0. */
extern const struct flag_name flag_names[];

/* A configuration value that people may see as it is. */
bool entry_value_shown(const struct entry *e);

/* The length of the UTF-8 character that p begins with; 0: it is none. */
size_t utf8_len(const uint8_t *p, size_t left);

/* How many entries there are of each kind. */
void entries_count(const struct describe_cache *cache,
                   size_t count_out[ENTRY_KINDS]);

void describe_put_uuid(FILE *f, const uint8_t uuid[16]);

/* What put writes, as a new string.  0, what put returned, or -ENOMEM. */
int describe_to_string(const struct describe_cache *cache,
                       int (*put)(FILE *f, const struct describe_cache *cache),
                       char **out);

/*
 * The state of the cache: the end of the last TGT of the client's realm,
 * reckoned by the KDC's clock; false if it has none.
 */
bool entries_expire(const struct describe_cache *cache, uint32_t *end_out);

#endif
