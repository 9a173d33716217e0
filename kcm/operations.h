/*
 * The KCM operations, between the bytes of a request and the store.
 */
#ifndef KCM_OPERATIONS_H
#define KCM_OPERATIONS_H

#include "store.h"

/* One request: the locked user, what follows the opcode, and where the
 * result (what follows the inner status) is appended. */
struct call {
    struct store_user *user;
    struct reader args;
    struct writer *reply;
};

struct operation {
    const char *name;
    /* Gives the wire code, 0 for success.  What it appended counts only
     * then; on failure nothing has changed. */
    int32_t (*run)(struct call *c);
};

/*
 * NULL for an operation that there is not: GET_CRED_LIST and REPLACE
 * without mit_extensions, GET_INITIAL_TICKET and GET_TICKET (this daemon
 * talks to no KDC), those for NTLM, and unknown ones.
 */
const struct operation *operation_find(unsigned opcode, bool mit_extensions);

#endif
