/* The program: reads the command line and calls the host, with room on the stack. */
#include "base/options.h"
#include "service/host.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Lua code that recurses through C functions (gsub, sort, pcall) ends in "stack overflow" on a
 * stack of this size; on the usual 8 MB it ends the process. (A thread with a large stack would do
 * it too, and make every system call dearer: the kernel counts references to a shared descriptor
 * table.) */
enum { STACK_SIZE = 64 << 20 };

static const char help[] =
    "skald - a host for network protocols written in Lua\n"
    "\n"
    "usage:\n"
    "  skald run [OPTIONS] SCRIPT [KEY=VALUE ...] [SCRIPT [KEY=VALUE ...]] ...\n"
    "  skald check SCRIPT [KEY=VALUE ...] ...\n"
    "  skald test [OPTIONS] [FILE|FOLDER ...]      runs specs within a host of their own\n"
    "  skald new NAME                              writes a small service with its spec\n"
    "  skald reload [SERVICE] [--force] [--json]   new code, same connections and state\n"
    "  skald status [--json]                       what runs, and how the last reload went\n"
    "  skald load SCRIPT [KEY=VALUE ...]           adds a service to the running ones\n"
    "  skald unload SERVICE                        ends one of them\n"
    "  skald stop                                  ends the host, in order\n"
    "\n"
    "SCRIPT is a Lua file, or the name of a bundled service: chargen, daytime, discard,\n"
    "dns, echo, get-poetry, keyvalue, poetry, poetryproxy, portforward, qotd, slowpoetry,\n"
    "smtpsink, socks, syslog, time, transform. KEY=VALUE words belong to the script before\n"
    "them and reach it as a table in `...`; listen=ENDPOINT replaces the endpoint of its\n"
    "first factory (tcp:8000, tcp:127.0.0.1:8000, tcp:[::1]:8000, unix:/run/x.sock:mode=660,\n"
    "tls:443:certificate=FILE, udp:53, stdio:, fd:3, systemd:name=NAME,\n"
    "tls:fd:3:certificate=FILE, haproxy:tcp:80, haproxy:tls:443:certificate=FILE),\n"
    "connect=ENDPOINT the one that it connects to, where it has one (tcp:HOST:PORT:timeout=30,\n"
    "tls:HOST:PORT, unix:PATH, process:PROGRAM:ARGUMENT:...).\n"
    "\n"
    "options of run:\n"
    "  --watch            reload a service when its code or a file of its TLS changes\n"
    "  --debug            a failure that nobody handled also says where its Deferred was made\n"
    "  --log-level LEVEL  debug, info (default), warning or error; logs go to stderr\n"
    "  --grace SECONDS    how long a stop waits for output to be taken (default 10)\n"
    "  --jit off|OPTIONS  LuaJIT's compiler: off, or options as luajit -O takes them\n"
    "options of test (files are *_spec.lua; by default those in spec/, tests/ or here):\n"
    "  --filter PATTERN   only tests whose names match this Lua pattern\n"
    "  --timeout SECONDS  how long a test may wait (default 10)\n"
    "  --output NAME      plainTerminal, utfTerminal (on a terminal), TAP, gtest, json, junit\n"
    "  --debug            failures come with tracebacks\n"
    "of run and of the commands that talk to a running host:\n"
    "  --control PATH     its control socket (default $XDG_RUNTIME_DIR/skald.sock, else\n"
    "                     skald-UID/control.sock in the temporary folder)\n"
    "of the latter:\n"
    "  --json             the answer as one line of JSON\n"
    "\n"
    "  skald --help       this text\n"
    "  skald --version    the versions of skald, LuaJIT, libuv and OpenSSL in use\n"
    "\n"
    "For each endpoint bound, one line on stdout: listening tcp:127.0.0.1:7007 echo\n"
    "SIGTERM and SIGINT stop in order, a second one at once; SIGHUP reloads all services;\n"
    "SIGUSR1 logs what is alive.\n"
    "Exit status: 0 stopped as asked, 1 a script or an endpoint failed, 2 wrong usage; of\n"
    "test: 0 all passed, 1 some failed or there were none, 2 wrong usage; of\n"
    "reload, load, unload: 0 done (or nothing changed), 1 refused (what ran runs on), 2 wrong\n"
    "usage or no host to be reached.\n"
    "\n"
    "try:  skald run echo listen=tcp:127.0.0.1:7007      and then:  nc 127.0.0.1 7007\n";

/* The kernel asks for the limit each time the stack grows, so raising it now is early enough. */
static void raise_stack_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) < 0 || limit.rlim_cur >= STACK_SIZE)
        return;
    limit.rlim_cur = limit.rlim_max < STACK_SIZE ? limit.rlim_max : STACK_SIZE;
    setrlimit(RLIMIT_STACK, &limit);
}

int main(int argc, char **argv)
{
    struct options options;
    char problem[256];
    if (!options_parse(&options, argc, argv, problem, sizeof problem)) {
        fprintf(stderr, "skald: %s (see skald --help)\n", problem);
        return 2;
    }
    raise_stack_limit();
    if (strcmp(options.command, "help") == 0)
        fputs(help, stdout);
    else if (strcmp(options.command, "version") == 0)
        host_print_version();
    else
        return host_main(&options);
    return 0;
}
