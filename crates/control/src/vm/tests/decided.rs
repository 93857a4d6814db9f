//! What the leader asks by itself, step by step, in a ledger that says yes.

use super::*;
use crate::decider::{Blocked, Decider, Effect, Event as Told, Timing};
use crate::lease::GrantorEvent;
use crate::moment::Moment;
use crate::state::Phase;
use crate::vm::placing;
use placement::vm::{Drained, NotDrained};

struct Cluster {
    ledger: State,
    decider: Decider,
    live: Vec<NodeId>,
    at: u64,
}

impl Cluster {
    fn new(ledger: State) -> Self {
        let mut decider = Decider::new(Timing::default());
        for event in [GrantorEvent::Leading, GrantorEvent::Confirmed(1)] {
            decider.step(Moment(0), &ledger, Told::Lease(event));
        }
        Self { ledger, decider, live: (1..=4).map(NodeId).collect(), at: 0 }
    }

    /// What is asked for a time from now on, each once; what is about volumes and what the ledger takes of it, is done.
    fn runs_for(&mut self, ms: u64) -> Vec<Command> {
        let mut asked = Vec::new();
        for _ in 0..ms / 100 {
            self.at += 100;
            for node in self.live.clone() {
                self.decider.step(Moment(self.at), &self.ledger, Told::Heard(node));
            }
            for effect in self.decider.step(Moment(self.at), &self.ledger, Told::Look) {
                if let Effect::Propose(command) = effect
                    && self.ledger.apply(&command).is_ok()
                {
                    asked.push(command);
                }
            }
            assert_eq!(check(&self.ledger), []);
        }
        asked
    }

    /// Only what it asks about the virtual machine, and takeovers.
    fn steps(&mut self, ms: u64) -> Vec<String> {
        let asked = self.runs_for(ms);
        let told = |command: Command| match command {
            Command::Vm(_, _, command) => Some(format!("{command:?}")),
            Command::Vms(command) => Some(format!("{command:?}")),
            Command::Volume(_, _, VolumeCommand::Takeover { owner, .. }) => Some(format!("Takeover {owner}")),
            Command::Volume(_, _, VolumeCommand::Open { owner }) => Some(format!("Open {owner}")),
            _ => None,
        };
        asked.into_iter().filter_map(told).collect()
    }

    /// Targets confirm, the owner opens.
    fn opens(&mut self) {
        for node in self.live.clone() {
            let legs = volume(&self.ledger).legs.clone();
            for (id, leg) in &legs {
                if self.ledger.node_of(leg) != Some(node) {
                    continue;
                }
                let run = self.ledger.run(leg.drive).unwrap();
                let leg = LegRef { id: *id, incarnation: leg.incarnation };
                let confirm = now(&self.ledger, VolumeCommand::ConfirmFence { leg, run, errored: false });
                let _ = self.ledger.apply(&confirm);
            }
        }
        self.runs_for(100);
        opened(&mut self.ledger);
    }
}

#[test]
fn a_nodes_loss_keeps_it_in_its_rack_and_its_volume_goes_with_it() {
    let mut cluster = Cluster::new(running(VmPlacement::Prefers(zone(1))));
    assert_eq!(cluster.steps(2000), Vec::<String>::new());
    cluster.live.retain(|node| *node != ONE);
    assert_eq!(cluster.steps(900), Vec::<String>::new(), "its lease may not be over");
    let yielded = format!("Yielded {{ node: NodeId(1), boot: {:?} }}", boot(ONE, 1));
    assert_eq!(cluster.steps(300), ["Lost", "Place { on: NodeId(3) }", &yielded, "Takeover node-3"]);
    assert_eq!(the_vm(&cluster.ledger).phase, VmPhase::Starting { at: seat(THREE, 2) });
    assert!(matches!(volume(&cluster.ledger).phase, Phase::Fencing { .. }));
}

/// The leader is another at each step of it; nothing differs but the time.
#[test]
fn a_leader_lost_at_each_step_of_a_failover_changes_nothing() {
    for lost_after in 0..4 {
        let mut cluster = Cluster::new(running(VmPlacement::Prefers(zone(1))));
        cluster.live.retain(|node| *node != ONE);
        let mut steps = Vec::new();
        for _ in 0..120 {
            steps.extend(cluster.steps(100));
            if steps.len() == lost_after {
                let ledger = cluster.ledger.clone();
                cluster = Cluster { live: cluster.live.clone(), ..Cluster::new(ledger) };
                steps.push("another leads".to_owned());
            }
        }
        steps.retain(|step| step != "another leads");
        let yielded = format!("Yielded {{ node: NodeId(1), boot: {:?} }}", boot(ONE, 1));
        steps.retain(|step| *step != yielded);
        assert_eq!(steps, ["Lost", "Place { on: NodeId(3) }", "Takeover node-3"], "lost after {lost_after}");
        assert!(the_vm(&cluster.ledger).yielding.is_empty());
    }
}

#[test]
fn a_racks_loss_takes_it_to_the_other_and_it_goes_home_when_that_has_been_well_for_long_enough() {
    let mut cluster = Cluster::new(running(VmPlacement::Prefers(zone(1))));
    cluster.live = vec![TWO, NodeId(4)];
    cluster.steps(4000);
    assert_eq!(the_vm(&cluster.ledger).phase.kind(), VmKind::Starting);
    let on = the_vm(&cluster.ledger).phase.seat().unwrap().node;
    assert!([TWO, NodeId(4)].contains(&on) && volume(&cluster.ledger).owner == on);
    cluster.opens();
    does(&mut cluster.ledger, C::Began);
    cluster.live = (1..=4).map(NodeId).collect();
    assert_eq!(cluster.steps(90_000), Vec::<String>::new(), "its legs are not in sync");
    for leg in [1, 3].map(LegId) {
        let volume = cluster.ledger.volumes.get_mut(&VOLUME).unwrap();
        volume.legs.get_mut(&leg).unwrap().state = crate::state::LegState::InSync;
    }
    assert_eq!(cluster.steps(50_000), Vec::<String>::new(), "it is held down");
    cluster.live.retain(|node| *node != ONE && *node != THREE);
    cluster.steps(1500);
    cluster.live = (1..=4).map(NodeId).collect();
    assert_eq!(cluster.steps(50_000), Vec::<String>::new(), "a flapping rack is held down anew");
    let home = cluster.steps(20_000);
    assert_eq!(home[0], r#"ZoneReady(ZoneName("zone1"))"#);
    assert!(home[1].starts_with("Migrate") && home.len() == 2, "{home:?}");
}

#[test]
fn a_strict_one_stays_off_while_its_rack_is_down_and_is_started_there_when_it_is_back() {
    let mut cluster = Cluster::new(running(VmPlacement::Strict(zone(1))));
    cluster.live = vec![TWO, NodeId(4)];
    cluster.steps(5000);
    assert_eq!(the_vm(&cluster.ledger).phase, VmPhase::Off);
    assert_eq!(volume(&cluster.ledger).owner, TWO, "its volume is looked after meanwhile");
    cluster.live = (1..=4).map(NodeId).collect();
    let back = cluster.steps(500);
    assert!(back.len() == 1 && back[0].starts_with("Place"), "{back:?}");
    assert!([ONE, THREE].contains(&the_vm(&cluster.ledger).phase.seat().unwrap().node));
}

#[test]
fn a_drain_is_refused_at_once_with_who_is_in_the_way_or_saves_them() {
    let state = running(VmPlacement::Strict(zone(1)));
    let rack = Drained::Rack(zone(1));
    let refused = placing::drain(&state, |_| true, &rack, Leftover::Stays);
    let Err(NotDrained::InTheWay(who)) = refused else { panic!("{refused:?}") };
    assert_eq!((who[0].vm, who[0].last_home.clone()), (VM, Some(zone(1))));
    let drain = placing::drain(&state, |_| true, &rack, Leftover::Saved).unwrap();
    assert_eq!(drain.saved.keys().copied().collect::<Vec<_>>(), [VM]);
    let mut cluster = Cluster::new(state);
    let (nodes, leftover) = (BTreeSet::from([ONE, THREE]), Leftover::Saved);
    must(&mut cluster.ledger, &Command::Vms(VmsCommand::Drain { nodes: nodes.clone(), leftover }));
    assert_eq!(cluster.steps(3000), ["Save"]);
    does(&mut cluster.ledger, C::Ended(How::Saved(FIRST, BYTES)));
    assert_eq!(cluster.steps(3000), Vec::<String>::new(), "it stays saved");
    must(&mut cluster.ledger, &Command::Vms(VmsCommand::EndDrain { nodes }));
    assert_eq!(cluster.steps(100).len(), 1);
    assert_eq!(the_vm(&cluster.ledger).phase.kind(), VmKind::Restoring, "and goes on when there is a place");
}

#[test]
fn a_save_that_nobody_wants_any_more_is_given_up() {
    let mut cluster = Cluster::new(running(VmPlacement::Anywhere));
    let wants = |cluster: &mut Cluster, wanted| {
        must(&mut cluster.ledger, &Command::Vms(VmsCommand::Want(VM, wanted)));
        cluster.steps(500)
    };
    assert_eq!(wants(&mut cluster, Wanted::Saved), ["Save"]);
    assert_eq!(wants(&mut cluster, Wanted::Running), ["GiveUpSaving(SaveTry(1), Unwanted)"]);
    assert_eq!(wants(&mut cluster, Wanted::Saved), ["Save"]);
    assert_eq!(wants(&mut cluster, Wanted::Stopped), ["GiveUpSaving(SaveTry(2), Unwanted)", "Stop"]);
}

#[test]
fn a_drained_nodes_migrate_a_few_at_a_time_and_back_off_when_that_fails() {
    let mut cluster = Cluster::new(running(VmPlacement::Anywhere));
    cluster.ledger.vms.policy.migrations_max = 1;
    let (nodes, leftover) = (BTreeSet::from([ONE]), Leftover::Stays);
    must(&mut cluster.ledger, &Command::Vms(VmsCommand::Drain { nodes, leftover }));
    let migrates = cluster.steps(2000);
    assert!(migrates.len() == 1 && migrates[0].starts_with("Migrate"), "{migrates:?}");
    does(&mut cluster.ledger, C::Cancel);
    assert_eq!(cluster.steps(900), Vec::<String>::new());
    assert_eq!(cluster.steps(300).len(), 1);
    does(&mut cluster.ledger, C::Cancel);
    assert_eq!(cluster.steps(1900), Vec::<String>::new(), "twice as long");
    assert_eq!(cluster.steps(300).len(), 1);
    let to = the_vm(&cluster.ledger).phase.other_seat().unwrap().node;
    cluster.live.retain(|node| *node != to);
    assert_eq!(cluster.steps(1200), ["Cancel"], "nobody would receive it");
}

#[test]
fn a_closed_volume_is_opened_where_its_virtual_machine_is_to_run() {
    let mut cluster = Cluster::new(ledger(VmPlacement::Strict(zone(2))));
    let close =
        now(&cluster.ledger, VolumeCommand::Close { flushed: volume(&cluster.ledger).named_in_sync() });
    must(&mut cluster.ledger, &close);
    let steps = cluster.steps(1500);
    assert_eq!(steps, ["Place { on: NodeId(2) }", "Open node-2"]);
}

#[test]
fn operators_are_told_that_a_volume_waits_for_a_place() {
    let mut cluster = Cluster::new(running(VmPlacement::Anywhere));
    cluster.live.retain(|node| *node != ONE);
    for at in (100..=3000).step_by(100) {
        for node in cluster.live.clone() {
            cluster.decider.step(Moment(at), &cluster.ledger, Told::Heard(node));
        }
    }
    cluster.decider.step(Moment(3000), &cluster.ledger, Told::Look);
    assert_eq!(cluster.decider.blocked(Moment(3000), &cluster.ledger), [(VOLUME, Blocked::Placing(VM))]);
}
