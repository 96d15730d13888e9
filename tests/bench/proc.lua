-- proc.lua - processes with pipes, their CPU time and memory, by FFI; for the benchmark driver.
local ffi = require "ffi"
local bit = require "bit"

ffi.cdef [[
typedef struct { long sec, nsec; } bench_timespec;
typedef struct { int fd; short events, revents; } bench_pollfd;
typedef struct { unsigned long cur, max; } bench_rlimit;
typedef struct { unsigned short family; char path[108]; } bench_sockaddr_un;
typedef struct { unsigned short family, port; unsigned char addr[4], zero[8]; } bench_sockaddr_in;
int fork(void);
int execvp(const char *file, const char *const argv[]);
void _exit(int status);
int kill(int pid, int signal);
int waitpid(int pid, int *status, int options);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int pipe2(int *fds, int flags);
int dup2(int from, int to);
int open(const char *path, int flags, ...);
int close(int fd);
long read(int fd, void *buffer, size_t size);
long write(int fd, const void *buffer, size_t size);
int poll(bench_pollfd *fds, unsigned long count, int timeout);
int socket(int domain, int type, int protocol);
int connect(int fd, const void *address, unsigned size);
int bind(int fd, const void *address, unsigned size);
int getsockname(int fd, void *address, unsigned *size);
int clock_gettime(int clock, bench_timespec *t);
int clock_getcpuclockid(int pid, int *clock);
int sched_getaffinity(int pid, size_t size, void *mask);
int sched_setaffinity(int pid, size_t size, const void *mask);
int getrlimit(int resource, bench_rlimit *limit);
int setrlimit(int resource, const bench_rlimit *limit);
int setenv(const char *name, const char *value, int overwrite);
char *mkdtemp(char *template);
char *strerror(int code);
typedef void (*bench_handler)(int);
bench_handler signal(int number, bench_handler handler);
]]

local C = ffi.C
local CLOCK_MONOTONIC, RLIMIT_NOFILE, PR_SET_PDEATHSIG = 1, 7, 1
local SIGPIPE, SIGKILL, SIGUSR2, SIGTERM = 13, 9, 12, 15
local O_CLOEXEC, O_WRONLY_CREATE_TRUNCATE, MODE_600 = 0x80000, 0x241, 384
local POLLIN, EINTR, WNOHANG, CPU_WORDS = 1, 4, 1, 16

local M = {}
local Process = {}
Process.__index = Process

local function seconds(clock)
  local t = ffi.new("bench_timespec")
  C.clock_gettime(clock, t)
  return tonumber(t.sec) + tonumber(t.nsec) / 1e9
end

local function errorText()
  return ffi.string(C.strerror(ffi.errno()))
end

--- Seconds of the monotonic clock.
function M.now()
  return seconds(CLOCK_MONOTONIC)
end

function M.sleep(time)
  C.poll(nil, 0, math.ceil(time * 1000))
end

function M.setenv(name, value)
  C.setenv(name, value, 1)
end

--- A fresh folder for what a run needs on disk.
function M.tempFolder()
  local template = (os.getenv("TMPDIR") or "/tmp") .. "/skald-bench-XXXXXX"
  local buffer = ffi.new("char[?]", #template + 1, template)
  assert(C.mkdtemp(buffer) ~= nil, "no temporary folder")
  return ffi.string(buffer)
end

--- Raises the soft limit of descriptors to the hard one, for us and what we start; returns it.
function M.raiseDescriptors()
  local limit = ffi.new("bench_rlimit")
  C.getrlimit(RLIMIT_NOFILE, limit)
  limit.cur = limit.max
  C.setrlimit(RLIMIT_NOFILE, limit)
  C.getrlimit(RLIMIT_NOFILE, limit)
  return tonumber(limit.cur)
end

--- The CPUs this process may run on.
function M.cpus()
  local mask, list = ffi.new("uint64_t[?]", CPU_WORDS), {}
  C.sched_getaffinity(0, CPU_WORDS * 8, mask)
  for cpu = 0, CPU_WORDS * 64 - 1 do
    local word = mask[math.floor(cpu / 64)]
    if bit.band(bit.rshift(word, cpu % 64), 1ULL) ~= 0 then
      list[#list + 1] = cpu
    end
  end
  return list
end

--- Keeps this process, and what it starts later, on one CPU.
function M.pin(cpu)
  local mask = ffi.new("uint64_t[?]", CPU_WORDS)
  mask[math.floor(cpu / 64)] = bit.lshift(1ULL, cpu % 64)
  C.sched_setaffinity(0, CPU_WORDS * 8, mask)
end

--- Seconds that the hypervisor gave to others while the machine wanted to run, all CPUs.
function M.stolen()
  for line in io.lines("/proc/stat") do
    local ticks = line:match("^cpu +%d+ %d+ %d+ %d+ %d+ %d+ %d+ (%d+)")
    if ticks then
      return tonumber(ticks) / 100
    end
  end
  return 0
end

local function pipe()
  local fds = ffi.new("int[2]")
  assert(C.pipe2(fds, O_CLOEXEC) == 0, "no pipe")
  return fds[0], fds[1]
end

--- A port that nobody listens at, nor has: the system's choice.
function M.freePort()
  local at, size = ffi.new("bench_sockaddr_in", 2, 0, { 127, 0, 0, 1 }), ffi.new("unsigned[1]", 16)
  local fd = C.socket(2, 1 + O_CLOEXEC, 0)
  assert(C.bind(fd, at, 16) == 0 and C.getsockname(fd, at, size) == 0, "no port")
  C.close(fd)
  return bit.bor(bit.lshift(bit.band(at.port, 255), 8), bit.rshift(at.port, 8))
end

--- Waits until somebody listens at a TCP port of 127.0.0.1, and connects to nobody; the port, or nil and why not.
function M.listens(port, time)
  local deadline, row = M.now() + time, (" 0100007F:%04X 00000000:0000 0A "):format(port)
  repeat
    for line in io.lines "/proc/net/tcp" do
      if line:find(row, 1, true) then
        return port
      end
    end
    M.sleep(0.01)
  until M.now() > deadline
  return nil, "nobody listens at port " .. port
end

-- What the child does between fork and exec. It must not return.
local function become(argv, options, input, output, log)
  C.prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
  if options.cpu then
    M.pin(options.cpu)
  end
  C.dup2(input, 0)
  C.dup2(output, 1)
  if log >= 0 then
    C.dup2(log, 2)
  end
  C.execvp(argv[0], argv)
  C._exit(127)
end

--- Starts a program with pipes on its input and output.
---@param args string[] the program and its arguments
---@param options table cpu: the one to run on; log: a file for its stderr
function M.spawn(args, options)
  local argv = ffi.new("const char *[?]", #args + 1)
  for i, arg in ipairs(args) do
    argv[i - 1] = arg
  end
  local inputRead, inputWrite = pipe()
  local outputRead, outputWrite = pipe()
  local log = -1
  if options.log then
    local flags = bit.bor(O_WRONLY_CREATE_TRUNCATE, O_CLOEXEC)
    log = C.open(options.log, flags, ffi.new("int", MODE_600))
  end
  local pid = C.fork()
  if pid == 0 then
    become(argv, options, inputRead, outputWrite, log)
  end
  C.close(inputRead)
  C.close(outputWrite)
  if log >= 0 then
    C.close(log)
  end
  assert(pid > 0, "no process")
  return setmetatable({
    pid = pid, input = inputWrite, output = outputRead, pending = "", name = args[1],
    logPath = options.log,
  }, Process)
end

-- Reads what is there within the time; nil and a reason at the end, an error or too late.
local function receive(fd, deadline)
  local wait, buffer = ffi.new("bench_pollfd"), ffi.new("char[4096]")
  wait.fd, wait.events = fd, POLLIN
  while true do
    local left = deadline - M.now()
    if left <= 0 then
      return nil, "nothing came in time"
    end
    local ready = C.poll(wait, 1, math.ceil(left * 1000))
    local got = ready > 0 and tonumber(C.read(fd, buffer, 4096)) or -1
    if got > 0 then
      return ffi.string(buffer, got)
    elseif got == 0 then
      return nil, "the output ended"
    elseif ready ~= 0 and ffi.errno() ~= EINTR then
      return nil, errorText()
    end
  end
end

--- The next line of the program's output, or nil and why there is none.
function Process:line(time)
  local deadline = M.now() + time
  while true do
    local line, rest = self.pending:match("^([^\n]*)\n(.*)$")
    if line then
      self.pending = rest
      return line
    end
    local data, why = receive(self.output, deadline)
    if not data then
      return nil, why
    end
    self.pending = self.pending .. data
  end
end

function Process:send(text)
  return tonumber(C.write(self.input, text, #text)) == #text
end

--- Ends the program's input.
function Process:finish()
  if self.input then
    C.close(self.input)
    self.input = nil
  end
end

function Process:signal(number)
  C.kill(self.pid, number)
end

--- Asks a peer that has a collector for a full collection.
function Process:collect()
  self:signal(SIGUSR2)
end

-- The wait status as a shell gives it.
local function exitStatus(status)
  local number = bit.band(status, 0x7f)
  return number ~= 0 and 128 + number or bit.band(bit.rshift(status, 8), 0xff)
end

--- Waits for the end; the exit status, or nil when it still runs.
function Process:wait(time)
  local deadline, status = M.now() + time, ffi.new("int[1]")
  while not self.status do
    if C.waitpid(self.pid, status, WNOHANG) == self.pid then
      self.status = exitStatus(status[0])
      self:finish()
      C.close(self.output)
    elseif M.now() > deadline then
      return nil
    else
      M.sleep(0.002)
    end
  end
  return self.status
end

--- Ends the program: asked first, killed after some seconds.
function Process:stop()
  if not self.status then
    self:signal(SIGTERM)
    if not self:wait(5) then
      self:signal(SIGKILL)
      self:wait(5)
    end
  end
  return self.status
end

--- The last lines of the program's stderr.
function Process:complaint()
  local file = self.logPath and io.open(self.logPath)
  if not file then
    return ""
  end
  local text = file:read("*a")
  file:close()
  return text:sub(-2000)
end

--- CPU seconds used so far, user and system, all threads.
function Process:cpu()
  local clock = ffi.new("int[1]")
  assert(C.clock_getcpuclockid(self.pid, clock) == 0, "no such process")
  return seconds(clock[0])
end

--- Resident memory and its private part in KB, counted page by page by the kernel.
function Process:memory()
  local file = assert(io.open("/proc/" .. self.pid .. "/smaps_rollup"))
  local text = file:read("*a")
  file:close()
  return tonumber(text:match("\nRss:%s+(%d+)")), tonumber(text:match("\nAnonymous:%s+(%d+)"))
end

--- How many descriptors the program has open.
function Process:descriptors()
  local list = io.popen("ls -f /proc/" .. self.pid .. "/fd | wc -l")
  local count = tonumber(list:read("*a"))
  list:close()
  return count
end

--- Sends text to a Unix socket and returns the line that comes back.
function M.ask(path, text, time)
  local fd, address = C.socket(1, 1 + O_CLOEXEC, 0), ffi.new("bench_sockaddr_un", 1, path)
  local deadline, reply, why = M.now() + time, "", nil
  if C.connect(fd, address, ffi.sizeof(address)) ~= 0 then
    why = errorText()
  elseif C.write(fd, text, #text) == #text then
    while not why and not reply:find("\n") do
      local data, reason = receive(fd, deadline)
      reply, why = reply .. (data or ""), reason
    end
  end
  C.close(fd)
  return not why and reply:match("^[^\n]*") or nil, why
end

C.signal(SIGPIPE, ffi.cast("bench_handler", 1))

return M
