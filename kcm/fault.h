/*
 * Faults on purpose, for the tests of clients: the Nth request with some
 * opcode goes wrong in a chosen way.
 */
#ifndef KCM_FAULT_H
#define KCM_FAULT_H

#include <stdbool.h>

#define FAULT_ANY_OPCODE 0xffffu

enum fault_kind {
    FAULT_NONE,
    FAULT_DIE,       /* the process ends before doing the request */
    FAULT_DIE_AFTER, /* it does the request and ends before replying */
    FAULT_HANG,      /* the request is not done and never answered */
    FAULT_REFUSE,    /* it is not done, the answer is KRB5_FCC_INTERNAL */
};

struct fault {
    enum fault_kind kind;
    unsigned opcode;
    unsigned long countdown; /* atomic: requests until it happens */
};

/* Read OPCODE:N:KIND; OPCODE is a number or "any".  False if it is not. */
bool fault_parse(const char *text, struct fault *out);

/* What is to happen to the request with this opcode that begins now. */
enum fault_kind fault_next(struct fault *fault, unsigned opcode);

/* End the process as a crash would: at once, nothing cleaned up. */
void fault_die(void) __attribute__((noreturn));

#endif
