/* Preloaded into the processes whose power is cut: after each call that made bytes durable the process stops itself
 * (SIGSTOP, all threads), so that the device under it can be cloned at exactly that instant; SIGCONT lets it go on.
 *
 * Until `syncs_arm` is called nothing happens. A write through a descriptor opened with O_SYNC or O_DSYNC counts too:
 * LMDB writes its meta page that way.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, STOP, COUNT };

static atomic_int mode = OFF;
static atomic_long seen = 0;

void syncs_arm(int wanted) { atomic_store(&mode, wanted); }
long syncs_seen(void) { return atomic_load(&seen); }

static long made(long result) {
    int now = atomic_load(&mode);
    if (now == OFF || result < 0)
        return result;
    int error = errno;
    atomic_fetch_add(&seen, 1);
    if (now == STOP)
        raise(SIGSTOP);
    errno = error;
    return result;
}

static long made_if_durable(int fd, long result) {
    if (atomic_load(&mode) == OFF || result < 0)
        return result;
    int error = errno;
    int flags = fcntl(fd, F_GETFL);
    errno = error;
    return flags >= 0 && (flags & O_DSYNC) ? made(result) : result;
}

int fsync(int fd) { return (int)made(syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { return (int)made(syscall(SYS_fdatasync, fd)); }
int syncfs(int fd) { return (int)made(syscall(SYS_syncfs, fd)); }
void sync(void) { made(syscall(SYS_sync)); }

int msync(void *start, size_t length, int flags) {
    long result = syscall(SYS_msync, start, length, flags);
    return (int)(flags & MS_SYNC ? made(result) : result);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    return made_if_durable(fd, syscall(SYS_pwrite64, fd, data, length, at));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }
