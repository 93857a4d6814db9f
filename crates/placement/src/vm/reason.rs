//! Why a node can't have a virtual machine, and a plan in words.

use super::{Because, Plan, Reasons, Vms};
use model::{VmId, ZoneName};
use std::fmt;

/// Why a node can't have a virtual machine. If more is true than one, the first of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is outside the zone that the virtual machine never leaves.
    OutsideZone,
    /// It is down.
    Down,
    /// It is being drained.
    Drains,
    /// It has not enough left beside those that run there, are put there, or have not left yet.
    Lacks {
        /// Of memory, how much more it would take.
        bytes: u64,
        /// Of virtual processors, how many more.
        cores: u64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideZone => f.write_str("is outside its zone"),
            Self::Down => f.write_str("is down"),
            Self::Drains => f.write_str("is being drained"),
            Self::Lacks { bytes, cores } => write!(f, "lacks {}", amount(*bytes, *cores)),
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeLost => "its node is lost",
            Self::Starts => "it is off",
            Self::OutsideZone => "it is strict and outside its zone",
            Self::NodeDrains => "its node is being drained",
            Self::GoesHome => "its home is ready",
        })
    }
}

impl Plan {
    /// The plan in words, a line for each virtual machine: what moves in its order, then the others by id.
    pub fn told(&self, vms: &Vms) -> String {
        let named = |vm: VmId| match vms.get(&vm) {
            Some(found) => format!("{vm} `{}`", found.spec.name),
            None => vm.to_string(),
        };
        let mut lines = Vec::new();
        for moved in &self.moves {
            let from = moved.from.map_or(String::new(), |node| format!(" from {node}"));
            lines.push(format!("{} goes{from} to {}: {}", named(moved.vm), moved.to, moved.because));
        }
        lines.extend(self.stays.iter().map(|(vm, node)| format!("{} stays on {node}", named(*vm))));
        for (vm, held) in &self.held {
            let (on, because) = (held.on, held.because);
            lines.push(format!(
                "{} should leave {on} ({because}) but can't: {}",
                named(*vm),
                told(&held.reasons)
            ));
        }
        for (vm, off) in &self.off {
            lines.push(format!("{} does not run: {}", named(*vm), told(&off.reasons)));
        }
        lines.join("\n")
    }
}

/// So much memory, so many virtual processors, or both.
pub(super) fn amount(bytes: u64, cores: u64) -> String {
    let memory = (bytes > 0).then(|| format!("{bytes} bytes of memory"));
    let cores = match cores {
        0 => None,
        1 => Some("1 virtual core".to_owned()),
        cores => Some(format!("{cores} virtual cores")),
    };
    memory.into_iter().chain(cores).collect::<Vec<_>>().join(" and ")
}

/// All reasons in one line.
pub(super) fn told(reasons: &Reasons) -> String {
    if reasons.is_empty() {
        return "there is no node".to_owned();
    }
    reasons.iter().map(|(node, why)| format!("{node} {why}")).collect::<Vec<_>>().join("; ")
}

/// A zone, or neither, as a condition.
pub(super) fn without(lost: Option<&ZoneName>) -> String {
    lost.map_or_else(|| "with both racks".to_owned(), |zone| format!("without {zone}"))
}
