/*
 * How fetch.c makes a snapshot: of a list of UUIDs, then of what was known
 * before, then of what the daemon is asked for.
 */
#ifndef KCM_SNAPSHOT_H
#define KCM_SNAPSHOT_H

#include "kcm.h"

/* Without principal and credentials; NULL without memory. */
struct kcm_snapshot *snapshot_new(struct data uuids);
/* Are these its UUIDs, in this order?  s may be NULL. */
bool snapshot_has_uuids(const struct kcm_snapshot *s, struct data uuids);
bool snap_cred_is_missing(const struct kcm_snap_cred *c);
/* Take over the credentials that from (may be NULL) has; *missing_out are
 * still missing. */
int snapshot_inherit(struct kcm_snapshot *s, const struct kcm_snapshot *from,
                     size_t *missing_out);

#endif
