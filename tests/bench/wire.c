/*
 * What one KCM operation takes: sends requests that it is given, reads their
 * replies and times that, on one kept connection to each daemon.
 *
 *   wire LABEL=SOCKET... <LINES
 *
 * A line is OPERATION NUMBER HEX: send the bytes, which are one whole request,
 * to the daemon of that number, from 0 on.  Those of the operation "-" are not
 * timed.  One JSON object per operation and daemon is printed: microseconds,
 * and how many were refused.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common.h"

#define DAEMONS     4
#define OPERATIONS  40
#define MESSAGE_MAX (16 << 20)
#define EAGAIN_KCM  11 /* Heimdal's DESTROY, in passing */

struct daemon {
    const char *label;
    int fd;
};

struct figures {
    double *us;
    size_t count, room, failed;
};

static struct daemon daemons[DAEMONS];
static size_t daemon_count;
static char names[OPERATIONS][32];
static size_t name_count;
static struct figures figures[OPERATIONS][DAEMONS];
static uint8_t request[MESSAGE_MAX], reply[MESSAGE_MAX];

static int
connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size = 4 << 20;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
        fail("no socket for %s", path);
    strcpy(address.sun_path, path);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        fail("%s: %m", path);
    return fd;
}

static void
receive(int fd, uint8_t *to, size_t len)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = recv(fd, to + got, len - got, 0);
        if (n <= 0)
            fail("the connection is closed: %m");
        got += (size_t)n;
    }
}

static uint32_t
number_at(const uint8_t *p)
{
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return ntohl(n);
}

/* One request and its whole reply; the outer or the inner status. */
static uint32_t
exchange(int fd, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, request + sent, len - sent, MSG_NOSIGNAL);
        if (n < 0)
            fail("the connection is closed: %m");
        sent += (size_t)n;
    }
    receive(fd, reply, 8);
    size_t size = number_at(reply);
    uint32_t outer = number_at(reply + 4);
    if (size > sizeof(reply))
        fail("a reply of %zu bytes", size);
    receive(fd, reply, size);
    return outer != 0 || size < 4 ? outer : number_at(reply);
}

static int
nibble(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* The length of the request that hex is. */
static size_t
read_request(const char *hex)
{
    size_t len = 0;
    for (; hex[0] > ' ' && hex[1] > ' '; hex += 2) {
        if (len == sizeof(request))
            fail("a request is too long");
        request[len++] = (uint8_t)(nibble(hex[0]) << 4 | nibble(hex[1]));
    }
    if (len < 8 || number_at(request) != len - 4)
        fail("not one whole request");
    return len;
}

static size_t
operation_of(const char *name)
{
    for (size_t i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    if (name_count == OPERATIONS)
        fail("too many operations");
    strcpy(names[name_count], name);
    return name_count++;
}

static void
note(struct figures *f, double us)
{
    if (f->count == f->room) {
        f->room = f->room > 0 ? f->room * 2 : 64;
        f->us = reallocarray(f->us, f->room, sizeof(*f->us));
        if (f->us == NULL)
            fail("no memory");
    }
    f->us[f->count++] = us;
}

static void
run_line(const char *line)
{
    char name[32];
    size_t daemon;
    int hex = 0;
    if (sscanf(line, "%31s %zu %n", name, &daemon, &hex) != 2 || hex == 0 ||
        daemon >= daemon_count)
        fail("what is this: %.60s", line);
    bool timed = strcmp(name, "-") != 0;
    size_t len = read_request(line + hex), operation = 0;
    if (timed)
        operation = operation_of(name);
    uint32_t code;
    double start = now();
    int tries = 0;
    do
        code = exchange(daemons[daemon].fd, len);
    while (code == EAGAIN_KCM && ++tries < 4);
    double us = (now() - start) * 1e6;
    if (code != 0 && !timed)
        fail("%s refuses to prepare: %d", daemons[daemon].label, (int)code);
    if (code != 0)
        figures[operation][daemon].failed++;
    else if (timed)
        note(&figures[operation][daemon], us);
}

static void
report(const char *name, const char *label, struct figures *f)
{
    if (f->count + f->failed == 0)
        return;
    printf("{\"operation\": \"%s\", \"target\": \"%s\", \"count\": %zu, "
           "\"failed\": %zu",
           name, label, f->count, f->failed);
    if (f->count > 0) {
        qsort(f->us, f->count, sizeof(*f->us), compare_doubles);
        printf(", \"p50\": %.1f, \"p99\": %.1f", f->us[(f->count - 1) / 2],
               f->us[(f->count - 1) * 99 / 100]);
    }
    printf("}\n");
}

int
main(int argc, char **argv)
{
    char *line = NULL;
    size_t room = 0;
    for (int i = 1; i < argc; i++) {
        char *path = strchr(argv[i], '=');
        if (path == NULL || daemon_count == DAEMONS)
            fail("see the head of wire.c");
        *path = '\0';
        daemons[daemon_count].label = argv[i];
        daemons[daemon_count++].fd = connect_to(path + 1);
    }
    while (getline(&line, &room, stdin) > 0)
        run_line(line);
    free(line);
    for (size_t i = 0; i < name_count; i++)
        for (size_t d = 0; d < daemon_count; d++)
            report(names[i], daemons[d].label, &figures[i][d]);
    return 0;
}
