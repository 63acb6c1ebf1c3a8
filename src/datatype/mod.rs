//! SQL types: what Postgres calls for input, output, casts, operators, functions and aggregates.
//!
//! One folder per type ([`vector`]); [`function`] is the calling convention shared by all of them, [`varlena`] the
//! memory format, [`array`] Postgres' arrays. Names, formats and errors are those of pgvector 0.8, so that drivers and
//! object mappers work unchanged. The SQL declarations are in `sql/`: each function `f` there names the C symbol
//! `f_wrapper`.

mod array;
mod function;
mod pgvector;
mod varlena;
pub(crate) mod vector;

pub(crate) use array::elements_of;
