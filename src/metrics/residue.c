/*-------------------------------------------------------------------------
 *
 * residue.c
 *	  What a clean stop of the server leaves in memory, kept in a file.
 *
 * The worker's last flush leaves nothing as a rule.  But it may have failed, or
 * there was no worker: not yet, not any more, or on a standby.  Then the
 * postmaster writes the slots that may not be stored when it ends, and reads
 * them when it starts; the numbers of the flushes that sealed them tell as ever
 * which are stored.  The file is removed once read: after a crash it would
 * bring back what has been flushed since.
 *
 * Whether a stop was clean is what pg_control says.  An immediate one ends
 * processes wherever they are, so that memory may be in any state, though the
 * postmaster ends in order.  Where a file should be and could not be written, an
 * empty one says that something was lost.
 *
 * Format: magic number, records each led by a byte that says what it is, an end
 * record, and the CRC of all of it.  It is read by the server that wrote it, so
 * numbers are in the machine's own form.
 *
 * The postmaster is alone in both cases; locks are taken for form's sake.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "sketch/sketch.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#define RESIDUE_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/monitoring.residue"
#define RESIDUE_TEMP RESIDUE_FILE ".tmp"
#define RESIDUE_MAGIC 0x4d4f4e32 /* changes with the format */

enum
{
	RECORD_END = 0,
	RECORD_DATABASE,
	RECORD_SERIES,
	RECORD_SLOT
};

typedef struct DatabaseRecord
{
	Oid dboid;
	uint64 next_seq;
} DatabaseRecord;

typedef struct SeriesRecord
{
	int64 id;
	uint64 persist_seq;
	MonMetricKind kind;
	int max_series; /* of the metric, like the scale */
	int scale;
	int name_len;
	int labels_len;
	bool persisted;
	bool is_overflow;
} SeriesRecord;

typedef struct SlotRecord
{
	TimestampTz start;
	TimestampTz first_at;
	TimestampTz last_at;
	uint64 seq;
	uint64 count;
	double sum, min, max, first, last;
	uint32 sketch_len; /* of the encoded sketch that follows */
} SlotRecord;

/* ---- writing ---- */

typedef struct Writer
{
	FILE *file;
	pg_crc32c crc;
	bool ok;
	Oid dboid;
	int64 slots;
} Writer;

static void
put(Writer *w, const void *data, size_t len)
{
	COMP_CRC32C(w->crc, data, len);
	w->ok = w->ok && fwrite(data, 1, len, w->file) == len;
}

static void
put_record(Writer *w, uint8 type, const void *data, size_t len)
{
	put(w, &type, 1);
	put(w, data, len);
}

static void
put_slot(Writer *w, MonMetricKind kind, const MonSlot *slot)
{
	SlotRecord r = {.start = slot->start,
					.first_at = slot->first_at,
					.last_at = slot->last_at,
					.seq = slot->seq,
					.count = slot->count,
					.sum = slot->sum,
					.min = slot->min,
					.max = slot->max,
					.first = slot->first,
					.last = slot->last};
	uint8 *encoded = NULL;

	if (kind == MON_DISTRIBUTION)
	{
		r.count = slot->sketch.count;
		encoded = palloc(expo_encoded_bound(&slot->sketch));
		r.sketch_len = expo_encode(&slot->sketch, encoded);
	}
	put_record(w, RECORD_SLOT, &r, sizeof(r));
	if (encoded)
	{
		put(w, encoded, r.sketch_len);
		pfree(encoded);
	}
	w->slots++;
}

static void
put_series(MonSeries *s, void *arg)
{
	Writer *w = arg;
	SeriesRecord r;

	if (s->slots == NULL)
		return;
	memset(&r, 0, sizeof(r));
	r.id = s->id;
	r.persist_seq = s->persist_seq;
	r.kind = s->kind;
	r.max_series = s->metric->max_series;
	r.scale = s->metric->scale;
	r.name_len = strlen(s->metric->name);
	r.labels_len = VARSIZE(s->labels);
	r.persisted = s->persisted;
	r.is_overflow = s->is_overflow;
	put_record(w, RECORD_SERIES, &r, sizeof(r));
	put(w, s->metric->name, r.name_len);
	put(w, s->labels, r.labels_len);
	for (const MonSlot *slot = s->slots; slot; slot = slot->older)
		put_slot(w, s->kind, slot);
}

static void
put_database(MonDb *db, void *arg)
{
	Writer *w = arg;
	DatabaseRecord r;

	memset(&r, 0, sizeof(r));
	r.dboid = db->dboid;
	r.next_seq = db->next_seq;
	put_record(w, RECORD_DATABASE, &r, sizeof(r));
	mon_registry_each(db->dboid, put_series, w);
}

static void
complain(const char *what)
{
	ereport(LOG,
			(errcode_for_file_access(), errmsg("could not %s file \"%s\": %m", what, RESIDUE_FILE),
			 errdetail("Metrics that were not flushed before the server stopped are lost.")));
}

static bool
write_file(Writer *w)
{
	uint32 magic = RESIDUE_MAGIC;
	uint8 end = RECORD_END;

	INIT_CRC32C(w->crc);
	put(w, &magic, sizeof(magic));
	mon_registry_each_db(put_database, w);
	put(w, &end, 1);
	FIN_CRC32C(w->crc);
	w->ok = w->ok && fwrite(&w->crc, 1, sizeof(w->crc), w->file) == sizeof(w->crc);
	return w->ok;
}

static bool
stopped_cleanly(void)
{
	bool crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool clean = crc_ok &&
		(control->state == DB_SHUTDOWNED || control->state == DB_SHUTDOWNED_IN_RECOVERY);

	pfree(control);
	return clean;
}

/* What could not be written is lost: leave a file that is not intact. */
static void
save_nothing(void)
{
	int fd;

	complain("write");
	unlink(RESIDUE_TEMP);
	fd = BasicOpenFile(RESIDUE_FILE, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	if (fd >= 0)
		close(fd);
}

/* At the postmaster's end, when everybody else has gone. */
static void
residue_save(int code, Datum arg)
{
	Writer w = {NULL};
	bool written;

	if (code != 0 || !stopped_cleanly()) /* memory may be in any state */
		return;
	w.ok = true;
	w.file = AllocateFile(RESIDUE_TEMP, PG_BINARY_W);
	if (!w.file)
	{
		save_nothing();
		return;
	}
	written = write_file(&w);
	if (FreeFile(w.file) != 0 || !written)
		save_nothing();
	else if (w.slots == 0)
		unlink(RESIDUE_TEMP);
	else
		(void) durable_rename(RESIDUE_TEMP, RESIDUE_FILE, LOG);
}

/* ---- reading ---- */

typedef struct Reader
{
	const char *p;
	const char *end;
	Oid dboid;
	MonSeries *series;
	int64 slots;
	int64 lost; /* of these, without memory */
} Reader;

/* The CRC was right, so what does not fit is a bug, and not to be read on. */
static const char *
take(Reader *r, size_t len)
{
	const char *at = r->p;

	if (len > (size_t) (r->end - r->p))
		return NULL;
	r->p += len;
	return at;
}

static bool
get(Reader *r, void *into, size_t len)
{
	const char *at = take(r, len);

	if (at)
		memcpy(into, at, len);
	return at != NULL;
}

static bool
get_database(Reader *r)
{
	DatabaseRecord d;

	if (!get(r, &d, sizeof(d)))
		return false;
	r->dboid = d.dboid;
	r->series = NULL;
	mon_registry_restore_db(d.dboid, d.next_seq);
	return true;
}

static bool
get_series(Reader *r)
{
	SeriesRecord s;
	MonSeriesKey key = {0};
	const char *name;
	const char *labels;
	Jsonb *copy;

	if (!get(r, &s, sizeof(s)) || (name = take(r, s.name_len)) == NULL ||
		(labels = take(r, s.labels_len)) == NULL)
		return false;
	copy = palloc(s.labels_len); /* aligned */
	memcpy(copy, labels, s.labels_len);
	key.kind = s.kind;
	key.id = s.id;
	key.metric = pnstrdup(name, s.name_len);
	key.labels = copy;
	key.max_series = s.max_series;
	key.scale = s.scale;
	r->series = mon_registry_restore_series(r->dboid, &key, s.is_overflow);
	if (r->series)
	{
		r->series->persisted = s.persisted;
		r->series->persist_seq = s.persist_seq;
	}
	pfree(copy);
	return true;
}

static bool
get_slot(Reader *r)
{
	SlotRecord s;
	MonSlot slot;
	const char *sketch;

	if (!get(r, &s, sizeof(s)) || (sketch = take(r, s.sketch_len)) == NULL)
		return false;
	memset(&slot, 0, sizeof(slot));
	slot.start = s.start;
	slot.first_at = s.first_at;
	slot.last_at = s.last_at;
	slot.seq = s.seq;
	slot.count = s.count;
	slot.sum = s.sum;
	slot.min = s.min;
	slot.max = s.max;
	slot.first = s.first;
	slot.last = s.last;
	if (!r->series || !mon_slot_restore(r->series, &slot, (const uint8 *) sketch, s.sketch_len))
	{
		mon_registry_restore_lost(r->dboid, s.count);
		r->lost++;
	}
	r->slots++;
	return true;
}

static bool
restore(Reader *r)
{
	for (;;)
	{
		uint8 type;
		bool ok;

		if (!get(r, &type, 1))
			return false;
		switch (type)
		{
			case RECORD_END:
				return r->p == r->end;
			case RECORD_DATABASE:
				ok = get_database(r);
				break;
			case RECORD_SERIES:
				ok = get_series(r);
				break;
			case RECORD_SLOT:
				ok = get_slot(r);
				break;
			default:
				ok = false;
		}
		if (!ok)
			return false;
	}
}

/* The whole file, palloc'd; NULL when there is none, or it cannot be read. */
static char *
read_file(size_t *len, bool *exists)
{
	FILE *file = AllocateFile(RESIDUE_FILE, PG_BINARY_R);
	struct stat st;
	char *data;

	*exists = file || errno != ENOENT;
	if (!file)
	{
		if (*exists)
			complain("read");
		return NULL;
	}
	if (fstat(fileno(file), &st) != 0)
	{
		complain("read");
		FreeFile(file);
		return NULL;
	}
	*len = st.st_size;
	data = palloc_extended(*len + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (!data || fread(data, 1, *len, file) != *len)
	{
		complain("read");
		data = NULL;
	}
	FreeFile(file);
	return data;
}

static bool
is_intact(const char *data, size_t len)
{
	uint32 magic;
	pg_crc32c crc, stored;

	if (len < sizeof(magic) + 1 + sizeof(stored))
		return false;
	memcpy(&magic, data, sizeof(magic));
	memcpy(&stored, data + len - sizeof(stored), sizeof(stored));
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, len - sizeof(stored));
	FIN_CRC32C(crc);
	return magic == RESIDUE_MAGIC && EQ_CRC32C(crc, stored);
}

/* Take over what the file holds; false when it is lost. */
static bool
restore_file(const char *data, size_t len)
{
	Reader r = {data + sizeof(uint32), data + len - sizeof(pg_crc32c), InvalidOid, NULL, 0, 0};

	if (!is_intact(data, len))
	{
		ereport(LOG,
				(errmsg("ignoring damaged file \"%s\"", RESIDUE_FILE),
				 errdetail("Metrics that were not flushed before the server stopped are lost.")));
		return false;
	}
	if (!restore(&r))
	{
		complain("understand");
		return false;
	}
	ereport(LOG,
			(errmsg("monitoring found %lld slots of metrics that the last stop left in memory",
					(long long) r.slots),
			 r.lost > 0 ? errdetail("%lld of them have no room in monitoring.shared_memory and are "
									"lost.",
									(long long) r.lost)
						: 0));
	return true;
}

/* Files that tell recovery to go on when the log at hand is at its end. */
static bool
signal_file(const char *name)
{
	struct stat st;

	return stat(name, &st) == 0;
}

MonStart
mon_residue_init(void)
{
	MonStart start = START_CLEAN;
	bool exists, intact;
	size_t len;
	char *data;

	if (IsUnderPostmaster)
		return start;
	if (signal_file(STANDBY_SIGNAL_FILE))
		start = START_STANDBY;
	else if (signal_file(RECOVERY_SIGNAL_FILE))
		start = START_RESTORE;
	else if (!stopped_cleanly())
		start = START_CRASH;

	on_shmem_exit(residue_save, (Datum) 0);
	data = read_file(&len, &exists);
	intact = data && restore_file(data, len);
	if (exists && !intact && start == START_CLEAN)
		start = START_RESIDUE;
	if (data)
		pfree(data);
	if (exists && durable_unlink(RESIDUE_FILE, LOG) != 0)
		complain("remove");
	return start;
}
