//! The loader's end: a tier is written by commands to the server.
//!
//! A command is given and not waited for: its outcome comes with the next one, so that one area is sent while the next is filled.

#![allow(unsafe_code)]

use super::caller::Caller;
use super::command::{
    Command, Found, LIST_BYTES, LISTS_AREA, Wanted, decode_export, decode_list, encode_list,
};
use super::outcome::Reply;
use super::region::LoadRegion;
use crate::message::TierKey;
use omen_gpu::context::Wait;
use omen_gpu::engine::{LoadShape, TierWriter, Unpack, WritePart};
use omen_gpu::memory::TierPlan;
use omen_gpu::{Copiers, Export, GpuError, Refresh, TierBuilder, TierList, TierSpec, Written};
use omen_ivf::rotation::Rotation;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Longest wait for the host, which itself waits less for the device.
const DEADLINE: Duration = Duration::from_secs(20);

/// Asked every now and then while a load waits for the server: an error, such as `Interrupted`, ends the wait, not the load.
pub type Check = Box<dyn FnMut() -> Result<(), GpuError> + Send>;

/// Begins to load a tier of the server. `owner`: who loads, for [`LoadRegion::release_of`]. The builder is used as any other, and
/// ended by [`finish`]; dropping it cancels.
///
/// Errors: `Busy` while another tier is loaded, `OutOfMemory` with what is needed and there, `Lost` without a server, `TimedOut`, and
/// what `check` says.
pub fn begin(
    region: &LoadRegion,
    owner: u32,
    wanted: Wanted,
    copiers: Copiers,
    check: Check,
) -> Result<TierBuilder<RemoteWriter>, GpuError> {
    let plan = TierPlan::new(&wanted.spec, wanted.parts, wanted.n_slots)?;
    let mut writer = RemoteWriter::open(region, owner, check)?;
    writer.has_codes = wanted.parts.codes();
    writer.ask(None, Command::Begin(wanted))?;
    let (writer, limit) = (Box::new(writer), wanted.byte_limit);
    Ok(TierBuilder::over(writer, wanted.spec, plan, limit, copiers))
}

/// Begins to refresh lists of a tier that the server has: those that are loaded replace those of the same number, while the tier is being
/// searched, when [`finish`] ends it. The builder knows the tier's lists.
///
/// Errors: as for [`begin`]; `Unsupported` if the server has no such tier.
pub fn begin_refresh(
    region: &LoadRegion,
    owner: u32,
    key: &TierKey,
    spec: TierSpec,
    copiers: Copiers,
    check: Check,
) -> Result<TierBuilder<RemoteWriter>, GpuError> {
    let mut writer = RemoteWriter::open(region, owner, check)?;
    let reply = writer.ask(Some(LISTS_AREA), Command::Refresh(*key))?;
    let Found {
        parts,
        n_slots,
        byte_limit,
    } = Found::decode(reply)?;
    writer.has_codes = parts.codes();
    let plan = TierPlan::new(&spec, parts, n_slots)?;
    let lists = writer.lists_told(spec.n_lists)?;
    let refresh = Refresh {
        writer: Box::new(writer),
        spec,
        plan,
        byte_limit,
        lists,
    };
    TierBuilder::refresh(refresh, copiers)
}

/// What a tier that the server has is mapped by, and its number, which it has until its lists change.
///
/// Before this is called the process must have said, where the server looks, that it maps the tier: see [`crate::serve::Server::export`]. Errors: as for
/// [`begin`]; `Unsupported` if the server has no such tier, or does not export it.
pub fn export(
    region: &LoadRegion,
    owner: u32,
    key: &TierKey,
    spec: TierSpec,
    check: Check,
) -> Result<(u64, Export), GpuError> {
    let mut writer = RemoteWriter::open(region, owner, check)?;
    let reply = writer.ask(Some(LISTS_AREA), Command::Export(*key))?;
    let lists = writer.lists_told(spec.n_lists)?;
    decode_export(reply, spec, lists)
}

/// The server has been sent a tier. Until this is dropped nobody else loads: who looks for the tier before the server has taken it over finds
/// neither it nor, without this, who loads it.
pub struct Finished {
    _writer: Box<RemoteWriter>,
}

/// Copies what is left and has the server take the tier, or the lists of one. Errors: those of any command; then the server has no new tier.
pub fn finish(builder: TierBuilder<RemoteWriter>) -> Result<Finished, GpuError> {
    let Written {
        mut writer,
        lists,
        has_centroids,
        ..
    } = builder.end()?;
    writer.finish(&lists, has_centroids)?;
    Ok(Finished { _writer: writer })
}

/// Writes a tier of the server.
pub struct RemoteWriter {
    region: LoadRegion,
    caller: Caller,
    check: Check,
    /// The command whose outcome has not come, and the area that it is about.
    pending: Option<Option<usize>>,
    /// What ended the load.
    failed: Option<GpuError>,
    has_codes: bool,
}

/// Calls `f` with the bounds of a wait that the caller did not bound.
fn bounded<R>(f: impl FnOnce(&mut Wait<'_>) -> R) -> R {
    f(&mut Wait {
        until: Instant::now() + DEADLINE,
        poll: &mut || Ok(()),
    })
}

impl RemoteWriter {
    fn open(region: &LoadRegion, owner: u32, mut check: Check) -> Result<Self, GpuError> {
        let caller = Caller::open(*region, owner, check.as_mut())?;
        Ok(Self {
            region: *region,
            caller,
            check,
            pending: None,
            failed: None,
            has_codes: false,
        })
    }

    /// Waits for the outcome of the command under way; what it was answered.
    fn settle(&mut self, wait: &mut Wait<'_>) -> Result<Reply, GpuError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.pending.is_none() {
            return Ok(Reply::default());
        }
        let outcome = self.caller.outcome(wait, self.check.as_mut())?;
        self.pending = None;
        self.note(outcome)
    }

    /// Gives a command, about this area, when the one before is done.
    fn post(&mut self, area: Option<usize>, command: Command) -> Result<(), GpuError> {
        bounded(|wait| self.settle(wait))?;
        let outcome = self.caller.post(&command);
        self.note(outcome)?;
        self.pending = Some(area);
        Ok(())
    }

    /// The same, and waits until it is done.
    fn ask(&mut self, area: Option<usize>, command: Command) -> Result<Reply, GpuError> {
        self.post(area, command)?;
        bounded(|wait| self.settle(wait))
    }

    /// The lists that the server has put into their area.
    fn lists_told(&mut self, n_lists: usize) -> Result<Vec<Option<TierList>>, GpuError> {
        let (lists, _) = self.stage_open(LISTS_AREA)?.as_chunks::<LIST_BYTES>();
        Ok(lists.iter().take(n_lists).map(decode_list).collect())
    }

    fn note<T>(&mut self, outcome: Result<T, GpuError>) -> Result<T, GpuError> {
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
        }
        outcome
    }

    fn finish(&mut self, lists: &[Option<TierList>], has_centroids: bool) -> Result<(), GpuError> {
        let which = LISTS_AREA;
        let area = bounded(|wait| self.stage(which, wait))?;
        let places = area.chunks_exact_mut(LIST_BYTES);
        for (place, list) in places.zip(lists) {
            place.copy_from_slice(&encode_list(list));
        }
        let command = Command::Finish {
            which,
            has_centroids,
        };
        self.ask(Some(which), command).map(|_| ())
    }
}

impl TierWriter for RemoteWriter {
    /// The areas are the region's.
    fn set_load_shape(&mut self, shape: LoadShape) -> LoadShape {
        LoadShape {
            n_areas: self.region.n_areas(),
            area_bytes: self.region.area_bytes(),
            ..shape
        }
    }

    fn make_stage(&mut self, which: usize) -> Result<(), GpuError> {
        self.region.area(which).map(|_| ())
    }

    fn stage(&mut self, which: usize, wait: &mut Wait<'_>) -> Result<&mut [u8], GpuError> {
        // All commands but the last have been executed, and no area is read after its command.
        if self.failed.is_some() || self.pending == Some(Some(which)) {
            self.settle(wait)?;
        }
        self.stage_open(which)
    }

    fn stage_open(&mut self, which: usize) -> Result<&mut [u8], GpuError> {
        if self.pending == Some(Some(which)) {
            return Err(GpuError::Other("the staging area is being sent".into()));
        }
        let start = self.region.area(which)?;
        // SAFETY: within the region, which is there while it is used; while the load is open, and until its writer is dropped, the host
        // reads an area only during a command about it, and no other load begins. The slice borrows the one writer.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, self.region.area_bytes()) })
    }

    fn write_tier(&mut self, which: usize, range: Range<usize>, at: usize) -> Result<(), GpuError> {
        let part = WritePart {
            start: range.start as u64,
            len: range.len() as u64,
            at: at as u64,
        };
        self.write_parts(which, range.end, &[part])
    }

    fn write_parts(
        &mut self,
        which: usize,
        used: usize,
        parts: &[WritePart],
    ) -> Result<(), GpuError> {
        let parts_at = used.next_multiple_of(size_of::<u64>());
        let bytes: &[u8] = bytemuck::cast_slice(parts);
        let place = self.stage_open(which)?.get_mut(parts_at..);
        let Some(place) = place.and_then(|place| place.get_mut(..bytes.len())) else {
            return Err(GpuError::Other("no room for the places of parts".into()));
        };
        place.copy_from_slice(bytes);
        let command = Command::Write {
            which,
            parts_at,
            n_parts: parts.len(),
        };
        self.post(Some(which), command)
    }

    fn unpack(&mut self, which: usize, work: &Unpack) -> Result<(), GpuError> {
        let command = Command::Unpack {
            which,
            used: work.used,
            items_at: work.items_at,
            n_groups: work.groups.n,
            n_rows: work.rows.n,
        };
        self.post(Some(which), command)
    }

    fn end_writes(&mut self, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        self.post(None, Command::EndWrites)?;
        self.settle(wait).map(|_| ())
    }

    fn set_rotation(&mut self, rotation: &Rotation, wait: &mut Wait<'_>) -> Result<(), GpuError> {
        if !self.has_codes {
            return Ok(());
        }
        let seed = rotation.seed();
        self.post(None, Command::Rotation { seed })?;
        self.settle(wait).map(|_| ())
    }
}
