//! The networks that virtual machines may be in: the compute VLANs of the plan that nodes are on.
//!
//! Invariants: no NIC is asked for in a VLAN that no node's plan lets virtual machines be in: a storage VLAN, or management's where that is not meant.
//!
//! On failure: [`NotConnected`]; nothing is asked for.

use crate::Member;
use futures_util::future::join_all;
use model::{VlanId, VmNic};
use std::time::Duration;
use tokio::time::timeout;

/// How long a node may take to say it.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why a virtual machine can't be where its NICs shall be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotConnected {
    /// Nobody says which VLANs there are.
    #[error("no node that answers is on a network plan with a compute VLAN")]
    Unknown,
    /// Not for virtual machines.
    #[error("VLAN {vlan} is none for virtual machines: those are {}", in_words(.known))]
    NotCompute {
        /// Which.
        vlan: VlanId,
        /// Those that are.
        known: Vec<VlanId>,
    },
    /// More than one may have.
    #[error("a virtual machine has {max} NICs at most, not {0}", max = VmNic::MAX)]
    TooMany(usize),
}

impl NotConnected {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unknown => {
                "give the template `compute.vlans`, and deploy it; or make the virtual machine without a NIC"
            }
            Self::NotCompute { .. } => "take one of those, or add it to `compute.vlans` of the template",
            Self::TooMany(_) => "let several of its networks share a NIC",
        }
    }
}

fn in_words(vlans: &[VlanId]) -> String {
    vlans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The VLANs that virtual machines may be in, as the first node says that is on a plan with any; the first is the cluster's own choice.
pub async fn compute_vlans(members: &[Member]) -> Vec<VlanId> {
    let asked = members.iter().map(|member| timeout(ANSWER_MAX, member.client.network()));
    let answers = join_all(asked).await.into_iter().flatten().flatten();
    answers.map(|state| state.compute_vlans).find(|vlans| !vlans.is_empty()).unwrap_or_default()
}

/// NICs as they are asked for: one that names no VLAN is in the cluster's first. Pure.
pub fn nics(asked: &[Option<VlanId>], known: &[VlanId]) -> Result<Vec<VmNic>, NotConnected> {
    let first = known.first().copied().ok_or(NotConnected::Unknown);
    let nic = |asked: &Option<VlanId>| Ok(VmNic { vlan: asked.map_or(first.clone(), Ok)? });
    let nics: Vec<VmNic> = asked.iter().map(nic).collect::<Result<_, _>>()?;
    may_be(&nics, known)?;
    Ok(nics)
}

/// Whether these are for virtual machines. Pure.
pub(super) fn may_be(nics: &[VmNic], known: &[VlanId]) -> Result<(), NotConnected> {
    if nics.len() > VmNic::MAX {
        return Err(NotConnected::TooMany(nics.len()));
    }
    match nics.iter().find(|nic| !known.contains(&nic.vlan)) {
        None => Ok(()),
        Some(_) if known.is_empty() => Err(NotConnected::Unknown),
        Some(VmNic { vlan }) => Err(NotConnected::NotCompute { vlan: *vlan, known: known.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(id: &str) -> VlanId {
        id.parse().unwrap()
    }

    #[test]
    fn who_names_no_vlan_is_in_the_clusters_first() {
        let known = [vlan("20"), vlan("8")];
        let found = nics(&[None, Some(vlan("8"))], &known).unwrap();
        assert_eq!(found, [VmNic { vlan: vlan("20") }, VmNic { vlan: vlan("8") }]);
        assert_eq!(nics(&[], &[]), Ok(Vec::new()), "without NICs nobody needs to know");
    }

    #[test]
    fn no_nic_is_where_no_virtual_machine_may_be() {
        let known = [vlan("20"), vlan("8")];
        let storage = nics(&[Some(vlan("711"))], &known).unwrap_err();
        assert_eq!(storage.to_string(), "VLAN 711 is none for virtual machines: those are 20, 8");
        assert_eq!(nics(&[None], &[]), Err(NotConnected::Unknown));
        assert_eq!(nics(&[Some(vlan("8"))], &[]), Err(NotConnected::Unknown));
        assert_eq!(nics(&[None; 9], &known), Err(NotConnected::TooMany(9)));
    }
}
