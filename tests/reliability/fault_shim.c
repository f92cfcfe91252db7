/* Preloaded library that lets one call of the system fail: the call of this number among all that
 * open, write, sync or rename a file under the given folders. A write that fails writes half. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char roots[4][PATH_MAX];
static int num_roots;
static long seen, fail_at;
static int fault, lasting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fault_watch(const char *folder) {
    if (num_roots < 4) snprintf(roots[num_roots++], PATH_MAX, "%s/", folder);
}

/* Let call number `call` (from 1) fail with `error`; with `last`, all after it too. */
void fault_arm(long call, int error, int last) {
    seen = 0;
    fail_at = call;
    fault = error;
    lasting = last;
}

long fault_seen(void) { return seen; }

static int due(const char *path) {
    int inside = 0, fails = 0;
    for (int i = 0; i < num_roots && path; ++i)
        inside |= strncmp(path, roots[i], strlen(roots[i])) == 0;
    if (!inside) return 0;
    pthread_mutex_lock(&lock);
    ++seen;
    fails = fail_at > 0 && (seen == fail_at || (lasting && seen > fail_at));
    pthread_mutex_unlock(&lock);
    if (fails) errno = fault;
    return fails;
}

static int due_of(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = num_roots ? readlink(link, path, sizeof path - 1) : -1;
    if (size < 0) return 0;
    path[size] = 0;
    return due(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                          \
    int name(const char *path, int flags, ...) {            \
        va_list rest;                                       \
        va_start(rest, flags);                              \
        int mode = va_arg(rest, int);                       \
        va_end(rest);                                       \
        return due(path) ? -1 : NEXT(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int folder, const char *path, int flags, ...) {    \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        int mode = va_arg(rest, int);                           \
        va_end(rest);                                           \
        return due(path) ? -1 : NEXT(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { return due(path) ? NULL : NEXT(name)(path, mode); }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *bytes, size_t size) {
    if (!due_of(fd)) return NEXT(write)(fd, bytes, size);
    int error = errno;
    if (NEXT(write)(fd, bytes, size / 2) < 0) error = errno;
    errno = error;
    return -1;
}

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
    if (!due_of(fileno(file))) return NEXT(fwrite)(bytes, size, count, file);
    int error = errno;
    size_t written = NEXT(fwrite)(bytes, size, count / 2, file);
    errno = error;
    return written;
}

#define OFFSET_WRITE(name, type)                                        \
    ssize_t name(int fd, const void *bytes, size_t size, type offset) { \
        return due_of(fd) ? -1 : NEXT(name)(fd, bytes, size, offset);   \
    }
OFFSET_WRITE(pwrite, off_t)
OFFSET_WRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return due_of(fd) ? -1 : NEXT(writev)(fd, parts, count);
}

int fsync(int fd) { return due_of(fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return due_of(fd) ? -1 : NEXT(fdatasync)(fd); }
int rename(const char *from, const char *to) { return due(to) ? -1 : NEXT(rename)(from, to); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return due(to) ? -1 : NEXT(renameat)(from_folder, from, to_folder, to);
}
