/*
 * The command line of kcmfs, as a person or mount(8) writes it.
 *
 * input = arguments, each with a NUL behind it; the first is the program's
 * name
 */
#include <errno.h>

#include "../../fs/options.h"
#include "fuzz.h"

#define ARGUMENTS 12

static void
check_options(const struct options *o)
{
    assert(o->action <= OPTIONS_FAKE);
    if (o->action != OPTIONS_MOUNT)
        return;
    assert(o->mountpoint != NULL);
    assert(o->timeout > 0 && o->idle > 0);
    assert(!o->debug || o->foreground);
    assert(o->socket == NULL || o->socket[0] == '/' ||
           strcmp(o->socket, "-") == 0);
    /* What belongs to us, or is not for us to decide, goes no further. */
    static const char *const never[] = {"uid=", "gid=", "kernel_cache",
                                        "auto_cache", "timeout="};
    for (size_t i = 0; o->mount_options != NULL && i < 5; i++)
        assert(strncmp(o->mount_options, never[i], strlen(never[i])) != 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char *text = malloc(len + 1), *argv[ARGUMENTS + 1], *error;
    struct options o;
    int argc = 0;
    assert(text != NULL);
    if (len > 0)
        memcpy(text, bytes, len);
    text[len] = '\0';
    for (size_t at = 0; at <= len && argc < ARGUMENTS;
         at += strlen(text + at) + 1)
        argv[argc++] = text + at;
    argv[argc] = NULL;
    int r = options_parse(argc, argv, &o, &error);
    assert(r == 0 || r == EXIT_USAGE);
    assert((r == 0) == (error == NULL));
    if (r == 0)
        check_options(&o);
    free(error);
    options_free(&o);
    free(text);
    return 0;
}
