//! `omen.gpu_devices`: which GPUs sessions may use.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char, c_void};
use core::fmt;
use core::str::FromStr;
use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_guard, pg_sys};

/// The value of the setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum GpuDevices {
    /// Whatever there is.
    #[default]
    All,
    /// These, by the driver's numbers.
    Only(Vec<i32>),
}

impl GpuDevices {
    /// Whether the device of this number may be used.
    pub(crate) fn contains(&self, ordinal: i32) -> bool {
        match self {
            Self::All => true,
            Self::Only(ordinals) => ordinals.contains(&ordinal),
        }
    }
}

impl FromStr for GpuDevices {
    /// What is wrong, as a sentence.
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        if words.trim().eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let mut ordinals = Vec::new();
        for word in words.split(',').map(str::trim) {
            let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            match word.parse::<i32>() {
                Ok(ordinal) if is_number && !ordinals.contains(&ordinal) => ordinals.push(ordinal),
                Ok(ordinal) if is_number => {
                    return Err(format!("Device {ordinal} is named twice."));
                }
                _ => return Err(format!("\"{word}\" is not the number of a device.")),
            }
        }
        Ok(Self::Only(ordinals))
    }
}

impl fmt::Display for GpuDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(ordinals) => {
                let words: Vec<String> = ordinals.iter().map(i32::to_string).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

/// Defines the setting.
pub(super) fn define(setting: &'static GucSetting<Option<CString>>) {
    // SAFETY: the hook is guarded.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"omen.gpu_devices",
            c"GPUs that sessions may use.",
            c"'all', or numbers of devices as in '0,2'. Sessions spread over them.",
            setting,
            GucContext::Suset,
            GucFlags::default(),
            Some(check),
            None,
            None,
        );
    }
}

/// Refuses what is neither 'all' nor a list of numbers.
#[pg_guard]
unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes the new value, a string, which is not null since the default is none.
    let words = unsafe { CStr::from_ptr(*value) };
    let Err(wrong) = words.to_string_lossy().parse::<GpuDevices>() else {
        return true;
    };
    let detail = CString::new(wrong).unwrap_or_default();
    let hint =
        c"Write 'all', or numbers of devices with commas between, as omen_gpu_status() shows them.";
    // SAFETY: Postgres reports these when the hook returns, and frees nothing of them before.
    unsafe {
        let context = pg_sys::ErrorContext;
        pg_sys::GUC_check_errdetail_string = pg_sys::MemoryContextStrdup(context, detail.as_ptr());
        pg_sys::GUC_check_errhint_string = pg_sys::MemoryContextStrdup(context, hint.as_ptr());
    }
    false
}
