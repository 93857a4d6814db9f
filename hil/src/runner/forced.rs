//! A quorum that is forced when none is left, and a volume that is opened by an operator's word, both as the commands do it.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{POLL, Runner, Seen};
use crate::suite::Room;
use control::state::Phase;
use deploy::ledger::{force_quorum, has_forced, risks_of_force, survey};
use deploy::pool::{answering, choose_override, in_words, newest, override_volume};
use model::NodeName;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Who orders it.
const BY: &str = "the lab";

impl Runner<'_> {
    /// Goes on with what a node has of the ledger, and sees that it decides alone then, and that the same command again finds it done.
    pub(super) async fn force_quorum(&mut self, at: (Room, u8), bound: Duration) -> Seen {
        let Some(name) = self.node_of(at).map(|member| member.name.clone()) else {
            return Seen::not("there is no such node");
        };
        let members = &self.cluster.members;
        let begun = Instant::now();
        let risks = loop {
            match risks_of_force(&name, &survey(members).await) {
                Ok(risks) => break risks,
                Err(why) if begun.elapsed() >= bound => return Seen::not(why.to_string()),
                Err(_) => sleep(POLL).await,
            }
        };
        let unseen: Vec<&NodeName> = risks.unseen.iter().map(|(name, _)| name).collect();
        let forced = match force_quorum(members, &name, (&risks, BY)).await {
            Ok(forced) => forced,
            Err(error) => return Seen::not(crate::chain(&error)),
        };
        let what = format!(
            "{name} goes on with entry {} of term {}, {} of them not known to be committed; not looked at: {unseen:?}; incarnation {}",
            risks.last.index, risks.last.term, forced.presumed, forced.incarnation.0
        );
        if unseen.len() + 1 != members.len() || !risks.unasked.is_empty() {
            return Seen::not(format!("{what}; others answered: {risks:?}"));
        }
        while has_forced(&name, BY, &survey(members).await) != Some(forced.incarnation) {
            if begun.elapsed() >= bound {
                return Seen::not(format!("{what}; it does not lead by the word of a quorum"));
            }
            sleep(POLL).await;
        }
        Seen::held(format!("{what}; it decides after {} ms", begun.elapsed().as_millis()))
    }

    /// Nobody may use the volume, and no leg of it is taken to be good.
    pub(super) async fn volume_is_offline(&mut self, bound: Duration) -> Seen {
        let begun = Instant::now();
        let Some(id) = self.volume.as_ref().map(|tested| tested.id) else {
            return Seen::not("there is no volume");
        };
        loop {
            let views = self.look_at_volume().await;
            let volume = newest(&views).and_then(|view| view.state.volumes.get(&id));
            let words = volume.map_or_else(|| "nobody says how it is".to_owned(), in_words);
            let shown = views.iter().filter(|(_, view)| view.devices.contains_key(&id)).count();
            let is_offline = volume
                .is_some_and(|volume| volume.phase == Phase::Offline && volume.in_sync().next().is_none());
            if is_offline && shown == 0 {
                return Seen::held(format!("after {} ms: {words}", begun.elapsed().as_millis()));
            }
            if begun.elapsed() >= bound {
                return Seen::not(format!("{words}; {shown} nodes show a device"));
            }
            sleep(POLL).await;
        }
    }

    /// Takes a node's leg for good, as an operator who was told what that may lose.
    pub(super) async fn override_volume(&mut self, at: (Room, u8), bound: Duration) -> Seen {
        let Some(name) = self.node_of(at).map(|member| member.name.clone()) else {
            return Seen::not("there is no such node");
        };
        let Some(id) = self.volume.as_ref().map(|tested| tested.id) else {
            return Seen::not("there is no volume");
        };
        let begun = Instant::now();
        let members = self.working().members;
        let (state, nodes) = match answering(&members, bound).await {
            Ok(found) => found,
            Err(error) => return Seen::not(crate::chain(&error)),
        };
        let plan = match choose_override(&state, &nodes, id, None) {
            Ok(plan) => plan,
            Err(why) => return Seen::not(why.to_string()),
        };
        let told = plan.loses.join("; ");
        match override_volume(&members, &plan, BY, bound).await {
            Ok(ready) if ready.owner == name => Seen::held(format!(
                "open on {name} as {} after {} ms; told before: {told}",
                ready.device,
                begun.elapsed().as_millis()
            )),
            Ok(ready) => Seen::not(format!("it is open on {}: {told}", ready.owner)),
            Err(error) => Seen::not(crate::chain(&error)),
        }
    }
}
