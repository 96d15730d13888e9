#!/bin/sh
# The direction of dependencies: main -> service -> lua -> io -> base; lua.h only in host/lua and
# host/service, uv.h only in host/io and host/service; ffi only in the library's host half.
status=0

forbid() { # FOLDER PATTERN WHY
  if grep -nE "$2" $1 /dev/null; then
    echo "  ^ $3" >&2
    status=1
  fi
}

forbid "host/base/*.[ch]" '#include "(io|lua|service)/' "base knows nothing above it"
forbid "host/io/*.[ch]" '#include "(lua|service)/' "io knows base only"
forbid "host/lua/*.[ch]" '#include "service/' "lua knows io and base only"
forbid "host/base/*.[ch] host/io/*.[ch] host/main.c" '#include <(lua|lauxlib|lualib|luajit)' "lua.h is for host/lua and host/service"
forbid "host/base/*.[ch] host/lua/*.[ch] host/main.c" '#include <uv' "uv.h is for host/io and host/service"
forbid "host/base/*.[ch] host/lua/*.[ch] host/service/*.[ch] host/main.c" '#include <ares' "ares.h is for host/io"
forbid "host/base/*.[ch] host/lua/*.[ch] host/service/*.[ch] host/main.c" '#include <openssl' "OpenSSL is for host/io"
forbid "host/lua/*.[ch] host/service/*.[ch] host/main.c" '#include "io/(inside|tls_inside|openssl).h"' "what host/io keeps to itself"
forbid "scripts/services/*.lua examples/*.lua" 'require "?(ffi|skald.core)' "services and examples use the public library only"

for module in address backup check class endpoints factories owner protocol reason; do
  forbid "scripts/skald/$module.lua" 'require "?(ffi|skald.core|skald.transport|skald.dispatch)' "$module is pure"
done
exit $status
