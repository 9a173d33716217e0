/*
 * The set of credentials of one cache (see store.h).
 */
#ifndef KCM_CREDS_H
#define KCM_CREDS_H

#include "store.h"

/*
 * Add cred as store_add() does.  room is what the set may grow by: -EDQUOT
 * when that is not enough.
 */
int creds_add(struct store_creds *set, struct data cred, size_t room);
void creds_remove(struct store_creds *set, struct store_cred *entry);
size_t creds_remove_matching(struct store_creds *set, const struct match *m);
void creds_clear(struct store_creds *set);

/* A random (version 4) uuid. */
void uuid_make(uint8_t out[KCM_UUID_LEN]);
uint64_t uuid_hash(const uint8_t *uuid);

#endif
