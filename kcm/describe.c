/*
 * What libkrb5 is asked: names of principals and encryption types, and the
 * decoding of tickets.
 */
#include "describe.h"

#include <errno.h>
#include <krb5.h>
#include <profile.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "cred.h"

/* More than this in one name is no name; the wire allows 10 MiB. */
#define MAX_COMPONENTS 1024

static pthread_once_t context_once = PTHREAD_ONCE_INIT;
static pthread_key_t context_key; /* set once; each thread's context */

static void
free_context(void *context)
{
    krb5_free_context(context);
}

static void
make_context_key(void)
{
    (void)pthread_key_create(&context_key, free_context);
}

/* This thread's context, made with an empty profile: what is a name or a
 * number must not depend on whether krb5.conf can be read just now. */
static krb5_context
get_context(void)
{
    pthread_once(&context_once, make_context_key);
    krb5_context context = pthread_getspecific(context_key);
    if (context != NULL)
        return context;
    profile_t profile = NULL;
    if (profile_init(NULL, &profile) != 0)
        return NULL;
    if (krb5_init_context_profile(profile, 0, &context) != 0)
        context = NULL;
    profile_release(profile);
    if (context != NULL && pthread_setspecific(context_key, context) != 0) {
        krb5_free_context(context);
        context = NULL;
    }
    return context;
}

static krb5_data
to_krb5(struct data d)
{
    return (krb5_data){KV5M_DATA, (unsigned)d.len, (char *)(uintptr_t)d.p};
}

static int
unparse(const struct principal *p, krb5_data *parts, char **out)
{
    struct reader r;
    reader_init(&r, p->components.p, p->components.len);
    for (uint32_t i = 0; i < p->count; i++)
        parts[i] = to_krb5(read_data32(&r));
    krb5_principal_data name = {.magic = KV5M_PRINCIPAL,
                                .realm = to_krb5(p->realm),
                                .data = parts,
                                .length = (krb5_int32)p->count,
                                .type = (krb5_int32)p->type};
    krb5_context context = get_context();
    char *text = NULL;
    if (context == NULL || krb5_unparse_name(context, &name, &text) != 0)
        return -ENOMEM;
    *out = strdup(text);
    krb5_free_unparsed_name(context, text);
    return *out != NULL ? 0 : -ENOMEM;
}

int
describe_principal(struct data principal, char **out)
{
    *out = NULL;
    struct principal p;
    if (!principal_parse(principal, &p) || p.count > MAX_COMPONENTS)
        return -EINVAL;
    _cleanup_(freep) krb5_data *parts = calloc(p.count + 1, sizeof(*parts));
    return parts != NULL ? unparse(&p, parts, out) : -ENOMEM;
}

static struct data
of_krb5(krb5_data d)
{
    return (struct data){(const uint8_t *)d.data, d.length};
}

int
describe_parse_principal(const char *text, struct writer *w)
{
    krb5_context context = get_context();
    krb5_principal name = NULL;
    if (context == NULL)
        return -ENOMEM;
    krb5_error_code code = krb5_parse_name_flags(
        context, text, KRB5_PRINCIPAL_PARSE_REQUIRE_REALM, &name);
    if (code != 0)
        return code == ENOMEM ? -ENOMEM : -EINVAL;
    write_u32(w, (uint32_t)name->type);
    write_u32(w, (uint32_t)name->length);
    write_data32(w, of_krb5(name->realm));
    for (krb5_int32 i = 0; i < name->length; i++)
        write_data32(w, of_krb5(name->data[i]));
    krb5_free_principal(context, name);
    return w->failed ? -ENOMEM : 0;
}

void
describe_enctype(int32_t enctype, char *out, size_t size)
{
    if (krb5_enctype_to_name(enctype, FALSE, out, size) != 0)
        snprintf(out, size, "etype %d", (int)enctype);
}

bool
describe_ticket_enctype(struct data ticket, int32_t *enctype_out)
{
    *enctype_out = 0;
    krb5_context context = get_context();
    krb5_data encoded = to_krb5(ticket);
    krb5_ticket *decoded = NULL;
    if (context == NULL || ticket.len == 0 ||
        krb5_decode_ticket(&encoded, &decoded) != 0)
        return false;
    *enctype_out = decoded->enc_part.enctype;
    /* A copy that libkrb5 would free as it is. */
    krb5_data *copy = &decoded->enc_part.ciphertext;
    explicit_bzero(copy->data, copy->length);
    krb5_free_ticket(context, decoded);
    return true;
}
