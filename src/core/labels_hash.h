/*-------------------------------------------------------------------------
 *
 * labels_hash.h
 *	  A hash table by sets of labels: jsonb that is equal byte for byte.
 *
 * Functions are static inline, as simplehash.h makes them: labels_create(),
 * labels_insert(), labels_lookup() and so on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_LABELS_HASH_H
#define MONITORING_LABELS_HASH_H

#include "common/hashfn.h"
#include "utils/jsonb.h"

typedef struct LabelsEntry
{
	Jsonb *labels; /* hash key */
	int no;        /* the user's */
	uint32 hash;
	char status;
} LabelsEntry;

static inline bool
labels_same(const Jsonb *a, const Jsonb *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

#define SH_PREFIX labels
#define SH_ELEMENT_TYPE LabelsEntry
#define SH_KEY_TYPE Jsonb *
#define SH_KEY labels
#define SH_HASH_KEY(tb, k) hash_bytes((const unsigned char *) (k), VARSIZE(k))
#define SH_EQUAL(tb, a, b) labels_same(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#endif /* MONITORING_LABELS_HASH_H */
