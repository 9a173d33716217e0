/*
 * Lets the Nth call of some kind fail, once, when told to: LD_PRELOAD it.
 *
 * INJECT_FILE names a file of three 32-bit numbers that whoever tells shares
 * by mmap(2): the kind (1: memory, 2: large memory, 3: sockets and waits), the
 * calls left until the one that fails, and how many have failed.  Only calls
 * that the program itself makes count, not those of its libraries.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind {
    MEMORY = 1,
    LARGE = 2,
    SOCKETS = 3
};

struct control {
    uint32_t kind;
    int32_t left;
    uint32_t failed;
};

static struct control none, *control = &none;
static uintptr_t program_start, program_end;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);

/* The first object is the program. */
static int
note_program(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    (void)arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && (p->p_flags & PF_X)) {
            program_start = info->dlpi_addr + p->p_vaddr;
            program_end = program_start + p->p_memsz;
        }
    }
    return 1;
}

/* Where it crashed, as offsets for addr2line(1). */
static void
crashed(int sig)
{
    void *frames[24];
    int count = backtrace(frames, 24);
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
    signal(sig, SIG_DFL);
    raise(sig);
}

__attribute__((constructor)) static void
begin(void)
{
    void *one[1];
    (void)backtrace(one, 1); /* loads what it needs */
    signal(SIGSEGV, crashed);
    signal(SIGABRT, crashed);
    const char *path = getenv("INJECT_FILE");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED,
                   fd, 0);
    close(fd);
    dl_iterate_phdr(note_program, NULL);
    if (p != MAP_FAILED)
        control = p;
}

/* Is this the call that is to fail? */
static bool
is_due(enum kind kind, const void *from)
{
    uintptr_t at = (uintptr_t)from;
    if (__atomic_load_n(&control->kind, __ATOMIC_ACQUIRE) != kind ||
        at < program_start || at >= program_end)
        return false;
    if (__atomic_sub_fetch(&control->left, 1, __ATOMIC_ACQ_REL) != 0)
        return false;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_ACQ_REL);
    return true;
}

#define FAIL(kind, error, result)                                             \
    if (is_due(kind, __builtin_return_address(0))) {                          \
        errno = error;                                                        \
        return result;                                                        \
    }
#define REAL(type, name, ...)                                                 \
    static type (*real)(__VA_ARGS__);                                         \
    if (real == NULL)                                                         \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void *
malloc(size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    return __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    return __libc_calloc(count, size);
}

void *
realloc(void *block, size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    return __libc_realloc(block, size);
}

void *
reallocarray(void *block, size_t count, size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    if (size > 0 && count > SIZE_MAX / size) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(block, count * size);
}

char *
strdup(const char *text)
{
    FAIL(MEMORY, ENOMEM, NULL)
    size_t size = strlen(text) + 1;
    char *copy = __libc_malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

char *
strndup(const char *text, size_t most)
{
    FAIL(MEMORY, ENOMEM, NULL)
    size_t size = strnlen(text, most);
    char *copy = __libc_malloc(size + 1);
    if (copy != NULL) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

static int
print(char **out, const char *format, va_list ap)
{
    REAL(int, "vasprintf", char **, const char *, va_list);
    return real(out, format, ap);
}

int
vasprintf(char **out, const char *format, va_list ap)
{
    FAIL(MEMORY, ENOMEM, -1)
    return print(out, format, ap);
}

int
asprintf(char **out, const char *format, ...)
{
    va_list ap;
    FAIL(MEMORY, ENOMEM, -1)
    va_start(ap, format);
    int n = print(out, format, ap);
    va_end(ap);
    return n;
}

/* What _FORTIFY_SOURCE makes of them. */
int __vasprintf_chk(char **out, int flag, const char *format, va_list ap);
int __asprintf_chk(char **out, int flag, const char *format, ...);

int
__vasprintf_chk(char **out, int flag, const char *format, va_list ap)
{
    (void)flag;
    FAIL(MEMORY, ENOMEM, -1)
    return print(out, format, ap);
}

int
__asprintf_chk(char **out, int flag, const char *format, ...)
{
    va_list ap;
    (void)flag;
    FAIL(MEMORY, ENOMEM, -1)
    va_start(ap, format);
    int n = print(out, format, ap);
    va_end(ap);
    return n;
}

void *
mmap(void *where, size_t size, int prot, int flags, int fd, off_t off)
{
    REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
    FAIL(LARGE, ENOMEM, MAP_FAILED)
    return real(where, size, prot, flags, fd, off);
}

int
socket(int domain, int type, int protocol)
{
    REAL(int, "socket", int, int, int);
    FAIL(SOCKETS, EMFILE, -1)
    return real(domain, type, protocol);
}

int
connect(int fd, const struct sockaddr *address, socklen_t size)
{
    REAL(int, "connect", int, const struct sockaddr *, socklen_t);
    FAIL(SOCKETS, ECONNREFUSED, -1)
    return real(fd, address, size);
}

ssize_t
send(int fd, const void *p, size_t size, int flags)
{
    REAL(ssize_t, "send", int, const void *, size_t, int);
    FAIL(SOCKETS, EPIPE, -1)
    return real(fd, p, size, flags);
}

ssize_t
recv(int fd, void *p, size_t size, int flags)
{
    REAL(ssize_t, "recv", int, void *, size_t, int);
    FAIL(SOCKETS, ECONNRESET, -1)
    return real(fd, p, size, flags);
}

int
poll(struct pollfd *fds, nfds_t count, int timeout)
{
    REAL(int, "poll", struct pollfd *, nfds_t, int);
    FAIL(SOCKETS, ENOMEM, -1)
    return real(fds, count, timeout);
}

int
eventfd(unsigned start, int flags)
{
    REAL(int, "eventfd", unsigned, int);
    FAIL(SOCKETS, EMFILE, -1)
    return real(start, flags);
}
