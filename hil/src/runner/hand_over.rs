//! Handing the volume over to another node, as an operator does, while its workload pauses.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{Runner, Seen, milliseconds};
use crate::run::RunError;
use crate::suite::Room;
use api::{ClusterView, HandOverRequest};
use deploy::pool::{self, newest};
use model::{NodeId, NodeName, VolumeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the workload may take to begin, and the ledger to say that it was handed over.
const BOUND: Duration = Duration::from_secs(10);
/// How often the ledger is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

impl Runner<'_> {
    pub(super) async fn hand_over(&mut self, at: (Room, u8), bound: Duration) -> Result<Seen, RunError> {
        let Some((volume, to)) = self.taker(at).await else { return Ok(Seen::not("there is no such node")) };
        let Some(pace) = self.volume.as_ref().and_then(|tested| tested.pace) else {
            return Ok(Seen::not("nobody has written"));
        };
        let (ended, last) = self.end_writing().await?;
        let Some(last) = last.filter(|_| ended.good) else { return Ok(ended) };
        let stopped_ms = milliseconds(last.elapsed());
        let (asked, mut waited) = (Instant::now(), Vec::new());
        let members = self.working().members.clone();
        let request = HandOverRequest { volume, to, end_users: false };
        let told = |why: &str| waited.push(format!("{} ms: {why}", asked.elapsed().as_millis()));
        let ready = match pool::hand_over(&members, request, bound, told).await {
            Ok(ready) => ready,
            Err(error) => return Ok(Seen::not(format!("{}; {}", crate::chain(&error), waited.join(", ")))),
        };
        let took_ms = milliseconds(asked.elapsed());
        let started = self.start_writing(pace, BOUND).await?;
        let writer = self.volume.as_ref().and_then(|tested| tested.writer.as_ref());
        let Some(first) = writer.and_then(super::writers::Writer::first_at).filter(|_| started.good) else {
            return Ok(started);
        };
        let pause_ms = milliseconds(first.duration_since(last));
        let what = format!(
            "open on {} as {} after {took_ms} ms ({}); nothing was acknowledged for {pause_ms} ms, of which the workload took {stopped_ms} ms to be ended",
            ready.owner,
            ready.device,
            waited.join(", ")
        );
        let in_time = u128::from(pause_ms) <= bound.as_millis();
        Ok(if in_time { Seen::held(what) } else { Seen::not(what) }.measuring(pause_ms))
    }

    pub(super) async fn begin_hand_over(
        &mut self,
        at: (Room, u8),
        committed: bool,
    ) -> Result<Seen, RunError> {
        let Some((volume, to)) = self.taker(at).await else { return Ok(Seen::not("there is no such node")) };
        let (ended, last) = self.end_writing().await?;
        if last.is_none() || !ended.good {
            return Ok(ended);
        }
        let views = self.look_at_volume().await;
        let Some(owner) = self.owner_of(&views) else { return Ok(Seen::not("nobody says whose it is")) };
        let asked = Instant::now();
        let request = HandOverRequest { volume, to, end_users: false };
        if let Err(error) = owner.client.hand_over(&request).await {
            return Ok(Seen::not(crate::chain(&error)));
        }
        let asked_of = format!("{} was asked", owner.name);
        if !committed {
            return Ok(Seen::held(asked_of));
        }
        loop {
            let views = self.look_at_volume().await;
            let volume = newest(&views).and_then(|view| view.state.volumes.get(&volume));
            if volume.is_some_and(|volume| volume.owner == to) {
                let after_ms = asked.elapsed().as_millis();
                return Ok(Seen::held(format!("{asked_of}, and the ledger said so {after_ms} ms later")));
            }
            if asked.elapsed() >= BOUND {
                return Ok(Seen::not(format!("{asked_of}, and the ledger does not say so")));
            }
            sleep(LOOK).await;
        }
    }

    /// The volume, and the node that is to have it, as the ledger knows it.
    async fn taker(&mut self, (room, position): (Room, u8)) -> Option<(VolumeId, NodeId)> {
        let zone = self.cluster.spec.zones.get(room.index())?;
        let name: NodeName = zone.nodes.get(usize::from(position).checked_sub(1)?)?.name.clone();
        let views = self.look_at_volume().await;
        let nodes = &newest(&views)?.state.nodes;
        let to = nodes.iter().filter(|(_, node)| node.name == name).map(|(id, _)| *id).next_back()?;
        Some((self.volume.as_ref()?.id, to))
    }

    /// Who has the volume, by the ledger.
    fn owner_of(&self, views: &[(NodeName, ClusterView)]) -> Option<deploy::Member> {
        let state = &newest(views)?.state;
        let name = &state.nodes.get(&self.volume.as_ref()?.of(views)?.owner)?.name;
        self.cluster.members.iter().find(|member| member.name == *name).cloned()
    }
}
