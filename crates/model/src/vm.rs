//! A virtual machine as the ledger knows it.

use crate::{GroupName, VmName, VolumeId, ZoneName};
use serde::{Deserialize, Serialize};

/// Where a virtual machine may run. That a strict one has a home zone is in the type: one that never leaves "its zone" must have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPlacement {
    /// No home zone: where there is room. It stays where it is, and goes home nowhere.
    Anywhere,
    /// Non-strict: prefers this zone, fails over to the other one, and goes home.
    Prefers(ZoneName),
    /// Never leaves this zone.
    Strict(ZoneName),
}

impl VmPlacement {
    /// The home zone.
    pub const fn home(&self) -> Option<&ZoneName> {
        match self {
            Self::Anywhere => None,
            Self::Prefers(zone) | Self::Strict(zone) => Some(zone),
        }
    }

    /// Whether it may never run outside its home zone.
    pub const fn is_strict(&self) -> bool {
        matches!(self, Self::Strict(_))
    }
}

/// What a virtual machine was asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmSpec {
    /// Its name.
    pub name: VmName,
    /// Its memory, bytes: all of it is held as long as it runs.
    pub memory_bytes: u64,
    /// Its virtual processors.
    pub cores: u32,
    /// Where it may run.
    pub placement: VmPlacement,
    /// Those of one group are kept apart: in both racks where their homes leave the choice, and on different nodes.
    pub anti_affinity: Option<GroupName>,
    /// Its disks. No other virtual machine has any of them.
    pub volumes: Vec<VolumeId>,
}
