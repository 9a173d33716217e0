/*
 * kcmls: the caller's KCM caches and the tickets in them, by kcm/ alone.
 *
 *     kcmls [SOCKET]
 *
 * It knows nothing of FUSE: what it shows, kcmfs shows as files.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kcm/conf.h"
#include "kcm/cred.h"
#include "kcm/describe.h"
#include "kcm/kcm.h"

#define TIMEOUT_MS 10000

static int
fail(const char *what, int r)
{
    fprintf(stderr, "kcmls: %s: %s\n", what,
            r < 0 ? strerror(-r) : "the KCM daemon refuses");
    return 1;
}

static void
print_cred(const struct blob *bytes)
{
    struct cred c;
    _cleanup_(freep) char *server = NULL;
    if (bytes == NULL ||
        !cred_parse((struct data){bytes->bytes, bytes->len}, &c) ||
        describe_principal(c.server.raw, &server) != 0) {
        printf("    (not a credential)\n");
        return;
    }
    printf("    %s%s, ends %u, %zu bytes\n",
           cred_is_config(&c) ? "config " : "", server, c.endtime, c.raw.len);
}

static int
print_cache(struct kcm *kcm, const struct caller *caller,
            const struct kcm_cache *cache, const char *primary)
{
    struct kcm_known known = {0};
    _cleanup_(freep) char *principal = NULL;
    int r = kcm_fetch(kcm, caller, cache->name, &known);
    _cleanup_(kcm_snapshot_unrefp) struct kcm_snapshot *s = known.snapshot;
    printf("KCM:%s%s\n", cache->name,
           strcmp(cache->name, primary) == 0 ? " (default)" : "");
    if (r == KCM_NOT_FOUND) {
        printf("  not initialised\n");
        return 0;
    }
    if (r != 0)
        return fail(cache->name, r);
    struct data d = {s->principal->bytes, s->principal->len};
    if (describe_principal(d, &principal) == 0)
        printf("  %s\n", principal);
    for (size_t i = 0; i < s->count; i++)
        print_cred(s->creds[i].bytes);
    return 0;
}

static int
list(struct kcm *kcm)
{
    struct caller caller = {.uid = geteuid(), .gid = getegid()};
    _cleanup_(kcm_listing_freep) struct kcm_listing *l = NULL;
    _cleanup_(freep) char *primary = NULL;
    caller.wake = wake_mine();
    if (caller.wake == NULL)
        return fail("eventfd", -1);
    kcm_start(kcm, &caller);
    int r = kcm_list(kcm, &caller, NULL, &l);
    if (r == 0)
        r = kcm_get_default(kcm, &caller, &primary);
    if (r != 0)
        return fail("list", r);
    int status = 0;
    for (size_t i = 0; i < l->count; i++) {
        kcm_start(kcm, &caller);
        status |= print_cache(kcm, &caller, &l->caches[i], primary);
    }
    return status;
}

int
main(int argc, char **argv)
{
    _cleanup_(freep) char *socket = NULL;
    struct kcm *kcm;
    if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
        fprintf(stderr, "usage: kcmls [SOCKET]\n");
        return 2;
    }
    int r = argc == 2 ? (socket = strdup(argv[1])) != NULL ? 0 : -1
                      : kcm_conf_socket(&socket);
    if (r == 0 && socket == NULL) {
        fprintf(stderr, "kcmls: kcm_socket is - in krb5.conf: name one\n");
        return 2;
    }
    struct kcm_config config = {.socket_path = socket,
                                .timeout_ms = TIMEOUT_MS};
    if (r == 0)
        r = kcm_new(&config, &kcm);
    if (r != 0)
        return fail("start", r);
    int status = list(kcm);
    kcm_free(kcm);
    return status;
}
