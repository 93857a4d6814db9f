//! Drift: links of a plan in force that somebody changed, what was found and what became of it.

use crate::LinkChange;
use network::Difference;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What became of a drift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "repair", rename_all = "kebab-case")]
pub enum Repair {
    /// It is still there, and was not tried to be mended yet: at once, or after a pause if it is contested.
    Due,
    /// The links are as planned again, read back.
    Mended {
        /// From when it was found, milliseconds.
        after_ms: u64,
        /// How long the repair that succeeded took, microseconds.
        duration_us: u64,
    },
    /// It could not be mended so far; it is tried again.
    Failed {
        /// How often it was tried.
        tries: u32,
        /// Why the last try failed.
        why: String,
    },
    /// It went away without a repair: somebody put it right, or another plan came.
    Gone,
}

impl Repair {
    /// Whether the drift is still there.
    pub fn stands(&self) -> bool {
        matches!(self, Self::Due | Self::Failed { .. })
    }
}

/// Something that was not as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Which, from 1, since the agent started.
    pub number: u64,
    /// When it was found: how long the machine had been up, milliseconds.
    pub found_at_ms: u64,
    /// What differed from the plan, the first 32 attributes.
    pub differences: Vec<Difference>,
    /// What the kernel had told between the last look that found all well and this one, the last 16 changes: when it happened, and
    /// what else happened with it. The kernel does not say who did it.
    pub changes: Vec<LinkChange>,
    /// Whether the same comes back again and again, so that its repair waits longer each time.
    pub contested: bool,
    /// What became of it.
    #[serde(flatten)]
    pub repair: Repair,
}

impl fmt::Display for Drift {
    /// What differs, and what became of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differences: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        write!(f, "{}: ", differences.join("; "))?;
        match &self.repair {
            Repair::Due => f.write_str("not mended yet")?,
            Repair::Mended { after_ms, .. } => write!(f, "mended after {after_ms} ms")?,
            Repair::Failed { tries, why } => write!(f, "not mended in {tries} tries: {why}")?,
            Repair::Gone => f.write_str("gone without a repair")?,
        }
        f.write_str(if self.contested { "; contested: something else keeps changing it" } else { "" })
    }
}

/// The drifts that an agent has found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drifts {
    /// How many, since the agent started; the number of the last one.
    pub count: u64,
    /// The last of them, the oldest first, at most 64.
    pub last: Vec<Drift>,
    /// Why the links can't be compared with the plan now: a NIC that it names is missing. Nothing is mended meanwhile.
    pub unable: Option<String>,
}

/// The drifts at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DriftGlance {
    /// How many were found, since the agent started.
    pub count: u64,
    /// How many of them are not mended.
    pub standing: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use network::Attribute;

    #[test]
    fn a_drift_reads_as_one_flat_object_and_as_a_sentence() {
        let difference = Difference {
            link: "tw-st711".parse().unwrap(),
            attribute: Attribute::Mtu,
            expected: "9000".to_owned(),
            found: "1400".to_owned(),
        };
        let drift = Drift {
            number: 3,
            found_at_ms: 91_000,
            differences: vec![difference],
            changes: Vec::new(),
            contested: true,
            repair: Repair::Failed { tries: 2, why: "EBUSY".to_owned() },
        };
        let json = serde_json::to_string(&drift).unwrap();
        insta::assert_snapshot!(json, @r#"{"number":3,"found_at_ms":91000,"differences":[{"link":"tw-st711","attribute":"mtu","expected":"9000","found":"1400"}],"changes":[],"contested":true,"repair":"failed","tries":2,"why":"EBUSY"}"#);
        assert_eq!(serde_json::from_str::<Drift>(&json).unwrap(), drift);
        insta::assert_snapshot!(drift, @"MTU of tw-st711 is 1400, not 9000: not mended in 2 tries: EBUSY; contested: something else keeps changing it");
        assert!(drift.repair.stands() && !Repair::Gone.stands());
    }
}
