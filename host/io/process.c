/* Processes that we start: their descriptors become connections, their end an event. */
#include "io/process.h"

#include "io/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

struct child {
    uint64_t handle;
    pid_t pid;
};

/* --- the end ---------------------------------------------------------------------------------- */

/* Only those that we started are waited for: a script's io.popen waits for its own. */
static void look(struct loop *loop, struct child *child)
{
    int status;
    pid_t pid;
    do
        pid = waitpid(child->pid, &status, WNOHANG);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return;
    uint64_t handle = child->handle;
    slots_remove(&loop->children.slots, handle);
    free(child);
    if (pid < 0)
        status = 0; /* somebody else has waited for it */
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    loop->events->exited(loop->context, handle, signal ? 0 : WEXITSTATUS(status), signal);
}

static void on_ended(uv_signal_t *ended, int number)
{
    struct loop *loop = container_of(ended, struct loop, children.ended);
    struct slots *slots = &loop->children.slots;
    (void)number;
    for (uint32_t place = 1; place < slots->used; place++) {
        struct child *child = slots_at(slots, place);
        if (child)
            look(loop, child);
    }
    if (slots->count == 0)
        uv_signal_stop(ended);
    loop_settle(loop);
    loop_look_drained(loop);
}

static int watch_ends(struct loop *loop)
{
    struct children *children = &loop->children;
    if (!children->watching)
        uv_signal_init(&loop->uv, &children->ended);
    children->watching = true;
    return uv_signal_start(&children->ended, on_ended, SIGCHLD);
}

void children_signal(struct loop *loop, int number)
{
    for (uint32_t place = 1; place < loop->children.slots.used; place++) {
        struct child *child = slots_at(&loop->children.slots, place);
        if (child)
            kill(child->pid, number);
    }
}

void children_close(struct loop *loop)
{
    children_signal(loop, SIGKILL);
    for (uint32_t place = 1; place < loop->children.slots.used; place++) {
        struct child *child = slots_at(&loop->children.slots, place);
        if (child == NULL)
            continue;
        waitpid(child->pid, NULL, WNOHANG); /* we are about to end, too */
        slots_remove(&loop->children.slots, child->handle);
        free(child);
    }
    if (loop->children.watching)
        uv_close((uv_handle_t *)&loop->children.ended, NULL);
}

int process_signal(struct loop *loop, uint64_t handle, int number)
{
    struct child *child = slots_find(&loop->children.slots, handle);
    if (child == NULL)
        return -ESRCH;
    return kill(child->pid, number) < 0 ? -errno : 0;
}

/* --- within the child ------------------------------------------------------------------------- */

/* What it needs, made ready before it is there. */
struct birth {
    const struct process_plan *plan;
    int from[PROCESS_FDS + 3]; /* our descriptors, and which they are to be */
    int to[PROCESS_FDS + 3];
    int count;
    bool terminal;
    volatile int stage;
    volatile int error;
};

/* From here to exec the child shares our memory, and we wait: nothing but system calls. glibc's
 * setuid would tell all our threads. */
static void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
}

/* None of those that are to be moved may lie where another one is to be. */
static bool move_descriptors(const struct birth *birth)
{
    int from[PROCESS_FDS + 3];
    int above = 2;
    for (int i = 0; i < birth->count; i++)
        above = birth->to[i] > above ? birth->to[i] : above;
#ifdef SYS_close_range
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */); /* what we inherited */
#endif
    for (int i = 0; i < birth->count; i++) {
        from[i] = fcntl(birth->from[i], F_DUPFD_CLOEXEC, above + 1);
        if (from[i] < 0)
            return false;
    }
    for (int i = 0; i < birth->count; i++)
        if (dup2(from[i], birth->to[i]) < 0)
            return false;
    return true;
}

static bool become(const struct process_plan *plan)
{
    gid_t gid = (gid_t)plan->gid;
    uid_t uid = (uid_t)plan->uid;
    bool changes = plan->gid >= 0 || plan->uid >= 0;
    if (changes && geteuid() == 0 && syscall(SYS_setgroups, plan->gid >= 0 ? 1 : 0, &gid) < 0)
        return false;
    if (plan->gid >= 0 && syscall(SYS_setresgid, gid, gid, gid) < 0)
        return false;
    return plan->uid < 0 || syscall(SYS_setresuid, uid, uid, uid) == 0;
}

static int fail(struct birth *birth, enum process_stage stage)
{
    birth->error = errno;
    birth->stage = stage;
    _exit(127);
}

__attribute__((no_sanitize("address", "undefined"))) static int run_child(void *context)
{
    struct birth *birth = context;
    const struct process_plan *plan = birth->plan;
    sigset_t none;
    reset_signals();
    if (birth->terminal)
        setsid();
    if (!move_descriptors(birth))
        return fail(birth, STAGE_HOST);
    if (birth->terminal)
        ioctl(0, TIOCSCTTY, 0);
    if (!become(plan))
        return fail(birth, STAGE_USER);
    if (plan->cwd && chdir(plan->cwd) < 0)
        return fail(birth, STAGE_FOLDER);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvpe(plan->path, (char *const *)plan->args, plan->env ? (char *const *)plan->env : environ);
    return fail(birth, STAGE_EXEC);
}

enum { CHILD_STACK = 256 << 10, ARGUMENTS_MOST = 16384 };

/* As vfork does: our memory, however much that is, is not copied. The pid, or -errno. */
static int give_birth(struct birth *birth)
{
    sigset_t all, before;
    char *stack = memory_new(CHILD_STACK);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* our handlers must not run in it */
    int pid = clone(run_child, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, birth);
    int error = pid < 0 ? errno : birth->error;
    sigprocmask(SIG_SETMASK, &before, NULL);
    free(stack);
    if (pid >= 0 && error != 0)
        waitpid(pid, NULL, 0);
    return error != 0 ? -error : pid;
}

/* --- descriptors ------------------------------------------------------------------------------ */

/* Both sides of what was opened for one descriptor. */
struct opened {
    int ours, second; /* -1: none; the second is what a stream writes to */
    int theirs[2];    /* -1: none */
};

static int make_pipe(int *reading, int *writing)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    *reading = fds[0];
    *writing = fds[1];
    return 0;
}

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static void set_size(int fd, int rows, int columns)
{
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    if (rows > 0 && columns > 0)
        ioctl(fd, TIOCSWINSZ, &size);
}

static int make_terminal(const struct process_plan *plan, int *ours, int *theirs)
{
    char name[64];
    *ours = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*ours < 0)
        return -errno;
    if (grantpt(*ours) < 0 || unlockpt(*ours) < 0 || ptsname_r(*ours, name, sizeof name) != 0)
        return -errno;
    *theirs = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*theirs < 0)
        return -errno;
    set_size(*ours, plan->rows, plan->columns);
    return 0;
}

static int open_end(const struct process_plan *plan, const struct process_fd *fd,
                    struct opened *opened)
{
    int error = 0;
    switch ((enum process_end)fd->what) {
    case END_READ:
        error = make_pipe(&opened->ours, &opened->theirs[0]);
        break;
    case END_WRITE:
        error = make_pipe(&opened->theirs[0], &opened->ours);
        break;
    case END_STREAM:
        error = make_pipe(&opened->theirs[0], &opened->second);
        if (error == 0)
            error = make_pipe(&opened->ours, &opened->theirs[1]);
        break;
    case END_TERMINAL:
        error = make_terminal(plan, &opened->ours, &opened->theirs[0]);
        break;
    case END_GIVEN:
        opened->theirs[0] = fcntl(fd->given, F_DUPFD_CLOEXEC, 3);
        error = opened->theirs[0] < 0 ? -errno : 0;
        break;
    }
    if (error == 0 && opened->ours >= 0)
        error = set_nonblocking(opened->ours);
    if (error == 0 && opened->second >= 0)
        error = set_nonblocking(opened->second);
    return error;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* What is left of them: the child's, and ours where no connection took them. */
static void close_all(struct opened *opened, int count)
{
    for (int i = 0; i < count; i++) {
        close_one(&opened[i].theirs[0]);
        close_one(&opened[i].theirs[1]);
        close_one(&opened[i].ours);
        close_one(&opened[i].second);
    }
}

static void give(struct birth *birth, int from, int to)
{
    for (int i = 0; i < birth->count; i++)
        if (birth->to[i] == to)
            return;
    birth->from[birth->count] = from;
    birth->to[birth->count++] = to;
}

/* Which of our descriptors is which of the child's. */
static void map(struct birth *birth, const struct process_plan *plan, const struct opened *opened,
                int null)
{
    for (int i = 0; i < plan->count; i++) {
        const struct process_fd *fd = &plan->fds[i];
        int last = fd->what == END_TERMINAL ? 2 : fd->fd;
        birth->terminal |= fd->what == END_TERMINAL;
        for (int to = fd->fd; to <= last; to++)
            give(birth, opened[i].theirs[0], to);
        if (fd->what == END_STREAM)
            give(birth, opened[i].theirs[1], 1);
    }
    for (int to = 0; to <= 2; to++)
        give(birth, null, to);
}

/* --- connections ------------------------------------------------------------------------------ */

/* Takes the descriptors of `opened` that it makes a connection of. */
static int connect_end(struct loop *loop, struct group *pipes, struct group *streams,
                       struct process_fd *fd, struct opened *opened)
{
    static const struct address nowhere = {.family = AF_UNIX};
    struct connection *connection;
    uint64_t handle = 0;
    if (fd->what == END_STREAM)
        connection =
            duplex_new(loop, streams, &process_ops, opened->ours, opened->second, true, &nowhere);
    else
        connection =
            connection_new(loop, pipes, fd->what == END_TERMINAL ? &terminal_ops : &pipe_ops,
                           opened->ours, &nowhere);
    if (connection == NULL)
        return -ENOMEM;
    opened->ours = opened->second = -1;
    if (fd->what == END_STREAM) {
        int error = dial_ready(connection, &handle);
        fd->handle = (double)handle;
        return error;
    }
    connection->flags |= C_ABRUPT;
    if (fd->what == END_READ)
        connection->flags |= C_FIN_WANTED | C_FIN_SENT;
    if (fd->what == END_WRITE)
        connection->flags |= C_EOF;
    group_join(pipes, connection);
    handle = connection->handle = slots_add(&loop->connections, connection);
    fd->handle = (double)handle;
    if (handle == 0) {
        connection->flags |= C_LOST;
        connection_drop(connection);
        return -ENFILE;
    }
    connection_dirty(connection);
    return 0;
}

/* Not even the child's end would be told of: it goes, and so do the connections that it had. */
static void undo(struct loop *loop, struct process_plan *plan, pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < plan->count; i++) {
        struct connection *connection = connection_find(loop, (uint64_t)plan->fds[i].handle);
        plan->fds[i].handle = 0;
        if (connection == NULL)
            continue;
        slots_remove(&loop->connections, connection->handle);
        connection->handle = 0;
        connection->flags |= C_LOST;
        connection_drop(connection);
    }
}

static int adopt(struct loop *loop, struct group *pipes, struct group *streams,
                 struct process_plan *plan, struct opened *opened, pid_t pid)
{
    struct child *child = memory_new(sizeof *child);
    int error = 0;
    child->pid = plan->pid = pid;
    child->handle = slots_add(&loop->children.slots, child);
    plan->handle = (double)child->handle;
    if (child->handle == 0)
        error = -EAGAIN;
    for (int i = 0; error == 0 && i < plan->count; i++)
        if (opened[i].ours >= 0)
            error = connect_end(loop, pipes, streams, &plan->fds[i], &opened[i]);
    if (error == 0)
        return 0;
    undo(loop, plan, pid);
    if (child->handle != 0)
        slots_remove(&loop->children.slots, child->handle);
    free(child);
    return error;
}

/* What has no #! is run by the shell: execvpe copies the arguments onto the small stack. */
static bool is_too_long(const struct process_plan *plan)
{
    int count = 0;
    while (plan->args[count] && count < ARGUMENTS_MOST)
        count++;
    return count == ARGUMENTS_MOST;
}

static int open_all(struct process_plan *plan, struct opened *opened)
{
    int error = 0;
    for (int i = 0; i < PROCESS_FDS; i++)
        opened[i] = (struct opened){-1, -1, {-1, -1}};
    for (int i = 0; i < plan->count; i++)
        plan->fds[i].handle = 0;
    for (int i = 0; error == 0 && i < plan->count; i++)
        error = open_end(plan, &plan->fds[i], &opened[i]);
    return error;
}

int process_spawn(struct loop *loop, struct group *pipes, struct group *streams,
                  struct process_plan *plan)
{
    struct opened opened[PROCESS_FDS];
    struct birth birth = {.plan = plan};
    plan->stage = STAGE_HOST;
    plan->handle = 0;
    if (plan->count < 0 || plan->count > PROCESS_FDS)
        return -EINVAL;
    if (is_too_long(plan))
        return -E2BIG;
    if (loop->draining)
        return -ECANCELED;
    int error = open_all(plan, opened);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (error == 0)
        error = null < 0 ? -errno : watch_ends(loop);
    if (error == 0) {
        map(&birth, plan, opened, null);
        int pid = give_birth(&birth);
        error = pid < 0 ? pid : adopt(loop, pipes, streams, plan, opened, pid);
        plan->stage = birth.stage;
    }
    close_one(&null);
    close_all(opened, plan->count);
    if (loop->children.slots.count == 0 && loop->children.watching)
        uv_signal_stop(&loop->children.ended);
    return error;
}

int process_resize(struct loop *loop, uint64_t handle, int rows, int columns)
{
    struct connection *connection = connection_find(loop, handle);
    if (connection == NULL || connection->ops != &terminal_ops)
        return -ENOTTY;
    set_size(connection->fd, rows, columns);
    return 0;
}

/* --- names ------------------------------------------------------------------------------------ */

int signal_number(const char *name)
{
    for (int number = 1; number < NSIG; number++) {
        const char *known = sigabbrev_np(number);
        if (known && strcmp(known, name) == 0)
            return number;
    }
    return 0;
}

const char *signal_name(int number)
{
    return sigabbrev_np(number);
}
