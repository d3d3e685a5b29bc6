/* A disk that forgets: loaded into a node (LD_PRELOAD) by tests/it/forgetful_disk.rs, which undoes what it notes here.
 *
 * Every change below DISK_FOLDER is noted in DISK_JOURNAL before it is made, with what is needed to take it back, and
 * every sync after it was made. What a power cut may take is then known whenever the process ends: the changes to a file
 * that come after the last sync of it, and the names in a folder likewise.
 *
 *   DISK_FOLDER   changes to files below it are noted (absolute, without a link in it)
 *   DISK_JOURNAL  a folder for the notes, on the same file system
 *   DISK_CUT_AT   kill -9 in place of the change or sync of this number, counted from 1
 *
 * While a file named "fail" is in DISK_JOURNAL, syncs below DISK_FOLDER fail with EIO.
 *
 * The notes are records in DISK_JOURNAL/notes, a line each; of a file's content, the bytes follow the line:
 *
 *   W inode offset size count   <count bytes from offset on> were about to change in a file of <size> bytes
 *   S inode                     a file, or a folder, was synced
 *   C folder inode name         a file was made
 *   R folder inode old new kept a file was renamed; what it replaced is kept in DISK_JOURNAL/<kept>, or "-"
 *   U folder inode name kept    a file was removed, and is kept
 *
 * Names are those within the folder; no name has a blank. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *journal;
static unsigned long changes, cut_at, kept;
static int notes = -1;

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    char path[4096];
    const char *at = getenv("DISK_CUT_AT");
    folder = getenv("DISK_FOLDER");
    journal = getenv("DISK_JOURNAL");
    if (!folder || !journal) abort();
    cut_at = at ? strtoul(at, NULL, 10) : 0;
    snprintf(path, sizeof path, "%s/notes", journal);
    notes = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (notes < 0) abort();
}

static int is_watched(const char *path) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || !path[length]);
}

/* Whether the open file is a watched one, and what is known of it. */
static int is_watched_fd(int fd, struct stat *stat) {
    char link[64], path[4096];
    if (fd == notes || fstat(fd, stat) || !(S_ISREG(stat->st_mode) || S_ISDIR(stat->st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_watched(path);
}

/* One more change or sync: perhaps the power goes before it is made. */
static void count(void) {
    if (++changes == cut_at) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

static void note(const void *bytes, size_t length) {
    if (REAL(write)(notes, bytes, length) != (ssize_t)length) abort();
}

static void note_line(const char *format, ...) {
    char line[8192];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line) abort();
    note(line, length);
}

/* The bytes from `offset` on, `length` at the most, are about to change. */
static void note_content(int fd, const struct stat *stat, off_t offset, size_t length) {
    char own[64], *bytes;
    off_t end = offset + (off_t)length < stat->st_size ? offset + (off_t)length : stat->st_size;
    size_t changed = end > offset ? end - offset : 0;
    /* The file may be open for writing alone. */
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int readable = REAL(open)(own, O_RDONLY | O_CLOEXEC);
    if (!(bytes = malloc(changed + 128)) || readable < 0) abort();
    size_t head = snprintf(bytes, 128, "W %lu %ld %ld %zu\n", stat->st_ino, (long)offset, (long)stat->st_size, changed);
    if (pread(readable, bytes + head, changed, offset) != (ssize_t)changed) abort();
    note(bytes, head + changed);
    free(bytes);
    close(readable);
}

/* The name within its folder, and the folder's inode. */
static const char *split(const char *path, ino_t *inode) {
    char parent[4096];
    struct stat stat;
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    if (lstat(parent, &stat)) abort();
    *inode = stat.st_ino;
    return slash + 1;
}

/* Keeps a file that is about to lose its name. Gives the name it has in the journal. */
static const char *keep(const char *path, char *name) {
    char to[4096];
    struct stat stat;
    if (lstat(path, &stat)) return "-";
    sprintf(name, "kept-%d-%lu", getpid(), kept++);
    snprintf(to, sizeof to, "%s/%s", journal, name);
    if (link(path, to)) abort();
    return name;
}

static ssize_t change(int fd, const void *bytes, size_t length, off_t offset) {
    struct stat stat;
    if (!is_watched_fd(fd, &stat)) {
        return offset < 0 ? REAL(write)(fd, bytes, length) : REAL(pwrite64)(fd, bytes, length, offset);
    }
    pthread_mutex_lock(&turn);
    count();
    off_t at = offset >= 0 ? offset : fcntl(fd, F_GETFL) & O_APPEND ? stat.st_size : lseek(fd, 0, SEEK_CUR);
    note_content(fd, &stat, at, length);
    ssize_t written = offset < 0 ? REAL(write)(fd, bytes, length) : REAL(pwrite64)(fd, bytes, length, offset);
    pthread_mutex_unlock(&turn);
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) { return change(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return change(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return change(fd, bytes, length, offset); }

int ftruncate64(int fd, off64_t length) {
    struct stat stat;
    if (!is_watched_fd(fd, &stat)) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&turn);
    count();
    note_content(fd, &stat, length, stat.st_size > length ? stat.st_size - length : 0);
    int result = REAL(ftruncate64)(fd, length);
    pthread_mutex_unlock(&turn);
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_with(int fd, int (*real)(int)) {
    struct stat stat;
    char fail[4096];
    if (!is_watched_fd(fd, &stat)) return real(fd);
    snprintf(fail, sizeof fail, "%s/fail", journal);
    if (!access(fail, F_OK)) {
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&turn);
    count();
    int result = real(fd);
    if (!result) note_line("S %lu\n", stat.st_ino);
    pthread_mutex_unlock(&turn);
    return result;
}
int fsync(int fd) { return sync_with(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_with(fd, REAL(fdatasync)); }

static int open_with(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    struct stat stat;
    ino_t parent;
    if (!(flags & (O_CREAT | O_TRUNC)) || !is_watched(path)) return real(path, flags, mode);
    pthread_mutex_lock(&turn);
    int is_new = lstat(path, &stat) != 0;
    if (is_new || (flags & O_TRUNC)) count();
    if (!is_new && (flags & O_TRUNC)) {
        int old = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        note_content(old, &stat, 0, stat.st_size);
        close(old);
    }
    int fd = real(path, flags, mode);
    /* The only note that comes after its change: the inode is not known before. A name without one is an empty file. */
    if (fd >= 0 && is_new && !fstat(fd, &stat)) {
        const char *name = split(path, &parent);
        note_line("C %lu %lu %s\n", parent, stat.st_ino, name);
    }
    pthread_mutex_unlock(&turn);
    return fd;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                                                 \
        va_end(arguments);                                                                                             \
        return open_with(REAL(name), path, flags, mode);                                                               \
    }
OPEN(open)
OPEN(open64)

int rename(const char *old, const char *new) {
    struct stat stat;
    ino_t parent, other;
    char name[64];
    if (!is_watched(old) || lstat(old, &stat)) return REAL(rename)(old, new);
    pthread_mutex_lock(&turn);
    count();
    const char *from = split(old, &parent), *to = split(new, &other);
    /* Nobody moves a file to another folder. */
    if (parent != other) abort();
    note_line("R %lu %lu %s %s %s\n", parent, stat.st_ino, from, to, keep(new, name));
    int result = REAL(rename)(old, new);
    pthread_mutex_unlock(&turn);
    return result;
}

int unlink(const char *path) {
    struct stat stat;
    ino_t parent;
    char name[64];
    if (!is_watched(path) || lstat(path, &stat)) return REAL(unlink)(path);
    pthread_mutex_lock(&turn);
    count();
    const char *from = split(path, &parent);
    note_line("U %lu %lu %s %s\n", parent, stat.st_ino, from, keep(path, name));
    int result = REAL(unlink)(path);
    pthread_mutex_unlock(&turn);
    return result;
}
