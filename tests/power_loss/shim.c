/* Preloaded into a process that writes below the folder POWER_ROOT: writes down, in the file POWER_TRACE, every
 * operation that changes something there, in the order in which they happen, and every sync. The test rebuilds from
 * that what a disk may hold after its power was cut. Before the operation with the number POWER_CUT the process is
 * killed. The operation with the number POWER_FAIL fails with the error POWER_ERRNO, that one alone: the next sync
 * succeeds, as it does on Linux after the system has dropped what it could not write.
 *
 * The operations go straight to the kernel, but for the syncs, which do nothing: nobody reads the real files after
 * the cut. `sync_file_range` is not written down: it promises nothing about size or the device's cache. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, SYNC_FAILED };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_len;
static int trace = -1;
static long cut_at, fail_at, fail_with, operations;

__attribute__((constructor)) static void start(void) {
    const char *r = getenv("POWER_ROOT"), *t = getenv("POWER_TRACE"), *c = getenv("POWER_CUT");
    const char *f = getenv("POWER_FAIL"), *e = getenv("POWER_ERRNO");
    if (!r || !t) return;
    root_len = strlen(r);
    memcpy(root, r, root_len + 1);
    cut_at = c ? atol(c) : 0;
    fail_at = f ? atol(f) : 0;
    fail_with = e ? atol(e) : EIO;
    /* A process that hangs is a failure, and does not outlive the test. */
    alarm(60);
    int fd = syscall(SYS_openat, AT_FDCWD, t, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    trace = fcntl(fd, F_DUPFD_CLOEXEC, 500);
    syscall(SYS_close, fd);
}

static void give_up(const char *why) {
    dprintf(2, "power loss shim: %s\n", why);
    abort();
}

static int ours(const char *path) {
    return trace >= 0 && path && !strncmp(path, root, root_len) && (path[root_len] == '/' || !path[root_len]);
}

static int ours_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (trace < 0 || fd <= 2 || fd == trace) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return ours(path);
}

/* Takes the lock before an operation is done. Returns 0, and gives the lock back, when it is to fail. */
static int begin(void) {
    pthread_mutex_lock(&turn);
    if (++operations == cut_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (operations != fail_at) return 1;
    pthread_mutex_unlock(&turn);
    errno = fail_with;
    return 0;
}

static void note(uint8_t op, uint64_t inode, uint64_t a, const void *data, uint64_t len) {
    uint8_t head[33];
    head[0] = op;
    memcpy(head + 1, &inode, 8);
    memcpy(head + 9, &a, 8);
    memcpy(head + 17, &len, 8);
    memset(head + 25, 0, 8);
    struct iovec parts[2] = {{head, sizeof head}, {(void *)data, len}};
    int saved = errno;
    if (syscall(SYS_writev, trace, parts, 2) != (long)(sizeof head + len)) give_up("the trace can't be written");
    errno = saved;
}

static uint64_t inode_of_fd(int fd) {
    struct stat st;
    if (fstat(fd, &st)) give_up("fstat");
    return st.st_ino;
}

static uint64_t inode_of(int dir, const char *path) {
    struct stat st;
    return fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) ? 0 : st.st_ino;
}

/* The folder's inode, and the name within it. */
static uint64_t parent_of(int dir, const char *path, const char **name) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (!slash) return inode_of_fd(dir);
    memcpy(folder, path, slash - path);
    folder[slash - path] = 0;
    return inode_of(dir, folder);
}

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    int changes = flags & (O_CREAT | O_TRUNC);
    if (!changes || !(path[0] == '/' ? ours(path) : dir != AT_FDCWD && ours_fd(dir)))
        return syscall(SYS_openat, dir, path, flags, mode);
    if (flags & O_APPEND) give_up("a file is opened for appending");
    if (!begin()) return -1;
    uint64_t before = inode_of(dir, path);
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && !before) {
        const char *name;
        uint64_t parent = parent_of(dir, path, &name);
        note(CREATE, inode_of_fd(fd), parent, name, strlen(name));
    } else if (fd >= 0 && (flags & O_TRUNC)) {
        note(TRUNCATE, before, 0, NULL, 0);
    }
    pthread_mutex_unlock(&turn);
    return fd;
}

#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list v; va_start(v, last); mode = va_arg(v, mode_t); va_end(v); }
int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }

static ssize_t write_at(int fd, const void *data, size_t len, off_t at, int positioned) {
    if (!begin()) return -1;
    if (!positioned) at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    ssize_t n = positioned ? syscall(SYS_pwrite64, fd, data, len, at) : syscall(SYS_write, fd, data, len);
    if (n > 0) note(WRITE, inode_of_fd(fd), at, data, n);
    pthread_mutex_unlock(&turn);
    return n;
}

ssize_t write(int fd, const void *data, size_t len) {
    return ours_fd(fd) ? write_at(fd, data, len, 0, 0) : syscall(SYS_write, fd, data, len);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    return ours_fd(fd) ? write_at(fd, data, len, at, 1) : syscall(SYS_pwrite64, fd, data, len, at);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

int ftruncate64(int fd, off64_t len) {
    if (!ours_fd(fd)) return syscall(SYS_ftruncate, fd, len);
    if (!begin()) return -1;
    int r = syscall(SYS_ftruncate, fd, len);
    if (!r) note(TRUNCATE, inode_of_fd(fd), len, NULL, 0);
    pthread_mutex_unlock(&turn);
    return r;
}
int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int sync_fd(int fd, long number) {
    if (!ours_fd(fd)) return syscall(number, fd);
    if (!begin()) {
        int error = errno;
        pthread_mutex_lock(&turn);
        note(SYNC_FAILED, inode_of_fd(fd), 0, NULL, 0);
        pthread_mutex_unlock(&turn);
        errno = error;
        return -1;
    }
    note(SYNC, inode_of_fd(fd), 0, NULL, 0);
    pthread_mutex_unlock(&turn);
    return 0;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    return ours_fd(fd) ? 0 : syscall(SYS_sync_file_range, fd, at, len, flags);
}

int rename(const char *from, const char *to) {
    if (!ours(from) && !ours(to)) return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (!begin()) return -1;
    const char *old_name, *new_name;
    uint64_t inode = inode_of(AT_FDCWD, from), parent = parent_of(AT_FDCWD, from, &old_name);
    if (parent != parent_of(AT_FDCWD, to, &new_name)) give_up("a rename between folders");
    int r = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (!r) {
        char both[2 * NAME_MAX + 2];
        int n = snprintf(both, sizeof both, "%s/%s", old_name, new_name);
        note(RENAME, inode, parent, both, n);
    }
    pthread_mutex_unlock(&turn);
    return r;
}

int unlinkat(int dir, const char *path, int flags) {
    if (!(path[0] == '/' ? ours(path) : dir != AT_FDCWD && ours_fd(dir))) return syscall(SYS_unlinkat, dir, path, flags);
    if (!begin()) return -1;
    const char *name;
    uint64_t parent = parent_of(dir, path, &name);
    int r = syscall(SYS_unlinkat, dir, path, flags);
    if (!r) note(UNLINK, 0, parent, name, strlen(name));
    pthread_mutex_unlock(&turn);
    return r;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) {
    if (!ours(path)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!begin()) return -1;
    const char *name;
    uint64_t parent = parent_of(AT_FDCWD, path, &name);
    int r = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!r) note(MKDIR, inode_of(AT_FDCWD, path), parent, name, strlen(name));
    pthread_mutex_unlock(&turn);
    return r;
}

/* What would change a file without being written down. */
#define UNKNOWN(name) give_up("the model does not know " name)
ssize_t writev(int fd, const struct iovec *v, int n) { if (ours_fd(fd)) UNKNOWN("writev"); return syscall(SYS_writev, fd, v, n); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) { if (ours_fd(fd)) UNKNOWN("pwritev"); return syscall(SYS_pwritev, fd, v, n, at, 0); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at) { return pwritev(fd, v, n, at); }
int fallocate(int fd, int mode, off_t at, off_t len) { if (ours_fd(fd)) UNKNOWN("fallocate"); return syscall(SYS_fallocate, fd, mode, at, len); }
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) { if (ours_fd(out)) UNKNOWN("copy_file_range"); return syscall(SYS_copy_file_range, in, a, out, b, n, f); }
int renameat2(int a, const char *b, int c, const char *d, unsigned e) { if (ours(b) || ours(d)) UNKNOWN("renameat2"); return syscall(SYS_renameat2, a, b, c, d, e); }
