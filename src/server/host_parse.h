/*-------------------------------------------------------------------------
 *
 * host_parse.h
 *	  Reading the kernel's files about the machine: plain C, without the server.
 *
 * A parser gets the text of a file, which ends with a zero byte, and hands each
 * value to the sink.  It returns whether it has found what the file is for: one
 * that is empty, cut off or in another format gives what can be read of it, or
 * nothing, and false.  Lines that make no sense are passed over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SERVER_HOST_PARSE_H
#define SERVER_HOST_PARSE_H

#include <stdbool.h>
#include <stddef.h>

#define HOST_LABELS 2
#define HOST_NAME_BYTES 96   /* of a metric, with the zero byte */
#define HOST_VALUE_BYTES 128 /* of a label's value */
#define HOST_MAX_CPUS 32     /* with more, CPUs have no series of their own */
#define HOST_MAX_DEVICES 64  /* disks, and network interfaces */

typedef struct HostSample
{
	char metric[HOST_NAME_BYTES];
	bool counter;
	double value;
	const char *labels[HOST_LABELS]; /* names; NULL: no more */
	char values[HOST_LABELS][HOST_VALUE_BYTES];
} HostSample;

typedef struct HostSink
{
	void (*take)(struct HostSink *sink, const HostSample *sample);
	/* what derived values need, filled by the parsers */
	double cpu_busy; /* seconds since boot, of all CPUs */
	double cpu_total;
	double memory_total;
	double memory_available; /* negative: not known */
	double swap_total;
	double swap_free;
} HostSink;

typedef bool (*HostParser)(const char *text, double ticks, HostSink *sink);

/* ticks is the kernel's clock ticks per second; only host_parse_stat() needs it. */
extern bool host_parse_stat(const char *text, double ticks, HostSink *sink);
extern bool host_parse_loadavg(const char *text, double ticks, HostSink *sink);
extern bool host_parse_meminfo(const char *text, double ticks, HostSink *sink);
extern bool host_parse_vmstat(const char *text, double ticks, HostSink *sink);
extern bool host_parse_diskstats(const char *text, double ticks, HostSink *sink);
extern bool host_parse_netdev(const char *text, double ticks, HostSink *sink);
extern bool host_parse_filenr(const char *text, double ticks, HostSink *sink);
extern bool host_parse_pressure_cpu(const char *text, double ticks, HostSink *sink);
extern bool host_parse_pressure_memory(const char *text, double ticks, HostSink *sink);
extern bool host_parse_pressure_io(const char *text, double ticks, HostSink *sink);

/* The mount of a device, of /proc/self/mountinfo: the last one. */
extern bool host_find_mount(const char *text, unsigned major, unsigned minor, char *mountpoint,
							char *fstype, char *device);

/* The path of a controller ("memory", "cpu") in /proc/self/cgroup; *v2: of the unified hierarchy. */
extern bool host_find_cgroup(const char *text, const char *controller, char *path, size_t size,
							 bool *v2);
/* One number, or the word max, which is infinity; both numbers of cpu.max. */
extern bool host_parse_limit(const char *text, double *value);
extern bool host_parse_cpu_max(const char *text, double *cores);
/* The number behind a name in a file of names and numbers. */
extern bool host_find_number(const char *text, const char *name, double *value);

/* /proc/<pid>/stat: CPU time in ticks, when it started, memory in pages. */
typedef struct HostProcess
{
	double user_ticks;
	double system_ticks;
	double dead_children_ticks; /* both, of those it has waited for */
	double start;
	double resident_pages;
} HostProcess;

extern bool host_parse_process(const char *text, HostProcess *process);

#endif /* SERVER_HOST_PARSE_H */
