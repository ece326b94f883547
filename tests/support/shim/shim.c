/* System calls on files that fail, take long or do half, by rules in a mapped file. See __init__.py, which writes the rules.

   Wrapped are the functions that CPython and SQLite call for files. Paths of descriptors come from /proc/self/fd, so that nothing has to
   be remembered; with no rule for a call that costs nothing. Counting is atomic: the workers of a broker call at the same time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { NONE, WRITE, READ, SYNC, RENAME, OPEN, TRUNCATE, UNLINK };
enum { RULE_COUNT = 16, LEFT_OUT = -1 };

struct rule {
    volatile int call, skip, times, code, delay_us, shortens, seen, hits;
    char pattern[224];
};

static struct rule *rules;

__attribute__((constructor)) static void map_rules(void) {
    const char *path = getenv("SHIM_RULES");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *found = mmap(NULL, RULE_COUNT * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (found != MAP_FAILED)
        rules = found;
}

static int has_rule(enum call call) {
    for (int i = 0; rules && i < RULE_COUNT; i++)
        if (rules[i].call == call)
            return 1;
    return 0;
}

/* What is to become of a call: 0 as it is, LEFT_OUT, or an errno. Waits as long as the rules say, halves *size where they say so. */
static int verdict(enum call call, const char *path, size_t *size) {
    int code = 0;
    for (int i = 0; i < RULE_COUNT; i++) {
        struct rule *rule = &rules[i];
        if (rule->call != (int)call || fnmatch(rule->pattern, path, 0) != 0)
            continue;
        int number = __sync_fetch_and_add(&rule->seen, 1);
        if (number < rule->skip || number - rule->skip >= rule->times)
            continue;
        __sync_fetch_and_add(&rule->hits, 1);
        if (rule->delay_us) {
            struct timespec pause = {rule->delay_us / 1000000, rule->delay_us % 1000000 * 1000L};
            nanosleep(&pause, NULL);
        }
        if (rule->shortens && size && *size > 1)
            *size /= 2;
        if (rule->code)
            code = rule->code;
    }
    return code;
}

static int verdict_of_descriptor(enum call call, int descriptor, size_t *size) {
    char link[64], path[4096];
    if (descriptor < 0 || !has_rule(call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return verdict(call, path, size);
}

static int verdict_of_path(enum call call, const char *path) {
    return path && has_rule(call) ? verdict(call, path, NULL) : 0;
}

/* Return from the wrapper where the rules say so; else go on to the real function, which is found once. */
#define OBEY(code, done)      \
    do {                      \
        int told = (code);    \
        if (told == LEFT_OUT) \
            return done;      \
        if (told) {           \
            errno = told;     \
            return -1;        \
        }                     \
    } while (0)
#define REAL(result, name, ...)             \
    static result (*real)(__VA_ARGS__);     \
    if (!real)                              \
        real = dlsym(RTLD_NEXT, #name)

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t position) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    size_t wanted = size;
    OBEY(verdict_of_descriptor(WRITE, descriptor, &wanted), (ssize_t)size);
    return real(descriptor, data, wanted, position);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    size_t wanted = size;
    OBEY(verdict_of_descriptor(WRITE, descriptor, &wanted), (ssize_t)size);
    return real(descriptor, data, wanted);
}

ssize_t pread64(int descriptor, void *data, size_t size, off64_t position) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    OBEY(verdict_of_descriptor(READ, descriptor, NULL), 0);
    return real(descriptor, data, size, position);
}

ssize_t preadv64v2(int descriptor, const struct iovec *parts, int count, off64_t position, int flags) {
    REAL(ssize_t, preadv64v2, int, const struct iovec *, int, off64_t, int);
    OBEY(verdict_of_descriptor(READ, descriptor, NULL), 0);
    return real(descriptor, parts, count, position, flags);
}

ssize_t sendfile64(int target, int descriptor, off64_t *position, size_t size) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    OBEY(verdict_of_descriptor(READ, descriptor, NULL), 0);
    return real(target, descriptor, position, size);
}

int fsync(int descriptor) {
    REAL(int, fsync, int);
    OBEY(verdict_of_descriptor(SYNC, descriptor, NULL), 0);
    return real(descriptor);
}

int fdatasync(int descriptor) {
    REAL(int, fdatasync, int);
    OBEY(verdict_of_descriptor(SYNC, descriptor, NULL), 0);
    return real(descriptor);
}

int ftruncate64(int descriptor, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    OBEY(verdict_of_descriptor(TRUNCATE, descriptor, NULL), 0);
    return real(descriptor, size);
}

int rename(const char *source, const char *target) {
    REAL(int, rename, const char *, const char *);
    OBEY(verdict_of_path(RENAME, target), 0);
    return real(source, target);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    OBEY(verdict_of_path(UNLINK, path), 0);
    return real(path);
}

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    OBEY(verdict_of_path(OPEN, path), -1);
    return real(path, flags, mode);
}
