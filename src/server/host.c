/*-------------------------------------------------------------------------
 *
 * host.c
 *	  host_readings() and process_usage(): the machine and the server's
 *	  processes, as the kernel's files have them.
 *
 * What cannot be read leaves the rest alone: node_scrape_collector_success says
 * 0 of its part.  Reads are bounded, and nothing waits but statvfs() of volumes
 * that the server itself lives on.
 *
 * Shares of time need the reading before: of the CPUs it is kept in this
 * process, and the first one gives none.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "server/host_parse.h"

PG_FUNCTION_INFO_V1(mon_host_readings);
PG_FUNCTION_INFO_V1(mon_process_usage);

#define FILE_BYTES (256 * 1024) /* of a file that are read */
#define MAX_VOLUMES 32
#define MAX_TABLESPACES 256 /* entries of pg_tblspc that are looked at */

typedef struct Output
{
	HostSink sink; /* first: what parsers see */
	ReturnSetInfo *rsinfo;
	const char *root; /* of /proc and /sys, without a slash at its end */
	char host[HOST_VALUE_BYTES];
	char *buffer; /* FILE_BYTES + 1 */
	MemoryContext row_cxt;
} Output;

/* ---- output ---- */

static void
push_label(MonJsonbState *state, const char *name, const char *text)
{
	JsonbValue v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, name);
	v.val.string.len = strlen(name);
	mon_push_jsonb(state, WJB_KEY, &v);
	v.val.string.len = strlen(text);
	v.val.string.val = pnstrdup(text, v.val.string.len);
	(void) mon_clean_label(v.val.string.val, v.val.string.len);
	mon_push_jsonb(state, WJB_VALUE, &v);
}

static void
take_sample(HostSink *sink, const HostSample *sample)
{
	Output *out = (Output *) sink;
	MemoryContext old;
	MonJsonbState state = {0};
	Datum values[5] = {0};
	bool nulls[5] = {false, false, false, false, true};

	MemoryContextReset(out->row_cxt);
	old = MemoryContextSwitchTo(out->row_cxt);
	mon_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < HOST_LABELS && sample->labels[i]; i++)
		push_label(&state, sample->labels[i], sample->values[i]);
	/* Ours say which machine; scrapers know. */
	if (strncmp(sample->metric, "host_", 5) == 0)
		push_label(&state, "host", out->host);
	mon_push_jsonb(&state, WJB_END_OBJECT, NULL);
	values[0] = CStringGetTextDatum(sample->metric);
	values[1] = CStringGetTextDatum(sample->counter ? "counter" : "gauge");
	values[2] = JsonbPGetDatum(JsonbValueToJsonb(state.result));
	values[3] = Float8GetDatum(sample->value);
	MemoryContextSwitchTo(old);
	tuplestore_putvalues(out->rsinfo->setResult, out->rsinfo->setDesc, values, nulls);
}

static void
put(Output *out, const char *metric, bool counter, double value, const char *label,
	const char *text)
{
	HostSample sample = {.counter = counter, .value = value, .labels = {label, NULL}};

	if (!isfinite(value))
		return;
	strlcpy(sample.metric, metric, sizeof(sample.metric));
	strlcpy(sample.values[0], text ? text : "", HOST_VALUE_BYTES);
	take_sample(&out->sink, &sample);
}

/* ---- files ---- */

/* The beginning of a file, in out->buffer; NULL when it cannot be read. */
static const char *
read_file(Output *out, const char *path)
{
	char full[MAXPGPATH];
	size_t n = 0;
	int fd;

	if (snprintf(full, sizeof(full), "%s%s", out->root, path) >= (int) sizeof(full))
		return NULL;
	/* A pipe or a directory in its place must not hold us up. */
	fd = open(full, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	while (n < FILE_BYTES)
	{
		ssize_t got = read(fd, out->buffer + n, FILE_BYTES - n);

		if (got <= 0)
			break;
		n += got;
	}
	close(fd);
	out->buffer[n] = '\0';
	return n > 0 ? out->buffer : NULL;
}

static void
report(Output *out, const char *part, bool success)
{
	put(out, "node_scrape_collector_success", false, success, "collector", part);
}

/* ---- derived values ---- */

static void
put_cpu_share(Output *out)
{
	static double busy = -1;
	static double total;
	double passed = out->sink.cpu_total - total;

	/* A clock of the kernel that goes back, or another machine's files. */
	if (busy >= 0 && passed > 0 && out->sink.cpu_busy >= busy)
		put(out, "host_cpu_used_ratio", false, Min((out->sink.cpu_busy - busy) / passed, 1), NULL,
			NULL);
	if (busy < 0 || passed != 0)
	{
		busy = out->sink.cpu_busy;
		total = out->sink.cpu_total;
	}
}

static void
put_memory_shares(Output *out)
{
	if (out->sink.memory_available >= 0)
		put(out, "host_memory_used_ratio", false,
			1 - Min(out->sink.memory_available / out->sink.memory_total, 1), NULL, NULL);
	put(out, "host_swap_used_bytes", false, Max(out->sink.swap_total - out->sink.swap_free, 0),
		NULL, NULL);
}

/* ---- parts that are one file each ---- */

static const struct
{
	const char *name;
	const char *path;
	HostParser parse;
	bool optional; /* kernels without it are no fault */
	void (*derive)(Output *out);
} parts[] = {{"stat", "/proc/stat", host_parse_stat, false, put_cpu_share},
			 {"loadavg", "/proc/loadavg", host_parse_loadavg, false, NULL},
			 {"meminfo", "/proc/meminfo", host_parse_meminfo, false, put_memory_shares},
			 {"vmstat", "/proc/vmstat", host_parse_vmstat, false, NULL},
			 {"diskstats", "/proc/diskstats", host_parse_diskstats, false, NULL},
			 {"netdev", "/proc/net/dev", host_parse_netdev, false, NULL},
			 {"filefd", "/proc/sys/fs/file-nr", host_parse_filenr, false, NULL},
			 {"pressure_cpu", "/proc/pressure/cpu", host_parse_pressure_cpu, true, NULL},
			 {"pressure_memory", "/proc/pressure/memory", host_parse_pressure_memory, true, NULL},
			 {"pressure_io", "/proc/pressure/io", host_parse_pressure_io, true, NULL}};

static void
read_parts(Output *out)
{
	double ticks = (double) sysconf(_SC_CLK_TCK);

	for (int i = 0; i < lengthof(parts); i++)
	{
		const char *text = read_file(out, parts[i].path);
		bool success = text && parts[i].parse(text, ticks, &out->sink);

		if (success && parts[i].derive)
			parts[i].derive(out);
		if (text || !parts[i].optional)
			report(out, parts[i].name, success);
	}
}

/* ---- volumes ---- */

typedef struct Volumes
{
	dev_t devices[MAX_VOLUMES];
	int n;
	bool failed;
} Volumes;

static void
put_volume(Output *out, const char *path, dev_t device, const struct statvfs *fs)
{
	char mount[HOST_VALUE_BYTES], type[HOST_VALUE_BYTES] = "", source[HOST_VALUE_BYTES] = "";
	const char *mounts = read_file(out, "/proc/self/mountinfo");
	double unit = fs->f_frsize;
	const struct
	{
		const char *metric;
		double value;
	} values[] = {{"node_filesystem_size_bytes", fs->f_blocks * unit},
				  {"node_filesystem_free_bytes", fs->f_bfree * unit},
				  {"node_filesystem_avail_bytes", fs->f_bavail * unit},
				  {"node_filesystem_files", fs->f_files},
				  {"node_filesystem_files_free", fs->f_ffree},
				  {"node_filesystem_readonly", (fs->f_flag & ST_RDONLY) != 0}};
	double used = (double) (fs->f_blocks - fs->f_bfree);

	/* Subvolumes have devices of their own, which no mount names. */
	if (!mounts || !host_find_mount(mounts, major(device), minor(device), mount, type, source))
		strlcpy(mount, path, sizeof(mount));
	for (int i = 0; i < lengthof(values); i++)
	{
		HostSample sample = {.value = values[i].value, .labels = {"mountpoint", "device"}};

		strlcpy(sample.metric, values[i].metric, sizeof(sample.metric));
		strlcpy(sample.values[0], mount, HOST_VALUE_BYTES);
		strlcpy(sample.values[1], source, HOST_VALUE_BYTES);
		take_sample(&out->sink, &sample);
	}
	/* What is reserved for root is no room, as df has it. */
	if (used + fs->f_bavail > 0)
		put(out, "host_disk_used_ratio", false, used / (used + fs->f_bavail), "mount", mount);
	put(out, "host_disk_free_bytes", false, fs->f_bavail * unit, "mount", mount);
}

static void
look_at_volume(Output *out, const char *path, Volumes *volumes)
{
	struct statvfs fs;
	struct stat st;

	if (stat(path, &st) != 0 || statvfs(path, &fs) != 0)
	{
		volumes->failed = true;
		return;
	}
	for (int i = 0; i < volumes->n; i++)
		if (volumes->devices[i] == st.st_dev)
			return;
	if (volumes->n == MAX_VOLUMES)
		return;
	volumes->devices[volumes->n++] = st.st_dev;
	put_volume(out, path, st.st_dev, &fs);
}

/* Of the data directory, the write-ahead log and the tablespaces, each device once. */
static void
read_volumes(Output *out)
{
	Volumes volumes = {.n = 0};
	DIR *dir;
	struct dirent *entry;
	int entries = 0;

	look_at_volume(out, DataDir, &volumes);
	look_at_volume(out, psprintf("%s/pg_wal", DataDir), &volumes);
	dir = AllocateDir("pg_tblspc");
	while (dir && entries < MAX_TABLESPACES &&
		   (entry = ReadDirExtended(dir, "pg_tblspc", LOG)) != NULL)
	{
		char target[MAXPGPATH];
		ssize_t len;

		if (entry->d_name[0] == '.')
			continue;
		entries++;
		/* Where it leads to: who reads it knows that name. */
		len = readlink(psprintf("pg_tblspc/%s", entry->d_name), target, sizeof(target) - 1);
		if (len <= 0)
			continue;
		target[len] = '\0';
		look_at_volume(out, target, &volumes);
	}
	if (dir)
		FreeDir(dir);
	report(out, "filesystem", !volumes.failed && volumes.n > 0);
}

/* ---- control groups ---- */

/* A file of the process' control group, or, in a container, of what it sees as the root. */
static const char *
read_cgroup_file(Output *out, const char *hierarchy, const char *path, const char *file)
{
	const char *text = read_file(
		out,
		psprintf("/sys/fs/cgroup%s%s/%s", hierarchy, strcmp(path, "/") == 0 ? "" : path, file));

	if (text == NULL)
		text = read_file(out, psprintf("/sys/fs/cgroup%s/%s", hierarchy, file));
	return text;
}

static void
put_cgroup_memory(Output *out, bool v2, const char *path)
{
	const char *hierarchy = v2 ? "" : "/memory";
	const char *text;
	double limit, used;

	text = read_cgroup_file(out, hierarchy, path, v2 ? "memory.max" : "memory.limit_in_bytes");
	if (!text || !host_parse_limit(text, &limit))
		return;
	text = read_cgroup_file(out, hierarchy, path, v2 ? "memory.current" : "memory.usage_in_bytes");
	if (!text || !host_parse_limit(text, &used))
		return;
	put(out, "host_cgroup_memory_used_bytes", false, used, NULL, NULL);
	/* v1 says "no limit" with the largest number of pages. */
	if (limit >= 0x7ffffffffffff000 || limit <= 0)
		return;
	put(out, "host_cgroup_memory_limit_bytes", false, limit, NULL, NULL);
	put(out, "host_cgroup_memory_used_ratio", false, used / limit, NULL, NULL);
}

static void
put_cgroup_cpu_v1(Output *out, const char *path)
{
	const char *text;
	double quota, period, value;

	text = read_cgroup_file(out, "/cpu", path, "cpu.cfs_quota_us");
	if (text && host_parse_limit(text, &quota))
	{
		text = read_cgroup_file(out, "/cpu", path, "cpu.cfs_period_us");
		if (text && host_parse_limit(text, &period) && period > 0)
			put(out, "host_cgroup_cpu_limit_cores", false, quota / period, NULL, NULL);
	}
	text = read_cgroup_file(out, "/cpuacct", path, "cpuacct.usage");
	if (text && host_parse_limit(text, &value))
		put(out, "host_cgroup_cpu_seconds_total", true, value / 1e9, NULL, NULL);
	text = read_cgroup_file(out, "/cpu", path, "cpu.stat");
	if (text && host_find_number(text, "throttled_time", &value))
		put(out, "host_cgroup_cpu_throttled_seconds_total", true, value / 1e9, NULL, NULL);
}

static void
put_cgroup_cpu(Output *out, bool v2, const char *path)
{
	const char *text;
	double value, throttled;

	if (!v2)
	{
		put_cgroup_cpu_v1(out, path);
		return;
	}
	text = read_cgroup_file(out, "", path, "cpu.max");
	if (text && host_parse_cpu_max(text, &value))
		put(out, "host_cgroup_cpu_limit_cores", false, value, NULL, NULL);
	text = read_cgroup_file(out, "", path, "cpu.stat");
	if (text && host_find_number(text, "usage_usec", &value))
	{
		put(out, "host_cgroup_cpu_seconds_total", true, value / 1e6, NULL, NULL);
		if (host_find_number(text, "throttled_usec", &throttled))
			put(out, "host_cgroup_cpu_throttled_seconds_total", true, throttled / 1e6, NULL, NULL);
	}
}

static void
read_cgroups(Output *out)
{
	static const struct
	{
		const char *controller;
		void (*put)(Output *out, bool v2, const char *path);
	} controllers[] = {{"memory", put_cgroup_memory}, {"cpu", put_cgroup_cpu}};

	for (int i = 0; i < lengthof(controllers); i++)
	{
		const char *text = read_file(out, "/proc/self/cgroup");
		char path[MAXPGPATH];
		bool v2;

		if (text && host_find_cgroup(text, controllers[i].controller, path, sizeof(path), &v2))
			controllers[i].put(out, v2, path);
	}
}

/* ---- SQL ---- */

static void
begin(FunctionCallInfo fcinfo, Output *out)
{
	InitMaterializedSRF(fcinfo, 0);
	memset(out, 0, sizeof(Output));
	out->sink.take = take_sample;
	out->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	out->root = "";
	out->buffer = palloc(FILE_BYTES + 1);
	out->row_cxt = AllocSetContextCreate(CurrentMemoryContext, "host reading",
										 ALLOCSET_SMALL_SIZES);
	if (gethostname(out->host, sizeof(out->host) - 1) != 0)
		strlcpy(out->host, "localhost", sizeof(out->host));
}

/* host_readings(root text) */
Datum
mon_host_readings(PG_FUNCTION_ARGS)
{
	Output out;
	char *root = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read files of the machine"),
				 errhint("It takes the rights of pg_read_server_files.")));
	begin(fcinfo, &out);
	while (root[0] && root[strlen(root) - 1] == '/')
		root[strlen(root) - 1] = '\0';
	out.root = root;
	read_parts(&out);
	read_volumes(&out);
	read_cgroups(&out);
	return (Datum) 0;
}

/* process_usage(pids int[]) */
Datum
mon_process_usage(PG_FUNCTION_ARGS)
{
	Output out;
	Datum *pids;
	int n;
	double ticks = (double) sysconf(_SC_CLK_TCK);
	double page = (double) sysconf(_SC_PAGESIZE);

	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to look at the server's processes"),
				 errhint("It takes the rights of pg_read_all_stats.")));
	begin(fcinfo, &out);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT4OID, sizeof(int32), true, TYPALIGN_INT, &pids,
					  NULL, &n);
	for (int i = 0; i <= n; i++)
	{
		int pid = i < n ? DatumGetInt32(pids[i]) : PostmasterPid;
		const char *text = read_file(&out, psprintf("/proc/%d/stat", pid));
		Datum values[7];
		bool nulls[7] = {false};
		HostProcess p;
		double resident, shared;

		if (!text || !host_parse_process(text, &p))
			continue;
		/* size resident shared ..., in pages: what is not shared is its own */
		text = read_file(&out, psprintf("/proc/%d/statm", pid));
		nulls[6] = !text || sscanf(text, "%*f %lf %lf", &resident, &shared) != 2;
		values[0] = Int32GetDatum(pid);
		values[1] = Float8GetDatum(p.start / ticks);
		values[2] = Float8GetDatum(p.user_ticks / ticks);
		values[3] = Float8GetDatum(p.system_ticks / ticks);
		values[4] = Float8GetDatum(p.dead_children_ticks / ticks);
		values[5] = Float8GetDatum(p.resident_pages * page);
		values[6] = nulls[6] ? (Datum) 0 : Float8GetDatum(Max(resident - shared, 0) * page);
		tuplestore_putvalues(out.rsinfo->setResult, out.rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
