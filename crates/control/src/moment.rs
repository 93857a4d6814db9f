//! A point in time, as the caller's clock has it.
//!
//! Whoever calls `step` says what time it is: milliseconds of a clock that never goes back and runs while the machine is
//! suspended (`CLOCK_BOOTTIME`). Moments of two nodes are never compared.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A point in time, ms after some beginning of the caller's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than anything.
    pub const NEVER: Self = Self(u64::MAX);

    /// That much later; parts of a millisecond are cut off.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How much later than another this is.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
