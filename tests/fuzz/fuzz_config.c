/*
 * Configuration entries: the files of config/ and the entries that they
 * stand for; and kcm_socket in krb5.conf.
 *
 * input = file name, NUL, value; or, as krb5.conf, all of it
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../fs/tree.h"
#include "../../kcm/conf.h"
#include "fuzz.h"

void __wrap_log_line(int level, const char *format, ...);

/* What it says of a file that cannot be read. */
void
__wrap_log_line(int level, const char *format, ...)
{
    (void)level;
    assert(format[0] != '\0');
}

static void
check_entry(const char *file, struct data value)
{
    struct writer client = {0}, w = {0}, again = {0};
    struct cred c, d;
    sample_principal(&client, "a@E");
    int r = config_parse(file, writer_data(&client), value, &w);
    assert(r == 0 || r == -EINVAL);
    if (r == 0) {
        assert(cred_parse(writer_data(&w), &c) && cred_is_config(&c));
        assert(!cred_is_removed(&c));
        assert(data_equal(c.ticket, value));
        assert(data_equal(c.client.raw, writer_data(&client)));
        /* It shows under a name that means the same entry. */
        char *shown = config_file(&c), *text = name_unescape_text(file);
        char *canonical = name_of_principal(text);
        assert(shown != NULL && strcmp(shown, canonical) == 0);
        assert(strchr(shown, '/') == NULL && strchr(shown, ':') == NULL);
        r = config_parse(shown, writer_data(&client), value, &again);
        assert(r == 0 && cred_parse(writer_data(&again), &d));
        if (strchr(text, ':') == NULL)
            assert(cred_same_purpose(&c, &d));
        free(canonical);
        free(text);
        free(shown);
    }
    writer_free(&again);
    writer_free(&w);
    writer_free(&client);
}

/* Any entry that a daemon may hold has a name. */
static void
check_key(struct data key, struct data of)
{
    struct writer client = {0}, w = {0};
    struct cred c;
    sample_principal(&client, "a@E");
    cred_write_config(&w, writer_data(&client), key, of, TEXT("v"));
    assert(cred_parse(writer_data(&w), &c) && cred_is_config(&c));
    assert(data_equal(cred_config_key(&c), key));
    assert(data_equal(cred_config_principal(&c), of));
    char *file = config_file(&c);
    assert(file != NULL && file[0] != '\0');
    assert(strcmp(file, ".") != 0 && strcmp(file, "..") != 0);
    for (const char *p = file; *p != '\0'; p++)
        assert(*p >= ' ' && *p < 127 && *p != '/' && *p != ':');
    free(file);
    writer_free(&w);
    writer_free(&client);
}

static void
check_conf(struct data d)
{
    static int fd = -1;
    char name[32], *socket;
    if (fd < 0) {
        fd = memfd_create("krb5.conf", MFD_CLOEXEC);
        assert(fd >= 0);
        snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        setenv("KRB5_CONFIG", name, 1);
    }
    assert(ftruncate(fd, 0) == 0);
    assert(pwrite(fd, d.p, d.len, 0) == (ssize_t)d.len);
    int r = kcm_conf_socket(&socket);
    assert(r == 0 || (r == -EINVAL && socket == NULL));
    assert(socket == NULL || strcmp(socket, "-") != 0);
    free(socket);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    const uint8_t *nul = len > 0 ? memchr(bytes, '\0', len) : NULL;
    if (nul == NULL) {
        check_conf((struct data){bytes, len});
        return 0;
    }
    size_t at = (size_t)(nul - bytes);
    struct data rest = {nul + 1, len - at - 1};
    check_entry((const char *)bytes, rest);
    check_key((struct data){bytes, at}, rest);
    check_key(rest, (struct data){bytes, at});
    assert(secret_in_use() == 0);
    return 0;
}
