/*
 * Faults on purpose (kcmd --fault).
 */
#include "fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool
parse_kind(const char *text, enum fault_kind *out)
{
    static const char *const names[] = {
        [FAULT_DIE] = "die",
        [FAULT_DIE_AFTER] = "die-after",
        [FAULT_HANG] = "hang",
        [FAULT_REFUSE] = "refuse",
    };
    for (int i = FAULT_DIE; i <= FAULT_REFUSE; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum fault_kind)i;
            return true;
        }
    }
    return false;
}

bool
fault_parse(const char *text, struct fault *out)
{
    char *end;
    *out = (struct fault){.opcode = FAULT_ANY_OPCODE};
    if (strncmp(text, "any:", 4) == 0) {
        text += 3;
    } else {
        unsigned long opcode = strtoul(text, &end, 0);
        if (end == text || opcode > FAULT_ANY_OPCODE)
            return false;
        out->opcode = (unsigned)opcode;
        text = end;
    }
    if (*text != ':')
        return false;
    out->countdown = strtoul(text + 1, &end, 10);
    return out->countdown > 0 && *end == ':' &&
           parse_kind(end + 1, &out->kind);
}

enum fault_kind
fault_next(struct fault *fault, unsigned opcode)
{
    if (fault->kind == FAULT_NONE ||
        (fault->opcode != FAULT_ANY_OPCODE && fault->opcode != opcode))
        return FAULT_NONE;
    /* Past zero it wraps, and does not come back within a test's time. */
    unsigned long left =
        __atomic_sub_fetch(&fault->countdown, 1, __ATOMIC_RELAXED);
    if (left != 0)
        return FAULT_NONE;
    if (fault->kind == FAULT_DIE)
        fault_die();
    return fault->kind;
}

void
fault_die(void)
{
    kill(getpid(), SIGKILL);
    _exit(99);
}
