//! Format version 1: what every page of an index holds, byte by byte. See README.md beside this file.

pub mod append;
pub mod directory;
pub mod group;
pub mod map;
pub mod meta;
pub mod page;
pub mod size;
pub mod streams;
