/*
 * The command line: fs/options.c and its table.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "../../fs/options.h"

#define MAX_ARGS 16

/* Split at blanks; argv[0] is the program. */
static int
split(char *line, char *argv[MAX_ARGS])
{
    int argc = 0;
    for (char *s = strtok(line, " "); s != NULL; s = strtok(NULL, " ")) {
        ck_assert_int_lt(argc, MAX_ARGS);
        argv[argc++] = s;
    }
    return argc;
}

static int
parse(const char *text, struct options *o, char **error)
{
    char line[512], *argv[MAX_ARGS];
    ck_assert_uint_lt(strlen(text), sizeof(line));
    strcpy(line, text);
    return options_parse(split(line, argv), argv, o, error);
}

/* What of the result is compared, as text. */
static void
show(const struct options *o, char *out, size_t size)
{
    static const char *const actions[] = {"mount", "help", "version", "fake"};
    snprintf(
        out, size, "%s %s%s%s%s%s%s%s%s socket=%s timeout=%u pass=%s",
        actions[o->action], o->mountpoint != NULL ? o->mountpoint : "none",
        o->embedded ? " embedded" : "", o->foreground ? " f" : "",
        o->debug ? " d" : "", o->single_threaded ? " s" : "",
        o->read_only ? " ro" : "", o->allow_other ? " other" : "",
        o->allow_root ? " root" : "", o->socket != NULL ? o->socket : "conf",
        o->timeout, o->mount_options != NULL ? o->mount_options : "");
}

static const struct {
    const char *line, *result;
} good[] = {
    {"kcmfs /m", "mount /m socket=conf timeout=10 pass="},
    {"/usr/bin/kcmfs kcm /m", "mount /m socket=conf timeout=10 pass="},
    {"kcmfs embedded /m", "mount /m embedded socket=conf timeout=10 pass="},
    {"kcmfs /run/kcm /m", "mount /m socket=/run/kcm timeout=10 pass="},
    {"kcmfs --embedded /m", "mount /m embedded socket=conf timeout=10 pass="},
    {"kcmfs embedded --embedded /m",
     "mount /m embedded socket=conf timeout=10 pass="},
    {"kcmfs --embedded --kcm-socket=/s /m",
     "mount /m embedded socket=/s timeout=10 pass="},
    {"kcmfs --embedded --kcm-socket=- /m",
     "mount /m embedded socket=conf timeout=10 pass="},
    {"kcmfs --kcm-socket /s /m", "mount /m socket=/s timeout=10 pass="},
    {"kcmfs -o kcm_socket=/s /m", "mount /m socket=/s timeout=10 pass="},
    {"kcmfs --kcm-socket=- -o kcm_socket=/s /m",
     "mount /m socket=/s timeout=10 pass="},
    {"kcmfs /m -f -s", "mount /m f s socket=conf timeout=10 pass="},
    {"kcmfs -fs /m", "mount /m f s socket=conf timeout=10 pass="},
    {"kcmfs -d /m", "mount /m f d socket=conf timeout=10 pass="},
    {"kcmfs -o debug /m", "mount /m f d socket=conf timeout=10 pass="},
    {"kcmfs -sotimeout=3 /m", "mount /m s socket=conf timeout=3 pass="},
    {"kcmfs -o ro,timeout=3600 /m",
     "mount /m ro socket=conf timeout=3600 pass="},
    {"kcmfs -o ro -o rw /m", "mount /m socket=conf timeout=10 pass="},
    {"kcmfs -o allow_other /m", "mount /m other socket=conf timeout=10 pass="},
    {"kcmfs -o allow_root /m", "mount /m root socket=conf timeout=10 pass="},
    {"kcmfs -- -m", "mount -m socket=conf timeout=10 pass="},
    {"kcmfs -f -- kcm /m", "mount /m f socket=conf timeout=10 pass="},
    {"kcmfs -o sync,,noatime, /m",
     "mount /m socket=conf timeout=10 pass=sync,noatime"},
    {"kcmfs -o fsname=kcmfs,subtype=kcmfs /m",
     "mount /m socket=conf timeout=10 pass="},
    /* A comma in a value: libfuse's way and mount(8)'s. */
    {"kcmfs -o kcm_socket=/a\\,b,ro /m",
     "mount /m ro socket=/a,b timeout=10 pass="},
    {"kcmfs -o kcm_socket=\"/a,b\",ro /m",
     "mount /m ro socket=/a,b timeout=10 pass="},
    {"kcmfs -o context=\"u:r:t:s0:c1,c2\",ro /m",
     "mount /m ro socket=conf timeout=10 pass=context=\"u:r:t:s0:c1\\,c2\""},
    /* What mount.fuse and mount(8) make of an fstab line. */
    {"kcmfs kcm /m -o rw,nofail,x-systemd.requires=a.service,dev,suid",
     "mount /m socket=conf timeout=10 pass="},
    {"kcmfs kcm /m -o _netdev,noauto,auto,user,users,owner,user=joe,"
     "comment=a=b,X-mount.mkdir,defaults,exec,noexec,relatime",
     "mount /m socket=conf timeout=10 pass="},
    {"/sbin/mount.kcmfs kcm /m -o rw,nofail",
     "mount /m socket=conf timeout=10 pass="},
    {"mount.kcmfs kcm /m -n -v -o ro -t fuse.kcmfs",
     "mount /m ro socket=conf timeout=10 pass="},
    {"mount.fuse.kcmfs kcm /m -sfnv -o whatever,ro",
     "fake /m ro socket=conf timeout=10 pass="},
    {"kcmfs -h", "help none socket=conf timeout=10 pass="},
    {"kcmfs --help --nonsense", "help none socket=conf timeout=10 pass="},
    {"kcmfs -V", "version none socket=conf timeout=10 pass="},
    {"kcmfs --version", "version none socket=conf timeout=10 pass="},
};

START_TEST(accepted)
{
    struct options o;
    char *error, text[512];
    int r = parse(good[_i].line, &o, &error);
    ck_assert_msg(r == 0, "%s: %s", good[_i].line, error);
    ck_assert_ptr_null(error);
    show(&o, text, sizeof(text));
    ck_assert_str_eq(text, good[_i].result);
    options_free(&o);
}
END_TEST

/* The message must name what is wrong. */
static const struct {
    const char *line, *named;
} bad[] = {
    {"kcmfs", "no mount point"},
    {"kcmfs -f", "no mount point"},
    {"kcmfs kcm /m /n", "'/n'"},
    {"kcmfs nonsense /m", "'nonsense'"},
    {"kcmfs relative/socket /m", "'relative/socket'"},
    {"kcmfs -z /m", "'-z'"},
    {"kcmfs -fz /m", "'-z'"},
    {"kcmfs -n /m", "'-n'"},
    {"kcmfs --nonsense /m", "'--nonsense'"},
    {"kcmfs --nonsense=1 /m", "'--nonsense=1'"},
    {"kcmfs --kcm /m", "'--kcm'"},
    {"kcmfs --kcm-socket= /m", "'--kcm-socket' needs a value"},
    {"kcmfs /m --kcm-socket", "'--kcm-socket' needs a value"},
    {"kcmfs --embedded=yes /m", "'--embedded' takes no value"},
    {"kcmfs /m -o", "'-o' needs a value"},
    {"kcmfs -o nonsense /m", "'nonsense'"},
    {"kcmfs -o ro,nonsense=1 /m", "'nonsense=1'"},
    {"kcmfs -o ro=1 /m", "'ro=1'"},
    {"kcmfs -o timeout /m", "'timeout'"},
    {"kcmfs -o timeout= /m", "'timeout='"},
    {"kcmfs -o timeout=0 /m", "timeout=0"},
    {"kcmfs -o timeout=3601 /m", "timeout=3601"},
    {"kcmfs -o timeout=-1 /m", "timeout=-1"},
    {"kcmfs -o timeout=1s /m", "timeout=1s"},
    {"kcmfs -o timeout=1.5 /m", "timeout=1.5"},
    {"kcmfs -o timeout=99999999999999999999 /m", "timeout=9999"},
    {"kcmfs -o kcm_socket=rel /m", "'rel'"},
    {"kcmfs -o kcm_socket=- /m", "--embedded"},
    {"kcmfs --kcm-socket=- kcm /m", "--embedded"},
    {"kcmfs --kcm-socket=/a /b /m", "'/b'"},
    {"kcmfs --embedded kcm /m", "'kcm'"},
    {"kcmfs --embedded /s /m", "'/s'"},
    {"kcmfs -o uid=0 /m", "'uid=0'"},
    {"kcmfs -o gid=100 /m", "'gid=100'"},
    {"kcmfs -o kernel_cache /m", "'kernel_cache'"},
    {"kcmfs -o auto_cache /m", "'auto_cache'"},
    {"kcmfs -o fsname=x /m", "'fsname=x'"},
    {"mount.kcmfs kcm /m -o nonsense", "'nonsense'"},
    {"mount.kcmfs kcm /m -s -o uid=0", "'uid=0'"},
    {"mount.kcmfs kcm /m -N ns", "'-N'"},
};

START_TEST(refused)
{
    struct options o;
    char *error;
    ck_assert_int_eq(parse(bad[_i].line, &o, &error), EXIT_USAGE);
    ck_assert_ptr_nonnull(error);
    ck_assert_msg(strstr(error, bad[_i].named) != NULL,
                  "%s: '%s' does not name %s", bad[_i].line, error,
                  bad[_i].named);
    free(error);
    options_free(&o);
}
END_TEST

static char *
help_text(void)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    options_help(f);
    fclose(f);
    return text;
}

/* Each option of the table is in the help, and known to the parser. */
START_TEST(table_and_help_agree)
{
    char *help = help_text();
    char option[64], line[128];
    bool is_refused;
    unsigned n = 0;
    for (; options_nth(n, option, sizeof(option), &is_refused); n++) {
        const char *name = option;
        if (strncmp(option, "-o ", 3) == 0 && option[3] != '\0')
            name += 3;
        ck_assert_msg(strstr(help, name) != NULL, "no help on %s", option);
        char last = option[strlen(option) - 1];
        snprintf(line, sizeof(line), "kcmfs %s%s /m", option,
                 strcmp(option, "-o") == 0                          ? " ro"
                 : last != '='                                      ? ""
                 : strstr(option, "time") || strstr(option, "idle") ? "5"
                                                                    : "/x");
        struct options o;
        char *error;
        int r = parse(line, &o, &error);
        ck_assert_msg(r == (is_refused ? EXIT_USAGE : 0), "%s: %s", line,
                      error);
        if (is_refused)
            ck_assert_ptr_nonnull(strstr(error, "is refused: "));
        free(error);
        options_free(&o);
    }
    ck_assert_uint_gt(n, 60);
    free(help);
}
END_TEST

START_TEST(help_fits_the_screen)
{
    char *help = help_text();
    for (char *s = strtok(help, "\n"); s != NULL; s = strtok(NULL, "\n"))
        ck_assert_msg(strlen(s) <= 79, "%s", s);
    free(help);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("parse");
    tcase_add_loop_test(t, accepted, 0, sizeof(good) / sizeof(good[0]));
    tcase_add_loop_test(t, refused, 0, sizeof(bad) / sizeof(bad[0]));
    suite_add_tcase(s, t);
    t = tcase_create("table");
    tcase_add_test(t, table_and_help_agree);
    tcase_add_test(t, help_fits_the_screen);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
