/*-------------------------------------------------------------------------
 *
 * ingest.c
 *	  The view monitoring.ingest: every row inserted is an observation.
 *
 * COPY, INSERT and drivers' bulk inserts come here by an INSTEAD OF trigger.  A
 * row of a series that the backend knows costs a hash look-up of the bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/record.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/rel.h"

enum
{
	COL_METRIC,
	COL_VALUE,
	COL_LABELS,
	COL_KIND,
	COL_TS,
	COLUMNS
};

static const Oid column_types[COLUMNS] = {TEXTOID, FLOAT8OID, JSONBOID, TEXTOID, TIMESTAMPTZOID};
static const uint32 no_labels = JB_FOBJECT; /* {} as jsonb bytes */

static void
check_shape(TriggerData *t)
{
	TupleDesc desc = RelationGetDescr(t->tg_relation);
	bool ok = TRIGGER_FIRED_INSTEAD(t->tg_event) && TRIGGER_FIRED_BY_INSERT(t->tg_event) &&
		desc->natts == COLUMNS;

	for (int i = 0; ok && i < COLUMNS; i++)
		ok = TupleDescAttr(desc, i)->atttypid == column_types[i];
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("ingest_row() is the INSTEAD OF INSERT trigger of monitoring.ingest")));
}

static void
null_column(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in column \"%s\" of view \"ingest\"", name)));
}

static void
read_row(Observation *o, TupleTableSlot *row)
{
	Datum *values;
	bool *nulls;
	struct varlena *metric;

	slot_getallattrs(row);
	values = row->tts_values;
	nulls = row->tts_isnull;
	if (unlikely(nulls[COL_METRIC]))
		null_column("metric");
	if (unlikely(nulls[COL_VALUE]))
		null_column("value");

	metric = PG_DETOAST_DATUM_PACKED(values[COL_METRIC]);
	o->key.metric = VARDATA_ANY(metric);
	o->key.metric_len = VARSIZE_ANY_EXHDR(metric);
	o->value = DatumGetFloat8(values[COL_VALUE]);
	if (nulls[COL_LABELS])
	{
		o->key.labels = (const char *) &no_labels;
		o->key.labels_len = sizeof(no_labels);
	}
	else
	{
		struct varlena *labels = PG_DETOAST_DATUM_PACKED(values[COL_LABELS]);

		o->key.labels = VARDATA_ANY(labels);
		o->key.labels_len = VARSIZE_ANY_EXHDR(labels);
	}
	o->kind = MON_DISTRIBUTION;
	if (!nulls[COL_KIND])
	{
		struct varlena *kind = PG_DETOAST_DATUM_PACKED(values[COL_KIND]);

		o->kind = mon_parse_kind(VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind));
	}
	o->timed = !nulls[COL_TS];
	if (o->timed)
		o->at = DatumGetTimestampTz(values[COL_TS]);
}

PG_FUNCTION_INFO_V1(mon_ingest_row);
/* ingest_row(): trigger */
Datum
mon_ingest_row(PG_FUNCTION_ARGS)
{
	TriggerData *t = (TriggerData *) fcinfo->context;
	Observation o;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("ingest_row() is a trigger")));
	/* fn_extra is set once a row of this statement went through. */
	if (unlikely(fcinfo->flinfo->fn_extra == NULL))
		check_shape(t);
	read_row(&o, t->tg_trigslot);
	mon_observation_check(&o, fcinfo->flinfo);
	(void) mon_observation_record(&o);
	return PointerGetDatum(t->tg_trigtuple);
}
