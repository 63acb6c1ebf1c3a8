//! A tier of the server is loaded by another process, which can read the index's pages.
//!
//! The loader runs the ordinary [`TierBuilder`]; what writes for it is a [`RemoteWriter`], whose staging areas lie in memory that both
//! processes map and whose calls are commands to the server. There a thread of its own, the [`Host`], executes the commands of one load
//! at a time on a real engine and hands the tier over through a channel. So the server never reads an index, and searches go on.
//!
//! Loader: [`LoadRegion::room`], [`begin`], `load_centroids`, `load_lists`, [`finish`]; or, for lists of a tier that is there,
//! [`begin_refresh`], `load_lists`, [`finish`]. Dropping the builder instead cancels. Who wants to map a tier instead asks by [`export`].
//! Server: [`Host::start`], [`LoadRegion::set_room`] whenever tiers come and go, [`LoadRegion::release_of`] when a process is gone.
//!
//! | module | content |
//! |---|---|
//! | `region` | the memory's layout |
//! | `command`, `outcome` | forms of commands and of their answers |
//! | `link` | whose the region is: its states |
//! | `caller`, `remote` | the loader's end: commands given and waited for, the writer |
//! | `callee`, `host`, `writing` | the server's end: commands seen and answered, the thread, what it does |
//!
//! However a load ends, by its last command, an error, a cancelling or dying loader, a server that ends: the host's engine is dropped and
//! with it the device's memory, and the areas serve another load only when nobody writes to them any more (see `link`).

mod callee;
mod caller;
mod command;
mod host;
mod link;
mod outcome;
mod region;
mod remote;
#[cfg(all(test, feature = "simulated"))]
mod tests;
mod writing;

pub use command::Wanted;
pub use host::{Host, HostOptions, Loaded, OfTier, RoomFor};
#[cfg(doc)]
use omen_gpu::TierBuilder;
pub use region::{LoadRegion, RegionError, Room};
pub use remote::{Check, Finished, RemoteWriter, begin, begin_refresh, export, finish};
