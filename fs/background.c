/*
 * The parent stays, with the user's terminal, until the child has mounted.
 */
#include "background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kcm/log.h"
#include "options.h"

/* What the child's end means for whoever started us. */
static int
status_of(pid_t child)
{
    int status;
    pid_t r;
    do
        r = waitpid(child, &status, 0);
    while (r < 0 && errno == EINTR);
    if (r == child && WIFEXITED(status))
        return WEXITSTATUS(status);
    if (r == child && WIFSIGNALED(status))
        log_error("died at start: %s", strsignal(WTERMSIG(status)));
    return EXIT_RUN;
}

static void __attribute__((noreturn)) wait_until_ready(int fd, pid_t child)
{
    /* Whoever gives up waiting may: the child goes on, or ends as well. */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    char byte;
    ssize_t n;
    do
        n = read(fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    _exit(n == 1 ? EXIT_OK : status_of(child));
}

int
background_start(struct background *b)
{
    b->fd = b->null_fd = -1;
    int pipe_fd[2];
    if (pipe2(pipe_fd, O_CLOEXEC) != 0)
        return -errno;
    pid_t child = fork();
    if (child < 0) {
        int r = -errno;
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        return r;
    }
    if (child > 0) {
        close(pipe_fd[1]);
        wait_until_ready(pipe_fd[0], child);
    }
    close(pipe_fd[0]);
    b->fd = pipe_fd[1];
    /* Now: once ready, this process can open no file for writing. */
    b->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return 0;
}

void
background_ready(struct background *b)
{
    if (b->fd < 0)
        return;
    (void)setsid();
    for (int i = 0; i < 3 && b->null_fd >= 0; i++)
        (void)dup2(b->null_fd, i);
    if (b->null_fd > 2)
        close(b->null_fd);
    (void)!write(b->fd, "", 1);
    close(b->fd);
    b->fd = -1;
}
