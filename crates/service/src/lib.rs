//! The shared GPU service, without Postgres: one process (the server) owns the GPU and the hot tiers, others (clients) search through memory
//! that all of them map.
//!
//! A client puts one query into a slot of the queue; the server takes all that are ready, searches those that can be one batch in one call of
//! the device, and writes the answers into the slots. So batches grow with the load by themselves: what arrives while one runs is the next.
//!
//! | module | content |
//! |---|---|
//! | `queue` | the memory's layout: slots and their states; fair shares of them |
//! | `client` | claiming a slot, waiting, giving up |
//! | `message` | the forms of requests and answers |
//! | `take` | which of the ready requests are taken |
//! | `serve` | the server: tiers, batches, answers |
//! | `indexes` | figures of each index, and whether its tier goes last |
//! | `load` | a tier of the server is loaded by another process |

pub mod changes;
pub mod client;
pub mod indexes;
pub mod load;
pub mod message;
pub mod queue;
pub mod serve;
pub mod take;
