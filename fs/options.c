/*
 * The command line, parsed as option_table.c has it.
 *
 *   kcmfs [-fdshV] [--name[=value]] [-o name[=value],...] [SOURCE] MOUNTPOINT
 *
 * Commas inside double quotes or behind a backslash belong to a value
 * (mount(8) and libfuse write them so).
 */
#include "options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "kcm/mem.h"
#include "option_table.h"

/* The state of one parse. */
struct parse {
    struct options *o;
    bool helper; /* called as mount.kcmfs */
    bool sloppy; /* mount -s */
    char *source;
    char *error;
    bool no_memory;
};

static int __attribute__((format(printf, 2, 3)))
usage(struct parse *p, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (vasprintf(&p->error, format, ap) < 0) {
        p->error = NULL;
        p->no_memory = true;
    }
    va_end(ap);
    return EXIT_USAGE;
}

static int
no_memory(struct parse *p)
{
    p->no_memory = true;
    return EXIT_USAGE;
}

static int
set_string(struct parse *p, char **where, const char *value)
{
    free(*where);
    *where = strdup(value);
    return *where != NULL ? 0 : no_memory(p);
}

static int
set_seconds(struct parse *p, const char *name, const char *value,
            unsigned *out)
{
    unsigned long n = 0;
    if (strlen(value) <= 4 && value[strspn(value, "0123456789")] == '\0')
        n = strtoul(value, NULL, 10);
    if (n < 1 || n > TIMEOUT_MAX)
        return usage(p, "%s=%s: give whole seconds, 1 to %d", name, value,
                     TIMEOUT_MAX);
    *out = (unsigned)n;
    return 0;
}

static int
set_socket(struct parse *p, const char *value)
{
    if (value[0] != '/' && strcmp(value, "-") != 0)
        return usage(p, "the KCM socket must be an absolute path: '%s'",
                     value);
    return set_string(p, &p->o->socket, value);
}

/*
 * Append option, as it was written, to the list for libfuse.  libfuse knows
 * backslashes but not quotes, which are for the kernel to take off.
 */
static int
pass_on(struct parse *p, const char *option)
{
    const char *old = p->o->mount_options;
    size_t used = old != NULL ? strlen(old) : 0;
    char *list = malloc(used + 2 * strlen(option) + 2);
    if (list == NULL)
        return no_memory(p);
    char *out = list;
    if (old != NULL)
        out += sprintf(out, "%s,", old);
    for (bool quoted = false; *option != '\0'; option++) {
        if (*option == '"')
            quoted = !quoted;
        if (quoted && (*option == ',' || *option == '\\'))
            *out++ = '\\';
        *out++ = *option;
    }
    *out = '\0';
    free(p->o->mount_options);
    p->o->mount_options = list;
    return 0;
}

static int apply_list(struct parse *p, const char *list);

/*
 * Do what row says.  as is the option as it was written, value what stands
 * behind its '=' (or in the next argument), NULL if it takes none.
 */
static int
apply(struct parse *p, const struct option_row *row, const char *as,
      const char *value)
{
    struct options *o = p->o;
    value = value != NULL ? value : "";
    switch (row->id) {
    case FOREGROUND:
        o->foreground = true;
        break;
    case DEBUG:
        o->debug = o->foreground = true;
        break;
    case SINGLE:
        o->single_threaded = true;
        break;
    case HELP:
        o->action = OPTIONS_HELP;
        break;
    case VERSION:
        o->action = OPTIONS_VERSION;
        break;
    case EMBEDDED:
        o->embedded = true;
        break;
    case SOCKET:
        return set_socket(p, value);
    case TIMEOUT:
        return set_seconds(p, "timeout", value, &o->timeout);
    case IDLE:
        return set_seconds(p, "idle", value, &o->idle);
    case READ_ONLY:
    case READ_WRITE:
        o->read_only = row->id == READ_ONLY;
        break;
    case ALLOW_OTHER:
        o->allow_other = true;
        break;
    case ALLOW_ROOT:
        o->allow_root = true;
        break;
    case AUDIT:
        o->audit = true;
        break;
    case OPTION_LIST:
        return apply_list(p, value);
    case FIXED:
        if (strcmp(value, "kcmfs") == 0)
            break;
        return usage(p, "option '%s' is refused: %s", as, row->text);
    case PASS:
        return pass_on(p, as);
    case IGNORE:
        break;
    case REFUSE:
        return usage(p, "option '%s' is refused: %s", as, row->text);
    }
    return 0;
}

/* Take the quotes and backslashes out of a value, in place. */
static void
unescape(char *s)
{
    char *out = s;
    for (; *s != '\0'; s++) {
        if (*s == '"')
            continue;
        if (*s == '\\' && s[1] != '\0')
            s++;
        *out++ = *s;
    }
    *out = '\0';
}

/* One of the comma-separated options; as written, escapes and all. */
static int
apply_option(struct parse *p, const char *raw)
{
    _cleanup_(freep) char *plain = strdup(raw);
    if (plain == NULL)
        return no_memory(p);
    unescape(plain);
    if (*plain == '\0')
        return 0;
    const char *value;
    const struct option_row *row = option_by_mount_option(plain, &value);
    if (row == NULL && p->sloppy)
        return 0;
    if (row == NULL)
        return usage(p, "unknown mount option '%s'", plain);
    if (value != NULL && *value == '\0')
        return usage(p, "mount option '%s' needs a value", plain);
    return apply(p, row, row->id == PASS ? raw : plain, value);
}

/* The end of the option that s begins with. */
static char *
option_end(char *s)
{
    bool quoted = false;
    for (; *s != '\0' && (*s != ',' || quoted); s++) {
        if (*s == '"')
            quoted = !quoted;
        else if (*s == '\\' && s[1] != '\0')
            s++;
    }
    return s;
}

static int
apply_list(struct parse *p, const char *list)
{
    _cleanup_(freep) char *copy = strdup(list);
    if (copy == NULL)
        return no_memory(p);
    int r = 0;
    for (char *s = copy; r == 0 && *s != '\0';) {
        char *end = option_end(s);
        bool last = *end == '\0';
        *end = '\0';
        r = apply_option(p, s);
        s = last ? end : end + 1;
    }
    return r;
}

/* --name[=value] at argv[*i]; the value may be the next argument. */
static int
apply_long(struct parse *p, int argc, char *const argv[], int *i)
{
    const char *text = argv[*i] + 2;
    size_t len = strcspn(text, "=");
    const struct option_row *row;
    for (size_t k = 0; (row = option_row(k)) != NULL; k++) {
        const char *name = row->name;
        if (name == NULL || strncmp(name, text, len) != 0 ||
            name[len + (name[len] == '=')] != '\0')
            continue;
        bool takes = name[len] == '=', given = text[len] == '=';
        if (!takes && given)
            return usage(p, "option '--%s' takes no value", name);
        const char *value = given ? text + len + 1 : NULL;
        if (takes && !given && *i + 1 < argc)
            value = argv[++*i];
        if (takes && (value == NULL || *value == '\0'))
            return usage(p, "option '--%.*s' needs a value", (int)len, name);
        return apply(p, row, argv[*i], value);
    }
    return usage(p, "unknown option '%s'", argv[*i]);
}

/* A letter that mount(8) gives to its helpers; false if it is none. */
static bool
apply_helper_letter(struct parse *p, char letter)
{
    switch (letter) {
    case 'f':
        p->o->action = OPTIONS_FAKE;
        return true;
    case 's':
        p->sloppy = true;
        return true;
    case 'n':
    case 'v':
        return true;
    default:
        return false;
    }
}

/* The letters of argv[*i]; -o takes what is behind it, or the next one. */
static int
apply_letters(struct parse *p, int argc, char *const argv[], int *i)
{
    for (const char *c = argv[*i] + 1; *c != '\0'; c++) {
        if (p->helper && apply_helper_letter(p, *c))
            continue;
        bool type = p->helper && *c == 't';
        const struct option_row *row = option_by_letter(*c);
        if (row == NULL && !type)
            return usage(p, "unknown option '-%c'", *c);
        if (!type && row->value == NULL) {
            (void)apply(p, row, c, NULL);
            continue;
        }
        const char *value = c[1] != '\0' ? c + 1 : NULL;
        if (value == NULL && *i + 1 < argc)
            value = argv[++*i];
        if (value == NULL)
            return usage(p, "option '-%c' needs a value", *c);
        return type ? 0 : apply(p, row, c, value);
    }
    return 0;
}

/* The arguments that are no options: [SOURCE] MOUNTPOINT. */
static int
apply_operand(struct parse *p, const char *text)
{
    if (p->o->mountpoint != NULL) {
        if (p->source != NULL)
            return usage(p, "too many arguments: '%s'", text);
        p->source = take(p->o->mountpoint);
    }
    return set_string(p, &p->o->mountpoint, text);
}

static int
choose_source(struct parse *p)
{
    struct options *o = p->o;
    const char *source = p->source;
    if (source == NULL)
        return 0;
    if (strcmp(source, "embedded") == 0) {
        o->embedded = true;
        return 0;
    }
    bool kcm = strcmp(source, "kcm") == 0;
    if (!kcm && source[0] != '/')
        return usage(p,
                     "SOURCE is kcm, embedded or the absolute path of a KCM "
                     "socket, not '%s'",
                     source);
    if (o->embedded)
        return usage(p, "--embedded contradicts the source '%s'", source);
    if (kcm)
        return 0;
    if (o->socket != NULL)
        return usage(p, "two KCM sockets: '%s' and '%s'", source, o->socket);
    return set_string(p, &o->socket, source);
}

static int
check_socket(struct parse *p)
{
    struct options *o = p->o;
    if (o->socket == NULL || strcmp(o->socket, "-") != 0)
        return 0;
    if (!o->embedded)
        return usage(p, "%s", OPTIONS_NO_SOCKET);
    free(take(o->socket));
    return 0;
}

static int
parse_arguments(struct parse *p, int argc, char *const argv[])
{
    bool only_operands = false;
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        int r;
        if (only_operands || text[0] != '-' || text[1] == '\0') {
            r = apply_operand(p, text);
        } else if (strcmp(text, "--") == 0) {
            only_operands = true;
            r = 0;
        } else if (text[1] == '-') {
            r = apply_long(p, argc, argv, &i);
        } else {
            r = apply_letters(p, argc, argv, &i);
        }
        if (r != 0)
            return r;
        if (p->o->action == OPTIONS_HELP || p->o->action == OPTIONS_VERSION)
            return 0;
    }
    int r = choose_source(p);
    if (r == 0)
        r = check_socket(p);
    if (r == 0 && p->o->mountpoint == NULL)
        r = usage(p, "no mount point given");
    return r;
}

int
options_parse(int argc, char *const argv[], struct options *o,
              char **error_out)
{
    *o = (struct options){.timeout = TIMEOUT_DEFAULT, .idle = IDLE_DEFAULT};
    *error_out = NULL;
    struct parse p = {.o = o};
    const char *slash = strrchr(argv[0], '/');
    const char *program = slash != NULL ? slash + 1 : argv[0];
    p.helper = strncmp(program, "mount.", 6) == 0;
    int r = parse_arguments(&p, argc, argv);
    free(p.source);
    *error_out = p.error;
    return p.no_memory ? -ENOMEM : r;
}

void
options_free(struct options *o)
{
    free(take(o->mountpoint));
    free(take(o->socket));
    free(take(o->mount_options));
}
