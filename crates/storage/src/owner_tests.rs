//! Plans as snapshots, and md and the gates as data: whatever is ordered, and wherever the one who carries it out is killed, no rule
//! is broken, and the order, given again, gets there.

use super::*;
use control::command::LegRef;
use control::moment::Moment;
use control::owner::{Gate as HeldGate, LegLook, Look, Standing};
use model::LedgerIncarnation;
use proptest::prelude::*;

const VOLUME: VolumeId = VolumeId(3);
const HERE: NodeId = NodeId(1);
const THERE: NodeId = NodeId(2);

fn epoch(number: u32) -> Epoch {
    Epoch { ledger: LedgerIncarnation(1), number }
}

fn given(leg: u16, incarnation: u32) -> GivenLeg {
    let key = Key { epoch: epoch(1), incarnation: Incarnation(incarnation) };
    GivenLeg { leg: (VOLUME, LegId(leg)), key }
}

fn site() -> Site {
    Site::new(VOLUME, HERE, Sizes { data_bytes: 128 << 20, room_bytes: 128 << 20, chunk_bytes: 1 << 20 })
        .unwrap()
}

/// Leg 1 is here, leg 2 there.
fn order(legs: &[u16]) -> Assembly {
    let place = |leg: &u16| (LegId(*leg), (Incarnation(1), if *leg == 1 { HERE } else { THERE }));
    let stale = [1, 2].into_iter().filter(|leg| !legs.contains(leg)).map(LegId).collect();
    Assembly {
        epoch: epoch(1),
        legs: legs.iter().map(place).collect(),
        make_equal: true,
        stale,
        maps: MapSequence(1),
    }
}

/// What the kernel has, and what must be true of it.
#[derive(Debug, Clone, Default)]
struct Kernel {
    seen: Seen,
    /// md's attributes that were set.
    set: BTreeMap<&'static str, String>,
    prepared: bool,
    /// Legs whose missing chunks are marked on the array and on the leg.
    marked: BTreeSet<LegId>,
    marked_again: bool,
    /// A write that was begun before the leg that is copied had its place, has failed on another leg, and is held: its chunk is not marked as one to be copied yet.
    holds_unmarked: bool,
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

impl Kernel {
    fn array(&mut self) -> Result<&mut Array, &'static str> {
        self.seen.array.as_mut().ok_or("no array")
    }

    fn running(&self) -> bool {
        self.seen.array.as_ref().is_some_and(|array| array.state == "active")
    }

    fn carry(&mut self, step: &Step) -> Result<(), &'static str> {
        match step {
            Step::Connect(given, _) => {
                let path =
                    |controller| Connection { controller, address: "10.71.1.2".parse().unwrap(), live: true };
                self.seen.connections.entry(*given).or_insert_with(|| vec![path(1), path(2)]);
            }
            Step::Disconnect(given) => {
                if self.seen.gates.values().any(|gate| gate.to == Some(*given)) {
                    return Err("disconnected under a gate");
                }
                self.seen.connections.remove(given);
            }
            Step::MakeGate(way, _) | Step::TurnGate(way, _) => {
                if !way.local && !self.seen.connections.contains_key(&way.given) {
                    return Err("a gate to nowhere");
                }
                let queues = self.seen.gates.get(&way.leg()).is_none_or(|gate| gate.queues);
                let (epoch, to, local) = (way.epoch, Some(way.given), way.local);
                self.seen.gates.insert(way.leg(), Gate { epoch, to, local, path: true, queues });
            }
            Step::FailPath(leg, _) => self.seen.gates.get_mut(leg).ok_or("no gate")?.path = false,
            Step::FailGate(leg, _) => {
                self.seen.gates.get_mut(leg).ok_or("no gate")?.queues = false;
            }
            Step::RemoveGate(leg, _) => {
                let used = self.seen.array.as_ref().is_some_and(|array| array.members.contains_key(leg));
                self.seen.gates.remove(leg);
                if used {
                    return Err("a gate in use was removed");
                }
            }
            Step::Prepare(_) => {
                if self.seen.array.is_some() {
                    return Err("prepared under an array");
                }
                self.prepared = true;
            }
            Step::MakeTop(layout) => self.seen.top = Some(layout.size_bytes),
            Step::RemoveTop => self.seen.top = None,
            Step::AwaitIdle => {}
            step => self.carry_md(step)?,
        }
        Ok(())
    }

    fn carry_md(&mut self, step: &Step) -> Result<(), &'static str> {
        match step {
            Step::NewArray => {
                if self.seen.array.is_some() || !std::mem::take(&mut self.prepared) {
                    return Err("an array that was not prepared");
                }
                let (state, action) = ("clear".to_owned(), String::new());
                let (held, room) = (false, 0);
                let array = Array { epoch: epoch(1), state, action, held, room, members: BTreeMap::new() };
                (self.seen.array, self.set) = (Some(array), BTreeMap::new());
            }
            Step::Set(name, value) => self.set_array(name, value)?,
            Step::Add(way) => {
                if !self.seen.gates.contains_key(&way.leg()) {
                    return Err("added without a gate");
                }
                if self.running() && !self.marked.contains(&way.leg()) {
                    return Err("added before it was marked");
                }
                let member = Member { slot: None, words: words("spare") };
                self.array()?.members.insert(way.leg(), member);
            }
            Step::SetMember(way, name, value) => self.set_member(way.leg(), name, value)?,
            Step::FirstWrite => {
                let started = self.running() && self.set.contains_key("safe_mode_delay");
                return started.then_some(()).ok_or("written before it is whole");
            }
            Step::Mark(way, _) => drop(self.marked.insert(way.leg())),
            Step::AddPlace(room) if self.array()?.action == "frozen" => self.array()?.room = *room,
            Step::AddPlace(_) => return Err("given a place while md copies"),
            Step::MarkAgain(_) => self.marked_again = true,
            Step::CheckNotInSync(way) => {
                let by_itself = self.array()?.members[&way.leg()].has("in_sync");
                return (!by_itself).then_some(()).ok_or("in sync by itself");
            }
            Step::HoldCopy => {
                let array = self.array()?;
                if array.action != "frozen" {
                    return Err("held while md may copy");
                }
                array.held = true;
            }
            Step::AwaitQuiet(sound) => {
                let sound = no_longer_sound(&self.seen, sound).is_none();
                return sound.then_some(()).ok_or("failed meanwhile");
            }
            Step::Answer(legs) => {
                let array = self.array()?;
                if array.members.iter().any(|(leg, member)| member.failed() && !legs.contains(leg)) {
                    return Err("answered for another");
                }
            }
            Step::Remove(way) => drop(self.array()?.members.remove(&way.leg())),
            Step::Clear => {
                if self.seen.top.is_some() {
                    return Err("stopped under users");
                }
                (self.seen.array, self.marked, self.marked_again) = (None, BTreeSet::new(), false);
            }
            _ => {}
        }
        Ok(())
    }

    fn set_array(&mut self, name: &'static str, value: &str) -> Result<(), &'static str> {
        let running = self.running();
        match name {
            "raid_disks" => {
                let array = self.array()?;
                array.room = value.parse().unwrap();
            }
            "array_state" => {
                let whole =
                    ["metadata_version", "level", "component_size", "bitmap/location", "resync_start"];
                if !whole.iter().all(|name| self.set.contains_key(name)) {
                    return Err("started before it is whole");
                }
                let array = self.array()?;
                (array.state, array.action) = ("active".to_owned(), "idle".to_owned());
            }
            "sync_action" => {
                let marked = self.marked_again;
                let array = self.array()?;
                let new = |(_, member): (&LegId, &Member)| member.slot.is_some() && !member.has("in_sync");
                if value == "recover" && array.members.iter().any(new) && !marked {
                    return Err("copied before it was marked again");
                }
                array.action = value.to_owned();
                let copies = value == "recover" && !array.held;
                if copies && self.holds_unmarked {
                    return Err("passed over what is held");
                }
            }
            "sync_max" => {
                let array = self.array()?;
                array.held = false;
                if array.action == "recover" && self.holds_unmarked {
                    return Err("passed over what is held");
                }
            }
            _ => {}
        }
        if running
            && ![
                "sync_action",
                "resync_start",
                "sync_max",
                "safe_mode_delay",
                "sync_speed_min",
                "sync_speed_max",
            ]
            .contains(&name)
        {
            return Err("changed while it runs");
        }
        self.set.insert(name, value.to_owned());
        Ok(())
    }

    fn set_member(&mut self, leg: LegId, name: &str, value: &str) -> Result<(), &'static str> {
        let running = self.running();
        let action = self.array()?.action.clone();
        let member = self.array()?.members.get_mut(&leg).ok_or("no such leg")?;
        match (name, value) {
            ("state", "insync") => member.words = words("in_sync"),
            ("state", "faulty") => member.words = words("faulty,blocked"),
            ("state", "-blocked") => drop(member.words.remove("blocked")),
            ("slot", slot) => {
                if running && action != "frozen" {
                    return Err("given a place while md may take it in");
                }
                let slot: Option<u32> = slot.parse().ok();
                let array = self.array()?;
                let taken = array.members.values().any(|member| member.slot == slot);
                if taken || slot.is_none_or(|slot| slot >= array.room) {
                    return Err("no such place, or another's");
                }
                let member = array.members.get_mut(&leg).ok_or("no such leg")?;
                member.slot = slot;
                if running {
                    member.words = words("spare");
                    self.marked_again = false;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn carry_out(kernel: &mut Kernel, steps: &[Step]) {
    for step in steps {
        kernel.carry(step).unwrap_or_else(|why| panic!("{why}: {step:?} in {kernel:#?}"));
    }
}

fn lines(steps: &[Step]) -> String {
    steps.iter().flat_map(|step| [format!("{step:?}"), "\n".to_owned()]).collect()
}

fn assembled() -> Kernel {
    let mut kernel = Kernel::default();
    let steps = assemble(&site(), &kernel.seen, &order(&[1, 2]), MapSequence(0)).unwrap();
    carry_out(&mut kernel, &steps);
    kernel
}

#[test]
fn plans_are_these() {
    let mut kernel = assembled();
    let steps = assemble(&site(), &Seen::default(), &order(&[1, 2]), MapSequence(0)).unwrap();
    insta::assert_snapshot!("assemble", lines(&steps));
    let steps = let_go(&site(), &kernel.seen, epoch(1), LegId(2)).unwrap();
    insta::assert_snapshot!("let_go", lines(&steps));
    carry_out(&mut kernel, &steps);
    let steps = release(&site(), &kernel.seen, epoch(1), &BTreeSet::from([LegId(2)])).unwrap();
    insta::assert_snapshot!("release", lines(&steps));
    carry_out(&mut kernel, &steps);
    let steps =
        rebuild(&site(), &kernel.seen, epoch(1), (LegId(2), Incarnation(2), THERE), Base::Changes).unwrap();
    insta::assert_snapshot!("rebuild", lines(&steps));
    carry_out(&mut kernel, &steps);
    let steps = repoint(&site(), &kernel.seen, epoch(1), LegId(2), Incarnation(3), THERE).unwrap();
    insta::assert_snapshot!("repoint", lines(&steps));
    carry_out(&mut kernel, &steps);
    insta::assert_snapshot!(
        "stop_rebuild",
        lines(&stop_rebuild(&site(), &kernel.seen, epoch(1), LegId(2)).unwrap())
    );
    insta::assert_snapshot!("stop", lines(&stop(&site(), &kernel.seen)));
}

#[test]
fn a_leg_that_failed_is_told_of_and_one_that_is_gone_is_out() {
    let mut kernel = assembled();
    assert_eq!(
        look(&kernel.seen).legs,
        BTreeMap::from([(LegId(1), LegLook::Fine), (LegId(2), LegLook::Fine)])
    );
    kernel.set_member(LegId(2), "state", "faulty").unwrap();
    "write-pending".clone_into(&mut kernel.array().unwrap().state);
    let seen = look(&kernel.seen);
    assert!(seen.waits && seen.legs[&LegId(2)] == LegLook::Failed);
    assert_eq!(look(&Seen::default()), Look::default());
}

#[test]
fn a_gate_has_no_path_by_its_own_word_or_when_no_connection_lives() {
    let mut kernel = assembled();
    assert_eq!(without_path(&kernel.seen), BTreeSet::new());
    let connections = kernel.seen.connections.get_mut(&given(2, 1)).unwrap();
    connections[0].live = false;
    assert_eq!(without_path(&kernel.seen), BTreeSet::new());
    kernel.seen.connections.get_mut(&given(2, 1)).unwrap()[1].live = false;
    assert_eq!(without_path(&kernel.seen), BTreeSet::from([LegId(2)]));
    let mut kernel = assembled();
    kernel.seen.gates.get_mut(&LegId(2)).unwrap().path = false;
    assert_eq!(without_path(&kernel.seen), BTreeSet::from([LegId(2)]));
}

#[test]
fn nothing_is_made_under_users_and_nothing_ordered_of_an_array_that_is_not_there() {
    let mut kernel = assembled();
    let steps = admit(&site(), &kernel.seen, epoch(1), &Layout::fixed(128 << 20)).unwrap();
    carry_out(&mut kernel, &steps);
    assert_eq!(assemble(&site(), &kernel.seen, &order(&[1]), MapSequence(0)), Err(Refused::Open));
    assert_eq!(admit(&site(), &kernel.seen, epoch(1), &Layout::fixed(128 << 20)), Ok(vec![]));
    let missing = Refused::NoArray(VOLUME, epoch(2));
    assert_eq!(admit(&site(), &kernel.seen, epoch(2), &Layout::fixed(128 << 20)), Err(missing.clone()));
    assert_eq!(let_go(&site(), &kernel.seen, epoch(2), LegId(2)), Err(missing));
}

/// The executor looks once more before it answers; what it may answer for is in the step.
#[test]
fn md_is_not_answered_for_a_leg_that_was_not_named() {
    let mut kernel = assembled();
    for leg in [1, 2] {
        kernel.set_member(LegId(leg), "state", "faulty").unwrap();
    }
    let steps = release(&site(), &kernel.seen, epoch(1), &BTreeSet::from([LegId(2)])).unwrap();
    let answer = steps.iter().find(|step| matches!(step, Step::Answer(_))).unwrap();
    assert_eq!(kernel.carry(answer), Err("answered for another"));
    assert!(steps.iter().all(|step| !matches!(step, Step::SetMember(way, ..) if way.leg() == LegId(1))));
}

#[test]
fn an_array_that_an_earlier_run_left_is_told_as_control_would_have_it() {
    let mut kernel = assembled();
    let nodes = BTreeMap::from([(LegId(1), HERE), (LegId(2), THERE)]);
    let told = |kernel: &Kernel| found(&kernel.seen, &nodes, MapSequence(4), Moment(7));
    let up = told(&kernel).unwrap();
    assert_eq!((up.epoch, up.maps, up.admitted, up.rebuild), (epoch(1), MapSequence(4), false, None));
    assert!(up.legs.values().all(|held| (held.gate, held.standing) == (HeldGate::Path, Standing::In)));
    kernel.seen.gates.get_mut(&LegId(2)).unwrap().path = false;
    assert_eq!(told(&kernel).unwrap().legs[&LegId(2)].gate, HeldGate::NoPath { since: Moment(7) });
    let steps = let_go(&site(), &kernel.seen, epoch(1), LegId(2)).unwrap();
    carry_out(&mut kernel, &steps);
    assert_eq!(told(&kernel).unwrap().legs[&LegId(2)].standing, Standing::LetGo);
    let steps = release(&site(), &kernel.seen, epoch(1), &BTreeSet::from([LegId(2)])).unwrap();
    carry_out(&mut kernel, &steps);
    assert_eq!(told(&kernel).unwrap().legs.len(), 1);
    let again = (LegId(2), Incarnation(5), THERE);
    let steps = rebuild(&site(), &kernel.seen, epoch(1), again, Base::Changes).unwrap();
    carry_out(&mut kernel, &steps);
    let up = told(&kernel).unwrap();
    assert_eq!(up.rebuild.unwrap().leg, LegRef { id: LegId(2), incarnation: Incarnation(5) });
    // One that is not whole is no array of control's: it is made anew.
    "clear".clone_into(&mut kernel.array().unwrap().state);
    assert_eq!(told(&kernel), None);
}

/// What writes to a leg without path before there is an array waits in its gate.
#[test]
fn an_assembly_that_hangs_in_a_gate_is_stopped() {
    let mut kernel = assembled();
    kernel.seen.array = None;
    kernel.seen.gates.get_mut(&LegId(2)).unwrap().path = false;
    let steps = stop(&site(), &kernel.seen);
    assert_eq!(steps.first(), Some(&Step::FailGate(LegId(2), epoch(1))));
    carry_out(&mut kernel, &steps);
    assert_eq!(kernel.seen, Seen::default());
}

/// A release that ended half-way leaves a gate and connections to what is no more.
#[test]
fn a_rebuild_clears_away_what_leads_to_an_earlier_incarnation() {
    let mut kernel = assembled();
    let steps = let_go(&site(), &kernel.seen, epoch(1), LegId(2)).unwrap();
    carry_out(&mut kernel, &steps);
    kernel.seen.array.as_mut().unwrap().members.remove(&LegId(2));
    let leg = (LegId(2), Incarnation(2), THERE);
    let steps = rebuild(&site(), &kernel.seen, epoch(1), leg, Base::Changes).unwrap();
    carry_out(&mut kernel, &steps);
    assert_eq!(kernel.seen.connections.keys().copied().collect::<Vec<_>>(), [given(2, 2)]);
    assert_eq!(kernel.seen.gates[&LegId(2)].to, Some(given(2, 2)));
}

/// md's quiesce lets pass what has failed and is held (raid1.c, `freeze_array`): whenever another leg fails while one gets its place, nothing is passed over.
#[test]
fn a_rebuild_passes_over_nothing_that_is_held() {
    let moved = (LegId(3), Incarnation(2), THERE);
    let steps = rebuild(&site(), &assembled().seen, epoch(1), moved, Base::Scratch).unwrap();
    // What fails later was begun later, and goes to the new leg, too.
    let quiet = steps.iter().position(|step| matches!(step, Step::AwaitQuiet(_))).unwrap();
    for fails_before in 0..=quiet {
        let mut kernel = assembled();
        carry_out(&mut kernel, &steps[..fails_before]);
        kernel.set_member(LegId(2), "state", "faulty").unwrap();
        kernel.holds_unmarked = true;
        let stopped = steps[fails_before..].iter().find_map(|step| kernel.carry(step).err());
        assert_eq!(stopped, Some("failed meanwhile"), "before {:?}", steps[fails_before]);
        // Not even when md was answered meanwhile: what was held may not have ended yet.
        kernel.array().unwrap().members.remove(&LegId(2));
        let again = rebuild(&site(), &kernel.seen, epoch(1), moved, Base::Scratch);
        assert_eq!(again, Err(Refused::HalfBegun(LegId(3))));
    }
}

#[test]
fn no_rebuild_begins_while_another_leg_has_failed() {
    let mut kernel = assembled();
    kernel.array().unwrap().room = 3;
    kernel.set_member(LegId(2), "state", "faulty").unwrap();
    let refused = rebuild(&site(), &kernel.seen, epoch(1), (LegId(3), Incarnation(2), THERE), Base::Scratch);
    assert_eq!(refused, Err(Refused::OtherFailed(LegId(3))));
}

/// The old leg stays until the new one is in sync, and the next one that moves takes its place.
#[test]
fn a_leg_that_moves_gets_a_place_of_its_own() {
    let mut kernel = assembled();
    let steps =
        rebuild(&site(), &kernel.seen, epoch(1), (LegId(3), Incarnation(2), THERE), Base::Scratch).unwrap();
    insta::assert_snapshot!("move", lines(&steps));
    carry_out(&mut kernel, &steps);
    let slots = |kernel: &Kernel| {
        let array = kernel.seen.array.as_ref().unwrap();
        (array.room, array.members.iter().map(|(leg, member)| (leg.0, member.slot)).collect::<Vec<_>>())
    };
    assert_eq!(slots(&kernel), (3, vec![(1, Some(0)), (2, Some(1)), (3, Some(2))]));
    kernel.array().unwrap().members.get_mut(&LegId(3)).unwrap().words = words("in_sync");
    let steps = let_go(&site(), &kernel.seen, epoch(1), LegId(2)).unwrap();
    carry_out(&mut kernel, &steps);
    let steps = release(&site(), &kernel.seen, epoch(1), &BTreeSet::from([LegId(2)])).unwrap();
    carry_out(&mut kernel, &steps);
    let next = (LegId(4), Incarnation(2), HERE);
    let steps = rebuild(&site(), &kernel.seen, epoch(1), next, Base::Scratch).unwrap();
    carry_out(&mut kernel, &steps);
    assert_eq!(slots(&kernel), (3, vec![(1, Some(0)), (3, Some(2)), (4, Some(1))]));
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Assemble(bool),
    Move,
    LetGoAndRelease,
    Rebuild(u32),
    StopRebuild,
    Stop,
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![
        any::<bool>().prop_map(Order::Assemble),
        Just(Order::Move),
        Just(Order::LetGoAndRelease),
        (1u32..4).prop_map(Order::Rebuild),
        Just(Order::StopRebuild),
        Just(Order::Stop),
    ]
}

fn plan(order_: Order, seen: &Seen) -> Result<Vec<Step>, Refused> {
    let leg = LegId(2);
    match order_ {
        Order::Assemble(both) => {
            assemble(&site(), seen, &order(if both { &[1, 2] } else { &[1] }), MapSequence(0))
        }
        Order::LetGoAndRelease => {
            let running = seen.array.as_ref().is_some_and(|array| array.state == "active");
            if !running {
                return Err(Refused::NoArray(VOLUME, epoch(1)));
            }
            let failed =
                seen.array.as_ref().and_then(|array| array.members.get(&leg)).is_none_or(Member::failed);
            if failed {
                release(&site(), seen, epoch(1), &BTreeSet::from([leg]))
            } else {
                let_go(&site(), seen, epoch(1), leg)
            }
        }
        Order::Rebuild(incarnation) => {
            let running = seen.array.as_ref().is_some_and(|array| array.state == "active");
            // Control orders it of a leg that is out.
            let out = seen.array.as_ref().is_some_and(|array| !array.members.contains_key(&leg));
            if !running || !out {
                return Err(Refused::NoArray(VOLUME, epoch(1)));
            }
            rebuild(&site(), seen, epoch(1), (leg, Incarnation(incarnation), THERE), Base::Changes)
        }
        Order::Move => rebuild(&site(), seen, epoch(1), (LegId(3), Incarnation(2), THERE), Base::Scratch),
        Order::StopRebuild => stop_rebuild(&site(), seen, epoch(1), leg),
        Order::Stop => Ok(stop(&site(), seen)),
    }
}

proptest! {
    #[test]
    fn an_order_survives_a_kill_between_any_two_steps(orders in proptest::collection::vec((orders(), 0usize..40), 1..12)) {
        let mut kernel = Kernel::default();
        for (order, kill_after) in orders {
            let Ok(steps) = plan(order, &kernel.seen) else { continue };
            carry_out(&mut kernel, &steps[..kill_after.min(steps.len())]);
            let half_begun = |leg: LegId| move |refused: &Refused| *refused == Refused::HalfBegun(leg);
            let again = match order {
                // By now the leg may be in: that is what is asked again.
                Order::Rebuild(incarnation) => {
                    rebuild(&site(), &kernel.seen, epoch(1), (LegId(2), Incarnation(incarnation), THERE), Base::Changes)
                }
                order => plan(order, &kernel.seen),
            };
            // Control hears that it failed, and has it stopped; then it is begun anew.
            let anew = [LegId(2), LegId(3)].into_iter().find(|leg| again.as_ref().err().is_some_and(half_begun(*leg)));
            let again = match anew {
                Some(leg) => {
                    let steps = stop_rebuild(&site(), &kernel.seen, epoch(1), leg).unwrap();
                    carry_out(&mut kernel, &steps);
                    rebuild(&site(), &kernel.seen, epoch(1), (leg, Incarnation(3), THERE), Base::Scratch)
                }
                None => again,
            };
            if let Ok(again) = again {
                carry_out(&mut kernel, &again);
            }
            match order {
                Order::Stop => {
                    prop_assert_eq!(&kernel.seen, &Seen::default());
                }
                Order::Assemble(both) => {
                    let array = kernel.seen.array.as_ref().unwrap();
                    prop_assert_eq!(array.members.len(), if both { 2 } else { 1 });
                    prop_assert!(array.members.values().all(|member| member.has("in_sync") && member.slot.is_some()));
                    prop_assert_eq!(array.room, 2);
                }
                Order::Move => {
                    let array = kernel.seen.array.as_ref().unwrap();
                    prop_assert!(array.members[&LegId(3)].slot.is_some());
                    prop_assert!(array.room as usize <= 3);
                }
                Order::Rebuild(_) => {
                    let array = kernel.seen.array.as_ref().unwrap();
                    prop_assert!(array.members[&LegId(2)].slot.is_some());
                    prop_assert_eq!(array.action.as_str(), "recover");
                }
                Order::LetGoAndRelease | Order::StopRebuild => {}
            }
        }
    }
}

/// An array is made for the room, users get the size.
#[test]
fn an_array_has_room_that_users_do_not_see() {
    let sizes = Sizes { data_bytes: 128 << 20, room_bytes: 512 << 30, chunk_bytes: 16 << 20 };
    let site = Site::new(VOLUME, HERE, sizes).unwrap();
    let way = site.way(LegId(1), Incarnation(1), HERE, Epoch::first(LedgerIncarnation(1)));
    let mut steps = Vec::new();
    start(&site, &BTreeMap::from([(LegId(1), way)]), 1, &mut steps);
    let kib = (512u64 << 20).to_string();
    assert!(steps.contains(&Step::Set("component_size", kib.clone())));
    assert!(steps.contains(&Step::SetMember(way, "size", kib)));
    let epoch = Epoch::first(LedgerIncarnation(1));
    let (state, action) = ("active".to_owned(), "idle".to_owned());
    let array = Array { epoch, state, action, held: false, room: 1, members: BTreeMap::new() };
    let seen = Seen { array: Some(array), ..Seen::default() };
    let of = |mib: u64| Layout::fixed(mib << 20);
    assert_eq!(admit(&site, &seen, epoch, &of(128)), Ok(vec![Step::MakeTop(of(128))]));
    assert_eq!(extend(&site, &seen, epoch, &of(256)), Err(Refused::NotOpen(site.volume)));
    let open = Seen { top: Some(128 << 20), ..seen };
    assert_eq!(extend(&site, &open, epoch, &of(256)), Ok(vec![Step::LoadTop(of(256))]));
    assert_eq!(extend(&site, &open, epoch, &of(128)), Ok(vec![]));
    assert_eq!(site.geometry.leg_bytes(), (1 << 20) + (512 << 30));
}
