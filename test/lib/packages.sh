# shellcheck shell=bash
# packages.sh: install what is missing, and nothing else.
#
# Every need is a capability that is tried out, not a package name that is
# looked up: whoever brings his own PostgreSQL, curl or compiler keeps it.
# Only what does not work is installed, with apt-get, through sudo when not
# root.  PG_CONFIG chooses the PostgreSQL; without it the newest installed
# server is taken, and on a bare machine the one the distribution ships.
#
# Sourced, after output.sh.  install_packages demo|test|postgres|bench sets PG_CONFIG
# (absolute) and PG_MAJOR.

# The pg_config of an installed server, newest first; empty when there is none.
find_pg_config()
{
	local candidate
	if [ -n "${PG_CONFIG:-}" ]; then
		command -v "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG cannot be run"
		return
	fi
	for candidate in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5 -rn) \
		$(command -v pg_config); do
		if "$candidate" --pgxs >/dev/null 2>&1 && [ -e "$("$candidate" --pgxs)" ]; then
			echo "$candidate"
			return
		fi
	done
}

# The major version to install where nothing says which; fetches apt's lists where there are none.
distribution_major()
{
	local major
	if [ -z "$(apt-cache search --names-only '^postgresql-server-dev-' 2>/dev/null)" ]; then
		refresh_lists
	fi
	for major in $(ls /usr/lib/postgresql 2>/dev/null | sort -rn) 15 16 17 18 19; do
		if [ -n "$(apt-cache search --names-only "^postgresql-server-dev-$major\$" 2>/dev/null)" ]; then
			echo "$major"
			return
		fi
	done
	echo 15
}

have_server()
{
	[ -n "${PG_CONFIG:-}" ] && [ -x "$("$PG_CONFIG" --bindir)/initdb" ] && [ -x "$("$PG_CONFIG" --bindir)/postgres" ] &&
		[ -e "$("$PG_CONFIG" --sharedir)/extension/pg_stat_statements.control" ]
}

have_server_headers()
{
	[ -n "${PG_CONFIG:-}" ] && [ -e "$("$PG_CONFIG" --pgxs)" ] && [ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]
}

have_c_compiler()
{
	command -v make >/dev/null && echo '#include <stdio.h>
int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null
}

have_curl_headers()
{
	echo '#include <curl/curl.h>
int main(void) { curl_easy_init(); return 0; }' | cc -x c -o /dev/null - -lcurl 2>/dev/null
}

have_yaml_headers()
{
	echo '#include <yaml.h>
int main(void) { yaml_parser_t p; return yaml_parser_initialize(&p) - 1; }' | cc -x c -o /dev/null - -lyaml 2>/dev/null
}

have_openssl_headers()
{
	echo '#include <openssl/ssl.h>
int main(void) { return OPENSSL_init_ssl(0, NULL) - 1; }' | cc -x c -o /dev/null - -lssl -lcrypto 2>/dev/null
}

have_fuzzer()
{
	echo '#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n) { return 0; }' |
		clang -x c -fsanitize=fuzzer,address,undefined -o /dev/null - 2>/dev/null
}

# The system's python and perl, which a server user can reach too.
have_python()  { [ -x /usr/bin/python3 ]; }
have_jsonschema() { /usr/bin/python3 -c 'import jsonschema' 2>/dev/null; }
have_ipc_run() { command -v prove >/dev/null && perl -MIPC::Run -MTest::More -e 1 2>/dev/null; }
have_alertmanager() { command -v prometheus-alertmanager >/dev/null || command -v alertmanager >/dev/null; }
have_prometheus() { command -v prometheus >/dev/null && command -v promtool >/dev/null; }
have_mail_server() { /usr/bin/python3 -c 'import aiosmtpd.smtp' 2>/dev/null; }
have_http2_server() { [ -x /usr/sbin/nghttpd ] || command -v nghttpd >/dev/null; }
have_tdigest() { [ -e "$("$PG_CONFIG" --sharedir)/extension/tdigest.control" ]; }

# Not everywhere for the newest server: tests that need it are left out without it.
have_hypopg()
{
	[ -e "$("$PG_CONFIG" --sharedir)/extension/hypopg.control" ] || ! apt-cache show "postgresql-$PG_MAJOR-hypopg" >/dev/null 2>&1
}

# missing_packages SET: the packages to install, one a line.
missing_packages()
{
	local major=$PG_MAJOR
	have_c_compiler || echo build-essential
	have_server || echo "postgresql-$major"
	have_server_headers || echo "postgresql-server-dev-$major"
	have_curl_headers || echo libcurl4-openssl-dev
	have_yaml_headers || echo libyaml-dev
	have_python || echo python3
	case $1 in
		test)
			have_ipc_run || echo libipc-run-perl
			command -v pgrep >/dev/null || echo procps
			command -v openssl >/dev/null || echo openssl
			have_fuzzer || printf '%s\n' clang libclang-rt-dev
			command -v clang-format >/dev/null || echo clang-format
			command -v cppcheck >/dev/null || echo cppcheck
			have_alertmanager || echo prometheus-alertmanager
			have_prometheus || echo prometheus
			have_mail_server || echo python3-aiosmtpd
			have_http2_server || echo nghttp2-server
			have_jsonschema || echo python3-jsonschema
			have_hypopg || echo "postgresql-$major-hypopg"
			;;
		postgres)
			have_ipc_run || echo libipc-run-perl
			have_openssl_headers || echo libssl-dev
			command -v bison >/dev/null || echo bison
			command -v flex >/dev/null || echo flex
			command -v bzip2 >/dev/null || echo bzip2
			;;
		bench)
			have_tdigest || echo "postgresql-$major-tdigest"
			have_prometheus || echo prometheus
			;;
	esac
}

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		command -v sudo >/dev/null || die "installing packages needs root or sudo: $*"
		sudo "$@"
	fi
}

apt='env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends'

refresh_lists()
{
	if command -v apt-get >/dev/null; then
		as_root $apt update </dev/null >&2 || warn "apt-get update failed"
	fi
}

# apt_install PACKAGE...: a first server package must not create a cluster of its own, and no service is started.
apt_install()
{
	local dropin=/etc/postgresql-common/createcluster.d/monitoring-no-main-cluster.conf policy=/usr/sbin/policy-rc.d own_policy=
	local status=0 service

	as_root mkdir -p "${dropin%/*}"
	echo 'create_main_cluster = false' | as_root tee "$dropin" >/dev/null
	if [ ! -e $policy ]; then
		own_policy=1
		printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
		as_root chmod 755 $policy
	fi
	# Lists may be absent or out of date: refresh them only when they turn out to be.
	apt-cache show "$@" >/dev/null 2>&1 || refresh_lists
	as_root $apt install "$@" </dev/null || { refresh_lists && as_root $apt install "$@" </dev/null; } || status=$?
	as_root rm -f "$dropin" ${own_policy:+$policy}
	# what the tests run themselves need not run at the next boot either
	for service in prometheus prometheus-alertmanager; do
		if command -v systemctl >/dev/null && [[ " $* " == *" $service "* ]]; then
			as_root systemctl disable $service >/dev/null 2>&1 || true
		fi
	done
	return $status
}

install_packages()
{
	local missing log

	PG_CONFIG=$(find_pg_config) || exit 1
	if [ -n "$PG_CONFIG" ]; then
		PG_MAJOR=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
	else
		PG_MAJOR=$(distribution_major)
	fi

	missing=$(missing_packages "$1" | tr '\n' ' ')
	if [ -n "$missing" ]; then
		command -v apt-get >/dev/null ||
			die "this machine lacks (Debian's package names): $missing- install them and run again"
		say "Installing $missing"
		log=$(mktemp)
		apt_install $missing 2>&1 | tee "$log" | grep --line-buffered -E '^(Get:|Unpacking|Setting up|E:)' | cut -c1-100 || true
		PG_CONFIG=$(PG_CONFIG='' find_pg_config)
		missing=$(missing_packages "$1" | tr '\n' ' ')
		if [ -n "$missing" ]; then
			tail -n 30 "$log" >&2
			die "still missing after the installation: $missing"
		fi
		rm -f "$log"
	fi
	PG_CONFIG=$(command -v "$PG_CONFIG")
	PG_MAJOR=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
	export PG_CONFIG PG_MAJOR
}
