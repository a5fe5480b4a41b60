# monitoring: PostgreSQL as its own monitoring system
#
#   make demo        see it work in a private server      make demo-stop
#   make test        install what is missing, run every test
#   make fuzz        the fuzz targets for ten minutes each (FUZZ_SECONDS)
#   make test-compat the same on the PostgreSQL of other Debian releases (root)
#   make test-postgres    PostgreSQL's own tests, without the library and with it
#   make, make install, make installcheck                 as for any extension (PG_CONFIG=...)
#   make bench       figures, ours and peers' side by side
#   make reference   write docs/reference.md anew from the comments in the catalog

EXTENSION    = monitoring
MODULE_big   = monitoring
DATA         = monitoring--1.0.sql
PGFILEDESC   = "monitoring - metrics, alerts and server insight inside PostgreSQL"

# The install script is these files in this order.
SQL_SLICES   = src/core/core.sql src/sketch/sketch.sql src/sketch/interchange.sql src/core/partitions.sql \
               src/metrics/metrics.sql src/metrics/manage.sql src/worker/worker.sql src/outbound/secrets.sql \
               $(addprefix src/signals/,signals.sql issues.sql slow_executions.sql) \
               $(addprefix src/server/,server.sql queries.sql activity.sql locks.sql sessions.sql waits.sql) \
               $(addprefix src/server/,collect.sql collect_server.sql collect_database.sql collect_host.sql exposition.sql) \
               $(addprefix src/alerts/,alerts.sql silences.sql lifecycle.sql kinds.sql forecasting.sql capacity.sql slo.sql components.sql \
                 setting_changes.sql evidence.sql incidents.sql incident_correlation.sql incident_reports.sql raised.sql evaluate.sql \
                 backtest.sql statistics.sql routing.sql groups.sql dispatch.sql explain.sql oncall.sql escalation.sql packs.sql prometheus.sql prometheus_export.sql) \
               src/server/advisor.sql $(addprefix src/server/advisors/,common.sql indexes.sql missing.sql bloat.sql tables.sql vacuum.sql settings.sql workload.sql) \
               $(addprefix src/health/,health.sql health_run.sql health_score.sql network.sql postgres_checks.sql) \
               $(addprefix src/notify/,receivers.sql secrets.sql outbox.sql send.sql templates.sql formatters.sql \
                 $(addprefix formatters/,chat.sql services.sql paging.sql mail.sql) delivery.sql heartbeat.sql emergency.sql) \
               $(addprefix src/dashboards/,dashboards.sql dashboard_views.sql) \
               src/core/grants.sql

OBJS         = src/monitoring.o \
               $(patsubst %.c,%.o,$(wildcard src/core/*.c src/sketch/*.c src/metrics/*.c src/worker/*.c \
                 src/signals/*.c src/outbound/*.c src/server/*.c src/health/*.c src/alerts/*.c src/notify/*.c))

# The program that talks to strangers: a crash in libcurl must not restart the server.
SENDER       = monitoring_sender

# Reads YAML when rules are imported: a library that is missing must not keep a server from starting.
YAML         = monitoring_yaml$(DLSUFFIX)
YAML_OBJS    = src/alerts/yaml/yaml.o src/alerts/yaml/yaml_json.o

REGRESS      = $(notdir $(basename $(sort $(wildcard sql/*.sql))))
REGRESS_OPTS = --load-extension=monitoring
EXTRA_CLEAN  = $(SENDER) src/outbound/sender/*.o $(YAML) $(YAML_OBJS) build

PG_CPPFLAGS  = -I$(srcdir)/src
# Every statement of every client passes through code of ours, whose pages are cold by then: it touches fewer without
# stubs for calls, and with what is pg_attribute_hot in one place.
PG_CFLAGS    = -std=gnu11 -fno-plt -Wextra -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers -Wno-declaration-after-statement $(if $(CI),-Werror) $(sanitizer)
SHLIB_LINK   = -Wl,-Bsymbolic-functions $(sanitizer)

# SANITIZE=undefined: undefined behaviour ends the process; see docs/testing.md.
sanitizer    = $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)

# No bitcode: nothing of ours gains from being inlined into JIT-compiled expressions.
override with_llvm = no

# These bring a PostgreSQL of their own, on machines that may have none yet.
ifeq ($(filter demo demo-stop test test-compat test-postgres fuzz bench reference,$(MAKECMDGOALS)),)
PG_CONFIG   ?= pg_config
PGXS        := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

# Structures in shared memory are in headers: an object file that was not made anew would crash the server.
$(OBJS) $(YAML_OBJS): $(wildcard src/*.h src/*/*.h src/*/*/*.h)

# -O3 pays in the loops of sketches and chunks, and of the numbers of each statement.
src/sketch/%.o src/metrics/chunk_codec.o src/metrics/chunk_codec_%.o src/server/statement_registry.o: CFLAGS += -O3

all: $(SENDER) $(YAML) monitoring--1.0.sql
$(SENDER): $(wildcard src/outbound/sender/*.c) $(wildcard src/outbound/sender/*.h)
	$(CC) $(filter-out -Wdeclaration-after-statement -Wmissing-prototypes,$(CFLAGS)) -Isrc -o $@ $(filter %.c,$^) -lcurl

$(YAML): $(YAML_OBJS)
	$(CC) $(CFLAGS) $(YAML_OBJS) $(LDFLAGS) $(LDFLAGS_SL) -shared -o $@ -lyaml $(sanitizer)

install: install-sender
install-sender: $(SENDER) $(YAML)
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'
	$(INSTALL_PROGRAM) $(SENDER) '$(DESTDIR)$(pkglibdir)/$(SENDER)'
	$(INSTALL_SHLIB) $(YAML) '$(DESTDIR)$(pkglibdir)/$(YAML)'
uninstall: uninstall-sender
uninstall-sender:
	rm -f '$(DESTDIR)$(pkglibdir)/$(SENDER)' '$(DESTDIR)$(pkglibdir)/$(YAML)'

# Packs of alert rules are data; the tables they go into are made by now.
RULE_PACKS   = $(sort $(wildcard src/alerts/packs/*.json))
monitoring--1.0.sql: $(SQL_SLICES) $(RULE_PACKS)
	cat $(SQL_SLICES) > $@
	for pack in $(RULE_PACKS); do \
		printf "\nINSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('%s', \$$pack\$$" "$$(basename $$pack .json)" && \
		cat $$pack && printf '$$pack$$, true);\n'; \
	done >> $@

demo:
	@./test/demo/demo start
demo-stop:
	@./test/demo/demo stop
test:
	@./test/run
test-compat:
	@./test/compat/run
test-postgres:
	@./test/compat/postgres_suites
fuzz:
	@ONLY=fuzz FUZZ_SECONDS=$${FUZZ_SECONDS:-600} ./test/run
bench:
	@./test/bench/run
reference:
	@./docs/make_reference

.PHONY: demo demo-stop test test-compat test-postgres fuzz bench reference install-sender uninstall-sender
