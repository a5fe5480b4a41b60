/*-------------------------------------------------------------------------
 *
 * collect_relations.c
 *	  What collectors read of relations without waiting for a lock of theirs:
 *	  relation_sizes() and sequence_position().
 *
 * The server's own functions queue behind whoever holds a relation exclusively.
 * These take the lock if it can be had at once, and leave the relation out
 * otherwise.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(mon_relation_sizes);
PG_FUNCTION_INFO_V1(mon_sequence_position);

/* False when somebody holds a lock that we would wait for, or the relation has gone. */
static bool
lock_at_once(Oid relid, LOCKMODE mode)
{
	if (!ConditionalLockRelationOid(relid, mode))
		return false;
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return true;
	UnlockRelationOid(relid, mode);
	return false;
}

/* Bytes of one relation that is locked, without what belongs to it. */
static int64
bytes_of_files(Oid relid)
{
	static const char *const forks[] = {"main", "fsm", "vm", "init"};
	int64 bytes = 0;

	for (int i = 0; i < lengthof(forks); i++)
	{
		LOCAL_FCINFO(call, 2);
		Datum result;

		InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
		call->args[0].value = ObjectIdGetDatum(relid);
		call->args[0].isnull = false;
		call->args[1].value = CStringGetTextDatum(forks[i]);
		call->args[1].isnull = false;
		result = pg_relation_size(call);
		if (!call->isnull)
			bytes += DatumGetInt64(result);
	}
	return bytes;
}

static bool
bytes_of_indexes(List *indexes, int64 *bytes)
{
	ListCell *lc;

	foreach (lc, indexes)
	{
		if (!lock_at_once(lfirst_oid(lc), AccessShareLock))
			return false;
		*bytes += bytes_of_files(lfirst_oid(lc));
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	return true;
}

static bool sizes_of(Oid relid, int64 *own, int64 *indexes);

static bool
add_toast(Oid toastrelid, int64 *own)
{
	int64 toast_indexes = 0;
	int64 toast = 0;

	if (!OidIsValid(toastrelid))
		return true;
	if (!sizes_of(toastrelid, &toast, &toast_indexes))
		return false;
	*own += toast + toast_indexes;
	return true;
}

/* As pg_table_size() and pg_indexes_size() have them; false when a lock cannot be had. */
static bool
sizes_of(Oid relid, int64 *own, int64 *indexes)
{
	Relation rel;
	bool known;

	if (!lock_at_once(relid, AccessShareLock))
		return false;
	rel = RelationIdGetRelation(relid);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		return false;
	}
	*own = bytes_of_files(relid);
	known = add_toast(rel->rd_rel->reltoastrelid, own) &&
		(rel->rd_rel->relkind == RELKIND_INDEX ||
		 bytes_of_indexes(RelationGetIndexList(rel), indexes));
	RelationClose(rel);
	UnlockRelationOid(relid, AccessShareLock);
	return known;
}

/* relation_sizes(relations oid[]) */
Datum
mon_relation_sizes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum *relations;
	bool *nulls;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &relations,
					  &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Datum values[3];
		bool no_nulls[3] = {false};
		int64 own = 0;
		int64 indexes = 0;

		CHECK_FOR_INTERRUPTS();
		if (nulls[i] || !sizes_of(DatumGetObjectId(relations[i]), &own, &indexes))
			continue;
		values[0] = relations[i];
		values[1] = Int64GetDatum(own);
		values[2] = Int64GetDatum(indexes);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, no_nulls);
	}
	return (Datum) 0;
}

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
 * sequence_position(sequence oid)
 *
 * The server's own function keeps its lock until the end of the transaction;
 * those of thousands of sequences would fill the lock table.
 */
Datum
mon_sequence_position(PG_FUNCTION_ARGS)
{
	Oid relid = PG_GETARG_OID(0);
	Relation sequence;
	int64 position = 0;
	bool used = false;

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT | ACL_USAGE) == ACLCHECK_NO_PRIV)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SEQUENCE, get_rel_name(relid));
	if (!lock_at_once(relid, AccessShareLock))
		PG_RETURN_NULL();
	sequence = relation_open(relid, NoLock);
	if (sequence->rd_rel->relkind == RELKIND_SEQUENCE && !RELATION_IS_OTHER_TEMP(sequence) &&
		RelationGetNumberOfBlocks(sequence) > 0)
		used = read_position(sequence, &position);
	relation_close(sequence, AccessShareLock);
	if (!used)
		PG_RETURN_NULL();
	PG_RETURN_INT64(position);
}
