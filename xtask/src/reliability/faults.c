// Preloaded into a command: counts its file-system calls below a folder, and at one of them kills the group of processes or
// makes the call fail. The environment says where and how; work.rs is the other side.
//
// Only what Rust's standard library calls is here. A system call made without the C library passes unseen; work.rs compares
// nothing but results, so that would be a point less and not a wrong answer.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BELOW = 1, WRITABLE = 2, MOST_FILES = 4096 };
enum verdict { PASS, FAIL, DIE_AFTER, DIE_HALFWAY };

static const struct { const char *name; int number; } errors[] = {
    {"ENOSPC", ENOSPC}, {"EROFS", EROFS}, {"EIO", EIO}, {"EACCES", EACCES},
};
static char root[4096], working[4096];
static size_t root_length;
static char action;
static int error, reads_count, log_file = -1;
static long at;
static atomic_long count;
static atomic_uchar files[MOST_FILES];

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("LMHT_FAULT_ROOT"), *how = getenv("LMHT_FAULT_ACTION"), *where = getenv("LMHT_FAULT_AT");
    const char *number = getenv("LMHT_FAULT_ERROR"), *log = getenv("LMHT_FAULT_LOG");
    if (!folder || !how || !getcwd(working, sizeof working)) return;
    action = *how;
    at = where ? atol(where) : 0;
    for (size_t i = 0; number && i < sizeof errors / sizeof *errors; i++)
        if (!strcmp(number, errors[i].name)) error = errors[i].number;
    reads_count = getenv("LMHT_FAULT_READS") != NULL;
    if (log) log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
}

static int starts_below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int is_open_below(int file) { return file >= 0 && file < MOST_FILES && (files[file] & BELOW); }

static int is_below(int folder, const char *path) {
    if (!root_length) return 0;
    if (path && *path == '/') return starts_below(path);
    return folder == AT_FDCWD ? starts_below(working) : is_open_below(folder);
}

static void remember(int file, int below, int writable) {
    if (file >= 0 && file < MOST_FILES) files[file] = below ? BELOW | (writable ? WRITABLE : 0) : 0;
}

// The whole group, as a power cut would.
static void die(void) {
    kill(0, SIGKILL);
    for (;;) pause();
}

static enum verdict step(const char *name, const char *path, int changes) {
    if (!changes && !reads_count) return PASS;
    long n = atomic_fetch_add(&count, 1) + 1;
    if (log_file >= 0) dprintf(log_file, "%ld %s %s\n", n, name, path ? path : "");
    if (!at || n < at || (n > at && action != 'e')) return PASS;
    errno = error;
    switch (action) {
    case 'b': die();
    case 'a': return DIE_AFTER;
    case 'h': return DIE_HALFWAY;
    default: return FAIL;
    }
}

// The function of the C library.
#define NEXT(name) \
    static typeof(name) *next; \
    if (!next) next = (typeof(name) *)dlsym(RTLD_NEXT, #name)

#define CALL(type, name, parameters, arguments, below, path, changes, failed) \
    type name parameters { \
        NEXT(name); \
        enum verdict verdict = (below) ? step(#name, path, changes) : PASS; \
        if (verdict == FAIL) return failed; \
        type result = next arguments; \
        if (verdict != PASS) die(); \
        return result; \
    }

CALL(int, rename, (const char *from, const char *to), (from, to), is_below(AT_FDCWD, to), to, 1, -1)
CALL(int, unlink, (const char *path), (path), is_below(AT_FDCWD, path), path, 1, -1)
CALL(int, rmdir, (const char *path), (path), is_below(AT_FDCWD, path), path, 1, -1)
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), is_below(folder, path), path, 1, -1)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), is_below(AT_FDCWD, path), path, 1, -1)
CALL(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), is_below(b, to), to, 1, -1)
CALL(int, fsync, (int file), (file), is_open_below(file), NULL, 1, -1)
CALL(int, fdatasync, (int file), (file), is_open_below(file), NULL, 1, -1)
CALL(int, ftruncate64, (int file, off64_t size), (file, size), is_open_below(file), NULL, 1, -1)
CALL(int, fchmod, (int file, mode_t mode), (file, mode), is_open_below(file), NULL, 1, -1)
CALL(int, flock, (int file, int operation), (file, operation), is_open_below(file), NULL, 0, -1)
CALL(ssize_t, read, (int file, void *bytes, size_t n), (file, bytes, n), is_open_below(file), NULL, 0, -1)
CALL(DIR *, fdopendir, (int file), (file), is_open_below(file), NULL, 0, NULL)
CALL(struct dirent64 *, readdir64, (DIR *folder), (folder), is_open_below(dirfd(folder)), NULL, 0, NULL)
CALL(int, statx, (int folder, const char *path, int flags, unsigned mask, struct statx *to), (folder, path, flags, mask, to),
     is_below(folder, path), path, 0, -1)

DIR *opendir(const char *path) {
    NEXT(opendir);
    int below = is_below(AT_FDCWD, path);
    if (below && step("opendir", path, 0) == FAIL) return NULL;
    DIR *folder = next(path);
    if (folder) remember(dirfd(folder), below, 0);
    return folder;
}

#define OPEN(name, parameters, folder, ...) \
    int name parameters { \
        NEXT(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        int below = is_below(folder, path), changes = (flags & O_ACCMODE) != O_RDONLY; \
        enum verdict verdict = below ? step(#name, path, changes) : PASS; \
        if (verdict == FAIL) return -1; \
        int file = next(__VA_ARGS__, flags, mode); \
        if (verdict != PASS) die(); \
        remember(file, below, changes); \
        return file; \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, folder, path)

// Half of it is there if it is cut off, and if the disk is full.
ssize_t write(int file, const void *bytes, size_t n) {
    NEXT(write);
    enum verdict verdict = is_open_below(file) ? step("write", NULL, 1) : PASS;
    if (verdict == FAIL) {
        if (next(file, bytes, n / 2) >= 0) errno = error;
        return -1;
    }
    ssize_t written = next(file, bytes, verdict == DIE_HALFWAY ? n / 2 : n);
    if (verdict != PASS) die();
    return written;
}

// The file is closed whatever is answered.
int close(int file) {
    NEXT(close);
    int below = is_open_below(file);
    enum verdict verdict = below ? step("close", NULL, files[file] & WRITABLE) : PASS;
    remember(file, 0, 0);
    int result = next(file);
    if (verdict == DIE_AFTER || verdict == DIE_HALFWAY) die();
    if (verdict != FAIL) return result;
    errno = error;
    return -1;
}

int closedir(DIR *folder) {
    NEXT(closedir);
    remember(dirfd(folder), 0, 0);
    return next(folder);
}
