/*
 * Every option of kcmfs once, and the help text made from it.
 */
#include "option_table.h"

#include <stdio.h>
#include <string.h>

#include "kcm/kcm.h"
#include "options.h"

#define STRING(x)  STRING_(x)
#define STRING_(x) #x

/* clang-format off */
static const struct option_row table[] = {
    {FOREGROUND, 'f', NULL, NULL, NULL,
     "stay in the foreground, log to standard error"},
    {DEBUG, 'd', NULL, "debug", NULL, "log each request (implies -f)"},
    {SINGLE, 's', NULL, NULL, NULL, "answer one request at a time"},
    {OPTION_LIST, 'o', NULL, NULL, "OPTION,...", "mount options, see below"},
    {SOCKET, 0, "kcm-socket=", "kcm_socket=", "PATH",
     "socket of the KCM daemon; with --embedded: listen\n"
     "there.  Default: kcm_socket of [libdefaults] in\n"
     "krb5.conf, else\n"
     KCM_DEFAULT_SOCKET "; - is no socket"},
    {EMBEDDED, 0, "embedded", NULL, NULL,
     "keep the caches itself, in locked memory, instead of\n"
     "talking to a KCM daemon"},
    {HELP, 'h', "help", NULL, NULL, "print this text"},
    {VERSION, 'V', "version", NULL, NULL, "print the version"},

    {READ_ONLY, 0, NULL, "ro", NULL, "every change answers EROFS"},
    {READ_WRITE, 0, NULL, "rw", NULL, "changes reach KCM (default)"},
    {TIMEOUT, 0, NULL, "timeout=", "SECONDS",
     "how long one KCM operation may take (default "
     STRING(TIMEOUT_DEFAULT) ")"},
    {IDLE, 0, NULL, "idle=", "SECONDS",
     "how long tickets that nobody looks at stay in memory\n"
     "(default " STRING(IDLE_DEFAULT) ")"},
    {ALLOW_OTHER, 0, NULL, "allow_other", NULL,
     "let other users in (default for root)"},
    {ALLOW_ROOT, 0, NULL, "allow_root", NULL,
     "let in only root and the one who mounts"},
    {AUDIT, 0, NULL, "audit", NULL,
     "log who opens or changes which cache"},

    {PASS, 0, NULL, "auto_unmount sync async dirsync atime noatime "
     "context= fscontext= defcontext= rootcontext=", NULL, NULL},

    {IGNORE, 0, NULL, "defaults default_permissions nonempty dev nodev suid "
     "nosuid exec noexec", NULL, "as it always is"},
    {IGNORE, 0, NULL, "relatime norelatime strictatime nostrictatime "
     "lazytime nolazytime diratime nodiratime silent loud max_read=", NULL,
     "without effect here"},
    {IGNORE, 0, NULL, "auto noauto nofail _netdev user user= nouser users "
     "nousers owner noowner group nogroup comment= helper= uhelper= x-* X-*",
     NULL, "meant for mount(8) and systemd"},

    {FIXED, 0, NULL, "fsname= subtype=", NULL,
     "the mount always shows as kcmfs"},
    {REFUSE, 0, NULL, "uid= gid= umask= fmask= dmask=", NULL,
     "every caller is shown their own caches under their own uid"},
    {REFUSE, 0, NULL, "kernel_cache auto_cache noauto_cache direct_io "
     "entry_timeout= attr_timeout= ac_attr_timeout= negative_timeout= "
     "writeback_cache noforget remember=", NULL,
     "kcmfs itself tells the kernel how long what it said holds"},
    {REFUSE, 0, NULL, "clone_fd max_idle_threads= max_threads=", NULL,
     "the number of threads follows the load"},
};
/* clang-format on */

#define ROWS (sizeof(table) / sizeof(table[0]))

const struct option_row *
option_row(size_t n)
{
    return n < ROWS ? &table[n] : NULL;
}

/* Does text fit the pattern of len bytes?  *value_out: what '=' leads to. */
static bool
fits(const char *pattern, size_t len, const char *text, const char **value_out)
{
    *value_out = NULL;
    if (pattern[len - 1] == '*')
        return strncmp(text, pattern, len - 1) == 0;
    if (strncmp(text, pattern, len) != 0)
        return false;
    if (pattern[len - 1] == '=')
        *value_out = text + len;
    return *value_out != NULL || text[len] == '\0';
}

const struct option_row *
option_by_mount_option(const char *text, const char **value_out)
{
    for (size_t i = 0; i < ROWS; i++) {
        const char *p = table[i].option;
        while (p != NULL && *p != '\0') {
            size_t len = strcspn(p, " ");
            if (fits(p, len, text, value_out))
                return &table[i];
            p += len + strspn(p + len, " ");
        }
    }
    return NULL;
}

const struct option_row *
option_by_letter(char letter)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].letter == letter)
            return &table[i];
    }
    return NULL;
}

/* --- help ------------------------------------------------------------- */

#define HELP_COLUMN 26
#define HELP_WIDTH  78

static const char help_head[] =
    "usage: kcmfs [options] [SOURCE] MOUNTPOINT\n"
    "       mount -t fuse.kcmfs SOURCE MOUNTPOINT [-o option,...]\n"
    "\n"
    "Shows the Kerberos KCM caches of whoever looks as files.\n"
    "\n"
    "SOURCE  kcm (default): the host's KCM daemon; embedded: the same as\n"
    "        --embedded; or the absolute path of a KCM daemon's socket\n";

static const char help_tail[] =
    "\n"
    "Exit status:\n"
    "  0   mounted (-f: served, and unmounted again)\n"
    "  1   failed before mounting or while serving\n"
    "  2   wrong command line\n"
    "  32  could not mount\n"
    "SIGTERM, SIGINT and SIGHUP unmount.\n";

/* One option and its explanation, whose later lines are indented alike. */
static void
help_row(FILE *f, const char *option, const char *text)
{
    int n = fprintf(f, "  %s", option);
    if (n >= HELP_COLUMN) {
        fputc('\n', f);
        n = 0;
    }
    fprintf(f, "%*s", HELP_COLUMN - n, "");
    for (; *text != '\0'; text++) {
        fputc(*text, f);
        if (*text == '\n')
            fprintf(f, "%*s", HELP_COLUMN, "");
    }
    fputc('\n', f);
}

/* Words, filled into lines. */
static void
help_words(FILE *f, const char *words)
{
    size_t column = 0;
    while (*words != '\0') {
        size_t len = strcspn(words, " ");
        if (column == 0 || column + 1 + len > HELP_WIDTH) {
            fprintf(f, "%s  ", column == 0 ? "" : "\n");
            column = 1;
        }
        fprintf(f, "%s%.*s", column == 1 ? "" : " ", (int)len, words);
        column += len + 1;
        words += len + strspn(words + len, " ");
    }
    fputc('\n', f);
}

static void
help_command_line(FILE *f, const struct option_row *row)
{
    char option[64];
    char letter[3] = {'-', row->letter, '\0'};
    snprintf(option, sizeof(option), "%s%s%s%s%s%s",
             row->letter != '\0' ? letter : "",
             row->letter != '\0' && row->name != NULL ? ", " : "",
             row->name != NULL ? "--" : "", row->name != NULL ? row->name : "",
             row->name == NULL && row->value != NULL ? " " : "",
             row->value != NULL ? row->value : "");
    help_row(f, option, row->text);
}

static void
help_mount_option(FILE *f, const struct option_row *row)
{
    char option[64];
    snprintf(option, sizeof(option), "%s%s", row->option,
             row->value != NULL ? row->value : "");
    char same[64];
    if (row->letter != '\0')
        snprintf(same, sizeof(same), "the same as -%c", row->letter);
    else if (row->name != NULL)
        snprintf(same, sizeof(same), "the same as --%s%s", row->name,
                 row->value);
    else
        same[0] = '\0';
    help_row(f, option, same[0] != '\0' ? same : row->text);
}

/* A row of which kcmfs has no more to say than the names. */
static bool
is_list(const struct option_row *row)
{
    return row->id == PASS || row->id == IGNORE || row->id == FIXED ||
           row->id == REFUSE;
}

void
options_help(FILE *f)
{
    fputs(help_head, f);
    fputs("\nOptions:\n", f);
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].letter != '\0' || table[i].name != NULL)
            help_command_line(f, &table[i]);
    }
    fputs("\nMount options (-o):\n", f);
    for (size_t i = 0; i < ROWS; i++) {
        if (table[i].option != NULL && !is_list(&table[i]))
            help_mount_option(f, &table[i]);
    }
    for (size_t i = 0; i < ROWS; i++) {
        if (!is_list(&table[i]))
            continue;
        if (table[i].id == PASS)
            fputs("\nPassed on to libfuse and the kernel:\n", f);
        else if (table[i].id == IGNORE)
            fprintf(f, "\nAccepted and ignored, %s:\n", table[i].text);
        else
            fprintf(f, "\nRefused: %s:\n", table[i].text);
        help_words(f, table[i].option);
    }
    fputs(help_tail, f);
}

bool
options_nth(unsigned n, char *text, size_t size, bool *refused)
{
    for (size_t i = 0; i < ROWS; i++) {
        *refused = table[i].id == REFUSE || table[i].id == FIXED;
        if (table[i].letter != '\0' && n-- == 0) {
            snprintf(text, size, "-%c", table[i].letter);
            return true;
        }
        if (table[i].name != NULL && n-- == 0) {
            snprintf(text, size, "--%s", table[i].name);
            return true;
        }
        const char *p = table[i].option != NULL ? table[i].option : "";
        for (size_t len; *p != '\0'; p += len + strspn(p + len, " ")) {
            len = strcspn(p, " ");
            if (n-- == 0) {
                snprintf(text, size, "-o %.*s", (int)len, p);
                return true;
            }
        }
    }
    return false;
}
