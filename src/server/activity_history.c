/*-------------------------------------------------------------------------
 *
 * activity_history.c
 *	  Samples of active sessions in shared memory, and a profile per backend.
 *
 * There is one writer, the sampler, and no lock.  The history is a ring: the
 * writer first moves `claimed` over the places that it is about to overwrite,
 * then writes, then moves `next`.  A reader copies a place and looks afterwards
 * whether it had been claimed again.
 *
 * A profile is what was seen of the client statement that a backend runs, however
 * long it takes: the ring may be too short for that.  Its change counter is odd
 * while the sampler writes.
 *
 *-------------------------------------------------------------------------
 */
#include "server/activity_internal.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

typedef struct BackendProfile
{
	pg_atomic_uint32 change;
	int pid;
	TimestampTz query_start; /* of the client's statement */
	TimestampTz first;       /* its first sample */
	MonActivityProfile seen;
} BackendProfile;

typedef struct ActivityShared
{
	TimestampTz epoch;
	pg_atomic_uint64 claimed; /* samples below are written, or being written */
	pg_atomic_uint64 next;    /* samples below are written */
	pg_atomic_uint64 sampled_at;
	int capacity;
	int nprofiles;
} ActivityShared;

static int history_size = 50000;

static ActivityShared *shared = NULL;
static BackendProfile *profiles = NULL;
static ActivitySample *ring = NULL;

/* ---- profiles ---- */

static void
count_wait(MonActivityProfile *p, uint32 wait_event_info)
{
	p->samples++;
	for (int i = 0; i < p->nwaits; i++)
		if (p->waits[i].wait_event_info == wait_event_info)
		{
			p->waits[i].samples++;
			return;
		}
	if (p->nwaits < lengthof(p->waits))
	{
		p->waits[p->nwaits].wait_event_info = wait_event_info;
		p->waits[p->nwaits++].samples = 1;
	}
}

static void
count_sample(MonActivityProfile *p, const ActivitySample *s)
{
	count_wait(p, s->wait_event_info);
	if (s->blocked_by_pid != 0)
		p->blocked_by_pid = s->blocked_by_pid;
}

static void
add_to_profile(BackendProfile *b, const ActivitySample *s)
{
	pg_atomic_write_u32(&b->change, pg_atomic_read_u32(&b->change) + 1);
	pg_write_barrier();
	if (b->pid != s->pid || b->query_start != s->query_start)
	{
		memset(&b->seen, 0, sizeof(b->seen));
		b->pid = s->pid;
		b->query_start = s->query_start;
		b->first = s->at;
	}
	count_sample(&b->seen, s);
	pg_write_barrier();
	pg_atomic_write_u32(&b->change, pg_atomic_read_u32(&b->change) + 1);
}

/* This backend's own profile; false if the sampler is about to change it. */
static bool
copy_profile(BackendProfile *copy)
{
	const BackendProfile *b = &profiles[MonMyProcNumber];
	uint32 before = pg_atomic_read_u32((pg_atomic_uint32 *) &b->change);

	pg_read_barrier();
	memcpy(copy, b, sizeof(*copy));
	pg_read_barrier();
	return before % 2 == 0 && before == pg_atomic_read_u32((pg_atomic_uint32 *) &b->change);
}

/* The answer, if the profile of the client's statement has it. */
static bool
profile_since(TimestampTz since, MonActivityProfile *profile)
{
	TimestampTz query_start = MyBEEntry->st_activity_start_timestamp;
	BackendProfile b;

	if (since < query_start || !copy_profile(&b))
		return false;
	if (b.pid != MyProcPid || b.query_start != query_start)
		return true; /* not sampled since this statement began */
	if (b.first < since)
		return false;
	*profile = b.seen;
	return true;
}

static void
history_since(TimestampTz since, MonActivityProfile *profile)
{
	uint64 seq = pg_atomic_read_u64(&shared->next);
	bool blocked = false;
	ActivitySample s;

	while (seq > 1 && mon_activity_get(--seq, &s) && s.at >= since)
	{
		if (s.pid != MyProcPid)
			continue;
		count_wait(profile, s.wait_event_info);
		if (s.blocked_by_pid != 0 && !blocked)
		{
			profile->blocked_by_pid = s.blocked_by_pid;
			blocked = true;
		}
	}
}

void
mon_activity_profile(TimestampTz since, MonActivityProfile *profile)
{
	memset(profile, 0, sizeof(*profile));
	if (shared == NULL || MyProc == NULL || MyBEEntry == NULL ||
		MonMyProcNumber >= shared->nprofiles)
		return;
	if (!profile_since(since, profile))
		history_since(since, profile);
}

/* ---- history ---- */

static ActivitySample *
place(uint64 seq)
{
	return &ring[seq % shared->capacity];
}

void
mon_activity_add(const ActivitySample *samples, const int *procno, int n)
{
	uint64 next = pg_atomic_read_u64(&shared->next);

	pg_atomic_write_u64(&shared->claimed, next + n);
	pg_memory_barrier();
	for (int i = 0; i < n; i++)
	{
		*place(next + i) = samples[i];
		if (procno[i] >= 0 && procno[i] < shared->nprofiles)
			add_to_profile(&profiles[procno[i]], &samples[i]);
	}
	pg_memory_barrier();
	pg_atomic_write_u64(&shared->next, next + n);
	pg_atomic_write_u64(&shared->sampled_at, GetCurrentTimestamp());
}

bool
mon_activity_get(uint64 seq, ActivitySample *sample)
{
	if (shared == NULL || seq == 0 || seq >= pg_atomic_read_u64(&shared->next))
		return false;
	pg_read_barrier();
	memcpy(sample, place(seq), sizeof(*sample));
	pg_read_barrier();
	return pg_atomic_read_u64(&shared->claimed) <= seq + shared->capacity;
}

ActivityHistoryState
mon_activity_history_state(void)
{
	ActivityHistoryState state = {0};
	uint64 claimed;

	if (shared == NULL)
		return state;
	claimed = pg_atomic_read_u64(&shared->claimed);
	state.epoch = shared->epoch;
	state.next = pg_atomic_read_u64(&shared->next);
	state.oldest = claimed > shared->capacity ? claimed - shared->capacity : 1;
	state.capacity = shared->capacity;
	state.sampled_at = pg_atomic_read_u64(&shared->sampled_at);
	return state;
}

/* ---- memory ---- */

static Size
history_shmem_size(void)
{
	Size size = MAXALIGN(sizeof(ActivityShared));

	size = add_size(size, mul_size(sizeof(BackendProfile), MaxBackends));
	return add_size(MAXALIGN(size), mul_size(sizeof(ActivitySample), history_size));
}

static void
init_history(LWLockPadded *locks)
{
	bool found;
	char *area = ShmemInitStruct("monitoring activity", history_shmem_size(), &found);
	Size offset = MAXALIGN(sizeof(ActivityShared));

	shared = (ActivityShared *) area;
	profiles = (BackendProfile *) (area + offset);
	ring = (ActivitySample *) (area + MAXALIGN(offset + sizeof(BackendProfile) * MaxBackends));
	if (found)
		return;

	memset(area, 0, MAXALIGN(offset + sizeof(BackendProfile) * MaxBackends));
	shared->epoch = GetCurrentTimestamp();
	shared->capacity = history_size;
	shared->nprofiles = MaxBackends;
	pg_atomic_init_u64(&shared->claimed, 1);
	pg_atomic_init_u64(&shared->next, 1);
	pg_atomic_init_u64(&shared->sampled_at, 0);
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&profiles[i].change, 0);
}

void
mon_activity_history_init(void)
{
	static const MonShmemSlice slice = {
		.name = "monitoring activity", .size = history_shmem_size, .init = init_history};

	DefineCustomIntVariable(
		"monitoring.activity_history", "Samples of active sessions that are kept in memory.",
		"Each takes some 150 bytes. A sample is taken of each active session "
		"every monitoring.activity_interval.",
		&history_size, 50000, 1000, 10000000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	mon_shmem_register(&slice);
}
