//! Plans as snapshots, and a kernel as data that refuses what would break a rule: whatever is ordered, and wherever the one who
//! carries it out is killed, the next order leads to where it should.

use super::*;
use model::{Epoch, Incarnation, LedgerIncarnation, LegId, VolumeId};
use proptest::prelude::*;

const CLUSTER: ClusterId = ClusterId(1);
const NODE: NodeId = NodeId(1);

fn given(number: u32, incarnation: u32) -> GivenLeg {
    let epoch = Epoch { ledger: LedgerIncarnation(1), number };
    GivenLeg { leg: (VolumeId(3), LegId(2)), key: Key { epoch, incarnation: Incarnation(incarnation) } }
}

fn ports() -> BTreeMap<u16, IpAddr> {
    [(1, "10.71.1.1"), (2, "10.71.2.1")].map(|(number, address)| (number, address.parse().unwrap())).into()
}

fn offer(given: GivenLeg, to: Option<u32>) -> Offer {
    let extents = vec![Extent { offset_bytes: 1 << 20, len_bytes: 128 << 20 }];
    let host = to.map(|node| name::host(CLUSTER, NodeId(node)));
    Offer { given, drive: "NV1".parse().unwrap(), extents, bytes: 512 << 30, host }
}

/// The kernel: does a step, or says which rule it breaks.
fn simulate(seen: &mut Seen, step: &Step) -> Result<(), &'static str> {
    let linked = |seen: &Seen, given: &GivenLeg| seen.ports.values().any(|port| port.links.contains(given));
    let unlinked = |seen: &Seen, given: &GivenLeg| {
        if linked(seen, given) { Err("changed while linked") } else { Ok(()) }
    };
    match step {
        Step::MakeDevice(given, ..) => {
            let other = seen.devices.iter().any(|other| other.leg == given.leg);
            seen.devices.insert(*given);
            if other { Err("two devices over one leg") } else { Ok(()) }
        }
        Step::TurnDevice(given, ..) => seen.devices.contains(given).then_some(()).ok_or("no device"),
        Step::MakeLeg(given, _) | Step::CheckLeg(given) => {
            let used = seen.exports.get(given).is_some_and(|export| export.enabled);
            let made = used || seen.devices.contains(given);
            made.then_some(()).ok_or("no device")
        }
        Step::RemoveDevice(given) => {
            let open = seen.exports.get(given).is_some_and(|export| export.enabled);
            seen.devices.remove(given);
            if open { Err("device in use") } else { Ok(()) }
        }
        Step::MakePort(number, address) => {
            let port = seen.ports.entry(*number).or_insert(Port { address: None, links: BTreeSet::new() });
            port.address = Some(*address);
            Ok(())
        }
        Step::MakeHost(host) => seen.hosts.insert(host.clone()).then_some(()).ok_or("host twice"),
        Step::MakeSubsystem(given) => {
            seen.exports.insert(*given, Export::default()).map_or(Ok(()), |_| Err("subsystem twice"))
        }
        Step::RemoveSubsystem(given) => {
            unlinked(seen, given)?;
            let export = seen.exports.remove(given).ok_or("no subsystem")?;
            if export == Export::default() { Ok(()) } else { Err("subsystem not empty") }
        }
        Step::Link(number, given) => {
            let export = seen.exports.get(given).ok_or("no subsystem")?;
            if !export.enabled || export.hosts.len() != 1 {
                return Err("linked before it is whole");
            }
            let port = seen.ports.get_mut(number).filter(|port| port.address.is_some()).ok_or("no port")?;
            port.links.insert(*given).then_some(()).ok_or("linked twice")
        }
        Step::Unlink(number, given) => {
            let port = seen.ports.get_mut(number).ok_or("no port")?;
            port.links.remove(given).then_some(()).ok_or("not linked")
        }
        Step::MakeNamespace(given)
        | Step::DescribeNamespace(given)
        | Step::Enable(given)
        | Step::Disable(given)
        | Step::RemoveNamespace(given)
        | Step::Allow(given, _)
        | Step::Disallow(given, _) => {
            unlinked(seen, given)?;
            let has_device = seen.devices.contains(given);
            change(seen.exports.get_mut(given).ok_or("no subsystem")?, has_device, step)
        }
    }
}

fn change(export: &mut Export, has_device: bool, step: &Step) -> Result<(), &'static str> {
    let fits = match step {
        Step::MakeNamespace(_) => !std::mem::replace(&mut export.namespace, true),
        Step::DescribeNamespace(_) => export.namespace && !export.enabled,
        Step::Enable(_) => has_device && export.namespace && !std::mem::replace(&mut export.enabled, true),
        Step::Disable(_) => std::mem::replace(&mut export.enabled, false),
        Step::RemoveNamespace(_) => !export.enabled && std::mem::replace(&mut export.namespace, false),
        Step::Allow(_, host) => export.hosts.insert(host.clone()),
        Step::Disallow(_, host) => export.hosts.remove(host),
        _ => false,
    };
    fits.then_some(()).ok_or("a change that does not fit")
}

fn carry_out(seen: &mut Seen, steps: &[Step]) {
    for step in steps {
        simulate(seen, step).unwrap_or_else(|why| panic!("{why}: {step:?} in {seen:#?}"));
    }
}

fn lines(steps: &[Step]) -> String {
    steps.iter().flat_map(|step| [format!("{step:?}"), "\n".to_owned()]).collect()
}

#[test]
fn plans_are_these() {
    let mut seen = Seen::default();
    let remote = give_out(&seen, &offer(given(7, 4), Some(2)), &ports()).unwrap();
    insta::assert_snapshot!("give_out", lines(&remote));
    carry_out(&mut seen, &remote);
    insta::assert_snapshot!("fence", lines(&fence(&seen, given(7, 4).leg)));
    insta::assert_snapshot!("make", lines(&make(&Seen::default(), &offer(given(1, 1), None)).unwrap()));
    let local = give_out(&Seen::default(), &offer(given(7, 4), None), &ports()).unwrap();
    insta::assert_snapshot!("give_out_to_itself", lines(&local));
}

#[test]
fn more_pieces_are_mapped_where_the_leg_stands_under_whatever_key() {
    let mut seen = Seen::default();
    assert_eq!(map(&seen, &offer(given(8, 4), None)), [], "its next device has them");
    let steps = give_out(&seen, &offer(given(7, 4), Some(2)), &ports()).unwrap();
    carry_out(&mut seen, &steps);
    let steps = map(&seen, &offer(given(8, 4), None));
    assert!(matches!(steps[..], [Step::TurnDevice(found, ..)] if found == given(7, 4)), "{steps:?}");
    carry_out(&mut seen, &steps);
}

#[test]
fn what_stands_under_another_key_or_for_another_is_refused() {
    let mut seen = Seen::default();
    let steps = give_out(&seen, &offer(given(7, 4), Some(2)), &ports()).unwrap();
    carry_out(&mut seen, &steps);
    let refused = |offer: &Offer| give_out(&seen, offer, &ports()).unwrap_err();
    assert_eq!(
        refused(&offer(given(8, 4), Some(2))),
        Refused::Other { wanted: given(8, 4), found: given(7, 4) }
    );
    assert!(matches!(refused(&offer(given(7, 4), Some(3))), Refused::OtherHost { .. }));
    assert!(matches!(refused(&offer(given(7, 4), None)), Refused::OtherHost { .. }));
    // What others have is never made anew.
    assert!(make(&seen, &offer(given(7, 4), None)).is_err());
    let elsewhere = ports().into_keys().map(|number| (number, "10.0.0.9".parse().unwrap())).collect();
    let other = give_out(&seen, &offer(given(7, 4), Some(2)), &elsewhere);
    assert!(matches!(other, Err(Refused::OtherPort { number: 1, .. })));
}

#[derive(Debug, Clone, Copy)]
enum Order {
    GiveOut(GivenLeg, Option<u32>),
    Fence,
}

fn order() -> impl Strategy<Value = Order> {
    let give = (1u32..3, 1u32..3, proptest::option::of(2u32..4));
    prop_oneof![
        give.prop_map(|(number, incarnation, to)| Order::GiveOut(given(number, incarnation), to)),
        Just(Order::Fence)
    ]
}

proptest! {
    /// Killed after any number of steps, again and again: no rule is broken on the way, what is told of a half-made leg is nothing,
    /// and the order, given again, gets there. Given once more it has nothing left to do.
    #[test]
    fn an_order_survives_a_kill_between_any_two_steps(orders in proptest::collection::vec((order(), 0usize..16), 1..12)) {
        let mut seen = Seen::default();
        for (order, kill_after) in orders {
            let plan = |seen: &Seen| match order {
                Order::Fence => Ok(fence(seen, given(1, 1).leg)),
                Order::GiveOut(given, to) => give_out(seen, &offer(given, to), &ports()),
            };
            let Ok(steps) = plan(&seen) else { continue };
            carry_out(&mut seen, &steps[..kill_after.min(steps.len())]);
            let told = found(&seen, CLUSTER, NODE, &ports());
            for (leg, (key, to)) in &told {
                let export = seen.exports.get(&GivenLeg { leg: *leg, key: *key });
                prop_assert!(export.map_or(*to == NODE, |export| export.enabled && *to != NODE));
            }
            let half = leftovers(&seen, &told);
            prop_assert!(half.is_empty() || told.is_empty());
            let steps = plan(&seen).unwrap();
            carry_out(&mut seen, &steps);
            match order {
                Order::Fence => {
                    prop_assert_eq!(&seen.exports, &BTreeMap::new());
                    prop_assert_eq!(&seen.devices, &BTreeSet::new());
                    prop_assert!(seen.ports.values().all(|port| port.links.is_empty()));
                    prop_assert_eq!(plan(&seen).unwrap(), []);
                }
                Order::GiveOut(given, to) => {
                    let told = found(&seen, CLUSTER, NODE, &ports());
                    let wanted = (given.key, to.map_or(NODE, NodeId));
                    prop_assert_eq!(told, BTreeMap::from([(given.leg, wanted)]));
                    prop_assert_eq!(plan(&seen).unwrap(), [Step::CheckLeg(given)]);
                }
            }
        }
    }
}
