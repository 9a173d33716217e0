/*
 * krb5.conf through libkrb5's profile library.
 */
#include "conf.h"

#include <errno.h>
#include <krb5.h>
#include <profile.h>
#include <string.h>

#include "log.h"
#include "mem.h"
#include "proto.h"

DEFINE_CLEANUP(krb5_context, krb5_free_context)
DEFINE_CLEANUP(profile_t, profile_release)
DEFINE_CLEANUP(char *, profile_release_string)

static int
broken(krb5_context context, long code)
{
    if (code == ENOMEM)
        return -ENOMEM;
    const char *files = getenv("KRB5_CONFIG");
    const char *text = krb5_get_error_message(context, (krb5_error_code)code);
    log_error("cannot read the Kerberos configuration (%s): %s",
              files != NULL ? files : "/etc/krb5.conf", text);
    krb5_free_error_message(context, text);
    return -EINVAL;
}

int
kcm_conf_socket(char **path_out)
{
    *path_out = NULL;
    _cleanup_(krb5_free_contextp) krb5_context context = NULL;
    long code = krb5_init_context(&context);
    if (code != 0)
        return broken(NULL, code);
    _cleanup_(profile_releasep) profile_t profile = NULL;
    code = krb5_get_profile(context, &profile);
    if (code != 0)
        return broken(context, code);
    _cleanup_(profile_release_stringp) char *value = NULL;
    code = profile_get_string(profile, "libdefaults", "kcm_socket", NULL,
                              KCM_DEFAULT_SOCKET, &value);
    if (code != 0)
        return broken(context, code);
    if (strcmp(value, "-") == 0)
        return 0;
    *path_out = strdup(value);
    return *path_out != NULL ? 0 : -ENOMEM;
}
