# kcmfs: `make help` lists what can be made.

VERSION := $(shell sed -n 's/.*KCMFS_VERSION "\(.*\)".*/\1/p' fs/version.h)

# --- where things go ---------------------------------------------------------

prefix ?= /usr/local
bindir ?= $(prefix)/bin
sbindir ?= $(prefix)/sbin
DESTDIR ?=

# A variant of the build has a directory of its own: V=asan -> build-asan.
V ?=
B ?= build$(addprefix -,$V)
MNT ?= /run/kcmfs

# --- flags, and why ----------------------------------------------------------

CFLAGS ?= -O2 -g
CPPFLAGS ?=
LDFLAGS ?=

# Turn memory errors into an end: these processes hold everybody's tickets.
HARDENING := -fstack-protector-strong -fstack-clash-protection -fPIE
HARDENING_LD := -pie -Wl,-z,relro,-z,now,-z,noexecstack
FORTIFY := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2

WARNINGS := -Wall -Wextra \
	-Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wcast-align \
	-Wwrite-strings \
	-Wformat=2 \
	-Wvla -Wundef \
	-Wimplicit-fallthrough
#  shadow             two meanings of one name in one function
#  prototypes         a function is static or declared in a header
#  pointer-arith,     both are undefined behaviour
#  cast-align
#  write-strings      string literals are const
#  format=2           no format string from elsewhere
#  vla                no stack as deep as a peer wants it
#  undef              a misspelt macro in #if

ifeq ($V,)
else ifeq ($V,asan)
  # INSPECTABLE: dumpable, which LeakSanitizer needs, and with large stacks.
  VARIANT := -fsanitize=address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer -DINSPECTABLE
  FORTIFY :=
else ifeq ($V,tsan)
  VARIANT := -fsanitize=thread -fno-omit-frame-pointer -DINSPECTABLE
  FORTIFY :=
else ifeq ($V,debug)
  CFLAGS := -O0 -g3
  VARIANT := -DINSPECTABLE
  FORTIFY :=
else ifeq ($V,cov)
  CFLAGS := -O0 -g
  VARIANT := --coverage -DINSPECTABLE
  FORTIFY :=
else ifeq ($V,fuzz)
  CC := clang
  CFLAGS := -O1 -g
  VARIANT := -fsanitize=address,undefined,fuzzer-no-link \
	-fno-sanitize-recover=all -DINSPECTABLE -Werror $(FUZZ_FLAGS)
  FORTIFY :=
  # How to make one program of a target: libFuzzer, or main.c and any files.
  FUZZ_MAIN ?= -fsanitize=fuzzer
else ifneq ($(filter gcc clang,$V),)
  # For `make warnings`.
  CC := $V
  VARIANT := -Werror
else
  $(error V=$V: the variants are asan, tsan, debug, cov, fuzz, gcc and clang)
endif

# --- libraries ---------------------------------------------------------------

PKG_CONFIG ?= pkg-config
FUSE_MIN := 3.10
# mit-krb5: where Heimdal's krb5.pc is installed beside MIT's.
KRB5_PC := $(shell $(PKG_CONFIG) --exists mit-krb5 2>/dev/null \
	&& echo mit-krb5 || echo krb5)
pkg = $(shell $(PKG_CONFIG) $1 2>/dev/null)

# The newest interface of libfuse that we use and the library has: 3.12 brought
# the limit on threads.
FUSE_API := $(shell $(PKG_CONFIG) --atleast-version=3.12 fuse3 2>/dev/null \
	&& echo 312 || echo 35)

KCM_CPPFLAGS := -I. -D_GNU_SOURCE -DKCMFS_VERSION='"$(VERSION)"' \
	$(patsubst -I%,-isystem %,$(call pkg,--cflags $(KRB5_PC) libseccomp))
FS_CPPFLAGS := -DFUSE_USE_VERSION=$(FUSE_API) \
	$(patsubst -I%,-isystem %,$(call pkg,--cflags fuse3 uuid))
KCM_LIBS := $(call pkg,--libs $(KRB5_PC) libseccomp) -lpthread
FUSE_LIBS := $(call pkg,--libs fuse3)
UUID_LIBS := $(call pkg,--libs uuid)
CHECK_LIBS := $(call pkg,--libs check)

ALL_CFLAGS = -std=gnu11 $(HARDENING) $(FORTIFY) $(WARNINGS) -pthread \
	$(CFLAGS) $(VARIANT)
ALL_LDFLAGS = $(HARDENING_LD) $(LDFLAGS) $(VARIANT) -pthread

# --- what is built from what -------------------------------------------------

KCM_OBJS := $(patsubst %.c,$B/%.o,$(filter-out kcm/kcmd.c,$(wildcard kcm/*.c)))
FS_OBJS := $(patsubst %.c,$B/%.o,$(wildcard fs/*.c))
# The part of fs/ that works without libfuse, for unit tests.
FS_PLAIN := $(filter-out $B/fs/main.o $B/fs/mount.o $B/fs/ops%.o,$(FS_OBJS))
EXAMPLES := $(patsubst examples/%.c,$B/%,$(wildcard examples/*.c))
UNIT := $(patsubst tests/unit/%.c,$B/unit/%,$(wildcard tests/unit/test_*.c))

.PHONY: all
all: $B/kcmfs $B/kcmd $(EXAMPLES)  ## build kcmfs, kcmd and the examples

$B/kcmfs: $(FS_OBJS) $B/libkcm.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(FUSE_LIBS) $(UUID_LIBS) $(KCM_LIBS)

$B/kcmd: $B/kcm/kcmd.o $B/libkcm.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(KCM_LIBS)

$(EXAMPLES): $B/%: $B/examples/%.o $B/libkcm.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(KCM_LIBS)

# From scratch each time, so that no object of a removed file stays in it.
$B/libkcm.a: $(KCM_OBJS)
	rm -f $@
	$(AR) rcs $@ $^

$B/libfs.a: $(FS_PLAIN)
	rm -f $@
	$(AR) rcs $@ $^

# What a test makes fail.
UNIT_WRAP_test_connect := syscall connect
UNIT_WRAP_test_failing := malloc calloc realloc reallocarray strdup strndup \
	mmap socket connect eventfd open_memstream fclose
# What a test counts.
UNIT_WRAP_test_write := draft_copy
$B/unit/%: $B/tests/unit/%.o $B/libfs.a $B/libkcm.a
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $(addprefix -Wl$(comma)--wrap=,$(UNIT_WRAP_$*)) \
	    $^ $(CHECK_LIBS) $(UUID_LIBS) $(KCM_LIBS)

# Where a target stands in for what a function does.
FUZZ_WRAP_reply := conn_open
FUZZ_WRAP_server := epoll_wait accept4 getsockopt clock_gettime \
	kcm_server_handle log_line
FUZZ_WRAP_config := log_line
fuzz_link = $(CC) $(ALL_LDFLAGS) -o $@ $1 \
	$(addprefix -Wl$(comma)--wrap=,$(FUZZ_WRAP_$*)) \
	$< $(filter %/libfs.a,$^) $B/libkcm.a $(UUID_LIBS) $(KCM_LIBS)
$B/fuzz/%: $B/tests/fuzz/fuzz_%.o $B/libkcm.a
	@mkdir -p $(@D)
	$(call fuzz_link,$(FUZZ_MAIN))
# With main.c, whatever FUZZ_MAIN is.
$B/replay/%: $B/tests/fuzz/fuzz_%.o $B/tests/fuzz/main.o $B/libkcm.a
	@mkdir -p $(@D)
	$(call fuzz_link,$B/tests/fuzz/main.o)
$(foreach d,fuzz replay,$(addprefix $B/$d/,names primary config options)): \
	$B/libfs.a

$B/fs/%.o: ALL_CPPFLAGS = $(KCM_CPPFLAGS) $(FS_CPPFLAGS) $(CPPFLAGS)
ALL_CPPFLAGS = $(KCM_CPPFLAGS) $(CPPFLAGS)

# Other flags build everything anew.
$B/%.o: %.c $B/flags | need-build
	@mkdir -p $(@D)
	$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$B/tests/unit/%.o: | need-test

FLAGS_NOW = $(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(KCM_CPPFLAGS) $(FS_CPPFLAGS)
$B/flags: force
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(FLAGS_NOW))' >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.PHONY: force
force:

.SECONDARY:
-include $(wildcard $B/*/*.d $B/*/*/*.d)

# --- what it takes -----------------------------------------------------------

# $(call need,pkg-config arguments,what it is,Debian package)
need = @$(PKG_CONFIG) $1 2>/dev/null || { \
	echo "make: $2 is missing: as root, apt-get install $3" >&2; \
	echo "make: or all that is needed at once: make deps" >&2; exit 1; }

.PHONY: need-build need-test
need-build:
	@command -v $(PKG_CONFIG) >/dev/null || { \
	    echo "make: pkg-config is missing: as root, apt-get install" \
	    "pkg-config, or all that is needed at once: make deps" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { \
	    echo "make: the C compiler $(CC) is missing: as root, apt-get install" \
	    "gcc libc6-dev, or all at once: make deps" >&2; exit 1; }
	$(call need,--exists fuse3,libfuse 3,libfuse3-dev)
	@$(PKG_CONFIG) --atleast-version=$(FUSE_MIN) fuse3 || { \
	    echo "make: libfuse is too old: $$($(PKG_CONFIG) --modversion fuse3)," \
	    "at least $(FUSE_MIN) is needed" >&2; exit 1; }
	$(call need,--exists $(KRB5_PC),MIT Kerberos,libkrb5-dev)
	$(call need,--exists uuid,libuuid,uuid-dev)
	$(call need,--exists libseccomp,libseccomp,libseccomp-dev)

need-test:
	$(call need,--exists check,Check$(comma) the unit test framework,check)

comma := ,

.PHONY: deps deps-test
deps:  ## install the Debian packages needed to build and run (as root)
	tests/setup build run
deps-test:  ## install the Debian packages needed for the tests (as root)
	tests/setup build run test

# --- the two commands of README.md -------------------------------------------

# In a make of their own: what deps installs changes the flags.
JOBS := $(shell nproc 2>/dev/null || echo 1)
.PHONY: run test
run: deps  ## install what it needs, build, mount on MNT=/run/kcmfs (as root)
	+$(MAKE) --no-print-directory -j$(JOBS) all
	KCMFS_BUILD=$(abspath $B) examples/run.sh $(MNT)

test: deps-test  ## install what it needs, build, run all tests (as root)
	+$(MAKE) --no-print-directory -j$(JOBS) all $B/tests
	+$(MAKE) --no-print-directory check

# --- tests -------------------------------------------------------------------

.PHONY: check check-unit check-mount check-one
check: check-unit check-mount  ## all tests (the integration tests need root)

# All are run, also after a failure; each ends in Check's summary line.
check-unit: $(UNIT)  ## the unit tests
	@status=0; for t in $(sort $(UNIT)); do \
	    $(TEST_ENV) $$t || { status=1; echo "failed: $$t" >&2; }; \
	done; exit $$status

check-mount: all check-unit-first  ## the integration tests: ARGS='-k PATTERN'
	$(TEST_ENV) KCMFS_BUILD=$(abspath $B) tests/run --again $(ARGS)

# `make check` reports the quick tests before the slow ones begin.
.PHONY: check-unit-first
check-unit-first: $(if $(filter check test,$(MAKECMDGOALS)),check-unit)

check-one: $B/unit/$T  ## one unit test: T=test_image [CASE=parse] [GDB=1]
	$(if $(CASE),CK_RUN_CASE=$(CASE)) $(TEST_ENV) \
	    $(if $(GDB),CK_FORK=no gdb --args) $B/unit/$T

.PHONY: fuzz fuzz-check fuzz-coverage
fuzz:  ## fuzz one parser: F=image S=60 (seconds)
	+tests/fuzz/run "$F" $(or $S,60)

fuzz-check:  ## replay the seeds of all fuzz targets, fuzz each for S=5
	+tests/fuzz/run all $(or $S,5)

fuzz-coverage:  ## what fuzzing reached so far, by file
	+tests/fuzz/coverage

.PHONY: hunt chaos soak memcheck
hunt: all  ## hunt for stale and torn reads: N=100000 (changes), S=120 (seconds)
	KCMFS_HUNT_CHANGES=$(or $N,100000) KCMFS_HUNT_S=$(or $S,120) \
	    KCMFS_TEST_LIMIT=$$(($(or $S,120) + 180)) $(TEST_ENV) \
	    KCMFS_BUILD=$(abspath $B) tests/run -v -k test_stale $(ARGS)

chaos: all  ## daemons that die and hang under load: S=600 (seconds, each)
	KCMFS_CHAOS_S=$(or $S,600) KCMFS_TEST_LIMIT=$$(($(or $S,600) + 120)) \
	    $(TEST_ENV) KCMFS_BUILD=$(abspath $B) \
	    tests/run -v -j 3 -k test_chaos $(ARGS)

soak: all  ## many uids, caches and handles for long: S=3600 (seconds, 60 or more)
	KCMFS_SOAK_S=$(or $S,3600) KCMFS_TEST_LIMIT=$$(($(or $S,3600) + 600)) \
	    $(TEST_ENV) KCMFS_BUILD=$(abspath $B) \
	    tests/run -v -k test_soak $(ARGS)

# Valgrind knows neither seccomp nor Landlock, of which test_confine is.
memcheck: $(UNIT)  ## the unit tests under valgrind
	@command -v valgrind >/dev/null || { echo "make: valgrind is missing:" \
	    "as root, apt-get install valgrind" >&2; exit 1; }
	@status=0; for t in $(filter-out %/test_confine,$(sort $(UNIT))); do \
	    CK_FORK=no CK_DEFAULT_TIMEOUT=300 valgrind -q --error-exitcode=99 \
	    --leak-check=full --errors-for-leak-kinds=definite \
	    --fair-sched=try $$t || { status=1; echo "failed: $$t" >&2; }; \
	done; exit $$status

.PHONY: bench
bench: all  ## the benchmark (as root), ARGS='--quick' or '-h' for the others
	KCMFS_BUILD=$(abspath $B) tests/bench/run $(ARGS)

# A report is a failure of the test that caused it.
TEST_ENV := ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 \
	LSAN_OPTIONS=print_suppressions=0 \
	UBSAN_OPTIONS=print_stacktrace=1 \
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
	CK_DEFAULT_TIMEOUT=$(if $V,60,20)

# --- for developers ----------------------------------------------------------

SOURCES = $(wildcard kcm/*.[ch] fs/*.[ch] examples/*.[ch] \
	tests/unit/*.[ch] tests/fuzz/*.[ch] tests/clients/*.[ch])

.PHONY: format lint warnings clean help
format:  ## reformat the C sources
	clang-format -i $(SOURCES)

lint:  ## style, layering, static analysis
	CPPFLAGS='$(filter-out -DKCMFS%,$(KCM_CPPFLAGS)) $(FS_CPPFLAGS)' tests/lint

warnings:  ## build with gcc and with clang, warnings are errors
	+$(MAKE) --no-print-directory V=gcc all build-gcc/tests
	+$(MAKE) --no-print-directory V=clang all build-clang/tests

.PHONY: $B/tests
$B/tests: $(UNIT)

clean:  ## remove what was built, in every variant; not what deps-test unpacked
	for d in build build-*; do \
	    [ ! -d $$d ] || find $$d -mindepth 1 -maxdepth 1 ! -name unpack \
	    -exec rm -rf {} +; \
	done

help:  ## this list
	@echo "targets (variants: V=asan V=tsan V=debug V=cov):"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' Makefile \
	    | while read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done

# --- installation ------------------------------------------------------------

# mount(8) looks for its helpers in /sbin: use prefix=/usr for `mount -t
# fuse.kcmfs` and fstab to find them without a shell between.  Below
# /usr/local systemd finds units, too.
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc/kcmfs
completiondir ?= $(prefix)/share/bash-completion/completions
unitdir ?= $(prefix)/lib/systemd/system
userunitdir ?= $(prefix)/lib/systemd/user
tmpfilesdir ?= $(prefix)/lib/tmpfiles.d

UNITS := examples/systemd
# Units name the programs where they are installed.
install_unit = sed -e 's,/usr/bin/kcmfs,$(bindir)/kcmfs,' \
	-e 's,/usr/sbin/kcmd,$(sbindir)/kcmd,' $1 >$(DESTDIR)$2/$(notdir $1) \
	&& chmod 644 $(DESTDIR)$2/$(notdir $1)
# File, directory and name of all that is not built.
PAGES = $(wildcard fs/*.[58] kcm/*.8 examples/*.1)
page_path = $(mandir)/man$(subst .,,$(suffix $1))/$(notdir $1)

.PHONY: install uninstall
install: all  ## install into DESTDIR and prefix=/usr/local
	install -d $(addprefix $(DESTDIR),$(bindir) $(sbindir) $(unitdir) \
	    $(userunitdir) $(tmpfilesdir) $(completiondir) $(docdir))
	install -m 755 $B/kcmfs $B/kcmls $(DESTDIR)$(bindir)
	install -m 755 $B/kcmd $(DESTDIR)$(sbindir)
	ln -sfr $(DESTDIR)$(bindir)/kcmfs $(DESTDIR)$(sbindir)/mount.kcmfs
	ln -sfr $(DESTDIR)$(bindir)/kcmfs $(DESTDIR)$(sbindir)/mount.fuse.kcmfs
	$(foreach p,$(PAGES),install -D -m 644 $p $(DESTDIR)$(call page_path,$p) &&) :
	ln -sf mount.kcmfs.8 $(DESTDIR)$(mandir)/man8/mount.fuse.kcmfs.8
	$(call install_unit,$(UNITS)/kcmfs.service,$(unitdir))
	$(call install_unit,$(UNITS)/kcmd.service,$(unitdir))
	$(call install_unit,$(UNITS)/kcmd.socket,$(unitdir))
	$(call install_unit,$(UNITS)/user/kcmfs.service,$(userunitdir))
	install -m 644 $(UNITS)/tmpfiles.conf $(DESTDIR)$(tmpfilesdir)/kcmfs.conf
	install -m 644 examples/completion/kcmfs $(DESTDIR)$(completiondir)
	ln -sf kcmfs $(DESTDIR)$(completiondir)/kcmd
	install -m 644 README.md LICENSE $(DESTDIR)$(docdir)
	rm -rf $(DESTDIR)$(docdir)/examples
	cp -r examples $(DESTDIR)$(docdir)/examples
	rm -rf $(DESTDIR)$(docdir)/examples/debian \
	    $(DESTDIR)$(docdir)/examples/completion \
	    $(DESTDIR)$(docdir)/examples/*.1
	chmod -R u=rwX,go=rX $(DESTDIR)$(docdir)

uninstall:  ## remove what install installed
	rm -f $(addprefix $(DESTDIR)$(bindir)/,kcmfs kcmls) \
	    $(addprefix $(DESTDIR)$(sbindir)/,kcmd mount.kcmfs mount.fuse.kcmfs) \
	    $(addprefix $(DESTDIR)$(unitdir)/,kcmfs.service kcmd.service \
	        kcmd.socket) \
	    $(DESTDIR)$(userunitdir)/kcmfs.service \
	    $(DESTDIR)$(tmpfilesdir)/kcmfs.conf \
	    $(addprefix $(DESTDIR)$(completiondir)/,kcmfs kcmd) \
	    $(DESTDIR)$(mandir)/man8/mount.fuse.kcmfs.8 \
	    $(foreach p,$(PAGES),$(DESTDIR)$(call page_path,$p))
	rm -rf $(DESTDIR)$(docdir)

# A copy of the sources, with debian/ where dpkg-buildpackage wants it.
DEB := $B/deb
.PHONY: deb
deb:  ## Debian packages, in build/deb
	@for tool in dpkg-buildpackage dh; do command -v $$tool >/dev/null || { \
	    echo "make: $$tool is missing: as root, apt-get install" \
	    "dpkg-dev debhelper" >&2; exit 1; }; done
	rm -rf $(DEB)
	mkdir -p $(DEB)/kcmfs
	cp -r Makefile README.md LICENSE fs kcm examples $(DEB)/kcmfs
	mv $(DEB)/kcmfs/examples/debian $(DEB)/kcmfs/debian
	cd $(DEB)/kcmfs && env -u MAKEFLAGS -u MAKELEVEL -u B -u V \
	    dpkg-buildpackage -b -us -uc
	rm -rf $(DEB)/kcmfs
	@ls $(DEB)/*.deb
