//! Commands as words.

use super::outcome::Reply;
use super::region::COMMAND_WORDS;
use crate::message::TierKey;
use bytemuck::Zeroable;
use omen_gpu::memory::Parts;
use omen_gpu::{Export, GpuError, MemoryHandle, TierList, TierSpec};
use omen_ivf::Metric;
use omen_ivf::params::{MAX_DIM, MAX_LISTS};

/// What shall be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What the tier is known by.
    pub key: TierKey,
    /// The index.
    pub spec: TierSpec,
    /// What the tier holds of its entries.
    pub parts: Parts,
    /// Entries it has room for.
    pub n_slots: u64,
    /// Bytes that tier and scratch may take; the server may allow less.
    pub byte_limit: u64,
    /// Whether it is worth tiers that are to go last.
    pub displaces_last: bool,
}

/// The tier that a refresh has found, besides its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) parts: Parts,
    pub(super) n_slots: u64,
    pub(super) byte_limit: u64,
}

impl Found {
    pub(super) fn encode(self) -> Reply {
        let mut reply = Reply::default();
        reply[..3].copy_from_slice(&[parts_number(self.parts), self.n_slots, self.byte_limit]);
        reply
    }

    /// Errors: `Other` for what is none.
    pub(super) fn decode(reply: Reply) -> Result<Self, GpuError> {
        Ok(Self {
            parts: parts_of(reply[0])?,
            n_slots: reply[1],
            byte_limit: reply[2],
        })
    }
}

/// A kind of index, as a number.
fn spec_number(spec: TierSpec) -> u64 {
    let rows = (spec.row_words as u64) << 16 | spec.dim as u64;
    (spec.metric as u64) << 56 | (spec.n_lists as u64) << 32 | rows
}

// Neither a dimension nor a row's words take more than 16 bits.
const _: () = assert!(MAX_DIM < 1 << 16 && MAX_LISTS < 1 << 24);

/// What a tier is mapped by, besides its lists; and the tier's number.
pub(super) fn encode_export(export: &Export, number: u64) -> Reply {
    let mut reply = Reply::default();
    let is_able = u64::from(export.has_centroids);
    let first = [parts_number(export.parts), export.n_slots, is_able, number];
    reply[..4].copy_from_slice(&first);
    reply[4..12].copy_from_slice(&export.handle.0);
    reply[12] = spec_number(export.spec);
    reply
}

/// The same, of an index of this kind and with these lists. Errors: `Other` for what is none, or of another kind.
pub(super) fn decode_export(
    reply: Reply,
    spec: TierSpec,
    lists: Vec<Option<TierList>>,
) -> Result<(u64, Export), GpuError> {
    if reply[12] != spec_number(spec) {
        return Err(GpuError::Other("the tier is of another index".into()));
    }
    let export = Export {
        handle: MemoryHandle(std::array::from_fn(|i| reply[4 + i])),
        spec,
        parts: parts_of(reply[0])?,
        n_slots: reply[1],
        lists,
        has_centroids: reply[2] != 0,
    };
    Ok((reply[3], export))
}

/// What the host is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Begin(Wanted),
    /// Lists of a tier that is there are to be replaced. The tier's go into [`LISTS_AREA`], the answer is a [`Found`].
    Refresh(TierKey),
    /// A tier that is there is to be mapped. Its lists go into [`LISTS_AREA`], the answer is what [`decode_export`] reads. The only command of its
    /// load.
    Export(TierKey),
    /// Copies parts of an area to the tier: `n_parts` places (`WritePart`) lie at byte `parts_at`, behind what they are about.
    Write {
        which: usize,
        parts_at: usize,
        n_parts: usize,
    },
    Unpack {
        which: usize,
        used: usize,
        items_at: usize,
        n_groups: usize,
        n_rows: usize,
    },
    EndWrites,
    Rotation {
        seed: u64,
    },
    /// The lists are in the area.
    Finish {
        which: usize,
        has_centroids: bool,
    },
}

const PARTS: [Parts; 3] = [Parts::Rows, Parts::RowsAndCodes, Parts::Codes];

fn parts_number(parts: Parts) -> u64 {
    match parts {
        Parts::Rows => 1,
        Parts::RowsAndCodes => 2,
        Parts::Codes => 3,
    }
}

fn parts_of(number: u64) -> Result<Parts, GpuError> {
    let parts = PARTS.into_iter().find(|p| parts_number(*p) == number);
    parts.ok_or_else(broken)
}

fn key_of(words: &[u64; COMMAND_WORDS]) -> TierKey {
    bytemuck::cast([words[1], words[2], words[3], words[4]])
}

fn broken() -> GpuError {
    GpuError::Other("a load command that is none".into())
}

impl Command {
    pub(super) fn encode(&self) -> [u64; COMMAND_WORDS] {
        let mut words = [0; COMMAND_WORDS];
        let mut put = |tag: u64, values: &[u64]| {
            words[0] = tag;
            words[1..=values.len()].copy_from_slice(values);
        };
        match *self {
            Self::Begin(wanted) => {
                let spec = wanted.spec;
                let [a, b, c, d]: [u64; 4] = bytemuck::cast(wanted.key);
                put(
                    1,
                    &[
                        a,
                        b,
                        c,
                        d,
                        spec.metric as u64,
                        spec.dim as u64,
                        spec.row_words as u64,
                        spec.n_lists as u64,
                        parts_number(wanted.parts),
                        wanted.n_slots,
                        wanted.byte_limit,
                        u64::from(wanted.displaces_last),
                    ],
                );
            }
            Self::Write {
                which,
                parts_at,
                n_parts,
            } => put(2, &[which, parts_at, n_parts].map(|x| x as u64)),
            Self::Unpack {
                which,
                used,
                items_at,
                n_groups,
                n_rows,
            } => put(
                3,
                &[which, used, items_at, n_groups, n_rows].map(|x| x as u64),
            ),
            Self::Refresh(key) => put(7, &bytemuck::cast::<TierKey, [u64; 4]>(key)),
            Self::Export(key) => put(8, &bytemuck::cast::<TierKey, [u64; 4]>(key)),
            Self::EndWrites => put(4, &[]),
            Self::Rotation { seed } => put(5, &[seed]),
            Self::Finish {
                which,
                has_centroids,
            } => put(6, &[which as u64, u64::from(has_centroids)]),
        }
        words
    }

    /// Whether it is the last of its load.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Finish { .. } | Self::Export(_))
    }

    /// Errors: `Other` for words that are none.
    pub(super) fn decode(words: &[u64; COMMAND_WORDS]) -> Result<Self, GpuError> {
        let size = |i: usize| usize::try_from(words[i]).map_err(|_| broken());
        Ok(match words[0] {
            1 => {
                let within = |i: usize, most: u32| {
                    let value = size(i)?;
                    let is_fine = value >= 1 && value <= most as usize;
                    is_fine.then_some(value).ok_or_else(broken)
                };
                let metric = u32::try_from(words[5]).ok().and_then(Metric::from_u32);
                Self::Begin(Wanted {
                    key: key_of(words),
                    spec: TierSpec {
                        metric: metric.ok_or_else(broken)?,
                        dim: within(6, MAX_DIM)?,
                        row_words: within(7, MAX_DIM)?,
                        n_lists: within(8, MAX_LISTS)?,
                    },
                    parts: parts_of(words[9])?,
                    n_slots: words[10],
                    byte_limit: words[11],
                    displaces_last: words[12] != 0,
                })
            }
            2 => Self::Write {
                which: size(1)?,
                parts_at: size(2)?,
                n_parts: size(3)?,
            },
            3 => Self::Unpack {
                which: size(1)?,
                used: size(2)?,
                items_at: size(3)?,
                n_groups: size(4)?,
                n_rows: size(5)?,
            },
            4 => Self::EndWrites,
            5 => Self::Rotation { seed: words[1] },
            6 => Self::Finish {
                which: size(1)?,
                has_centroids: words[2] != 0,
            },
            7 => Self::Refresh(key_of(words)),
            8 => Self::Export(key_of(words)),
            _ => return Err(broken()),
        })
    }
}

/// Lists are told in this area.
pub(super) const LISTS_AREA: usize = 0;
/// Bytes of a list among the lists at the end of a load. An area, 4 MB and more, holds those of any index.
pub(super) const LIST_BYTES: usize = size_of::<TierList>();
const _: () = assert!(MAX_LISTS as usize * LIST_BYTES <= 4 << 20);
/// First slot of a list that is not there.
const NO_LIST: u32 = u32::MAX;

pub(super) fn encode_list(list: &Option<TierList>) -> [u8; LIST_BYTES] {
    let mut none = TierList::zeroed();
    none.first_slot = NO_LIST;
    bytemuck::cast(list.unwrap_or(none))
}

pub(super) fn decode_list(bytes: &[u8; LIST_BYTES]) -> Option<TierList> {
    let list: TierList = bytemuck::pod_read_unaligned(bytes);
    (list.first_slot != NO_LIST).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omen_ivf::list_reader::AppendedTo;

    #[test]
    fn what_a_refresh_found_comes_back() {
        for parts in PARTS {
            let found = Found {
                parts,
                n_slots: 1 << 31,
                byte_limit: u64::MAX,
            };
            assert_eq!(Found::decode(found.encode()), Ok(found));
        }
        assert!(Found::decode(Reply::default()).is_err());
    }

    #[test]
    fn what_is_exported_comes_back() {
        let list = TierList {
            first_slot: 1,
            n_slots: 2,
            n_live: 11,
            n_room: 6,
            layout_gen: 3,
            delete_gen: 4,
            last_live: 10,
            appended: AppendedTo {
                block: 5,
                seq: 6,
                n_records: 7,
                delete_gen: 8,
                version: 9,
            },
        };
        assert_eq!(decode_list(&encode_list(&Some(list))), Some(list));
        assert_eq!(decode_list(&encode_list(&None)), None);
        let spec = TierSpec {
            metric: Metric::L2,
            dim: 5,
            row_words: 7,
            n_lists: 2,
        };
        for (parts, has_centroids) in PARTS.into_iter().zip([true, false, true]) {
            let export = Export {
                handle: MemoryHandle(std::array::from_fn(|i| u64::MAX - i as u64)),
                spec,
                parts,
                n_slots: 1 << 31,
                lists: vec![None, Some(list)],
                has_centroids,
            };
            let reply = encode_export(&export, 77);
            let decoded = decode_export(reply, spec, export.lists.clone());
            assert_eq!(decoded, Ok((77, export)));
        }
        let mut reply = Reply::default();
        assert!(decode_export(reply, spec, Vec::new()).is_err());
        reply[12] = spec_number(spec);
        assert!(decode_export(reply, spec, Vec::new()).is_err());
    }

    #[test]
    fn commands_come_back_and_others_are_refused() {
        let wanted = Wanted {
            key: TierKey {
                tablespace: 1,
                database: u32::MAX,
                number: 3,
                index: 0,
                seed: u64::MAX - 5,
                built_at: -6,
            },
            spec: TierSpec {
                metric: Metric::Cosine,
                dim: 768,
                row_words: 16_000,
                n_lists: 65_536,
            },
            parts: Parts::Codes,
            n_slots: 1 << 40,
            byte_limit: u64::MAX,
            displaces_last: true,
        };
        for command in [
            Command::Begin(wanted),
            Command::Write {
                which: 1,
                parts_at: 2,
                n_parts: 3,
            },
            Command::Unpack {
                which: 5,
                used: 6,
                items_at: 7,
                n_groups: 8,
                n_rows: 9,
            },
            Command::EndWrites,
            Command::Refresh(wanted.key),
            Command::Export(wanted.key),
            Command::Rotation { seed: 10 },
            Command::Finish {
                which: 11,
                has_centroids: true,
            },
        ] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        let mut words = Command::Begin(wanted).encode();
        for (at, broken) in [
            (0, 0),
            (0, 99),
            (5, 0),
            (6, 1 << 32),
            (6, 0),
            (7, 16_001),
            (8, 65_537),
            (9, 4),
        ] {
            let kept = std::mem::replace(&mut words[at], broken);
            assert!(Command::decode(&words).is_err(), "word {at}");
            words[at] = kept;
        }
    }
}
