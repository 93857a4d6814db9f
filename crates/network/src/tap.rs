//! A node's end of a virtual machine's NIC: a tap that is a port of the compute bridge. Pure.
//!
//! Purpose: [`Tap`] says what it shall be, [`settle`] what leads there from what is there. A plan of the node's links names no taps, so that applying one, mending
//! drift and the way back leave them alone; taps are made and unmade with the virtual machines that have them.
//!
//! Invariants: a tap is in one VLAN, without a tag: what a virtual machine sends with a tag of another goes nowhere, least of all into the management VLAN. It
//! takes on the bridge's MTU before it joins, and has a higher address than any NIC: a bridge takes the smallest MTU and the lowest address of its ports, and
//! must change neither with a virtual machine. Its address is not the virtual machine's: frames to that would end here. The node itself
//! says nothing on it (no IPv6 address).
//!
//! On failure: [`CantConnect`]; nothing is to be done.

use crate::link::{CurrentLink, CurrentLinks, LinkKind, LinkName, VlanEntry};
use crate::op::Op;
use model::{MacAddress, VlanId, VmId};

/// The kernel's word for a tap (`IFLA_INFO_KIND`).
const KIND: &str = "tun";
/// The first byte of a tap's own address: locally administered, and above all that vendors have.
const ABOVE_ALL: u8 = 0xfe;

/// What a tap shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name: [`Tap::name_of`].
    pub name: LinkName,
    /// Its own address.
    pub mac: MacAddress,
    /// The VLAN of its NIC.
    pub vlan: VlanId,
}

/// Why a NIC can't be connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantConnect {
    /// There is no bridge: no plan is in force.
    #[error("there is no bridge {}", LinkName::bridge())]
    NoBridge,
    /// The bridge's way out does not carry the VLAN: no plan has it for virtual machines.
    #[error("{team} does not carry VLAN {0}", team = LinkName::team())]
    NotCarried(VlanId),
    /// A link has the name of the tap and is something else.
    #[error("{0} is there, and is no tap")]
    NameTaken(LinkName),
}

impl Tap {
    /// Of a virtual machine's NIC with this address.
    pub fn new(vm: VmId, nic: u8, guest: MacAddress, vlan: VlanId) -> Self {
        let MacAddress([_, rest @ ..]) = guest;
        let mac = [ABOVE_ALL, rest[0], rest[1], rest[2], rest[3], rest[4]];
        Self { name: Self::name_of(vm, nic), mac: MacAddress(mac), vlan }
    }

    /// What it is called: `vm7n0` is the first NIC of `vm-7`.
    pub fn name_of(vm: VmId, nic: u8) -> LinkName {
        LinkName::tap(vm, nic)
    }

    /// Whose tap it is; `None`: it is none of ours.
    pub fn owner(name: &LinkName, link: &CurrentLink) -> Option<VmId> {
        let (vm, nic) = name.as_str().strip_prefix("vm")?.split_once('n')?;
        let (vm, nic) = (VmId(vm.parse().ok()?), nic.parse().ok()?);
        (is_tap(link) && Self::name_of(vm, nic) == *name).then_some(vm)
    }
}

fn is_tap(link: &CurrentLink) -> bool {
    matches!(&link.kind, LinkKind::Other(kind) if kind == KIND)
}

/// What there is of virtual machines' taps, and whose they are.
pub fn taps(now: &CurrentLinks) -> impl Iterator<Item = (VmId, &LinkName)> {
    now.links.iter().filter_map(|(name, link)| Some((Tap::owner(name, link)?, name)))
}

/// Whether it is there, and if not, whether it could be connected.
pub fn is_there(now: &CurrentLinks, tap: &Tap) -> Result<bool, CantConnect> {
    connectable(now, tap)?;
    match now.get(&tap.name) {
        Some(link) if !is_tap(link) => Err(CantConnect::NameTaken(tap.name.clone())),
        found => Ok(found.is_some()),
    }
}

fn connectable<'a>(now: &'a CurrentLinks, tap: &Tap) -> Result<&'a CurrentLink, CantConnect> {
    let bridge = now.get(&LinkName::bridge()).ok_or(CantConnect::NoBridge)?;
    let team = now.get(&LinkName::team()).filter(|team| team.master == Some(LinkName::bridge()));
    let carried = team.is_some_and(|team| team.bridge_vlans.contains_key(&tap.vlan));
    if carried { Ok(bridge) } else { Err(CantConnect::NotCarried(tap.vlan)) }
}

/// What leads from a tap that is there to what it shall be, in order; nothing: it is that.
pub fn settle(now: &CurrentLinks, tap: &Tap) -> Result<Vec<Op>, CantConnect> {
    let mtu_bytes = connectable(now, tap)?.mtu_bytes;
    let Some(link) = now.get(&tap.name).filter(|link| is_tap(link)) else {
        return Err(CantConnect::NameTaken(tap.name.clone()));
    };
    let (name, bridge) = (|| tap.name.clone(), LinkName::bridge());
    let mut ops = Vec::new();
    if link.mtu_bytes != mtu_bytes {
        ops.push(Op::SetMtu { name: name(), mtu_bytes });
    }
    if link.ipv6_link_local == Some(true) {
        ops.push(Op::SetIpv6LinkLocal { name: name(), enabled: false });
    }
    let joined = link.master.as_ref() == Some(&bridge);
    if !joined {
        ops.extend(link.master.as_ref().map(|_| Op::Leave { name: name() }));
        ops.push(Op::Join { name: name(), master: bridge });
    }
    // Whoever leaves a bridge leaves its VLANs there.
    let had = link.bridge_vlans.iter().filter(|_| joined);
    let right = had.clone().any(|had| had == (&tap.vlan, &VlanEntry::NATIVE));
    let wrong = had.map(|(vlan, _)| *vlan).filter(|vlan| *vlan != tap.vlan);
    ops.extend(wrong.map(|vlan| Op::RemoveBridgeVlan { name: name(), vlan }));
    if !right {
        ops.push(Op::SetBridgeVlan { name: name(), vlan: tap.vlan, entry: VlanEntry::NATIVE });
    }
    if !link.up {
        ops.push(Op::SetUp { name: name() });
    }
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Generation, plan};
    use crate::testing::{adapters, bare_nics, link_name, spec, vlan};
    use crate::{NetworkPlan, diff, differences, revert, simulate};
    use model::MacRange;
    use proptest::prelude::*;

    fn planned() -> NetworkPlan {
        plan(&spec(1), &"n1".parse().unwrap(), Generation(1)).unwrap()
    }

    fn does(state: &mut CurrentLinks, ops: &[Op]) {
        for op in ops {
            simulate::apply(state, op).unwrap();
        }
    }

    /// A node on its plan.
    fn node() -> CurrentLinks {
        let mut state = bare_nics();
        let ops = diff(&state, &planned(), &adapters()).unwrap();
        does(&mut state, &ops);
        state
    }

    fn tap(vm: u32, vlan_id: u64) -> Tap {
        Tap::new(VmId(vm), 0, MacRange::default().of_nic(VmId(vm), 0), vlan(vlan_id))
    }

    /// As the kernel makes one.
    fn made(state: &mut CurrentLinks, tap: &Tap) {
        does(
            state,
            &[Op::CreateBridge { name: tap.name.clone(), vlan_filtering: false, default_pvid: None }],
        );
        let link = state.links.get_mut(&tap.name).unwrap();
        (link.kind, link.mac) = (LinkKind::Other(KIND.to_owned()), Some(tap.mac));
    }

    #[test]
    fn a_new_one_becomes_an_untagged_port_of_its_vlan_and_no_plan_minds_it() {
        let (mut state, tap) = (node(), tap(7, 8));
        let before = state.clone();
        assert_eq!(is_there(&state, &tap), Ok(false));
        made(&mut state, &tap);
        let ops = settle(&state, &tap).unwrap();
        insta::assert_snapshot!(ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        does(&mut state, &ops);
        // The kernel's choice of a bridge's MTU, which the model does not know, is the smallest of its ports': as before.
        for (name, link) in &before.links {
            state.links.get_mut(name).unwrap().mtu_bytes = link.mtu_bytes;
        }
        assert_eq!((is_there(&state, &tap), settle(&state, &tap)), (Ok(true), Ok(Vec::new())));
        assert_eq!(taps(&state).collect::<Vec<_>>(), [(VmId(7), &link_name("vm7n0"))]);
        assert_eq!(differences(&state, &planned(), &adapters()).unwrap(), []);
        // Neither the way back to before it was there nor one to when it was there, when it is gone, is about it.
        assert_eq!(revert(&state, &before, &planned(), &adapters()).unwrap().left(), None);
        let with = std::mem::replace(&mut state, before);
        assert_eq!(revert(&state, &with, &planned(), &adapters()).unwrap().left(), None);
    }

    #[test]
    fn one_that_was_led_astray_is_led_back() {
        let (mut state, tap) = (node(), tap(7, 8));
        made(&mut state, &tap);
        let ops = settle(&state, &tap).unwrap();
        does(&mut state, &ops);
        let link = state.links.get_mut(&tap.name).unwrap();
        link.bridge_vlans = [(vlan(7), VlanEntry::TAGGED), (vlan(8), VlanEntry::TAGGED)].into();
        link.up = false;
        let ops = settle(&state, &tap).unwrap();
        does(&mut state, &ops);
        assert_eq!(state.links[&tap.name].bridge_vlans, [(vlan(8), VlanEntry::NATIVE)].into());
        // The bridge was made anew beneath it.
        does(&mut state, &[Op::Leave { name: tap.name.clone() }]);
        let ops = settle(&state, &tap).unwrap();
        does(&mut state, &ops);
        assert_eq!(state.links[&tap.name].master, Some(link_name("tw-br")));
        assert_eq!(state.links[&tap.name].bridge_vlans, [(vlan(8), VlanEntry::NATIVE)].into());
    }

    #[test]
    fn where_no_plan_has_its_network_it_is_not_made() {
        assert_eq!(is_there(&bare_nics(), &tap(7, 8)), Err(CantConnect::NoBridge));
        assert_eq!(is_there(&node(), &tap(7, 9)), Err(CantConnect::NotCarried(vlan(9))));
        assert_eq!(is_there(&node(), &tap(7, 711)), Err(CantConnect::NotCarried(vlan(711))));
        let (mut state, tap) = (node(), tap(7, 8));
        does(
            &mut state,
            &[Op::CreateBridge { name: tap.name.clone(), vlan_filtering: true, default_pvid: None }],
        );
        let taken = CantConnect::NameTaken(tap.name.clone());
        assert_eq!((is_there(&state, &tap), settle(&state, &tap)), (Err(taken.clone()), Err(taken)));
        assert_eq!(taps(&state).count(), 0, "what is no tap is none of ours");
    }

    proptest! {
        #[test]
        fn every_name_is_one_that_linux_takes_and_says_whose_it_is(vm: u32, nic in 0u8..8, guest: [u8; 6]) {
            let tap = Tap::new(VmId(vm), nic, MacAddress(guest), vlan(8));
            prop_assert_eq!(tap.name.as_str().parse::<LinkName>().unwrap(), tap.name.clone());
            prop_assert!(!tap.name.is_ours(), "no plan's diff may delete it");
            let mut state = bare_nics();
            made(&mut state, &tap);
            prop_assert_eq!(taps(&state).collect::<Vec<_>>(), vec![(VmId(vm), &tap.name)]);
        }

        #[test]
        fn no_name_panics(name in "vm[0-9n]{0,10}") {
            if let Ok(name) = name.parse::<LinkName>() {
                let mut state = bare_nics();
                let link = state.links.values().next().unwrap().clone();
                state.links.insert(name, CurrentLink { kind: LinkKind::Other(KIND.to_owned()), ..link });
                let _ = taps(&state).count();
            }
        }
    }
}
