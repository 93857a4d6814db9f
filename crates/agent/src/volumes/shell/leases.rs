//! Leases: asked for by this node, and by others of the one that leads.
//!
//! On failure: control asks again.

use super::{LEASE_LIMIT, Shell};
use api::{LeaseAnswer, LeaseRequest};
use control::State;
use control::lease::GrantorEvent;
use control::member::Input;
use model::NodeId;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Shell {
    /// Another node asks. Whoever does not lead grants nothing, and says so at once: the answer is dropped.
    pub(super) fn answer_lease(&mut self, asked: LeaseRequest, answer: oneshot::Sender<bool>) {
        // A new leader is asked before it has looked, and whoever gets no answer asks 400 ms later.
        self.see_leadership();
        let LeaseRequest { node, request, left_users_ms, drives } = asked;
        let Some(counts_ms) = left_users_ms else {
            if self.leads.is_some() {
                self.waiting.insert((node, request), answer);
            }
            self.step(Input::Asked(node, request));
            return self.step(Input::Measured(node, drives));
        };
        let state = Arc::clone(&self.state.borrow());
        if self.leads.is_some() && may_renew(&state, node, counts_ms) {
            self.waiting.insert((node, request), answer);
            // Not as heard: who is not at work takes no volume over, and need not vote.
            self.step(Input::Leadership(GrantorEvent::Asked(node, request)));
        }
    }

    pub(super) fn ask(&self, request: u64) {
        let node = self.identity.node;
        match self.ledger.status().leader {
            Some(leader) if leader == node => {
                self.told.tell(Input::Asked(node, request));
                self.told.tell(Input::Measured(node, self.load.take()));
            }
            Some(leader) => {
                let Some(to) = self.ledger.contact(leader) else { return };
                let (transport, told) = (Arc::clone(&self.transport), self.told.clone());
                let drives = self.load.take();
                tokio::spawn(async move {
                    let asked = LeaseRequest { node, request, left_users_ms: None, drives };
                    let answer = transport.call(to, api::path::CLUSTER_LEASE, &asked, LEASE_LIMIT);
                    if let Ok(LeaseAnswer { granted: true }) = answer.await {
                        told.tell(Input::Granted(request));
                    }
                });
            }
            None => {}
        }
    }
}

/// Whether users that an earlier run has left on a node may have another lease: not one that would be counted for longer than here, and not where they have to end, since what is theirs
/// is being taken over.
fn may_renew(state: &State, node: NodeId, counts_ms: u32) -> bool {
    let volumes = state.volumes.values().map(|volume| &volume.yielding);
    let mut yielding = volumes.chain(state.vms.all.values().map(|vm| &vm.yielding));
    counts_ms <= state.settings.lease_ms && !yielding.any(|yielding| yielding.contains_key(&node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::{Cache, Settings};
    use control::{ClusterCommand, Command};
    use model::{BootId, DriveId, Mirror, PowerCycles, Provision};
    use std::collections::BTreeMap;

    #[test]
    fn left_users_have_no_lease_that_the_leader_counts_shorter_or_where_they_have_to_end() {
        let settings = Settings::default();
        let mut state = State::new(settings);
        let mut must = |command| drop(state.apply(&command).unwrap());
        let drives = [(1, "rack1"), (2, "rack2")].map(|(number, zone)| {
            let (node, name) = (NodeId(number), format!("n{number}").parse().unwrap());
            must(Command::Cluster(ClusterCommand::AddNode { name, zone: Some(zone.parse().unwrap()) }));
            let (size_bytes, cache, power_cycles) = (8 << 30, Cache::Safe, PowerCycles(1));
            let serial = format!("S{number}").parse().unwrap();
            must(Command::Cluster(ClusterCommand::AddDrive {
                node,
                serial,
                size_bytes,
                cache,
                power_cycles,
            }));
            let (boot, drives) = (BootId(number.into()), BTreeMap::from([(DriveId(number), power_cycles)]));
            must(Command::Cluster(ClusterCommand::Register { node, was: None, boot, drives }));
            DriveId(number)
        });
        must(Command::Cluster(ClusterCommand::CreateVolume {
            name: "one".parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Fixed,
            size_bytes: 1 << 28,
            drives: drives.to_vec(),
            owner: NodeId(1),
        }));
        let may = |state: &State, node, counts_ms| may_renew(state, NodeId(node), counts_ms);
        assert!(may(&state, 1, settings.lease_ms) && !may(&state, 1, settings.lease_ms + 1));
        let volume = state.volumes.values_mut().next().unwrap();
        volume.yielding.insert(NodeId(1), BootId(1));
        assert!(!may(&state, 1, settings.lease_ms) && may(&state, 2, settings.lease_ms));
    }
}
