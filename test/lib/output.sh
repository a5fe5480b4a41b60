# shellcheck shell=bash
# output.sh: how the scripts speak.  Colours on a terminal, plain text elsewhere.
# Sourced; needs nothing.

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$'\033[1m' dim=$'\033[2m' red=$'\033[31m' green=$'\033[32m' yellow=$'\033[33m' plain=$'\033[0m'
else
	bold='' dim='' red='' green='' yellow='' plain=''
fi

# A step that takes a while: what is being done now.
say()
{
	printf '%s==>%s %s\n' "$bold" "$plain" "$*"
}

warn()
{
	printf '%s%s%s\n' "$yellow" "$*" "$plain" >&2
}

die()
{
	printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2
	exit 1
}

# run_logged LOG COMMAND...: quiet when it works, the end of its output when not.
run_logged()
{
	local log=$1
	shift
	if ! "$@" >"$log" 2>&1 </dev/null; then
		printf '%sfailed:%s %s\n' "$red" "$plain" "$*" >&2
		tail -n 60 "$log" >&2
		return 1
	fi
}
