-- The system calls that the tests use, by FFI: poll, pipes, sockets, signals.
-- It knows neither the host nor busted. Everything that waits goes through sys.poll, which also drains the
-- pipes of every child process, so that a child never blocks on a full pipe while a test waits for a socket.

local ffi = require "ffi"
local bit = require "bit"

local C = ffi.C

if not pcall(ffi.typeof, "struct skt_pollfd") then
  ffi.cdef [[
    struct skt_pollfd { int fd; short events; short revents; };
    struct skt_timespec { long tv_sec; long tv_nsec; };
    struct skt_rlimit { unsigned long cur; unsigned long max; };
    struct skt_linger { int onoff; int seconds; };
    struct skt_in { unsigned short family; unsigned short port; unsigned char addr[4]; unsigned char zero[8]; };
    struct skt_in6 { unsigned short family; unsigned short port; unsigned int flow; unsigned char addr[16];
                     unsigned int scope; };
    struct skt_un { unsigned short family; char path[108]; };

    int poll(struct skt_pollfd *fds, unsigned long n, int timeout);
    int clock_gettime(int clock, struct skt_timespec *ts);
    int getrlimit(int what, struct skt_rlimit *limit);
    int setrlimit(int what, const struct skt_rlimit *limit);
    char *strerror(int code);
    int pipe2(int fds[2], int flags);
    int close(int fd);
    long read(int fd, void *to, size_t n);
    long write(int fd, const void *from, size_t n);
    int fcntl(int fd, int command, ...);
    int getpid(void);
    int getuid(void);
    int kill(int pid, int signal);
    int waitpid(int pid, int *status, int options);
    typedef void (*skt_handler)(int);
    skt_handler signal(int signal, skt_handler handler);
    int chmod(const char *path, unsigned int mode);
    int unlink(const char *path);
    char *mkdtemp(char *pattern);

    int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                     const char *const *argv, const char *const *env);
    int posix_spawn_file_actions_init(void *actions);
    int posix_spawn_file_actions_destroy(void *actions);
    int posix_spawn_file_actions_adddup2(void *actions, int from, int to);
    int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned int mode);
    int posix_spawnattr_init(void *attributes);
    int posix_spawnattr_destroy(void *attributes);
    int posix_spawnattr_setflags(void *attributes, short flags);
    int posix_spawnattr_setsigdefault(void *attributes, const void *set);
    int posix_spawnattr_setsigmask(void *attributes, const void *set);
    int sigemptyset(void *set);
    int sigaddset(void *set, int signal);
    extern char **environ;

    int socket(int domain, int type, int protocol);
    int bind(int fd, const void *address, unsigned int size);
    int connect(int fd, const void *address, unsigned int size);
    int listen(int fd, int backlog);
    int shutdown(int fd, int how);
    long send(int fd, const void *from, size_t n, int flags);
    long recv(int fd, void *to, size_t n, int flags);
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size);
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size);
    int getsockname(int fd, void *address, unsigned int *size);
    int inet_pton(int family, const char *text, void *to);
    unsigned short htons(unsigned short value);
    unsigned short ntohs(unsigned short value);
  ]]
end

local sys = {}

sys.POLLIN, sys.POLLOUT, sys.POLLERR, sys.POLLHUP = 1, 4, 8, 16
sys.EAGAIN, sys.EINTR, sys.EINPROGRESS, sys.ECONNRESET, sys.EPIPE = 11, 4, 115, 104, 32

local names = {
  [11] = "EAGAIN", [32] = "EPIPE", [98] = "EADDRINUSE", [104] = "ECONNRESET", [110] = "ETIMEDOUT",
  [111] = "ECONNREFUSED", [2] = "ENOENT", [24] = "EMFILE", [13] = "EACCES",
}

--- The name of an errno (`ECONNRESET`), or `errno N: text` for one without a name here.
function sys.errname(code)
  return names[code] or ("errno %d: %s"):format(code, ffi.string(C.strerror(code)))
end

--- How long a wait may take before it counts as missed: a safety net, never a measure.
sys.deadline = tonumber(os.getenv "SKALD_DEADLINE") or 20

local now = ffi.new "struct skt_timespec"

--- Seconds of the monotonic clock.
function sys.now()
  C.clock_gettime(1, now)
  return tonumber(now.tv_sec) + tonumber(now.tv_nsec) / 1e9
end

-- Readers that every poll serves: fd → function called when the fd is readable or hung up.
local background = {}

--- Lets every poll call `f` when `fd` has something to read; nil ends that.
function sys.watch(fd, f)
  background[fd] = f
end

local capacity, array = 0, nil

local function room(n)
  if n > capacity then
    capacity = math.max(n, capacity * 2, 64)
    array = ffi.new("struct skt_pollfd[?]", capacity)
  end
  return array
end

--- Polls the list `{ { fd =, events = }, … }` for up to `seconds`, serving the background readers; puts `revents`
--- into the entries and returns how many of them have some. Returns early when a background reader was served.
function sys.poll(list, seconds)
  local n = #list
  local total = n
  for _ in pairs(background) do
    total = total + 1
  end
  local set = room(total)
  for i = 1, n do
    set[i - 1].fd, set[i - 1].events, set[i - 1].revents = list[i].fd, list[i].events, 0
  end
  local at = n
  for fd in pairs(background) do
    set[at].fd, set[at].events, set[at].revents = fd, sys.POLLIN, 0
    at = at + 1
  end
  C.poll(set, total, math.ceil(math.max(seconds, 0) * 1000))
  local ready = 0
  for i = 1, n do
    list[i].revents = set[i - 1].revents
    if list[i].revents ~= 0 then
      ready = ready + 1
    end
  end
  local due = {}
  for i = n, total - 1 do
    if set[i].revents ~= 0 then
      due[#due + 1] = background[set[i].fd]
    end
  end
  for i = 1, #due do
    due[i]()
  end
  return ready
end

--- Serves polls until `done()` gives something true and returns it; at the deadline raises what `complaint()` says.
function sys.await(done, complaint, seconds, list)
  local limit = sys.now() + (seconds or sys.deadline)
  local pause = 0.002 -- not all that is waited for has a descriptor
  while true do
    local value = done()
    if value then
      return value
    end
    local left = limit - sys.now()
    if left <= 0 then
      error(complaint(), 0)
    end
    sys.poll(list or {}, math.min(left, pause))
    pause = math.min(pause * 2, 0.25)
  end
end

--- Lets `seconds` pass while the background readers are served. Only for tests about the passing of time itself.
function sys.pass(seconds)
  local limit = sys.now() + seconds
  while sys.now() < limit do
    sys.poll({}, limit - sys.now())
  end
end

--- Makes a descriptor non-blocking and closed on exec.
function sys.prepare(fd)
  local flags = C.fcntl(fd, 3)
  C.fcntl(fd, 4, ffi.cast("int", bit.bor(flags, 0x800)))
  C.fcntl(fd, 2, ffi.cast("int", 1))
end

--- Raises the soft limit of open descriptors to the hard one (children inherit it) and returns it.
function sys.raiseDescriptorLimit()
  local limit = ffi.new "struct skt_rlimit"
  C.getrlimit(7, limit)
  limit.cur = limit.max
  C.setrlimit(7, limit)
  C.getrlimit(7, limit)
  return math.min(tonumber(limit.cur), 1e9)
end

-- A peer that is gone must give EPIPE, not end the test.
C.signal(13, ffi.cast("skt_handler", 1))

return sys
