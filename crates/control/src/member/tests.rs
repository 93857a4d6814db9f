//! Three members, one of them the witness where the leader is, with engines that do at once what they are told.

use super::*;
use crate::command::ClusterCommand;
use crate::owner::{LegLook, Look};
use crate::state::{Cache, Phase};
use crate::testing::{VOLUME, boot, must, volume, with_volume};
use model::{Generation, LegId, MapSequence, Mirror, PowerCycles, VmPlacement, VmSpec};
use std::collections::VecDeque;

const WITNESS: NodeId = NodeId(3);

struct Cluster {
    ledger: State,
    members: BTreeMap<NodeId, Member>,
    arrays: BTreeMap<NodeId, BTreeSet<LegId>>,
    now: Moment,
}

fn member(ledger: &State, node: NodeId, boots: u32) -> Member {
    let own = ledger.drives.iter().filter(|(_, drive)| drive.node == node);
    let drives = own.map(|(id, _)| (*id, PowerCycles(boots))).collect();
    let boot = boot(node, boots);
    let target = Target::new(node, boot, drives, (BTreeMap::new(), BTreeMap::new()), BTreeMap::new());
    Member::new((node, boot), Timing::default(), target, BTreeMap::new(), 1)
}

impl Cluster {
    fn new() -> Self {
        let ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        let members = [NodeId(1), NodeId(2), WITNESS].map(|node| (node, member(&ledger, node, 1)));
        let (arrays, now) = (BTreeMap::new(), Moment(0));
        let mut cluster = Self { ledger, members: BTreeMap::from(members), arrays, now };
        cluster.tell(WITNESS, Input::Leadership(GrantorEvent::Leading));
        cluster
    }

    fn tell(&mut self, node: NodeId, input: Input) {
        let mut inputs = VecDeque::from([(node, input)]);
        while let Some((node, input)) = inputs.pop_front() {
            let Some(member) = self.members.get_mut(&node) else { continue };
            for output in member.step(self.now, &self.ledger, input) {
                inputs.extend(self.carry_out(node, output));
            }
        }
    }

    fn carry_out(&mut self, node: NodeId, output: Output) -> Vec<(NodeId, Input)> {
        match output {
            Output::Target(target::Effect::Fence(leg, floor)) => {
                vec![(node, Input::Target(target::Event::Fenced { leg, floor, errored: false }))]
            }
            Output::Target(_) | Output::Vm(_) | Output::Feed => Vec::new(),
            Output::Owner(id, effect) => {
                let events = self.engine(node, effect);
                events.into_iter().map(|event| (node, Input::Owner(id, event))).collect()
            }
            Output::Propose(command) | Output::Decide(command) => {
                // A refusal is an answer, too.
                let _ = self.ledger.apply(&command);
                vec![(node, Input::Answered(command))]
            }
            Output::Ask(request) => vec![(WITNESS, Input::Asked(node, request))],
            Output::Confirm(round) => vec![(node, Input::Leadership(GrantorEvent::Confirmed(round)))],
            Output::Grant(to, request) => vec![(to, Input::Granted(request))],
        }
    }

    fn engine(&mut self, node: NodeId, effect: owner::Effect) -> Vec<owner::Event> {
        let legs = self.arrays.entry(node).or_default();
        match effect {
            owner::Effect::Assemble(assembly) => {
                *legs = assembly.legs.keys().copied().collect();
                vec![owner::Event::Assembled(assembly)]
            }
            owner::Effect::Look => {
                let look = |leg: &LegId| (*leg, LegLook::Fine);
                let legs = legs.iter().map(look).collect();
                vec![owner::Event::Looked(Look { waits: false, legs })]
            }
            owner::Effect::LetGo(leg) => {
                legs.remove(&leg.id);
                vec![owner::Event::LetGo(leg.id)]
            }
            owner::Effect::Release(_) => vec![owner::Event::Released],
            owner::Effect::Rebuild(leg, _, _) => {
                legs.insert(leg.id);
                vec![owner::Event::Rebuilt(leg, self.maps())]
            }
            owner::Effect::Stop { .. } => {
                legs.clear();
                let epoch = volume(&self.ledger).epoch;
                let flushed = volume(&self.ledger).named_in_sync();
                vec![owner::Event::Stopped { epoch, flushed }]
            }
            owner::Effect::GivenBack(_)
            | owner::Effect::Repoint(..)
            | owner::Effect::Admit(_)
            | owner::Effect::Extend(_)
            | owner::Effect::StopRebuild(_)
            | owner::Effect::ResetNode
            | owner::Effect::Propose(_) => Vec::new(),
        }
    }

    fn maps(&self) -> MapSequence {
        volume(&self.ledger).map_sequence
    }

    fn until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        let end = self.now.0 + ms;
        while !done(self) {
            if self.now.0 >= end {
                let (now, ledger) = (self.now, self.ledger.clone());
                let blocked = self.members.get_mut(&WITNESS).map(|witness| witness.blocked(now, &ledger));
                panic!("{now:?}: {blocked:?} {:?}", volume(&self.ledger));
            }
            self.now.0 += 100;
            for node in self.members.keys().copied().collect::<Vec<_>>() {
                self.tell(node, Input::Look);
            }
        }
    }

    fn member_is_leased(&self, node: NodeId) -> bool {
        self.members[&node].is_leased()
    }

    fn is_open_at(&self, node: NodeId) -> bool {
        let volume = volume(&self.ledger);
        let stage = self.members.get(&node).and_then(|member| member.stage(VOLUME));
        let users = matches!(stage, Some(Stage::Up(up)) if up.admitted);
        volume.owner == node && matches!(volume.phase, Phase::Open { .. }) && users
    }
}

#[test]
fn a_volume_opens_where_it_shall_and_is_taken_over_when_its_node_dies() {
    let mut cluster = Cluster::new();
    cluster.until(5000, |cluster| cluster.is_open_at(NodeId(1)));
    // The leader has just begun, and waited for the second node's fence all the same.
    assert_eq!(volume(&cluster.ledger).in_sync().count(), 2);
    cluster.members.remove(&NodeId(1));
    cluster.tell(NodeId(2), Input::Silent(NodeId(1)));
    // What is promised of a rack that dies with the owner, detection of the path's loss included.
    cluster.until(6000, |cluster| cluster.is_open_at(NodeId(2)));
    assert_eq!(volume(&cluster.ledger).in_sync().count(), 1);
    let again = member(&cluster.ledger, NodeId(1), 2);
    cluster.members.insert(NodeId(1), again);
    cluster.tell(NodeId(2), Input::Heard(NodeId(1)));
    cluster.until(5000, |cluster| volume(&cluster.ledger).in_sync().count() == 2);
    assert!(cluster.is_open_at(NodeId(2)));
}

#[test]
fn a_node_without_lease_closes_what_it_owns() {
    let mut cluster = Cluster::new();
    cluster.until(5000, |cluster| cluster.is_open_at(NodeId(1)));
    assert!(cluster.members[&NodeId(1)].is_leased());
    cluster.members.remove(&WITNESS);
    cluster.until(3000, |cluster| !cluster.members[&NodeId(1)].is_leased());
    assert_eq!(cluster.arrays[&NodeId(1)], BTreeSet::new());
}

/// It has stood still between hearing that its volume is open and letting users in: what it hears first when it goes on is not the time.
#[test]
fn a_node_that_stood_still_lets_nobody_in_by_a_lease_that_is_over() {
    let mut cluster = Cluster::new();
    let owner = NodeId(1);
    cluster.until(4000, |cluster| cluster.member_is_leased(owner));
    cluster.now = cluster.now.after(std::time::Duration::from_secs(8));
    let (now, ledger) = (cluster.now, cluster.ledger.clone());
    let look = Input::Owner(VOLUME, owner::Event::Looked(Look::default()));
    let mut member = cluster.members.remove(&owner).unwrap();
    member.step(now, &ledger, look);
    assert!(!member.is_leased());
}

#[test]
fn a_proposal_in_flight_is_not_sent_again_before_there_is_an_answer() {
    let ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
    let mut booted = member(&ledger, NodeId(1), 2);
    let proposals = |member: &mut Member, input: Input| -> Vec<Command> {
        let of = |output| match output {
            Output::Propose(command) => Some(command),
            _ => None,
        };
        member.step(Moment(0), &ledger, input).into_iter().filter_map(of).collect()
    };
    let first = proposals(&mut booted, Input::Look);
    assert!(matches!(first.as_slice(), [Command::Cluster(ClusterCommand::Register { .. })]));
    assert_eq!(proposals(&mut booted, Input::Look), []);
    assert_eq!(proposals(&mut booted, Input::Answered(first[0].clone())), []);
    assert_eq!(proposals(&mut booted, Input::Look), first);
}

#[test]
fn owners_come_and_go_with_the_ledgers_volumes() {
    let mut cluster = Cluster::new();
    cluster.until(5000, |cluster| cluster.is_open_at(NodeId(1)));
    assert!(matches!(cluster.members[&NodeId(1)].stage(VOLUME), Some(Stage::Up(_))));
    assert_eq!(cluster.members[&NodeId(2)].stage(VOLUME), Some(&Stage::Idle));
    cluster.tell(NodeId(1), Input::Owner(VOLUME, owner::Event::Close));
    cluster.until(1000, |cluster| volume(&cluster.ledger).phase == Phase::Closed);
    let delete = crate::testing::now(&cluster.ledger, crate::command::VolumeCommand::Delete);
    must(&mut cluster.ledger, &delete);
    cluster.until(1000, |cluster| cluster.members.values().all(|member| member.stage(VOLUME).is_none()));
    cluster.until(1000, |cluster| cluster.ledger.drives.values().all(|drive| drive.leaving.is_empty()));
}

/// What is between the end of its array and the commit that moves it is a part of the time for which nobody runs.
#[test]
fn a_volume_that_has_parted_moves_with_its_virtual_machine_without_another_look() {
    use crate::vm::{Room, VmCommand, VmPhase, VmsCommand, Wanted};
    let (vm, one, two) = (VmId(1), NodeId(1), NodeId(2));
    let mut cluster = Cluster::new();
    cluster.until(5000, |cluster| cluster.is_open_at(one));
    let spec = VmSpec {
        name: "one".parse().unwrap(),
        memory_bytes: 1 << 30,
        cores: 1,
        placement: VmPlacement::Anywhere,
        anti_affinity: None,
        volumes: vec![VOLUME],
        saves_to: None,
        nics: Vec::new(),
    };
    let about = |generation, command| Command::Vm(vm, Generation(generation), command);
    let room = Room { memory_bytes: 2 << 30, cores: 2 };
    for command in [
        Command::Vms(VmsCommand::SetRoom(one, room)),
        Command::Vms(VmsCommand::SetRoom(two, room)),
        Command::Vms(VmsCommand::Create(Box::new(spec))),
        Command::Vms(VmsCommand::Want(vm, Wanted::Running)),
        about(0, VmCommand::Place { on: one }),
        about(1, VmCommand::Began),
        about(1, VmCommand::Migrate { to: two }),
        about(2, VmCommand::IncomingReady),
    ] {
        must(&mut cluster.ledger, &command);
    }
    let runs = Instance { generation: Generation(1), stage: runner::Stage::Running };
    let member = cluster.members.remove(&one).unwrap().with_vms([(vm, runs)].into());
    cluster.members.insert(one, member);
    cluster.tell(one, Input::Vm(runner::Event::Leased));
    cluster.tell(one, Input::Vm(runner::Event::Paused(vm, Generation(1))));
    assert!(matches!(cluster.ledger.vms.all[&vm].phase, VmPhase::Landing { .. }));
    assert_eq!(volume(&cluster.ledger).owner, two);
}
