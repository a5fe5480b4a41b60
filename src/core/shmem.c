/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared memory for the slices, through one pair of hooks.
 *
 * Everything is reserved in the main segment at server start, so that nothing
 * can fail for lack of memory later, and pointers into it are the same in
 * every process.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define MAX_SLICES 32

bool mon_preloaded = false;

static MonShmemSlice slices[MAX_SLICES];
static int nslices = 0;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

void
mon_shmem_register(const MonShmemSlice *slice)
{
	Assert(process_shared_preload_libraries_in_progress);

	if (nslices >= MAX_SLICES)
		elog(FATAL, "too many slices ask for shared memory");
	slices[nslices++] = *slice;
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	for (int i = 0; i < nslices; i++)
	{
		RequestAddinShmemSpace(slices[i].size());
		if (slices[i].nlocks > 0)
			RequestNamedLWLockTranche(slices[i].name, slices[i].nlocks);
	}
}

static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < nslices; i++)
		slices[i].init(slices[i].nlocks > 0 ? GetNamedLWLockTranche(slices[i].name) : NULL);
	LWLockRelease(AddinShmemInitLock);
}

void
mon_shmem_init(void)
{
	mon_preloaded = true;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

void
mon_require_preload(void)
{
	if (!mon_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("monitoring must be loaded at server start"),
				 errhint("Add monitoring to shared_preload_libraries and restart the "
						 "server.")));
}
