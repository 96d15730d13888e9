# skald: a host for network protocols written in Lua.
# `make run` and `make test` do everything, from installing what is missing on.

VERSION := 0.1.0
PREFIX ?= /usr/local
BUILD ?= build
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))

# What Debian calls the things that building, testing, linting and comparing take.
BUILD_PACKAGES := gcc libc6-dev pkg-config libuv1-dev libluajit-5.1-dev libssl-dev lua-cjson-dev libc-ares-dev luajit libssl3
TEST_PACKAGES := lua-busted lua-socket netcat-openbsd socat telnet curl python3 python3-twisted procps lua-cjson git rsync vim-tiny haproxy openssl sslscan redis-tools swaks bind9-dnsutils libnet-ssleay-perl
LINT_PACKAGES := lua-check clang-format clang-tidy
BENCH_PACKAGES := lua-luv python3-uvloop golang-go nodejs haproxy redis-tools

SOURCES := $(filter-out host/main.c,$(wildcard host/*/*.c))
LIBRARY := $(wildcard scripts/skald/*.lua)
SERVICES := $(wildcard scripts/services/*.lua scripts/services/*.txt scripts/services/poems/*.txt)
TEMPLATES := $(wildcard scripts/templates/*.lua)
BENCH_TOOLS := floor udp_floor tls_floor dns forward lines load tls_load
C_TESTS := $(basename $(notdir $(wildcard tests/host/*_test.c)))

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
CPPFLAGS_ALL = -Ihost -D_GNU_SOURCE -DSKALD_VERSION='"$(VERSION)"' $(shell pkg-config --cflags luajit libuv) $(CPPFLAGS)
CFLAGS_ALL = -std=c11 -fvisibility=hidden $(WARNINGS) $(VARIANT_FLAGS) $(CFLAGS)
LDFLAGS_ALL = -rdynamic $(VARIANT_FLAGS) $(LDFLAGS)
# lua-cjson's own .pc file asks for PUC Lua; its archive alone is what we need.
LIBS = $(CJSON) $(CARES) $(shell pkg-config --libs luajit libuv) -ldl -lm
CJSON ?= -l:liblua5.1-cjson.a
CARES ?= -l:libcares.a

# Each variant builds in a folder of its own, so that objects never mix. Link-time optimization takes
# 6 % off a small message: the path from the socket to Lua crosses several files.
RELEASE_FLAGS := -O2 -g $(if $(findstring clang,$(CC)),-flto,-flto=auto)
DEBUG_FLAGS := -O0 -g3
ASAN_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

# $(call need,PACKAGES): installs what is missing. Elsewhere than on Debian it says what is needed.
define need
	@missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
	  mkdir -p $(BUILD); [ -e $(BUILD)/told ] || echo "Not Debian: please see to it that these (or their like) are installed:" $(1); touch $(BUILD)/told; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	echo "installing" $$missing; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

.PHONY: all
all: release ## the program: build/skald

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: build-deps test-deps
build-deps:
	$(call need,$(BUILD_PACKAGES))
test-deps: build-deps
	$(call need,$(TEST_PACKAGES))

.PHONY: release debug asan
release: build-deps
	@$(MAKE) -s --no-print-directory $(BUILD)/skald VARIANT_FLAGS="$(RELEASE_FLAGS)" OBJ=$(BUILD)/release
debug: build-deps ## build/debug/skald, without optimization
	@$(MAKE) -s --no-print-directory $(BUILD)/debug/skald VARIANT_FLAGS="$(DEBUG_FLAGS)" OBJ=$(BUILD)/debug
asan: build-deps ## build/asan/skald and the C tests, with the sanitizers
	@$(MAKE) -s --no-print-directory $(BUILD)/asan/skald $(C_TESTS:%=$(BUILD)/asan/tests/%) VARIANT_FLAGS="$(ASAN_FLAGS)" OBJ=$(BUILD)/asan

.PHONY: run
run: release ## build, then serve echo and poetry on loopback until Ctrl-C
	@echo "In another terminal:"
	@echo "  nc 127.0.0.1 7007       says back what you type"
	@echo "  nc 127.0.0.1 7001       recites a poem"
	@echo "Ctrl-C ends it."
	@exec $(BUILD)/skald run echo listen=tcp:127.0.0.1:7007 poetry listen=tcp:127.0.0.1:7001

.PHONY: test-tools
test-tools: build-deps
	@$(MAKE) -s --no-print-directory $(BUILD)/tests/faults.so $(BUILD)/tests/slow.so $(BUILD)/bench/steady

.PHONY: test
test: test-deps release asan bench-tools test-tools ## all tests; the last line counts them
	@luajit tests/run.lua

.PHONY: soak
soak: test-deps release bench-tools test-tools ## what takes minutes: thousands of reloads under load
	@luajit tests/soak/soak.lua

.PHONY: lint
lint: build-deps ## formatting, static analysis, direction of includes
	$(call need,$(LINT_PACKAGES))
	@clang-format --dry-run -Werror host/*.c host/*/*.[ch] tests/*/*.[ch]
	@luacheck --quiet scripts examples tests host/bundle.lua
	@sh tests/support/includes.sh
	@$(MAKE) -s --no-print-directory $(BUILD)/release/bundle.c OBJ=$(BUILD)/release
	@clang-tidy --quiet host/main.c $(SOURCES) -- $(CPPFLAGS_ALL) -std=c11 2>/dev/null
	@echo "lint: nothing to complain of"

.PHONY: bench bench-tools
bench-tools: build-deps
	@$(MAKE) -s --no-print-directory $(BENCH_TOOLS:%=$(BUILD)/bench/%)
bench: release bench-tools ## CPU, latency, memory, start time, beside a plain C server and others
	$(call need,$(BENCH_PACKAGES))
	@luajit tests/bench/bench.lua --json $(BUILD)/bench.json
	@luajit tests/bench/async.lua --json $(BUILD)/async.json
	@luajit tests/bench/framing.lua --json $(BUILD)/framing.json
	@luajit tests/bench/forward.lua --json $(BUILD)/forward.json
	@luajit tests/bench/tls.lua --json $(BUILD)/tls.json
	@luajit tests/bench/services.lua --json $(BUILD)/services.json

.PHONY: docs
docs: build-deps ## docs/reference, from the comments in scripts/
	@luajit tests/support/reference.lua

.PHONY: install install-library
install: release install-library ## into PREFIX (/usr/local); the library goes to share/skald/lua
	install -D -m 755 $(BUILD)/skald $(DESTDIR)$(PREFIX)/bin/skald

# What the program has inside, for specs outside of it and for editors.
SHARE := $(DESTDIR)$(PREFIX)/share/skald/lua
install-library:
	install -d $(SHARE)/skald $(SHARE)/meta
	install -m 644 $(LIBRARY) $(SHARE)/skald
	install -m 644 $(wildcard scripts/meta/*.lua) $(SHARE)/meta

.PHONY: clean
clean: ## remove build/
	rm -rf $(BUILD)

# --- what the sub-makes build ----------------------------------------------------------------

ifdef OBJ
OBJECTS := $(SOURCES:%.c=$(OBJ)/%.o) $(OBJ)/bundle.o

$(BUILD)/skald $(BUILD)/debug/skald $(BUILD)/asan/skald: $(OBJ)/host/main.o $(OBJECTS)
	@echo "  link $@"; $(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(OBJ)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  cc $<"; $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(OBJ)/bundle.o: $(OBJ)/bundle.c
	@echo "  cc $<"; $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -c -o $@ $<

$(OBJ)/bundle.c: host/bundle.lua host/lua/bind.h $(LIBRARY) $(SERVICES) $(TEMPLATES) Makefile
	@mkdir -p $(@D)
	@luajit host/bundle.lua $@ bind.h=host/lua/bind.h $(foreach f,$(LIBRARY) $(SERVICES) $(TEMPLATES),$(f:scripts/%=%)=$(f))

# A C test is linked with the whole core but main.c.
$(OBJ)/tests/%: tests/host/%.c $(OBJECTS)
	@mkdir -p $(@D)
	@echo "  cc $<"; $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -Itests/host $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

-include $(OBJECTS:.o=.d) $(OBJ)/host/main.d
endif

# What makes calls fail, and what makes them wait, for LD_PRELOAD.
$(BUILD)/tests/%.so: tests/support/%.c
	@mkdir -p $(@D)
	@echo "  cc $<"; $(CC) -std=c11 -D_GNU_SOURCE $(WARNINGS) -O1 -g -shared -fPIC -o $@ $< -ldl

$(BUILD)/bench/steady: tests/soak/steady.c
	@mkdir -p $(@D)
	@echo "  cc $<"; $(CC) -std=c11 -D_GNU_SOURCE $(WARNINGS) -O2 -g -o $@ $< -lm

$(BUILD)/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	@echo "  cc $<"; $(CC) -std=c11 -D_GNU_SOURCE $(WARNINGS) -O2 -g $(shell pkg-config --cflags libuv) -o $@ $< $(shell pkg-config --libs libuv) -lm $(if $(findstring tls,$<),-lssl -lcrypto)
