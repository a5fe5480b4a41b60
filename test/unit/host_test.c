/*-------------------------------------------------------------------------
 *
 * host_test.c
 *	  Unit tests of what is read of the machine, as TAP.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "random_tap.h"
#include "server/host_parse.h"

static HostSample samples[4096];
static int nsamples;

static void
take(HostSink *sink, const HostSample *sample)
{
	if (nsamples < 4096)
		samples[nsamples++] = *sample;
}

static bool
parse(HostParser parser, const char *text, HostSink *sink)
{
	memset(sink, 0, sizeof(*sink));
	sink->take = take;
	nsamples = 0;
	return parser(text, 100, sink);
}

/* The value of a series; NAN when there is none. */
static double
value(const char *metric, const char *first, const char *second)
{
	for (int i = 0; i < nsamples; i++)
		if (strcmp(samples[i].metric, metric) == 0 &&
			(!first || strcmp(samples[i].values[0], first) == 0) &&
			(!second || strcmp(samples[i].values[1], second) == 0))
			return samples[i].value;
	return NAN;
}

static const char stat_text[] = "cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 60 10 20 2000 300 3 4 5 "
								"6 7\ncpu1 40 10 10 2000 200 3 3 3 3 3\n"
								"intr 12345 1 2 3\nctxt 777\nbtime 1700000000\nprocesses "
								"42\nprocs_running 3\nprocs_blocked 1\nsoftirq 1 2 3\n";
static const char meminfo_text[] =
	"MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     400 kB\nActive(anon):   "
	"   50 kB\n"
	"SwapTotal:        200 kB\nSwapFree:         150 kB\nHugePages_Total:       7\n";
static const char disk_text[] = "   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11\n"
								"   8       0 sda 10 1 20 3000 40 2 60 5000 1 7000 8000 0 0 0 0\n"
								"   8       1 short 1 2 3\n"
								" 259       0 nvme0n1 1 1 2 1 1 1 2 1 0 1 1\n";
static const char net_text[] =
	"Inter-|   Receive                                                |  Transmit\n"
	" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop "
	"fifo colls carrier compressed\n"
	"    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0:100 2 3 4 5 6 7 8 900 10 11 12 13 14 "
	"15 16\n  bad: 1 2\n";
static const char pressure_text[] = "some avg10=12.50 avg60=1.00 avg300=0.10 total=2000000\nfull "
									"avg10=1.00 avg60=0.00 avg300=0.00 total=500000\n";
static const char process_text[] = "42 (post) gres: x y) S 1 42 42 0 -1 4194304 100 200 0 0 150 50 "
								   "30 20 20 0 1 0 9000 1000000 250 18446744073709551615 1 1\n";
static const char mounts_text[] =
	"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	"30 22 0:25 / /sys rw - sysfs sysfs rw\nbroken line\n"
	"31 22 8:2 / /var/lib/my\\040data rw master:1 propagate_from:2 - xfs /dev/sda2 rw\n";

static void
test_files(void)
{
	HostSink sink;

	ok(parse(host_parse_stat, stat_text, &sink), "/proc/stat");
	ok(value("node_cpu_seconds_total", "0", "user") == 0.6 &&
		   value("node_cpu_seconds_total", "1", "iowait") == 2 &&
		   isnan(value("node_cpu_seconds_total", "all", NULL)),
	   "each CPU by mode");
	ok(fabs(sink.cpu_total - 46.71) < 1e-9 && fabs(sink.cpu_busy - 1.71) < 1e-9,
	   "waiting for a disk is idle");
	ok(value("node_context_switches_total", NULL, NULL) == 777 &&
		   value("node_boot_time_seconds", NULL, NULL) == 1700000000 &&
		   value("node_procs_blocked", NULL, NULL) == 1,
	   "the other lines");
	ok(parse(host_parse_loadavg, "0.50 1.25 2.00 3/400 5\n", &sink) &&
		   value("node_load5", NULL, NULL) == 1.25,
	   "/proc/loadavg");
	ok(parse(host_parse_meminfo, meminfo_text, &sink) &&
		   value("node_memory_Active_anon_bytes", NULL, NULL) == 51200 &&
		   value("node_memory_HugePages_Total", NULL, NULL) == 7,
	   "/proc/meminfo: names and units");
	ok(sink.memory_total == 1024000 && sink.memory_available == 409600 && sink.swap_free == 153600,
	   "/proc/meminfo: what shares are made of");
	ok(!parse(host_parse_meminfo, "MemTotal: 1e308 kB\n", &sink) && nsamples == 0 &&
		   parse(host_parse_diskstats, "8 0 sda 1 2 1e308 4 5 6 7 8 9 10 11\n", &sink) &&
		   isnan(value("node_disk_read_bytes_total", NULL, NULL)) && nsamples == 8,
	   "what is beyond any number in its unit is no value");
	ok(parse(host_parse_vmstat, "pgpgin 5\npgfaultx 1\npgfault 9\noom_kill 2\n", &sink) &&
		   nsamples == 3 && value("node_vmstat_oom_kill", NULL, NULL) == 2,
	   "/proc/vmstat");
	ok(parse(host_parse_diskstats, disk_text, &sink) &&
		   value("node_disk_read_bytes_total", "sda", NULL) == 20 * 512 &&
		   value("node_disk_write_time_seconds_total", "sda", NULL) == 5 &&
		   value("node_disk_io_now", "sda", NULL) == 1 && nsamples == 18,
	   "/proc/diskstats: disks, not loops and not lines that are cut off");
	ok(parse(host_parse_netdev, net_text, &sink) &&
		   value("node_network_transmit_bytes_total", "eth0", NULL) == 900 &&
		   value("node_network_receive_drop_total", "lo", NULL) == 4 && nsamples == 16,
	   "/proc/net/dev");
	ok(parse(host_parse_filenr, "1056\t0\t9223372036854775807\n", &sink) &&
		   value("node_filefd_allocated", NULL, NULL) == 1056,
	   "file-nr");
	ok(parse(host_parse_pressure_io, pressure_text, &sink) &&
		   value("node_pressure_io_waiting_seconds_total", NULL, NULL) == 2 &&
		   value("node_pressure_io_stalled_seconds_total", NULL, NULL) == 0.5 &&
		   value("host_pressure_ratio", "io", NULL) == 0.125,
	   "pressure");
	ok(parse(host_parse_pressure_cpu, pressure_text, &sink) && nsamples == 2,
	   "of the CPU only what waits");
}

static void
test_many_cpus(void)
{
	char text[65536];
	size_t n = snprintf(text, sizeof(text), "cpu  1 2 3 4\n");
	HostSink sink;

	for (int i = 0; i <= HOST_MAX_CPUS; i++)
		n += snprintf(text + n, sizeof(text) - n, "cpu%d 1 2 3 4 5\n", i);
	ok(parse(host_parse_stat, text, &sink) && nsamples == 4 &&
		   value("node_cpu_seconds_total", "all", "idle") == 0.04,
	   "many CPUs are one series");
}

static void
test_groups(void)
{
	static const char v1[] = "12:pids:/a\n5:cpu,cpuacct:/b c\n4:memory:/docker/x\n0::/init.scope\n";
	char path[64], mount[HOST_VALUE_BYTES], type[HOST_VALUE_BYTES], device[HOST_VALUE_BYTES];
	double number;
	bool v2;

	ok(host_find_cgroup(v1, "memory", path, sizeof(path), &v2) && !v2 &&
		   strcmp(path, "/docker/x") == 0,
	   "version 1: memory");
	ok(host_find_cgroup(v1, "cpu", path, sizeof(path), &v2) && !v2 && strcmp(path, "/b c") == 0,
	   "version 1: one of two controllers");
	ok(host_find_cgroup("0::/system.slice/x\n", "memory", path, sizeof(path), &v2) && v2 &&
		   strcmp(path, "/system.slice/x") == 0,
	   "version 2");
	ok(!host_find_cgroup("0::/../../etc\n", "memory", path, sizeof(path), &v2) &&
		   !host_find_cgroup("nonsense\n\n:::\n", "memory", path, sizeof(path), &v2),
	   "no way out of the hierarchy, and nonsense");
	ok(host_find_cgroup("4:memory:/docker/x\n3:pids:/../..\n", "memory", path, sizeof(path), &v2) &&
		   strcmp(path, "/docker/x") == 0,
	   "where another controller's group is does not matter");
	ok(host_parse_limit("max\n", &number) && isinf(number) && host_parse_limit("4096\n", &number) &&
		   number == 4096 && !host_parse_limit("-1\n", &number) && !host_parse_limit("", &number),
	   "limits");
	ok(host_parse_cpu_max("150000 100000\n", &number) && number == 1.5 &&
		   host_parse_cpu_max("max 100000\n", &number) && isinf(number) &&
		   !host_parse_cpu_max("1000\n", &number) && !host_parse_cpu_max("1 0\n", &number),
	   "cpu.max");
	ok(host_find_number("usage_usec 5\nthrottled_usec 7\n", "throttled_usec", &number) &&
		   number == 7,
	   "cpu.stat");
	ok(host_find_mount(mounts_text, 8, 2, mount, type, device) &&
		   strcmp(mount, "/var/lib/my data") == 0 && strcmp(type, "xfs") == 0 &&
		   strcmp(device, "/dev/sda2") == 0,
	   "a mount with a blank in its name");
	ok(!host_find_mount(mounts_text, 8, 3, mount, type, device), "a device that is not mounted");
}

static void
test_process(void)
{
	HostProcess p;

	ok(host_parse_process(process_text, &p) && p.user_ticks == 150 && p.system_ticks == 50 &&
		   p.dead_children_ticks == 50 && p.start == 9000 && p.resident_pages == 250,
	   "a process with a name of blanks and parentheses");
	ok(!host_parse_process("42 (x) S 1 2", &p) && !host_parse_process("", &p) &&
		   !host_parse_process("no process", &p),
	   "none that is cut off");
}

/* Whatever the text, nothing is read behind its end; sanitizers watch. */
static void
test_malformed(void)
{
	static const HostParser parsers[] = {
		host_parse_stat,       host_parse_loadavg,      host_parse_meminfo,
		host_parse_vmstat,     host_parse_diskstats,    host_parse_netdev,
		host_parse_filenr,     host_parse_pressure_cpu, host_parse_pressure_memory,
		host_parse_pressure_io};
	static const char *const texts[] = {stat_text,     meminfo_text, disk_text,  net_text,
										pressure_text, process_text, mounts_text};
	bool none = true;

	for (int p = 0; p < 10; p++)
	{
		HostSink sink;

		none &= !parse(parsers[p], "", &sink) && !parse(parsers[p], "\n\n", &sink) &&
			!parse(parsers[p], "what is this\n: : :\n-1 -2 -3\nnan inf\n", &sink);
	}
	ok(none, "nothing is found in nothing, and in nonsense");
	srand(7);
	for (int i = 0; i < 20000; i++)
	{
		const char *from = texts[i % 7];
		size_t n = rand() % (strlen(from) + 1);
		char *text = malloc(n + 1);
		HostSink sink;
		HostProcess process;
		char path[64], mount[HOST_VALUE_BYTES], type[HOST_VALUE_BYTES], device[HOST_VALUE_BYTES];
		bool v2;

		memcpy(text, from, n);
		text[n] = '\0';
		for (int k = rand() % 4; k > 0 && n > 0; k--)
			text[rand() % n] = (char) (1 + rand() % 255);
		(void) parse(parsers[i % 10], text, &sink);
		(void) host_parse_process(text, &process);
		(void) host_find_cgroup(text, "cpu", path, sizeof(path), &v2);
		(void) host_find_mount(text, 8, 2, mount, type, device);
		free(text);
	}
	ok(true, "what is cut off and garbled is read without harm");
}

int
main(void)
{
	test_files();
	test_many_cpus();
	test_groups();
	test_process();
	test_malformed();
	printf("1..%d\n", tests);
	return failures > 0;
}
