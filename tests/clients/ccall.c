/* ccall: one libkrb5 credential cache call per run, for the tests.
 *
 *   ccall COMMAND ARGUMENT...       (the table at the end lists them)
 *
 * Whatever fails is reported as "COMMAND: CODE: MESSAGE" on stderr, exit 1.
 */
#include <krb5.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static krb5_context k5;
static const char *command;

static void
need(krb5_error_code code)
{
    const char *text;

    if (code == 0)
        return;
    text = krb5_get_error_message(k5, code);
    fprintf(stderr, "%s: %d: %s\n", command, (int)code, text);
    krb5_free_error_message(k5, text);
    exit(1);
}

static krb5_ccache
cache(const char *name)
{
    krb5_ccache cc;

    need(krb5_cc_resolve(k5, name, &cc));
    return cc;
}

static krb5_principal
principal(const char *name)
{
    krb5_principal p;

    need(krb5_parse_name(k5, name, &p));
    return p;
}

static const char *
text_of(krb5_const_principal p)
{
    char *text;

    need(krb5_unparse_name(k5, p, &text));
    return text;
}

static void
print_name(krb5_ccache cc)
{
    char *name;

    need(krb5_cc_get_full_name(k5, cc, &name));
    puts(name);
    krb5_free_string(k5, name);
}

static void
init(char **a)
{
    need(krb5_cc_initialize(k5, cache(a[0]), principal(a[1])));
}

static void
get_principal(char **a)
{
    krb5_principal p;

    need(krb5_cc_get_principal(k5, cache(a[0]), &p));
    puts(text_of(p));
}

/* A ticket that no KDC has seen: its bytes do not matter to any cache. */
static void
store(char **a)
{
    krb5_ccache cc = cache(a[0]);
    krb5_creds cred = {0};
    char key[32];
    int i, count = a[3] != NULL ? atoi(a[3]) : 1;
    int size = a[3] != NULL && a[4] != NULL ? atoi(a[4]) : 200;
    krb5_timestamp now;

    for (i = 0; i < (int)sizeof(key); i++)
        key[i] = (char)(i * 7 + 13);
    need(krb5_timeofday(k5, &now));
    need(krb5_cc_get_principal(k5, cc, &cred.client));
    cred.server = principal(a[1]);
    cred.keyblock.enctype = atoi(a[2]);
    cred.keyblock.length = sizeof(key);
    cred.keyblock.contents = (krb5_octet *)key;
    cred.times.authtime = cred.times.starttime = now;
    cred.times.endtime = now + 36000;
    cred.ticket.length = size;
    cred.ticket.data = malloc(size);
    if (cred.ticket.data == NULL)
        abort();
    for (i = 0; i < count; i++) {
        memset(cred.ticket.data, 'a' + i % 26, size);
        need(krb5_cc_store_cred(k5, cc, &cred));
    }
}

static void
remove_all(char **a)
{
    krb5_ccache cc = cache(a[0]);
    krb5_creds match = {0};

    need(krb5_cc_get_principal(k5, cc, &match.client));
    match.server = principal(a[1]);
    need(krb5_cc_remove_cred(k5, cc, 0, &match));
}

static void
set_config(char **a)
{
    krb5_data value = {0};

    if (a[2] != NULL) {
        value.data = a[2];
        value.length = strlen(a[2]);
    }
    need(krb5_cc_set_config(k5, cache(a[0]), NULL, a[1],
                            a[2] != NULL ? &value : NULL));
}

static void
get_config(char **a)
{
    krb5_data value;

    need(krb5_cc_get_config(k5, cache(a[0]), NULL, a[1], &value));
    printf("%.*s\n", (int)value.length, value.data);
}

/* Prints the first server and waits for a line on stdin before each other
 * one, so that a test can change the cache under an open iterator. */
static void
iterate(char **a)
{
    krb5_ccache cc = cache(a[0]);
    krb5_cc_cursor cursor;
    krb5_creds cred;
    krb5_error_code code;
    int stepping = a[1] != NULL && strcmp(a[1], "step") == 0;
    char line[16];

    need(krb5_cc_start_seq_get(k5, cc, &cursor));
    while ((code = krb5_cc_next_cred(k5, cc, &cursor, &cred)) == 0) {
        if (!krb5_is_config_principal(k5, cred.server))
            printf("%s %d %u\n", text_of(cred.server),
                   (int)cred.keyblock.enctype, cred.ticket.length);
        else
            printf("config %u\n", cred.ticket.length);
        fflush(stdout);
        krb5_free_cred_contents(k5, &cred);
        if (stepping && fgets(line, sizeof(line), stdin) == NULL)
            break;
    }
    if (code != KRB5_CC_END)
        need(code);
    need(krb5_cc_end_seq_get(k5, cc, &cursor));
}

static void
list_collection(char **a)
{
    krb5_cccol_cursor cursor;
    krb5_ccache cc;

    need(krb5_cc_set_default_name(k5, a[0]));
    need(krb5_cccol_cursor_new(k5, &cursor));
    for (;;) {
        need(krb5_cccol_cursor_next(k5, cursor, &cc));
        if (cc == NULL)
            break;
        print_name(cc);
        need(krb5_cc_close(k5, cc));
    }
    need(krb5_cccol_cursor_free(k5, &cursor));
}

static void
match(char **a)
{
    krb5_ccache cc;

    need(krb5_cc_set_default_name(k5, a[0]));
    need(krb5_cc_cache_match(k5, principal(a[1]), &cc));
    print_name(cc);
}

static void
new_unique(char **a)
{
    krb5_ccache cc;

    need(krb5_cc_set_default_name(k5, a[0]));
    need(krb5_cc_new_unique(k5, a[1], NULL, &cc));
    need(krb5_cc_initialize(k5, cc, principal(a[2])));
    print_name(cc);
}

static void
switch_to(char **a)
{
    need(krb5_cc_switch(k5, cache(a[0])));
}

static void
destroy(char **a)
{
    need(krb5_cc_destroy(k5, cache(a[0])));
}

static void
copy(char **a)
{
    krb5_ccache from = cache(a[0]), to = cache(a[1]);
    krb5_principal p;

    need(krb5_cc_get_principal(k5, from, &p));
    need(krb5_cc_initialize(k5, to, p));
    need(krb5_cc_copy_creds(k5, from, to));
}

static void
move(char **a)
{
    need(krb5_cc_move(k5, cache(a[0]), cache(a[1])));
}

/* FILE of `u32 length, credential` records (KCM's and version 4's encoding):
 * each must parse and marshal again to the same bytes. */
static void
marshal_check(char **a)
{
    FILE *in = fopen(a[0], "rb");
    unsigned char head[4];
    int count = 0;

    if (in == NULL) {
        perror(a[0]);
        exit(1);
    }
    while (fread(head, 1, 4, in) == 4) {
        krb5_data raw = {0}, *again;
        krb5_creds *cred;

        raw.length =
            (unsigned)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
        raw.data = malloc(raw.length + 1);
        if (raw.data == NULL ||
            fread(raw.data, 1, raw.length, in) != raw.length) {
            fprintf(stderr, "%s: record %d cut short\n", command, count);
            exit(1);
        }
        need(krb5_unmarshal_credentials(k5, &raw, &cred));
        printf("%s -> ", text_of(cred->client));
        printf("%s %d %u\n", text_of(cred->server),
               (int)cred->keyblock.enctype, cred->ticket.length);
        need(krb5_marshal_credentials(k5, cred, &again));
        if (again->length != raw.length ||
            memcmp(again->data, raw.data, raw.length) != 0) {
            fprintf(stderr, "%s: record %d differs when marshalled\n", command,
                    count);
            exit(1);
        }
        krb5_free_data(k5, again);
        krb5_free_creds(k5, cred);
        free(raw.data);
        count++;
    }
    fclose(in);
}

static const struct {
    const char *name;
    int least, most;
    void (*run)(char **);
    const char *arguments;
} commands[] = {
    {"init", 2, 2, init, "CACHE PRINCIPAL"},
    {"principal", 1, 1, get_principal, "CACHE"},
    {"store", 3, 5, store, "CACHE SERVER ENCTYPE [COUNT [SIZE]]"},
    {"remove", 2, 2, remove_all, "CACHE SERVER"},
    {"set-config", 2, 3, set_config, "CACHE KEY [VALUE]"},
    {"get-config", 2, 2, get_config, "CACHE KEY"},
    {"iterate", 1, 2, iterate, "CACHE [step]"},
    {"collection", 1, 1, list_collection, "CACHE"},
    {"match", 2, 2, match, "CACHE PRINCIPAL"},
    {"new", 3, 3, new_unique, "CACHE TYPE PRINCIPAL"},
    {"switch", 1, 1, switch_to, "CACHE"},
    {"destroy", 1, 1, destroy, "CACHE"},
    {"copy", 2, 2, copy, "FROM TO"},
    {"move", 2, 2, move, "FROM TO"},
    {"marshal", 1, 1, marshal_check, "FILE"},
};

int
main(int argc, char **argv)
{
    size_t i;

    for (i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++) {
        if (strcmp(commands[i].name, argv[1]) != 0)
            continue;
        if (argc - 2 < commands[i].least || argc - 2 > commands[i].most) {
            fprintf(stderr, "usage: ccall %s %s\n", argv[1],
                    commands[i].arguments);
            return 2;
        }
        command = argv[1];
        if (krb5_init_context(&k5) != 0)
            return 1;
        commands[i].run(argv + 2);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    fprintf(stderr, "usage: ccall COMMAND ARGUMENT...\n");
    return 2;
}
