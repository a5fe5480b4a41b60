/*-------------------------------------------------------------------------
 *
 * scan.c
 *	  Rows of the tables of storage, straight from their indexes.
 *
 * Reads know what they want: rows of a few partitions by the primary key.  Going
 * there without a planner costs a tenth where there are many partitions, and
 * does not depend on statistics.  Rows are seen by the active snapshot.  Callers
 * check what the user may see; no privileges are needed here.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/scan.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "core/core.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* ---- partitions ---- */

/* A bound of a partition by range of one time. */
static TimestampTz
bound(const PartitionBoundInfoData *info, int i)
{
	switch (info->kind[i][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return DT_NOBEGIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return DT_NOEND;
		default:
			return DatumGetTimestampTz(info->datums[i][0]);
	}
}

/*
 * The next partition that overlaps the piece of time: indexes[i] is the one
 * below the i-th bound, or -1 for a gap.
 */
static Oid
next_partition(StorageScan *s)
{
	PartitionDesc desc = s->partitions;
	const PartitionBoundInfoData *info = desc->boundinfo;

	if (desc->nparts == 0)
		return InvalidOid;
	while (++s->next_partition < info->ndatums)
	{
		int i = s->next_partition;

		if (info->indexes[i] < 0)
			continue;
		s->part_from = bound(info, i - 1);
		s->part_to = bound(info, i);
		if (s->part_to > s->from && s->part_from < s->to)
			return desc->oids[info->indexes[i]];
	}
	return InvalidOid;
}

/* ---- scans ---- */

static Oid
table_oid(const char *table)
{
	return get_relname_relid(table, get_namespace_oid(MON_SCHEMA, false));
}

bool
mon_table_has_pages(const char *table)
{
	Relation rel = table_open(table_oid(table), AccessShareLock);
	bool has_pages = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, NoLock);
	return has_pages;
}

void
mon_scan_open(StorageScan *s, const char *table, const char *const *names, int ncolumns,
			  int time_column, TimestampTz from, TimestampTz to)
{
	Assert(ncolumns <= SCAN_COLUMNS);
	memset(s, 0, sizeof(*s));
	s->names = names;
	s->ncolumns = ncolumns;
	s->time_column = time_column;
	s->from = from;
	s->to = to;
	/* A lock that we hold already does not tell us of partitions made meanwhile. */
	AcceptInvalidationMessages();
	s->parent = table_open(table_oid(table), AccessShareLock);
	/* One that is attached while we read would move the others; there is nothing in it that we see. */
	if (s->parent->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		s->partitions = RelationGetPartitionDesc(s->parent, true);
}

static void
close_partition(StorageScan *s)
{
	if (s->rel && s->rel != s->parent)
		table_close(s->rel, NoLock);
	s->rel = NULL;
}

void
mon_scan_close(StorageScan *s)
{
	close_partition(s);
	table_close(s->parent, NoLock);
}

/* The primary key, if the time and the first column are in it. */
static Oid
usable_index(const StorageScan *s)
{
	Oid oid;
	Relation index;
	int found = 0;

	list_free(RelationGetIndexList(s->rel)); /* finds the primary key */
	oid = s->rel->rd_pkindex;
	if (!OidIsValid(oid))
		return InvalidOid;
	index = index_open(oid, AccessShareLock);
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];

		found |= (attnum == s->attnums[0]) | (attnum == s->attnums[s->time_column]) << 1;
	}
	index_close(index, NoLock);
	return found == 3 ? oid : InvalidOid;
}

static void
prepare_partition(StorageScan *s)
{
	for (int i = 0; i < s->ncolumns; i++)
	{
		s->attnums[i] = get_attnum(RelationGetRelid(s->rel), s->names[i]);
		if (s->attnums[i] == InvalidAttrNumber)
			elog(ERROR, "table \"%s\" has no column \"%s\"", RelationGetRelationName(s->rel),
				 s->names[i]);
	}
	s->index = usable_index(s);
}

bool
mon_scan_next_partition(StorageScan *s)
{
	Oid oid;

	if (s->parent->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
	{
		if (s->rel)
			return false;
		s->rel = s->parent;
		s->part_from = DT_NOBEGIN;
		s->part_to = DT_NOEND;
	}
	else
	{
		close_partition(s);
		oid = next_partition(s);
		if (!OidIsValid(oid))
			return false;
		s->rel = table_open(oid, AccessShareLock);
	}
	prepare_partition(s);
	return true;
}

BlockNumber
mon_scan_pages(const StorageScan *s)
{
	return RelationGetNumberOfBlocks(s->rel);
}

void
mon_scan_begin(StorageScan *s, const int64 *id, TimestampTz from, TimestampTz to, bool use_index)
{
	ScanKeyData keys[3];
	int n = 0;

	if (id)
		ScanKeyInit(&keys[n++], s->attnums[0], BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(*id));
	ScanKeyInit(&keys[n++], s->attnums[s->time_column], BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	ScanKeyInit(&keys[n++], s->attnums[s->time_column], BTLessStrategyNumber, F_TIMESTAMPTZ_LT,
				TimestampTzGetDatum(to));
	s->scan = systable_beginscan(s->rel, s->index, use_index && OidIsValid(s->index),
								 GetActiveSnapshot(), n, keys);
}

bool
mon_scan_next(StorageScan *s)
{
	HeapTuple tuple = systable_getnext(s->scan);
	bool isnull;

	if (!HeapTupleIsValid(tuple))
	{
		systable_endscan(s->scan);
		s->scan = NULL;
		return false;
	}
	for (int i = 0; i < s->ncolumns; i++)
		s->values[i] = heap_getattr(tuple, s->attnums[i], RelationGetDescr(s->rel), &isnull);
	return true;
}

/* ---- single rows ---- */

/* An index of all rows that begins with a column. */
static Oid
index_by(Relation rel, AttrNumber attnum)
{
	List *indexes = RelationGetIndexList(rel);
	Oid found = InvalidOid;
	ListCell *lc;

	foreach (lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && index->rd_index->indkey.values[0] == attnum &&
			RelationGetIndexPredicate(index) == NIL)
			found = lfirst_oid(lc);
		index_close(index, NoLock);
	}
	list_free(indexes);
	return found;
}

bool
mon_committed_row(const char *table, const char *key, const char *const *names, int ncolumns,
				  Datum *values, bool *nulls)
{
	Oid relid = get_relname_relid(table, get_namespace_oid(MON_SCHEMA, false));
	Relation rel = table_open(relid, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid index;

	ScanKeyInit(&scankey, get_attnum(relid, names[0]), BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(key));
	scankey.sk_collation = TupleDescAttr(desc, scankey.sk_attno - 1)->attcollation;
	index = index_by(rel, scankey.sk_attno);
	scan = systable_beginscan(rel, index, OidIsValid(index), SnapshotSelf, 1, &scankey);
	tuple = systable_getnext(scan);
	for (int i = 0; i < ncolumns && HeapTupleIsValid(tuple); i++)
	{
		AttrNumber attnum = get_attnum(relid, names[i]);
		Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);

		values[i] = heap_getattr(tuple, attnum, desc, &nulls[i]);
		if (!nulls[i])
			values[i] = datumCopy(values[i], attr->attbyval, attr->attlen);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return HeapTupleIsValid(tuple);
}
