/*
 * The server on a socket: kcm/listen.c, run.c, conn.c, peers.c, fault.c.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "../../kcm/fault.h"
#include "../../kcm/proto.h"
#include "../../kcm/server.h"
#include "samples.h"

static char dir[] = "/tmp/test_run.XXXXXX";
static char path[64];
static struct kcm_server *server;
static struct fault fault;
static int listen_fd, stop_fd;
static pthread_t thread;

/* The server's, which can be stopped before it waits; counted. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned rounds;

int
epoll_wait(int fd, struct epoll_event *events, int most, int timeout)
{
    rounds++;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return (int)syscall(SYS_epoll_pwait, fd, events, most, timeout, NULL, 8);
}

static void *
serve(void *arg)
{
    (void)arg;
    ck_assert_int_eq(kcm_server_run(server, listen_fd, stop_fd), 0);
    return NULL;
}

static void
setup(void)
{
    struct kcm_server_limits limits = {.connections_per_uid = 8,
                                       .fault = &fault};
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/sock", dir);
    ck_assert_int_eq(kcm_server_new(&limits, &server), 0);
    ck_assert_int_eq(kcm_server_listen(path, &listen_fd), 0);
    stop_fd = eventfd(0, EFD_CLOEXEC);
    pthread_create(&thread, NULL, serve, NULL);
}

static void
teardown(void)
{
    uint64_t one = 1;
    ck_assert_int_eq(write(stop_fd, &one, sizeof(one)), sizeof(one));
    pthread_join(thread, NULL);
    kcm_server_free(server);
    close(stop_fd);
    close(listen_fd);
    unlink(path);
    rmdir(dir);
    ck_assert_uint_eq(secret_in_use(), 0);
}

static int
client(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 10};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(address.sun_path, path, strlen(path) + 1);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)),
                     0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

static void
put(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        ck_assert_int_gt(n, 0);
        p += n;
        len -= (size_t)n;
    }
}

static const char noop[] = "\0\0\0\4\2\0\0\0";
#define NOOP_LEN 8

/* Read one reply: its inner code, or 1 when the connection ended. */
static int32_t
code_from(int fd)
{
    uint8_t b[12];
    struct reader r;
    size_t got = 0;
    while (got < sizeof(b)) {
        ssize_t n = recv(fd, b + got, sizeof(b) - got, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return 1;
        ck_assert_int_gt(n, 0);
        got += (size_t)n;
    }
    reader_init(&r, b, sizeof(b));
    uint32_t left = read_u32(&r) - 4;
    (void)read_u32(&r);
    for (; left > 0; left--)
        ck_assert_int_eq(recv(fd, b, 1, MSG_WAITALL), 1);
    return (int32_t)read_u32(&r);
}

START_TEST(pipelined)
{
    int fd = client();
    char many[NOOP_LEN * 1000];
    for (size_t i = 0; i < 1000; i++)
        memcpy(many + i * NOOP_LEN, noop, NOOP_LEN);
    put(fd, many, sizeof(many));
    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(code_from(fd), 0);
    close(fd);
}
END_TEST

START_TEST(byte_by_byte)
{
    int fd = client();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < NOOP_LEN; i++) {
            put(fd, noop + i, 1);
            usleep(1000);
        }
        ck_assert_int_eq(code_from(fd), 0);
    }
    put(fd, noop, NOOP_LEN);
    shutdown(fd, SHUT_WR);
    ck_assert_int_eq(code_from(fd), 0);
    ck_assert_int_eq(code_from(fd), 1);
    close(fd);
}
END_TEST

static const struct {
    const char *bytes;
    size_t len;
} bad[] = {
    {"\0\0\0\0", 4},         {"\0\0\0\1\2", 5},       {"\0\0\0\3\2\0\0", 7},
    {"\0\0\0\4\2\1\0\0", 8}, {"\0\0\0\4\1\0\0\0", 8}, {"\0\xa0\0\1", 4},
    {"\xff\xff\xff\xff", 4},
};

/* The connection ends, after the replies to what came before. */
START_TEST(closes_on_nonsense)
{
    int fd = client(), other = client();
    char bytes[NOOP_LEN + 8];
    memcpy(bytes, noop, NOOP_LEN);
    memcpy(bytes + NOOP_LEN, bad[_i].bytes, bad[_i].len);
    put(fd, bytes, NOOP_LEN + bad[_i].len);
    ck_assert_int_eq(code_from(fd), 0);
    ck_assert_int_eq(code_from(fd), 1);
    put(other, noop, NOOP_LEN);
    ck_assert_int_eq(code_from(other), 0);
    close(other);
    close(fd);
}
END_TEST

/* A request of the greatest length is read; one half of it blocks nobody. */
START_TEST(large_and_half)
{
    int fd = client(), other = client();
    char *big = calloc(1, 4 + KCM_MESSAGE_MAX);
    memcpy(big, "\0\xa0\0\0\2\0\0\0", 8);
    put(fd, big, KCM_MESSAGE_MAX / 2);
    put(other, noop, NOOP_LEN);
    ck_assert_int_eq(code_from(other), 0);
    put(fd, big + KCM_MESSAGE_MAX / 2, 4 + KCM_MESSAGE_MAX / 2);
    ck_assert_int_eq(code_from(fd), 0);
    put(fd, noop, NOOP_LEN);
    ck_assert_int_eq(code_from(fd), 0);
    free(big);
    close(other);
    close(fd);
}
END_TEST

static void
put_request(int fd, unsigned opcode, const struct writer *args)
{
    struct writer w = {0};
    write_u32(&w, (uint32_t)args->len + 4);
    write_u16(&w, 0x0200);
    write_u16(&w, (uint16_t)opcode);
    write_data(&w, writer_data(args));
    put(fd, w.p, w.len);
    writer_free(&w);
}

/* 40 replies of 1 MiB that nobody reads until others were served. */
START_TEST(slow_reader)
{
    int fd = client(), other = client();
    char name[16];
    struct writer w = {0};
    char *big = calloc(1, 1 << 20);
    memset(big, 'x', (1 << 20) - 1);
    snprintf(name, sizeof(name), "%u:a", (unsigned)geteuid());
    write_string(&w, name);
    sample_principal(&w, "alice@EX.ORG");
    put_request(fd, KCM_OP_INITIALIZE, &w);
    ck_assert_int_eq(code_from(fd), 0);
    writer_reset(&w);
    write_string(&w, name);
    sample_cred(&w, &(struct sample){.ticket = big});
    put_request(fd, KCM_OP_STORE, &w);
    ck_assert_int_eq(code_from(fd), 0);
    writer_reset(&w);
    write_string(&w, name);
    for (int i = 0; i < 40; i++)
        put_request(fd, KCM_OP_GET_CRED_LIST, &w);
    for (int i = 0; i < 100; i++) {
        put(other, noop, NOOP_LEN);
        ck_assert_int_eq(code_from(other), 0);
    }
    ck_assert_uint_lt(secret_in_use(), 16u << 20);
    char *reply = malloc(1 << 21);
    for (int i = 0; i < 40; i++) {
        uint32_t len;
        ck_assert_int_eq(recv(fd, &len, 4, MSG_WAITALL), 4);
        len = __builtin_bswap32(len);
        ck_assert_uint_gt(len, 1 << 20);
        ck_assert_int_eq(recv(fd, reply, len + 4, MSG_WAITALL), len + 4);
    }
    put(fd, noop, NOOP_LEN);
    ck_assert_int_eq(code_from(fd), 0);
    free(reply);
    free(big);
    writer_free(&w);
    close(other);
    close(fd);
}
END_TEST

START_TEST(connection_limit)
{
    int fd[9];
    for (int i = 0; i < 8; i++) {
        fd[i] = client();
        put(fd[i], noop, NOOP_LEN);
        ck_assert_int_eq(code_from(fd[i]), 0);
    }
    fd[8] = client();
    ck_assert_int_eq(code_from(fd[8]), 1);
    for (int i = 0; i < 8; i++) {
        put(fd[i], noop, NOOP_LEN);
        ck_assert_int_eq(code_from(fd[i]), 0);
        close(fd[i]);
    }
    close(fd[8]);
    usleep(20000);
    fd[0] = client();
    put(fd[0], noop, NOOP_LEN);
    ck_assert_int_eq(code_from(fd[0]), 0);
    close(fd[0]);
}
END_TEST

/* Nobody waits for a round for each who connected before. */
START_TEST(accepts_many)
{
    int fd[8];
    while (rounds == 0)
        usleep(1000);
    pthread_mutex_lock(&gate);
    unsigned before = rounds;
    for (int i = 0; i < 8; i++) {
        fd[i] = client();
        put(fd[i], noop, NOOP_LEN);
        /* The first ends the wait under way. */
        for (int ms = 0; ms < 100 && rounds == before; ms++)
            usleep(1000);
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(code_from(fd[i]), 0);
    ck_assert_uint_le(rounds, before + 4);
    for (int i = 0; i < 8; i++)
        close(fd[i]);
}
END_TEST

START_TEST(faults)
{
    ck_assert(fault_parse("0:2:refuse", &fault));
    int fd = client();
    for (int i = 1; i <= 3; i++) {
        put(fd, noop, NOOP_LEN);
        ck_assert_int_eq(code_from(fd), i == 2 ? KCM_CODE_FCC_INTERNAL : 0);
    }
    ck_assert(fault_parse("any:1:hang", &fault));
    struct timeval limit = {.tv_usec = 100000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    put(fd, noop, NOOP_LEN);
    put(fd, noop, NOOP_LEN);
    char c;
    ck_assert_int_eq(recv(fd, &c, 1, 0), -1);
    ck_assert_int_eq(errno, EAGAIN);
    int other = client();
    put(other, noop, NOOP_LEN);
    ck_assert_int_eq(code_from(other), 0);
    close(other);
    close(fd);
}
END_TEST

START_TEST(fault_options)
{
    static const char *const wrong[] = {
        "",       "0",       "0:1",     "0:0:die",     "0:1:dye",
        ":1:die", "x:1:die", "0:x:die", "65536:1:die", "any1:1:die"};
    struct fault f;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(!fault_parse(wrong[i], &f), "%s", wrong[i]);
    ck_assert(fault_parse("13002:7:die-after", &f));
    ck_assert_uint_eq(f.opcode, KCM_OP_REPLACE);
    ck_assert_uint_eq(f.countdown, 7);
    ck_assert_int_eq(f.kind, FAULT_DIE_AFTER);
    ck_assert(fault_parse("0xffff:1:die", &f));
    ck_assert_uint_eq(f.opcode, FAULT_ANY_OPCODE);
}
END_TEST

START_TEST(socket_file)
{
    struct stat st;
    char other[64];
    int fd, again;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0666);
    ck_assert_int_eq(kcm_server_listen(path, &fd), -EADDRINUSE);
    ck_assert_int_eq(fd, -1);
    snprintf(other, sizeof(other), "%s/other", dir);
    ck_assert_int_eq(kcm_server_listen(other, &fd), 0);
    close(fd); /* stale now */
    ck_assert_int_eq(kcm_server_listen(other, &again), 0);
    close(again);
    unlink(other);
    fclose(fopen(other, "w"));
    ck_assert_int_eq(kcm_server_listen(other, &fd), -EADDRINUSE);
    ck_assert_int_eq(access(other, F_OK), 0);
    unlink(other);
    char long_path[200];
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    ck_assert_int_eq(kcm_server_listen(long_path, &fd), -ENAMETOOLONG);
}
END_TEST

static void *
busy(void *arg)
{
    struct writer request = {0}, reply = {0};
    char name[16];
    uid_t uid = (uid_t)(uintptr_t)arg;
    snprintf(name, sizeof(name), "%u:a", (unsigned)uid);
    for (uint32_t i = 0; i < 500; i++) {
        static const uint16_t ops[] = {KCM_OP_INITIALIZE, KCM_OP_STORE,
                                       KCM_OP_STORE, KCM_OP_GET_CRED_LIST,
                                       KCM_OP_DESTROY};
        uint16_t op = ops[i % 5];
        writer_reset(&request);
        writer_reset(&reply);
        write_u16(&request, 0x0200);
        write_u16(&request, op);
        write_string(&request, name);
        if (op == KCM_OP_INITIALIZE)
            sample_principal(&request, "alice@EX.ORG");
        if (op == KCM_OP_STORE)
            sample_cred(&request, &(struct sample){.flags = i});
        ck_assert_int_eq(
            kcm_server_handle(server, uid, uid, writer_data(&request), &reply),
            0);
    }
    writer_free(&request);
    writer_free(&reply);
    return NULL;
}

START_TEST(many_threads)
{
    pthread_t threads[6];
    for (uintptr_t i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, busy, (void *)(1000 + i / 2));
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
}
END_TEST

int
main(void)
{
    Suite *s = suite_create("run");
    TCase *t = tcase_create("run");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, pipelined);
    tcase_add_test(t, byte_by_byte);
    tcase_add_loop_test(t, closes_on_nonsense, 0,
                        (int)(sizeof(bad) / sizeof(bad[0])));
    tcase_add_test(t, large_and_half);
    tcase_add_test(t, slow_reader);
    tcase_add_test(t, connection_limit);
    tcase_add_test(t, accepts_many);
    tcase_add_test(t, faults);
    tcase_add_test(t, fault_options);
    tcase_add_test(t, socket_file);
    tcase_add_test(t, many_threads);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
