//! SQL types: what Postgres calls for input, output, casts, operators, functions and aggregates.
//!
//! One folder per type: [`vector`] and [`halfvec`], which share [`dense`], [`sparsevec`], and [`bit`] for functions on Postgres' own. [`function`] is
//! the calling convention shared by all of them, [`varlena`] the memory format, [`array`] Postgres' arrays, [`text`] and [`message`] the two
//! forms of input and output, [`modifier`] the dimension as a type's modifier, [`range`] numbers beyond one. Names, formats and errors are those of pgvector 0.8, so that drivers and
//! object mappers work unchanged. The SQL declarations are in `sql/`: each function `f` there names the C symbol
//! `f_wrapper`.

mod array;
pub(crate) mod bit;
pub(crate) mod dense;
mod function;
pub(crate) mod halfvec;
mod message;
mod modifier;
mod range;
pub(crate) mod sparsevec;
mod text;
mod varlena;
pub(crate) mod vector;
