//! Which indexes can answer the searches that a given one answers.

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{PgError, Result};
use crate::privilege;

/// An index that takes part.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    /// The index.
    pub index: pg_sys::Oid,
    /// Its access method.
    pub access_method: String,
}

/// What is searched, and by whom.
pub(super) struct Search {
    /// The table.
    pub table: pg_sys::Oid,
    /// Type of the indexed column.
    pub value_type: pg_sys::Oid,
    /// The statement, whose parameter is a query of that type: ctid and distance of the nearest rows.
    pub statement: String,
    /// The index that was asked about, then those that can answer the same, by name.
    pub rivals: Vec<Rival>,
}

/// The facts of index $1 that make up its searches.
const SEARCH: &str = "
    SELECT x.indrelid, c.opcintype, x.indisvalid,
        pg_catalog.pg_get_indexdef(x.indexrelid, 1, false) || ' OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ') $1',
        x.indrelid::pg_catalog.regclass::text, pg_catalog.pg_get_expr(x.indpred, x.indrelid),
        x.indexprs IS NOT NULL OR x.indpred IS NOT NULL, i.relowner
    FROM pg_catalog.pg_index x
        JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid AND i.relkind = 'i'
        JOIN pg_catalog.pg_opclass c ON c.oid = x.indclass[0]
        JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype AND p.amoppurpose = 'o' AND p.amopstrategy = 1
        JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE x.indexrelid = $1";

/// Valid indexes of the same table, expression, ordering operator and predicate as $1; itself first.
const RIVALS: &str = "
    SELECT y.indexrelid, a.amname::text
    FROM pg_catalog.pg_index x
        JOIN pg_catalog.pg_opclass xc ON xc.oid = x.indclass[0]
        JOIN pg_catalog.pg_amop xp ON xp.amopfamily = xc.opcfamily AND xp.amoplefttype = xc.opcintype AND xp.amoppurpose = 'o' AND xp.amopstrategy = 1
        JOIN pg_catalog.pg_index y ON y.indrelid = x.indrelid
        JOIN pg_catalog.pg_class i ON i.oid = y.indexrelid
        JOIN pg_catalog.pg_am a ON a.oid = i.relam
        JOIN pg_catalog.pg_opclass yc ON yc.oid = y.indclass[0]
        JOIN pg_catalog.pg_amop yp ON yp.amopfamily = yc.opcfamily AND yp.amopopr = xp.amopopr AND yp.amoppurpose = 'o'
    WHERE x.indexrelid = $1 AND y.indisvalid
        AND pg_catalog.pg_get_indexdef(y.indexrelid, 1, false) = pg_catalog.pg_get_indexdef(x.indexrelid, 1, false)
        AND pg_catalog.pg_get_expr(y.indpred, y.indrelid) IS NOT DISTINCT FROM pg_catalog.pg_get_expr(x.indpred, x.indrelid)
    ORDER BY y.indexrelid <> x.indexrelid, i.relname";

impl Search {
    /// The searches for the `k` nearest rows that `index` answers. Errors: it is not an index that orders by a distance, or not valid.
    pub(super) fn of(client: &SpiClient, index: pg_sys::Oid, k: usize) -> Result<Self> {
        let argument = [DatumWithOid::from(index)];
        let facts = client.select(SEARCH, Some(1), &argument)?;
        let Some(facts) = facts.into_iter().next() else {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!(
                    "{} is not an index that orders rows by a distance",
                    index.to_u32()
                ),
            )
            .with_hint("Name an omen, hnsw or ivfflat index of a table, or of a partition."));
        };
        let text = |ordinal| -> Result<Option<String>> { Ok(facts.get::<String>(ordinal)?) };
        let oid = |ordinal| -> Result<pg_sys::Oid> {
            Ok(facts
                .get::<pg_sys::Oid>(ordinal)?
                .unwrap_or(pg_sys::InvalidOid))
        };
        if facts.get::<bool>(3)? != Some(true) {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the index is not valid",
            )
            .with_hint("REINDEX it, or wait until it is built."));
        }
        let computes = facts.get::<bool>(7)? == Some(true);
        if computes && !privilege::acts_for(oid(8)?) {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "the index has expressions or a predicate, and belongs to somebody else",
            )
            .with_hint("What they call would run with your rights: SET ROLE to the owner first."));
        }
        let distance = text(4)?.unwrap_or_default();
        let filter = text(6)?.map_or(String::new(), |filter| format!(" WHERE {filter}"));
        let statement = format!(
            "SELECT ctid, {distance} FROM ONLY {}{filter} ORDER BY {distance} LIMIT {k}",
            text(5)?.unwrap_or_default()
        );
        let rivals = client
            .select(RIVALS, None, &argument)?
            .map(|row| {
                Ok(Rival {
                    index: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                    access_method: row.get::<String>(2)?.unwrap_or_default(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            table: oid(1)?,
            value_type: oid(2)?,
            statement,
            rivals,
        })
    }
}
