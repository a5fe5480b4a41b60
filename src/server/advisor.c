/*-------------------------------------------------------------------------
 *
 * advisor.c
 *	  What advisors need and SQL cannot have without waiting for locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(mon_sequence_position);

/* The one row of a sequence; false if it has given out nothing. */
static bool
read_position(Relation sequence, int64 *position)
{
	Buffer buffer = ReadBuffer(sequence, 0);
	Page page;
	HeapTupleHeader tuple;
	FormData_pg_sequence_data data;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	memcpy(&data, (char *) tuple + tuple->t_hoff, sizeof(data));
	UnlockReleaseBuffer(buffer);
	*position = data.last_value;
	return data.is_called;
}

/*
 * sequence_position(oid) -> bigint
 *
 * pg_sequence_last_value() would wait for whoever has locked the sequence, and
 * keep a lock of each until the end of the transaction: those of thousands of
 * sequences would fill the lock table.
 */
Datum
mon_sequence_position(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	Relation sequence;
	int64 position = 0;
	bool used = false;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	sequence = try_relation_open(relid, NoLock);
	if (sequence == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		PG_RETURN_NULL();
	}
	if (sequence->rd_rel->relkind == RELKIND_SEQUENCE && !RELATION_IS_OTHER_TEMP(sequence) &&
		pg_class_aclcheck(relid, GetUserId(), ACL_SELECT | ACL_USAGE) == ACLCHECK_OK &&
		RelationGetNumberOfBlocks(sequence) > 0)
		used = read_position(sequence, &position);
	relation_close(sequence, AccessShareLock);
	if (!used)
		PG_RETURN_NULL();
	PG_RETURN_INT64(position);
}
