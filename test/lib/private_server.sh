# shellcheck shell=bash
# private_server.sh: a PostgreSQL of our own to build into and run.
#
# make_private_postgres copies the installed PostgreSQL (some 50 MB) below the
# work directory, where it finds its own files by their relative paths.  The
# extension is installed only there, so the machine's PostgreSQL, its clusters
# and their ports are never touched.
#
# Everything lives in one work directory, $work:
#   src   copy of this tree, built there      pg    private PostgreSQL
#   data  cluster                             s     socket (only its owner may enter)
#   log   logs
# It belongs to the user the server runs as: the invoking one, or an
# unprivileged one when that is root, since PostgreSQL refuses to run as root
# and such a user may not be able to read root's clone.
#
# Sourced, after output.sh and packages.sh (PG_CONFIG).

# Under make, these would turn our own make calls into parts of that make.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
# Nothing of the caller's default server may leak into ours.
unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGDATA PGSSLMODE

# server_prefix: what a command is prefixed with to run as the server's user.
choose_server_user()
{
	server_user='' server_prefix=(env)
	if [ "$(id -u)" -eq 0 ]; then
		for server_user in postgres nobody; do
			if id -u "$server_user" >/dev/null 2>&1; then
				server_prefix=(runuser -u "$server_user" -- env)
				return
			fi
		done
		die "no unprivileged user (postgres, nobody) to run the server as"
	fi
}

# enter_work_directory: stay where the server's user can be; also after a stop has read $work from a file.
enter_work_directory()
{
	choose_server_user
	server_prefix+=(HOME="$work" TMPDIR="$work/tmp")
	cd "$work" || die "cannot enter $work"
}

as_server()
{
	"${server_prefix[@]}" "$@"
}

# make_work_directory NAME: a short path, since a socket's path is limited to 107 bytes.
make_work_directory()
{
	local parent

	choose_server_user
	for parent in "${TMPDIR:-/var/tmp}" /var/tmp /tmp; do
		work=$(mktemp -d "$parent/$1.XXXXXX" 2>/dev/null) || continue
		mkdir "$work"/{src,pg,s,log,tmp}
		chmod 700 "$work/s"
		if [ -n "$server_user" ]; then
			chown -R "$server_user" "$work"
		fi
		if [ ${#work} -lt 70 ] && as_server test -w "$work/src" 2>/dev/null; then
			enter_work_directory
			return
		fi
		rm -rf "$work"
	done
	die "no directory that the server's user can write to (tried ${TMPDIR:-/var/tmp}, /var/tmp, /tmp)"
}

make_private_postgres()
{
	local directory

	for directory in "$("$PG_CONFIG" --bindir)" "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)"; do
		mkdir -p "$work/pg$directory"
		cp -RL "$directory/." "$work/pg$directory/"
	done
	if [ -n "$server_user" ]; then
		chown -R "$server_user" "$work/pg"
	fi
	pgbin=$work/pg$("$PG_CONFIG" --bindir)
}

# build_extension ROOT [VARIABLE=value...]: build a copy of the tree from scratch, install it into the private PostgreSQL.
build_extension()
{
	local root=$1 jobs
	shift
	jobs=$(nproc 2>/dev/null || echo 2)
	tar -C "$root" --exclude=./.git --exclude=./build --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		--exclude=./monitoring_sender --exclude=./results --exclude=./tmp_check -cf - . | tar -C "$work/src" -xf -
	if [ -n "$server_user" ]; then
		chown -R "$server_user" "$work/src"
	fi
	run_logged "$work/log/build.log" as_server make -s -C src -j"$jobs" PG_CONFIG="$PG_CONFIG" with_llvm=no "$@" &&
		run_logged "$work/log/install.log" as_server make -s -C src install PG_CONFIG="$PG_CONFIG" with_llvm=no \
			DESTDIR="$work/pg" "$@"
}

free_port()
{
	/usr/bin/python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

# make_cluster: local connections are trusted (only the owner can enter the socket's directory), TCP needs $password.
make_cluster()
{
	port=$(free_port)
	password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
	(umask 077 && echo "$password" >"$work/password")
	if [ -n "$server_user" ]; then
		chown "$server_user" "$work/password"
	fi
	run_logged "$work/log/initdb.log" as_server "$pgbin/initdb" -D data -U postgres -E UTF8 --locale=C.UTF-8 \
		--auth-local=trust --auth-host=scram-sha-256 --pwfile="$work/password" --no-sync
	as_server sh -c 'cat >> data/postgresql.conf' <<CONF

port = $port
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work/s'
unix_socket_permissions = 0700
log_line_prefix = '%m [%p] %b %q%u@%d '
log_checkpoints = off
timezone = 'UTC'
CONF
}

# configure: settings, read from standard input, appended to postgresql.conf.
configure()
{
	as_server sh -c 'cat >> data/postgresql.conf'
}

start_server()
{
	if ! run_logged "$work/log/pg_ctl.log" as_server "$pgbin/pg_ctl" -D data -l log/server.log -w -t 300 start; then
		show_server_log
		return 1
	fi
}

stop_server()
{
	if [ -e "$work/data/postmaster.pid" ]; then
		as_server "$pgbin/pg_ctl" -D data -w -t 60 -m "${1:-fast}" stop >/dev/null 2>&1 ||
			as_server "$pgbin/pg_ctl" -D data -w -t 30 -m immediate stop >/dev/null 2>&1 || true
	fi
}

show_server_log()
{
	printf -- '---- last lines of the server log ----\n' >&2
	tail -n "${1:-40}" "$work/log/server.log" >&2 2>/dev/null || true
}

# sql DATABASE [psql arguments]: no psqlrc, stop at the first error, unaligned.
sql()
{
	local database=$1
	shift
	as_server "$pgbin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$work/s" -p "$port" -U postgres -d "$database" "$@"
}

remove_work_directory()
{
	case $work in
		*/monitoring-*.??????) cd / && rm -rf "$work" ;;
	esac
}
