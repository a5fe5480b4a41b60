/*-------------------------------------------------------------------------
 *
 * host_parse.c
 *	  Reading the kernel's files about the machine: plain C, without the server.
 *
 * Names are those of node_exporter.
 *
 *-------------------------------------------------------------------------
 */
#include "server/host_parse.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512.0

/* ---- text ---- */

static const char *
next_line(const char *line)
{
	const char *end = strchr(line, '\n');

	return end ? end + 1 : line + strlen(line);
}

/* A number that is not negative; moves *at behind it, within the line. */
static bool
read_number(const char **at, double *value)
{
	const char *p = *at;
	char *end;

	while (*p == ' ' || *p == '\t')
		p++;
	if (!isdigit((unsigned char) *p))
		return false;
	*value = strtod(p, &end);
	*at = end;
	return isfinite(*value);
}

/* A word; false when there is none or it does not fit. */
static bool
read_word(const char **at, char *word, size_t size)
{
	const char *p = *at;
	size_t n;

	while (*p == ' ' || *p == '\t')
		p++;
	n = strcspn(p, " \t\n");
	*at = p + n;
	if (n == 0 || n >= size)
		return false;
	memcpy(word, p, n);
	word[n] = '\0';
	return true;
}

static bool
starts_with(const char *line, const char *prefix)
{
	return strncmp(line, prefix, strlen(prefix)) == 0;
}

/* ---- samples ---- */

static void
emit(HostSink *sink, const char *metric, bool counter, double value, const char *label1,
	 const char *value1, const char *label2, const char *value2)
{
	HostSample sample = {.counter = counter, .value = value, .labels = {label1, label2}};

	/* In its unit it may be beyond what a number holds. */
	if (!isfinite(value) ||
		snprintf(sample.metric, sizeof(sample.metric), "%s", metric) >= (int) sizeof(sample.metric))
		return;
	snprintf(sample.values[0], HOST_VALUE_BYTES, "%s", value1 ? value1 : "");
	snprintf(sample.values[1], HOST_VALUE_BYTES, "%s", value2 ? value2 : "");
	sink->take(sink, &sample);
}

static void
emit_plain(HostSink *sink, const char *metric, bool counter, double value)
{
	emit(sink, metric, counter, value, NULL, NULL, NULL, NULL);
}

/* ---- /proc/stat ---- */

#define CPU_MODES 8

static const char *const cpu_modes[CPU_MODES] = {"user",   "nice", "system",  "idle",
												 "iowait", "irq",  "softirq", "steal"};

static int
count_cpus(const char *text)
{
	int n = 0;

	for (const char *line = text; *line; line = next_line(line))
		n += starts_with(line, "cpu") && isdigit((unsigned char) line[3]);
	return n;
}

static bool
parse_cpu(const char *line, const char *cpu, double ticks, bool shown, HostSink *sink)
{
	const char *at = line + strcspn(line, " \n");
	double seconds[CPU_MODES] = {0};
	int n = 0;

	while (n < CPU_MODES && read_number(&at, &seconds[n]))
		seconds[n++] /= ticks;
	if (n < 4)
		return false;
	for (int i = 0; shown && i < n; i++)
		emit(sink, "node_cpu_seconds_total", true, seconds[i], "cpu", cpu, "mode", cpu_modes[i]);
	if (line[3] == ' ')
	{
		sink->cpu_total = 0;
		for (int i = 0; i < n; i++)
			sink->cpu_total += seconds[i];
		/* what waits for a disk is idle */
		sink->cpu_busy = sink->cpu_total - seconds[3] - seconds[4];
	}
	return true;
}

bool
host_parse_stat(const char *text, double ticks, HostSink *sink)
{
	static const struct
	{
		const char *key;
		const char *metric;
		bool counter;
	} others[] = {{"ctxt ", "node_context_switches_total", true},
				  {"intr ", "node_intr_total", true},
				  {"processes ", "node_forks_total", true},
				  {"procs_running ", "node_procs_running", false},
				  {"procs_blocked ", "node_procs_blocked", false},
				  {"btime ", "node_boot_time_seconds", false}};
	bool many = count_cpus(text) > HOST_MAX_CPUS;
	bool found = false;

	for (const char *line = text; *line; line = next_line(line))
	{
		if (starts_with(line, "cpu "))
			found |= parse_cpu(line, "all", ticks, many, sink);
		else if (starts_with(line, "cpu") && isdigit((unsigned char) line[3]))
		{
			char cpu[16];
			const char *at = line + 3;

			if (!many && read_word(&at, cpu, sizeof(cpu)))
				(void) parse_cpu(line, cpu, ticks, true, sink);
		}
		for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		{
			const char *at = line + strlen(others[i].key);
			double value;

			if (starts_with(line, others[i].key) && read_number(&at, &value))
				emit_plain(sink, others[i].metric, others[i].counter, value);
		}
	}
	return found;
}

/* ---- /proc/loadavg, /proc/sys/fs/file-nr ---- */

bool
host_parse_loadavg(const char *text, double ticks, HostSink *sink)
{
	static const char *const names[] = {"node_load1", "node_load5", "node_load15"};
	double load[3];

	for (int i = 0; i < 3; i++)
		if (!read_number(&text, &load[i]))
			return false;
	for (int i = 0; i < 3; i++)
		emit_plain(sink, names[i], false, load[i]);
	return true;
}

bool
host_parse_filenr(const char *text, double ticks, HostSink *sink)
{
	double number[3];

	for (int i = 0; i < 3; i++)
		if (!read_number(&text, &number[i]))
			return false;
	emit_plain(sink, "node_filefd_allocated", false, number[0]);
	emit_plain(sink, "node_filefd_maximum", false, number[2]);
	return true;
}

/* ---- /proc/meminfo, /proc/vmstat ---- */

/* "Active(anon):" is Active_anon. */
static bool
memory_name(const char **at, char *name, size_t size)
{
	size_t n = 0;

	for (; **at && **at != ':' && **at != '\n'; (*at)++)
	{
		char c = **at;

		if (c == ')')
			continue;
		if (n + 1 >= size)
			return false;
		name[n++] = isalnum((unsigned char) c) ? c : '_';
	}
	name[n] = '\0';
	return n > 0 && *(*at)++ == ':';
}

bool
host_parse_meminfo(const char *text, double ticks, HostSink *sink)
{
	sink->memory_available = -1;
	for (const char *line = text; *line; line = next_line(line))
	{
		const char *at = line;
		char name[40];
		char metric[HOST_NAME_BYTES];
		char unit[8];
		double value;
		bool kilobytes;

		if (!memory_name(&at, name, sizeof(name)) || !read_number(&at, &value))
			continue;
		kilobytes = read_word(&at, unit, sizeof(unit)) && strcmp(unit, "kB") == 0;
		if (kilobytes)
			value *= 1024;
		if (!isfinite(value))
			continue;
		snprintf(metric, sizeof(metric), "node_memory_%s%s", name, kilobytes ? "_bytes" : "");
		emit_plain(sink, metric, false, value);
		if (strcmp(name, "MemTotal") == 0)
			sink->memory_total = value;
		else if (strcmp(name, "MemAvailable") == 0)
			sink->memory_available = value;
		else if (strcmp(name, "SwapTotal") == 0)
			sink->swap_total = value;
		else if (strcmp(name, "SwapFree") == 0)
			sink->swap_free = value;
	}
	return sink->memory_total > 0;
}

bool
host_find_number(const char *text, const char *name, double *value)
{
	for (const char *line = text; *line; line = next_line(line))
	{
		const char *at = line + strlen(name);

		if (starts_with(line, name) && *at == ' ' && read_number(&at, value))
			return true;
	}
	return false;
}

bool
host_parse_vmstat(const char *text, double ticks, HostSink *sink)
{
	static const char *const names[] = {"pgfault", "pgmajfault", "pgpgin",  "pgpgout",
										"pswpin",  "pswpout",    "oom_kill"};
	bool found = false;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		char metric[HOST_NAME_BYTES];
		double value;

		if (!host_find_number(text, names[i], &value))
			continue;
		snprintf(metric, sizeof(metric), "node_vmstat_%s", names[i]);
		emit_plain(sink, metric, true, value);
		found = true;
	}
	return found;
}

/* ---- /proc/diskstats ---- */

typedef struct Field
{
	int number; /* which of the line's */
	const char *metric;
	bool counter;
	double factor;
} Field;

static void
emit_fields(HostSink *sink, const Field *fields, size_t n, const double *values, int nvalues,
			const char *device)
{
	for (size_t i = 0; i < n; i++)
		if (fields[i].number < nvalues)
			emit(sink, fields[i].metric, fields[i].counter,
				 values[fields[i].number] * fields[i].factor, "device", device, NULL, NULL);
}

bool
host_parse_diskstats(const char *text, double ticks, HostSink *sink)
{
	static const Field fields[] = {{0, "node_disk_reads_completed_total", true, 1},
								   {2, "node_disk_read_bytes_total", true, SECTOR},
								   {3, "node_disk_read_time_seconds_total", true, 0.001},
								   {4, "node_disk_writes_completed_total", true, 1},
								   {6, "node_disk_written_bytes_total", true, SECTOR},
								   {7, "node_disk_write_time_seconds_total", true, 0.001},
								   {8, "node_disk_io_now", false, 1},
								   {9, "node_disk_io_time_seconds_total", true, 0.001},
								   {10, "node_disk_io_time_weighted_seconds_total", true, 0.001}};
	int devices = 0;
	bool found = false;

	for (const char *line = text; *line && devices < HOST_MAX_DEVICES; line = next_line(line))
	{
		const char *at = line;
		char device[64];
		double major, minor, values[11];
		int n = 0;

		if (!read_number(&at, &major) || !read_number(&at, &minor) ||
			!read_word(&at, device, sizeof(device)))
			continue;
		while (n < 11 && read_number(&at, &values[n]))
			n++;
		if (n < 11)
			continue;
		found = true;
		if (starts_with(device, "loop") || starts_with(device, "ram"))
			continue;
		emit_fields(sink, fields, sizeof(fields) / sizeof(fields[0]), values, n, device);
		devices++;
	}
	return found;
}

/* ---- /proc/net/dev ---- */

bool
host_parse_netdev(const char *text, double ticks, HostSink *sink)
{
	static const Field fields[] = {{0, "node_network_receive_bytes_total", true, 1},
								   {1, "node_network_receive_packets_total", true, 1},
								   {2, "node_network_receive_errs_total", true, 1},
								   {3, "node_network_receive_drop_total", true, 1},
								   {8, "node_network_transmit_bytes_total", true, 1},
								   {9, "node_network_transmit_packets_total", true, 1},
								   {10, "node_network_transmit_errs_total", true, 1},
								   {11, "node_network_transmit_drop_total", true, 1}};
	int devices = 0;

	for (const char *line = text; *line && devices < HOST_MAX_DEVICES; line = next_line(line))
	{
		const char *name = line + strspn(line, " \t");
		size_t len = strcspn(name, ": \t\n");
		const char *at = name + len;
		char device[64];
		double values[16];
		int n = 0;

		if (len == 0 || len >= sizeof(device) || *at++ != ':')
			continue;
		memcpy(device, name, len);
		device[len] = '\0';
		while (n < 16 && read_number(&at, &values[n]))
			n++;
		if (n < 16)
			continue;
		emit_fields(sink, fields, sizeof(fields) / sizeof(fields[0]), values, n, device);
		devices++;
	}
	return devices > 0;
}

/* ---- /proc/pressure ---- */

static bool
parse_pressure(const char *text, const char *resource, HostSink *sink)
{
	bool found = false;

	for (const char *line = text; *line; line = next_line(line))
	{
		const char *avg = strstr(line, "avg10=");
		const char *total = strstr(line, "total=");
		const char *end = next_line(line);
		bool some = starts_with(line, "some ");
		char metric[HOST_NAME_BYTES];
		double share, micros;

		if ((!some && !starts_with(line, "full ")) || !avg || !total || avg >= end || total >= end)
			continue;
		avg += strlen("avg10=");
		total += strlen("total=");
		if (!read_number(&avg, &share) || !read_number(&total, &micros))
			continue;
		snprintf(metric, sizeof(metric), "node_pressure_%s_%s_seconds_total", resource,
				 some ? "waiting" : "stalled");
		/* All of the machine cannot wait for its CPUs. */
		if (some || strcmp(resource, "cpu") != 0)
			emit_plain(sink, metric, true, micros / 1e6);
		if (some)
			emit(sink, "host_pressure_ratio", false, share / 100, "resource", resource, NULL, NULL);
		found |= some;
	}
	return found;
}

bool
host_parse_pressure_cpu(const char *text, double ticks, HostSink *sink)
{
	return parse_pressure(text, "cpu", sink);
}

bool
host_parse_pressure_memory(const char *text, double ticks, HostSink *sink)
{
	return parse_pressure(text, "memory", sink);
}

bool
host_parse_pressure_io(const char *text, double ticks, HostSink *sink)
{
	return parse_pressure(text, "io", sink);
}

/* ---- mounts ---- */

/* Blanks and backslashes are octal there. */
static void
unescape(char *s)
{
	char *out = s;

	while (*s)
	{
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
			s[3] >= '0' && s[3] <= '7')
		{
			*out++ = (char) ((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 4;
		}
		else
			*out++ = *s++;
	}
	*out = '\0';
}

static bool
parse_mount(const char *line, const char *device_number, char *mountpoint, char *fstype,
			char *device)
{
	char number[32], root[4096], mount[4096], word[4096], type[64], source[4096];
	double id;
	const char *at = line;

	if (!read_number(&at, &id) || !read_number(&at, &id) ||
		!read_word(&at, number, sizeof(number)) || strcmp(number, device_number) != 0 ||
		!read_word(&at, root, sizeof(root)) || !read_word(&at, mount, sizeof(mount)))
		return false;
	do
	{
		if (!read_word(&at, word, sizeof(word)))
			return false;
	} while (strcmp(word, "-") != 0);
	if (!read_word(&at, type, sizeof(type)) || !read_word(&at, source, sizeof(source)))
		return false;
	unescape(mount);
	unescape(source);
	snprintf(mountpoint, HOST_VALUE_BYTES, "%.*s", HOST_VALUE_BYTES - 1, mount);
	snprintf(fstype, HOST_VALUE_BYTES, "%.*s", HOST_VALUE_BYTES - 1, type);
	snprintf(device, HOST_VALUE_BYTES, "%.*s", HOST_VALUE_BYTES - 1, source);
	return true;
}

bool
host_find_mount(const char *text, unsigned major, unsigned minor, char *mountpoint, char *fstype,
				char *device)
{
	char number[32];
	bool found = false;

	snprintf(number, sizeof(number), "%u:%u", major, minor);
	for (const char *line = text; *line && !found; line = next_line(line))
		found = parse_mount(line, number, mountpoint, fstype, device);
	return found;
}

/* ---- control groups ---- */

static bool
has_controller(const char *list, size_t len, const char *controller)
{
	size_t n = strlen(controller);

	for (size_t i = 0; i + n <= len; i++)
		if (strncmp(list + i, controller, n) == 0 && (i == 0 || list[i - 1] == ',') &&
			(i + n == len || list[i + n] == ','))
			return true;
	return false;
}

bool
host_find_cgroup(const char *text, const char *controller, char *path, size_t size, bool *v2)
{
	for (const char *line = text; *line; line = next_line(line))
	{
		const char *list = strchr(line, ':');
		const char *colon = list ? strchr(list + 1, ':') : NULL;
		const char *end = next_line(line);
		size_t len;

		if (!colon || colon >= end)
			continue;
		list++;
		*v2 = starts_with(line, "0::");
		if (!*v2 && !has_controller(list, colon - list, controller))
			continue;
		len = strcspn(colon + 1, "\n");
		if (len == 0 || len >= size || colon[1] != '/')
			continue;
		memcpy(path, colon + 1, len);
		path[len] = '\0';
		/* As a group outside of ours is shown to us, which must not lead anywhere. */
		if (!strstr(path, ".."))
			return true;
	}
	return false;
}

bool
host_parse_limit(const char *text, double *value)
{
	if (starts_with(text, "max"))
	{
		*value = INFINITY;
		return true;
	}
	return read_number(&text, value);
}

bool
host_parse_cpu_max(const char *text, double *cores)
{
	double quota, period;

	if (!host_parse_limit(text, &quota))
		return false;
	text += strcspn(text, " \t\n");
	if (!read_number(&text, &period) || period <= 0)
		return false;
	*cores = quota / period;
	return true;
}

/* ---- processes ---- */

bool
host_parse_process(const char *text, HostProcess *process)
{
	/* The name is in parentheses and may hold some itself. */
	const char *at = strrchr(text, ')');
	char state[8];
	double fields[22];

	if (!at)
		return false;
	at++;
	if (!read_word(&at, state, sizeof(state)))
		return false;
	for (int i = 0; i < 21; i++)
	{
		/* some are negative, and of no interest */
		at += strspn(at, " ");
		if (*at == '-')
			at++;
		if (!read_number(&at, &fields[i]))
			return false;
	}
	process->user_ticks = fields[10];
	process->system_ticks = fields[11];
	process->dead_children_ticks = fields[12] + fields[13];
	process->start = fields[18];
	process->resident_pages = fields[20];
	return true;
}
