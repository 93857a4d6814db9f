//! Ledgers that are damaged, or whose disk is full, and how they come back.
//!
//! On failure: what does not hold is a step that does not hold.

use super::{POLL, Runner, Seen};
use crate::run::RunError;
use crate::suite::{Place, Room, Step};
use api::NodeLedger;
use control::{ClusterCommand, Command};
use deploy::Member;
use deploy::ledger::{Standing, rejoin, standings};
use deploy::pool::{confirmed, views};
use model::NodeName;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So many entries are made between two looks at whether a ledger has stopped.
const ENTRIES: usize = 20;

impl Runner<'_> {
    pub(super) fn node_of(&self, (room, position): (Room, u8)) -> Option<&Member> {
        let nodes = &self.cluster.spec.zones.get(room.index())?.nodes;
        let name = &nodes.get(usize::from(position).checked_sub(1)?)?.name;
        self.cluster.members.iter().find(|member| member.name == *name)
    }

    /// Fills the disk of a node's ledger; of the leader's, if none is named.
    pub(super) async fn fill_ledger_disk(&mut self, at: Option<(Room, u8)>) -> Result<Seen, RunError> {
        let name = match at {
            Some(at) => self.node_of(at).map(|member| member.name.clone()),
            None => self.leader().await,
        };
        let Some(name) = name else { return Ok(Seen::not("nobody leads by the word of a quorum")) };
        self.before_a_fault();
        let now = Instant::now();
        let made = self.lab.fill_ledger_disk(&name).await?;
        Ok(self.made(now, &[made]))
    }

    /// Has leaders stop, one after the other, until one in the room leads; then all of them are there again. Each has led for as long as a lease
    /// before it is stopped, so that every node has one from it: two elections within a lease cost users theirs.
    pub(super) async fn leader_in(&mut self, room: Room, bound: Duration) -> Result<Seen, RunError> {
        let begun = Instant::now();
        let mut stopped = Vec::new();
        let mut leads: Option<(NodeName, Instant)> = None;
        loop {
            let now = self.leader_and_lease().await;
            if let Some((leader, _)) = &now
                && self.room_of(leader) == Some(room)
            {
                let after_ms = begun.elapsed().as_millis();
                return Ok(Seen::held(format!(
                    "{leader} leads after {after_ms} ms; before it led {stopped:?}"
                )));
            }
            if begun.elapsed() >= bound {
                return Ok(Seen::not(format!("{now:?} leads; before it led {stopped:?}")));
            }
            match (now, &leads) {
                (Some((leader, lease)), Some((led, since))) if leader == *led => {
                    if since.elapsed() >= lease {
                        self.depose(&leader, begun + bound).await?;
                        stopped.push(leader);
                        leads = None;
                        continue;
                    }
                }
                (now, _) => leads = now.map(|(leader, _)| (leader, Instant::now())),
            }
            sleep(POLL).await;
        }
    }

    /// Whoever leads stops until another one does.
    async fn depose(&mut self, leader: &NodeName, deadline: Instant) -> Result<(), RunError> {
        let step = match self.place_of(leader) {
            Some((room, position)) => Step::KillAgent { room, position },
            None => Step::Freeze { room: Place::Witness, position: None },
        };
        self.break_it(&step).await?;
        while Instant::now() < deadline && self.leader().await.is_none_or(|next| next == *leader) {
            sleep(POLL).await;
        }
        self.mend().await
    }

    /// Who leads by the word of a quorum.
    pub(super) async fn leader(&self) -> Option<NodeName> {
        self.leader_and_lease().await.map(|(leader, _)| leader)
    }

    /// Who leads by the word of a quorum, and how long leases are.
    async fn leader_and_lease(&self) -> Option<(NodeName, Duration)> {
        let views = views(&self.working().members).await;
        let lease = |view: &api::ClusterView| Duration::from_millis(view.state.settings.lease_ms.into());
        views.iter().find(|(_, view)| view.confirmed).map(|(name, view)| (name.clone(), lease(view)))
    }

    pub(super) fn place_of(&self, name: &NodeName) -> Option<(Room, u8)> {
        let zones = (1..).zip(&self.cluster.spec.zones);
        zones.into_iter().find_map(|(number, zone)| {
            let at = zone.nodes.iter().position(|node| node.name == *name)?;
            Some((Room::try_from(number).ok()?, u8::try_from(at + 1).ok()?))
        })
    }

    fn room_of(&self, name: &NodeName) -> Option<Room> {
        self.place_of(name).map(|(room, _)| room)
    }

    /// The ledger is used until those whose disk is full have stopped.
    pub(super) async fn ledgers_stop(&mut self, bound: Duration) -> Result<Seen, RunError> {
        let full = self.lab.full_ledger_disks();
        let begun = Instant::now();
        let mut entries = 0_usize;
        loop {
            let standings = standings(&self.working().members).await;
            let is_out = |standing: &Standing| match &standing.ledger {
                Ok(NodeLedger::Open(open)) => open.stopped.is_some(),
                Ok(NodeLedger::Closed { is_lost, .. }) => !is_lost,
                _ => false,
            };
            let out: Vec<&NodeName> =
                standings.iter().filter(|standing| is_out(standing)).map(|standing| &standing.name).collect();
            let after_ms = begun.elapsed().as_millis();
            let what = format!("{out:?} stopped after {after_ms} ms and {entries} more entries");
            if !full.is_empty() && full.iter().all(|name| out.contains(&name)) {
                let none_else = out.len() == full.len();
                return Ok(if none_else { Seen::held(what) } else { Seen::not(what) });
            }
            if begun.elapsed() >= bound {
                let all: Vec<String> = standings.iter().map(in_words).collect();
                return Ok(Seen::not(format!("{what}: {}", all.join("; "))));
            }
            entries += self.use_ledger(bound).await;
        }
    }

    /// Makes entries that change nothing; how many were acknowledged.
    async fn use_ledger(&self, bound: Duration) -> usize {
        let members = self.working().members;
        let Ok((contact, state)) = confirmed(&members, bound).await else { return 0 };
        let command = Command::Cluster(ClusterCommand::SetSettings(state.settings));
        let request = api::ProposeRequest { command };
        let mut entries = 0;
        for _ in 0..ENTRIES {
            match contact.client.propose(&request).await {
                Ok(_) => entries += 1,
                // Its leader may be the one that stops: there will be another.
                Err(_) => break,
            }
        }
        entries
    }

    /// The node takes no part, and says why.
    pub(super) async fn ledger_is_refused(&mut self, at: (Room, u8), bound: Duration) -> Seen {
        let Some(member) = self.node_of(at).cloned() else { return Seen::not("there is no such node") };
        let begun = Instant::now();
        loop {
            let standing = standings(std::slice::from_ref(&member)).await.pop();
            let words = standing.as_ref().map(in_words).unwrap_or_default();
            if let Some(Standing { ledger: Ok(NodeLedger::Closed { is_lost: true, .. }), .. }) = &standing {
                return Seen::held(format!("after {} ms {words}", begun.elapsed().as_millis()));
            }
            if begun.elapsed() >= bound {
                return Seen::not(words);
            }
            sleep(POLL).await;
        }
    }

    /// A node at a position in a room, or the witness.
    pub(super) fn member_at(&self, place: Place, position: u8) -> Option<&Member> {
        match place {
            Place::Room(room) => self.node_of((room, position)),
            Place::Witness => self.cluster.members.iter().find(|member| member.zone.is_none()),
            Place::Everywhere => None,
        }
    }

    /// The node joins again, as an operator has it.
    pub(super) async fn rejoin(
        &mut self,
        (place, position): (Place, u8),
        votes: bool,
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let Some(name) = self.member_at(place, position).map(|member| member.name.clone()) else {
            return Ok(Seen::not("there is no such node"));
        };
        let begun = Instant::now();
        let members = self.working().members;
        Ok(match rejoin(&members, &name, None, bound).await {
            Ok(rejoined) if rejoined.votes == votes && !rejoined.done.is_empty() => {
                self.lab.ledger_is_back(&name);
                if self.lab.faults().is_empty() {
                    self.note_healed();
                }
                let after_ms = begun.elapsed().as_millis();
                Seen::held(format!(
                    "{}; {} {} after {after_ms} ms",
                    rejoined.done.join("; "),
                    rejoined.node,
                    if votes { "votes" } else { "follows" }
                ))
            }
            Ok(rejoined) => Seen::not(format!("{rejoined:?}")),
            Err(error) => Seen::not(crate::chain(&error)),
        })
    }

    /// Everybody's ledger is open, all vote in one incarnation, and all have what one had when that was first so.
    pub(super) async fn ledgers_work(&mut self, bound: Duration) -> Seen {
        let begun = Instant::now();
        let mut goal = None;
        loop {
            let standings = standings(&self.cluster.members).await;
            let words: Vec<String> = standings.iter().map(in_words).collect();
            if all_work(&standings, &mut goal) {
                return Seen::held(format!("after {} ms: {}", begun.elapsed().as_millis(), words.join("; ")));
            }
            if begun.elapsed() >= bound {
                return Seen::not(words.join("; "));
            }
            sleep(POLL).await;
        }
    }
}

/// Whether all ledgers work, and have applied the goal: the most that one of them had when all worked for the first time.
fn all_work(standings: &[Standing], goal: &mut Option<u64>) -> bool {
    let well = |standing: &Standing| match &standing.ledger {
        Ok(NodeLedger::Open(open)) => {
            let works = open.stopped.is_none() && open.leader.is_some() && open.voters.contains(&open.node);
            works.then_some((open.incarnation, open.applied.unwrap_or(0)))
        }
        _ => None,
    };
    let Some(all) = standings.iter().map(well).collect::<Option<Vec<_>>>() else { return false };
    let most = all.iter().map(|(_, applied)| *applied).max().unwrap_or(0);
    let goal = *goal.get_or_insert(most);
    all.iter().all(|(incarnation, applied)| *applied >= goal && *incarnation == all[0].0)
}

fn in_words(Standing { name, ledger }: &Standing) -> String {
    match ledger {
        Err(why) => format!("{name} says nothing: {why}"),
        Ok(NodeLedger::None {}) => format!("{name} has none"),
        Ok(NodeLedger::Closed { why, .. }) => format!("{name} keeps it closed: {why}"),
        Ok(NodeLedger::Open(open)) => {
            let stopped = open.stopped.as_ref().map(|why| format!(", stopped: {why}")).unwrap_or_default();
            let votes = if open.voters.contains(&open.node) { "votes" } else { "has no vote" };
            format!("{name} is {} at {:?} and {votes}{stopped}", open.node, open.applied)
        }
    }
}
