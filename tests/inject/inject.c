/*
 * Lets the Nth call of some kind fail when told to, alone or with all that
 * come after it: LD_PRELOAD it.
 *
 * INJECT_FILE names a file of four 32-bit numbers that whoever tells shares
 * by mmap(2): the kind, the calls left until the one that fails, how many
 * have failed, and whether those behind it fail, too.  Only calls that the
 * program itself makes count, not those of its libraries.
 *
 * What is not here cannot fail where it is called (close, munmap,
 * sigprocmask), is a wake-up that cannot be refused (eventfd's write), or is
 * the kernel's own end of the mount, without which there is nothing to test
 * (writev).
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
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum kind {
    MEMORY = 1,
    LARGE = 2,   /* mappings, and locking them */
    SOCKETS = 3, /* waits and threads, too */
    IDS = 4,     /* being somebody else, and oneself again */
    FILES = 5,   /* the memory file, and what a start does to descriptors */
    LOOP = 6,    /* what a daemon sleeps in */
    CHANCE = 7,
    ACCEPT = 8, /* apart: a daemon that cannot accept pauses */
    LATE = 9    /* a read() that comes a second late, by a library, too */
};

struct control {
    uint32_t kind;
    int32_t left;
    uint32_t failed;
    uint32_t all; /* from that one on */
};

static struct control none, *control = &none;
static uintptr_t program_start, program_end;

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
    if (dlsym(RTLD_DEFAULT, "__asan_init") == NULL) { /* which tells itself */
        (void)backtrace(one, 1);                      /* loads what it needs */
        signal(SIGSEGV, crashed);
        signal(SIGABRT, crashed);
    }
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

static bool
is_next(enum kind kind)
{
    if (__atomic_load_n(&control->kind, __ATOMIC_ACQUIRE) != kind)
        return false;
    int32_t left = __atomic_sub_fetch(&control->left, 1, __ATOMIC_ACQ_REL);
    if (left > 0 || (left < 0 && control->all == 0))
        return false;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_ACQ_REL);
    return true;
}

/* Is this the call that is to fail? */
static bool
is_due(enum kind kind, const void *from)
{
    uintptr_t at = (uintptr_t)from;
    return at >= program_start && at < program_end && is_next(kind);
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
/* A function that fails, or is what it was. */
#define MAY_FAIL(kind, error, result, type, name, parameters, ...)            \
    type name parameters                                                      \
    {                                                                         \
        static type(*real) parameters;                                        \
        if (real == NULL)                                                     \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);               \
        FAIL(kind, error, result)                                             \
        return real(__VA_ARGS__);                                             \
    }

void *
malloc(size_t size)
{
    REAL(void *, "malloc", size_t);
    FAIL(MEMORY, ENOMEM, NULL)
    return real(size);
}

void *
calloc(size_t count, size_t size)
{
    REAL(void *, "calloc", size_t, size_t);
    FAIL(MEMORY, ENOMEM, NULL)
    return real(count, size);
}

static void *
resize(void *block, size_t size)
{
    REAL(void *, "realloc", void *, size_t);
    return real(block, size);
}

void *
realloc(void *block, size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    return resize(block, size);
}

void *
reallocarray(void *block, size_t count, size_t size)
{
    FAIL(MEMORY, ENOMEM, NULL)
    if (size > 0 && count > SIZE_MAX / size) {
        errno = ENOMEM;
        return NULL;
    }
    return resize(block, count * size);
}

char *
strdup(const char *text)
{
    FAIL(MEMORY, ENOMEM, NULL)
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    return copy != NULL ? memcpy(copy, text, size) : NULL;
}

char *
strndup(const char *text, size_t most)
{
    FAIL(MEMORY, ENOMEM, NULL)
    size_t size = strnlen(text, most);
    char *copy = malloc(size + 1);
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

/* What was written is there, but not all of it. */
int
fclose(FILE *f)
{
    REAL(int, "fclose", FILE *);
    int r = real(f);
    FAIL(MEMORY, ENOMEM, EOF)
    return r;
}

MAY_FAIL(MEMORY, ENOMEM, NULL, FILE *, open_memstream,
         (char **text, size_t *size), text, size)

MAY_FAIL(LARGE, ENOMEM, MAP_FAILED, void *, mmap,
         (void *where, size_t size, int prot, int flags, int fd, off_t off),
         where, size, prot, flags, fd, off)
MAY_FAIL(LARGE, ENOMEM, -1, int, mlock, (const void *p, size_t size), p, size)

MAY_FAIL(SOCKETS, EMFILE, -1, int, socket,
         (int domain, int type, int protocol), domain, type, protocol)
MAY_FAIL(SOCKETS, ECONNREFUSED, -1, int, connect,
         (int fd, const struct sockaddr *address, socklen_t size), fd, address,
         size)
MAY_FAIL(SOCKETS, EPIPE, -1, ssize_t, send,
         (int fd, const void *p, size_t size, int flags), fd, p, size, flags)
MAY_FAIL(SOCKETS, ENOBUFS, -1, ssize_t, sendmsg,
         (int fd, const struct msghdr *m, int flags), fd, m, flags)
/* Not a reset connection, on which nothing can have been done. */
MAY_FAIL(SOCKETS, ENOMEM, -1, ssize_t, recv,
         (int fd, void *p, size_t size, int flags), fd, p, size, flags)
MAY_FAIL(SOCKETS, ENOBUFS, -1, int, setsockopt,
         (int fd, int level, int name, const void *p, socklen_t size), fd,
         level, name, p, size)
MAY_FAIL(SOCKETS, ENOBUFS, -1, int, getsockopt,
         (int fd, int level, int name, void *p, socklen_t *size), fd, level,
         name, p, size)
MAY_FAIL(ACCEPT, EMFILE, -1, int, accept4,
         (int fd, struct sockaddr *address, socklen_t *size, int flags), fd,
         address, size, flags)
MAY_FAIL(SOCKETS, ENOBUFS, -1, int, bind,
         (int fd, const struct sockaddr *address, socklen_t size), fd, address,
         size)
MAY_FAIL(SOCKETS, EADDRINUSE, -1, int, listen, (int fd, int backlog), fd,
         backlog)
MAY_FAIL(SOCKETS, ENOMEM, -1, int, poll,
         (struct pollfd * fds, nfds_t count, int timeout), fds, count, timeout)
MAY_FAIL(SOCKETS, EMFILE, -1, int, eventfd, (unsigned start, int flags), start,
         flags)
MAY_FAIL(SOCKETS, EMFILE, -1, int, epoll_create1, (int flags), flags)
MAY_FAIL(SOCKETS, ENOSPC, -1, int, epoll_ctl,
         (int fd, int op, int of, struct epoll_event *event), fd, op, of,
         event)
MAY_FAIL(SOCKETS, EAGAIN, EAGAIN, int, pthread_create,
         (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *),
          void *arg),
         thread, attr, run, arg)

MAY_FAIL(LOOP, EINVAL, -1, int, epoll_wait,
         (int fd, struct epoll_event *events, int most, int timeout), fd,
         events, most, timeout)

MAY_FAIL(FILES, EMFILE, -1, int, memfd_create,
         (const char *name, unsigned flags), name, flags)
MAY_FAIL(FILES, ENOSPC, -1, ssize_t, write,
         (int fd, const void *p, size_t size), fd, p, size)
ssize_t
read(int fd, void *p, size_t size)
{
    REAL(ssize_t, "read", int, void *, size_t);
    FAIL(FILES, EIO, -1)
    if (is_next(LATE))
        sleep(1); /* or until a signal */
    return real(fd, p, size);
}

MAY_FAIL(FILES, EINVAL, -1, off_t, lseek, (int fd, off_t at, int from), fd, at,
         from)
MAY_FAIL(FILES, ENOMEM, -1, int, fstat, (int fd, struct stat *st), fd, st)
MAY_FAIL(FILES, EPERM, -1, int, fchmod, (int fd, mode_t mode), fd, mode)
MAY_FAIL(FILES, EPERM, -1, int, chmod, (const char *path, mode_t mode), path,
         mode)
MAY_FAIL(CHANCE, ENOSYS, -1, ssize_t, getrandom,
         (void *p, size_t size, unsigned flags), p, size, flags)

int
fcntl(int fd, int what, ...)
{
    REAL(int, "fcntl", int, int, ...);
    va_list ap;
    va_start(ap, what);
    long arg = va_arg(ap, long);
    va_end(ap);
    FAIL(FILES, EINVAL, -1)
    return real(fd, what, arg);
}

/* The ids of the calling thread alone; the rest is what a start needs. */
long
syscall(long number, ...)
{
    REAL(long, "syscall", long, ...);
    long a[6];
    va_list ap;
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (number == SYS_setresuid || number == SYS_setresgid)
        FAIL(IDS, EPERM, -1)
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
