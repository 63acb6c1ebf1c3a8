//! Session settings, prefix `omen.` (reserved by us). Read on the main thread only; algorithms get plain values.

mod effort;
mod gpu_devices;
mod pgvector;

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

pub(crate) use effort::{Effort, effort, recall};
pub(crate) use gpu_devices::GpuDevices;

use crate::{compat, gpu_service};

/// `omen.engine`: who searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
// SAFETY: none of ours; the derive writes an unsafe impl.
#[allow(unsafe_code)]
pub(crate) enum EngineSetting {
    /// Whoever is predicted to finish first.
    #[name = c"auto"]
    Auto,
    /// The GPU from the first search on; the CPU only when the GPU cannot.
    #[name = c"gpu"]
    Gpu,
    /// The CPU alone.
    #[name = c"cpu"]
    Cpu,
}

/// `omen.gpu_context`: whose GPU context answers searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
// SAFETY: none of ours; the derive writes an unsafe impl.
#[allow(unsafe_code)]
pub(crate) enum ContextSetting {
    /// The shared service's if it was preloaded, else the session's own.
    #[name = c"auto"]
    Auto,
    /// The shared service's.
    #[name = c"shared"]
    Shared,
    /// The session's own.
    #[name = c"backend"]
    Backend,
}

/// `omen.inject_fault`: a mistake that the service's processes, or those that build an index, are to make, in test builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
// SAFETY: none of ours; the derive writes an unsafe impl.
#[allow(unsafe_code)]
pub(crate) enum Fault {
    /// None.
    #[name = c"none"]
    None,
    /// It ends.
    #[name = c"exit"]
    Exit,
    /// It loses its device.
    #[name = c"lost"]
    Lost,
    /// It answers nothing.
    #[name = c"hang"]
    Hang,
    /// It does not come back from a call.
    #[name = c"stuck"]
    Stuck,
    /// It has no memory for searches and tiers.
    #[name = c"out_of_memory"]
    OutOfMemory,
    /// Its batches fail.
    #[name = c"fail_launch"]
    FailLaunch,
    /// Every other time, they do.
    #[name = c"flaky_launch"]
    FlakyLaunch,
    /// Loads take until this is over.
    #[name = c"slow_load"]
    SlowLoad,
    /// Loads fail.
    #[name = c"fail_load"]
    FailLoad,
    /// A session that builds an index loses its device in the middle of the training.
    #[name = c"lost_in_training"]
    LostInTraining,
    /// Or while it assigns rows.
    #[name = c"lost_in_assigning"]
    LostInAssigning,
    /// Or while it writes the index.
    #[name = c"lost_in_writing"]
    LostInWriting,
    /// Loaders end before they have begun.
    #[name = c"lose_loader"]
    LoseLoader,
}

/// `omen.iterative_scan`: what happens when more rows are asked for than the probed lists hold. pgvector's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
// SAFETY: none of ours; the derive writes an unsafe impl.
#[allow(unsafe_code)]
pub(crate) enum IterativeScan {
    /// The scan ends. In order, like `strict_order`.
    #[name = c"off"]
    Off,
    /// More lists are visited; rows nearer than those already returned are returned late.
    #[name = c"relaxed_order"]
    RelaxedOrder,
    /// More lists are visited; rows nearer than those already returned are left out.
    #[name = c"strict_order"]
    StrictOrder,
}

static ENGINE: GucSetting<EngineSetting> = GucSetting::<EngineSetting>::new(EngineSetting::Auto);
static GPU_CONTEXT: GucSetting<ContextSetting> =
    GucSetting::<ContextSetting>::new(ContextSetting::Auto);
static GPU_AUTOLOAD: GucSetting<bool> = GucSetting::<bool>::new(true);
static GPU_QUEUE_SLOTS: GucSetting<i32> = GucSetting::<i32>::new(0);
static PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);
static RECALL: GucSetting<f64> = GucSetting::<f64>::new(effort::DEFAULT_RECALL);
static ITERATIVE_SCAN: GucSetting<IterativeScan> =
    GucSetting::<IterativeScan>::new(IterativeScan::StrictOrder);
static MAX_SCAN_TUPLES: GucSetting<i32> = GucSetting::<i32>::new(0);
static ENABLE_SCAN: GucSetting<bool> = GucSetting::<bool>::new(true);
static SKIP_UNREAD_DISTANCES: GucSetting<bool> = GucSetting::<bool>::new(true);
static GPU_MEMORY_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(0);
static GPU_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);
static GPU_DEVICES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"all"));
#[cfg(feature = "simulated-gpu")]
static INJECT_FAULT: GucSetting<Fault> = GucSetting::<Fault>::new(Fault::None);
#[cfg(feature = "simulated-gpu")]
static SIMULATE_GPU: GucSetting<bool> = GucSetting::<bool>::new(false);
#[cfg(feature = "simulated-gpu")]
static STOP_BEFORE: GucSetting<i32> = GucSetting::<i32>::new(0);
#[cfg(feature = "simulated-gpu")]
static LOGGING_PAUSE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `omen.engine`.
pub(crate) fn engine() -> EngineSetting {
    ENGINE.get()
}

/// `omen.gpu_context`.
pub(crate) fn gpu_context() -> ContextSetting {
    GPU_CONTEXT.get()
}

/// `omen.gpu_autoload`.
pub(crate) fn gpu_autoload() -> bool {
    GPU_AUTOLOAD.get()
}

/// Fewer slots make no sense.
const MIN_QUEUE_SLOTS: usize = 8;

/// `omen.gpu_queue_slots`, which is a setting only if the library was preloaded; `None`: as many as there may be sessions.
pub(crate) fn gpu_queue_slots() -> Option<usize> {
    usize::try_from(GPU_QUEUE_SLOTS.get())
        .ok()
        .filter(|n| *n > 0)
        .map(|n| n.max(MIN_QUEUE_SLOTS))
}

/// `omen.iterative_scan`; at its default what is set for pgvector's indexes counts.
pub(crate) fn iterative_scan() -> IterativeScan {
    match ITERATIVE_SCAN.get() {
        IterativeScan::StrictOrder => {
            pgvector::iterative_scan().unwrap_or(IterativeScan::StrictOrder)
        }
        chosen => chosen,
    }
}

/// `omen.max_scan_tuples`: rows after which a scan ends; `None`: it goes on as long as rows are asked for.
pub(crate) fn max_scan_tuples() -> Option<u64> {
    let n = MAX_SCAN_TUPLES.get() as u64;
    (n > 0).then_some(n)
}

/// `omen.enable_scan`: whether the planner may use `omen` indexes.
pub(crate) fn enable_scan() -> bool {
    ENABLE_SCAN.get()
}

/// `omen.skip_unread_distances`: whether plans are made without distances that nobody reads.
pub(crate) fn skips_unread_distances() -> bool {
    SKIP_UNREAD_DISTANCES.get()
}

/// `omen.gpu_memory_limit` in bytes; `None`: a share of what is free.
pub(crate) fn gpu_memory_limit() -> Option<u64> {
    let mb = GPU_MEMORY_LIMIT.get() as u64;
    (mb > 0).then_some(mb << 20)
}

/// `omen.gpu_timeout`.
pub(crate) fn gpu_timeout() -> std::time::Duration {
    std::time::Duration::from_millis(GPU_TIMEOUT.get() as u64)
}

/// `omen.gpu_devices`.
pub(crate) fn gpu_devices() -> GpuDevices {
    let words = GPU_DEVICES.get();
    // The check hook lets nothing else through.
    words
        .and_then(|words| words.to_str().ok()?.parse().ok())
        .unwrap_or_default()
}

/// `omen.simulate_gpu`; always false in a normal build.
pub(crate) fn simulate_gpu() -> bool {
    #[cfg(feature = "simulated-gpu")]
    return SIMULATE_GPU.get();
    #[cfg(not(feature = "simulated-gpu"))]
    false
}

/// `omen.inject_fault`; always none in a normal build.
pub(crate) fn inject_fault() -> Fault {
    #[cfg(feature = "simulated-gpu")]
    return INJECT_FAULT.get();
    #[cfg(not(feature = "simulated-gpu"))]
    Fault::None
}

/// `omen.stop_before`.
#[cfg(feature = "simulated-gpu")]
pub(crate) fn stop_before() -> i32 {
    STOP_BEFORE.get()
}

/// `omen.logging_pause`.
#[cfg(feature = "simulated-gpu")]
pub(crate) fn logging_pause() -> std::time::Duration {
    std::time::Duration::from_millis(LOGGING_PAUSE.get().max(0) as u64)
}

/// Defines the settings; called once, from `_PG_init`.
pub(crate) fn define() {
    GucRegistry::define_enum_guc(
        c"omen.engine",
        c"Chooses who searches omen indexes.",
        c"auto: whoever is predicted to finish first; gpu: the GPU where it can; cpu: never the GPU.",
        &ENGINE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"omen.probes",
        c"Number of lists visited by a search of an omen index.",
        c"0 visits as many as omen.recall needs, by the calibration stored in the index.",
        &PROBES,
        0,
        65_536,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"omen.recall",
        c"Share of the true nearest rows a search of an omen index should find.",
        c"Used when omen.probes is 0.",
        &RECALL,
        0.01,
        1.0,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"omen.iterative_scan",
        c"Chooses what a search does when more rows are asked for than the visited lists hold.",
        c"off: it ends; strict_order: it visits more lists and keeps the order; relaxed_order: it visits more lists and returns nearer rows late.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"omen.max_scan_tuples",
        c"Number of rows after which a search of an omen index ends.",
        c"Bounds time and memory of searches whose WHERE clause matches little. 0 sets no bound.",
        &MAX_SCAN_TUPLES,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"omen.enable_scan",
        c"Enables the planner's use of omen indexes.",
        c"",
        &ENABLE_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_bool_guc(
        c"omen.skip_unread_distances",
        c"Leaves distances that an omen index orders by and a query does not return out of its plan.",
        c"EXPLAIN VERBOSE shows NULL in their place.",
        &SKIP_UNREAD_DISTANCES,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"omen.gpu_memory_limit",
        c"Device memory that the hot tiers of one session may take.",
        c"0 takes up to 80 % of what is free.",
        &GPU_MEMORY_LIMIT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"omen.gpu_timeout",
        c"Time after which a search gives up the GPU and continues on the CPU.",
        c"",
        &GPU_TIMEOUT,
        1,
        3_600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"omen.gpu_context",
        c"Chooses whose GPU context answers searches.",
        c"auto: the shared service's if pg_omen is in shared_preload_libraries, else the session's own; shared; backend.",
        &GPU_CONTEXT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"omen.gpu_autoload",
        c"Loads indexes that were on the GPU before a restart again when the shared GPU service starts.",
        c"",
        &GPU_AUTOLOAD,
        GucContext::Sighup,
        GucFlags::default(),
    );
    if gpu_service::is_preloading() {
        GucRegistry::define_int_guc(
            c"omen.gpu_queue_slots",
            c"Number of searches that may wait for the shared GPU service.",
            c"Zero: one for each connection and parallel worker, at most 1024. Takes 128 kB of shared memory each. A search that finds none free is answered by the CPU.",
            &GPU_QUEUE_SLOTS,
            0,
            1024,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    gpu_devices::define(&GPU_DEVICES);
    #[cfg(feature = "simulated-gpu")]
    GucRegistry::define_bool_guc(
        c"omen.simulate_gpu",
        c"Keeps hot tiers in host memory and searches them by the kernels' CPU twins (test builds only).",
        c"",
        &SIMULATE_GPU,
        GucContext::Suset,
        GucFlags::default(),
    );
    #[cfg(feature = "simulated-gpu")]
    GucRegistry::define_enum_guc(
        c"omen.inject_fault",
        c"Mistake that processes which use the GPU are to make (test builds only).",
        c"",
        &INJECT_FAULT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    #[cfg(feature = "simulated-gpu")]
    GucRegistry::define_int_guc(
        c"omen.stop_before",
        c"Number of the change of an index's pages before which the session's process stops until SIGCONT (test builds only).",
        c"Counted in each statement; zero: it does not stop.",
        &STOP_BEFORE,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    #[cfg(feature = "simulated-gpu")]
    GucRegistry::define_int_guc(
        c"omen.logging_pause",
        c"Milliseconds that a parallel worker of a build waits before it logs some pages (test builds only).",
        c"Zero: it does not wait.",
        &LOGGING_PAUSE,
        0,
        10_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    compat::reserve_setting_prefix(c"omen");
}
