/*-------------------------------------------------------------------------
 *
 * fuzz_host.c
 *	  libFuzzer target: the kernel's files about the machine.
 *
 * The first byte chooses the file.  Whatever is in it, values are finite, names
 * and labels end within their bounds, and no path leads out of where it begins.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/host_parse.h"

static const HostParser parsers[] = {
	host_parse_stat,       host_parse_loadavg,      host_parse_meminfo,
	host_parse_vmstat,     host_parse_diskstats,    host_parse_netdev,
	host_parse_filenr,     host_parse_pressure_cpu, host_parse_pressure_memory,
	host_parse_pressure_io};

#define N_PARSERS (sizeof(parsers) / sizeof(parsers[0]))

static int taken;

static void
check(bool good)
{
	if (!good)
		abort();
}

static void
take(HostSink *sink, const HostSample *sample)
{
	(void) sink;
	taken++;
	check(sample->metric[0] && memchr(sample->metric, '\0', HOST_NAME_BYTES));
	check(isfinite(sample->value) && sample->value >= 0);
	for (int i = 0; i < HOST_LABELS; i++)
		check(memchr(sample->values[i], '\0', HOST_VALUE_BYTES) != NULL);
}

static void
fuzz_part(HostParser parse, const char *text)
{
	HostSink sink = {.take = take};

	taken = 0;
	/* What a file is for may be what derived values need, and no sample. */
	if (parse(text, 100, &sink) && parse != host_parse_stat && parse != host_parse_diskstats)
		check(taken > 0);
	check(isfinite(sink.cpu_busy) && isfinite(sink.cpu_total));
	check(isfinite(sink.memory_total) && isfinite(sink.memory_available));
}

static void
fuzz_mount(const char *text)
{
	char mount[HOST_VALUE_BYTES], type[HOST_VALUE_BYTES], device[HOST_VALUE_BYTES];

	if (host_find_mount(text, 8, 1, mount, type, device))
		check(memchr(mount, '\0', sizeof(mount)) && memchr(type, '\0', sizeof(type)) &&
			  memchr(device, '\0', sizeof(device)));
}

static void
fuzz_group(const char *text)
{
	char path[32];
	bool v2;

	if (!host_find_cgroup(text, "cpu", path, sizeof(path), &v2))
		return;
	check(memchr(path, '\0', sizeof(path)) != NULL);
	check(path[0] == '/' && !strstr(path, "..") && !strchr(path, '\n'));
}

static void
fuzz_numbers(const char *text)
{
	double value;

	if (host_parse_limit(text, &value))
		check(value >= 0);
	if (host_parse_cpu_max(text, &value))
		check(value >= 0);
	if (host_find_number(text, "usage_usec", &value))
		check(isfinite(value) && value >= 0);
}

static void
fuzz_process(const char *text)
{
	HostProcess p;

	if (host_parse_process(text, &p))
		check(isfinite(p.user_ticks) && isfinite(p.system_ticks) && isfinite(p.start) &&
			  isfinite(p.resident_pages));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;
	unsigned which;

	if (size == 0)
		return 0;
	/* Of exactly this size, so that the sanitizer sees what is read beyond. */
	text = malloc(size);
	check(text != NULL);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	which = data[0] % (N_PARSERS + 4);
	if (which < N_PARSERS)
		fuzz_part(parsers[which], text);
	else if (which == N_PARSERS)
		fuzz_mount(text);
	else if (which == N_PARSERS + 1)
		fuzz_group(text);
	else if (which == N_PARSERS + 2)
		fuzz_numbers(text);
	else
		fuzz_process(text);
	free(text);
	return 0;
}
