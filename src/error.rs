//! Errors a user may see: SQLSTATE, message, detail and hint.
//!
//! Code below the SQL surface returns [`Result`]; the outermost callback of Postgres raises the error.
//! Raising unwinds the Rust stack first, so destructors run before Postgres takes over.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What the functions of the extension return.
pub(crate) type Result<T> = core::result::Result<T, PgError>;

/// A report for the user, before it is raised. The message shows the numbers; detail and hint are whole sentences.
///
/// One pointer wide: a `Result` stays small where functions run once per row.
#[derive(Debug)]
pub(crate) struct PgError(Box<Report>);

#[derive(Debug)]
struct Report {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl PgError {
    /// An error with its SQLSTATE and message.
    #[cold]
    pub(crate) fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            code,
            message: message.into(),
            detail: None,
            hint: None,
        }))
    }

    /// Adds the DETAIL line.
    #[must_use]
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds the HINT line.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Raises the error: the transaction aborts, the call does not return.
    #[cold]
    #[track_caller]
    pub(crate) fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR);
        unreachable!("a report at ERROR returned")
    }

    /// Reports at `level`; returns only for levels below ERROR (NOTICE, WARNING, LOG, ...).
    #[cold]
    #[track_caller]
    pub(crate) fn report(self, level: PgLogLevel) {
        let Report {
            code,
            message,
            detail,
            hint,
        } = *self.0;
        let mut report = ErrorReport::new(code, message, "pg_omen");
        if let Some(detail) = detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = hint {
            report = report.set_hint(hint);
        }
        report.report(level);
    }
}

impl core::fmt::Display for PgError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// What the index reports, as the user sees it.
impl From<omen_ivf::IvfError> for PgError {
    #[cold]
    fn from(error: omen_ivf::IvfError) -> Self {
        use omen_ivf::IvfError;
        let code = match &error {
            IvfError::Corrupt { .. } | IvfError::Version { .. } => {
                PgSqlErrorCode::ERRCODE_INDEX_CORRUPTED
            }
            IvfError::Dimension { .. } => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
            IvfError::Elements { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            _ => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        };
        let report = Self::new(code, error.to_string());
        match error {
            IvfError::Corrupt { .. } => report.with_hint("REINDEX the index."),
            IvfError::Version { .. } => report
                .with_hint("Install the version of pg_omen that wrote it, or REINDEX the index."),
            _ => report,
        }
    }
}

/// What the interface to SQL says itself; errors of the statements are Postgres's own, and unwind.
impl From<pgrx::spi::SpiError> for PgError {
    fn from(error: pgrx::spi::SpiError) -> Self {
        Self::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, error.to_string())
    }
}
