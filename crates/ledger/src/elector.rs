//! Heartbeats, and who stands for election when none are heard.
//!
//! openraft 0.9 has no pre-vote: a voter that was cut off raises its term again and again, and deposes a healthy leader when it
//! comes back. So openraft's own timer is off, and this one asks first ([`Message::PreVote`]): a voter stands only if a quorum has
//! heard no leader for [`crate::Config::silence_ms`] either, and has no more of the log than it has. Asking changes nothing but that
//! whoever has said yes says no to all others for one heartbeat: of several who ask at once one stands at most. Two who stand at
//! once can cost another silence: openraft lets the one with the greater id depose the other in the same term, when the rest
//! has just heard that one.
//!
//! Invariants: safety is openraft's alone; this only decides when to try. Whoever hears a leader lets nobody stand.
//!
//! On failure: a question that is not answered is a no. Then it is asked again, a drawn time later.

use crate::config::Config;
use crate::network::Post;
use crate::transport::{Answered, Message};
use crate::types::{LogId, Membership, Raft, node_id};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use model::NodeId;
use openraft::ServerState;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

/// What a voter remembers of leaders and candidates.
#[derive(Debug, Clone)]
pub(crate) struct Heard(Arc<Mutex<Memory>>);

#[derive(Debug, Clone, Copy)]
struct Memory {
    /// When a leader was last heard, or a vote given. At the start: then.
    at: Instant,
    /// Who was told that it would have the vote, and until when nobody else is.
    promised: Option<(NodeId, Instant)>,
    /// When this node, as leader, last asked the voters whether it leads.
    round: Option<Instant>,
    /// When it last asked and a quorum said yes.
    confirmed: Option<Instant>,
}

/// For how many heartbeats none goes out while rounds do: learners hear only heartbeats.
const SPARED: u32 = 5;
/// The same while no quorum confirms a round.
const SPARED_UNCONFIRMED: u32 = 3;

impl Heard {
    pub(crate) fn now() -> Self {
        let memory = Memory { at: Instant::now(), promised: None, round: None, confirmed: None };
        Self(Arc::new(Mutex::new(memory)))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn again(&self) {
        self.memory().at = Instant::now();
    }

    /// As leader: all voters are asked now whether it leads. Says when that is.
    pub(crate) fn round(&self) -> Instant {
        *self.memory().round.insert(Instant::now())
    }

    /// A quorum has said yes in the round that began then.
    pub(crate) fn confirmed(&self, round: Instant) {
        let mut memory = self.memory();
        // Rounds may end in another order than they began.
        memory.confirmed = memory.confirmed.max(Some(round));
    }

    /// How long no quorum has said so.
    fn unconfirmed_for(&self) -> Duration {
        self.memory().confirmed.map_or(Duration::MAX, |confirmed| confirmed.elapsed())
    }

    /// As leader: the round because of which there need not be a heartbeat now, which went out last at `beat`.
    fn spares(&self, beat: Option<Instant>, heartbeat: Duration) -> Option<Instant> {
        let may_be_spared =
            beat?.elapsed() < heartbeat * SPARED && self.unconfirmed_for() < heartbeat * SPARED_UNCONFIRMED;
        self.memory().round.filter(|round| may_be_spared && round.elapsed() < heartbeat)
    }

    fn at(&self) -> Instant {
        self.memory().at
    }

    /// Promises the vote, if nobody else has the promise.
    fn promise(&self, to: NodeId, span: Duration) -> bool {
        let (mut memory, now) = (self.memory(), Instant::now());
        if memory.promised.is_some_and(|(other, until)| other != to && now < until) {
            return false;
        }
        memory.promised = Some((to, now + span));
        true
    }

    fn break_promise(&self) {
        self.memory().promised = None;
    }
}

/// Answers a voter that asks whether it would have the vote.
pub(crate) fn asked(raft: &Raft, heard: &Heard, config: &Config, by: NodeId, last: Option<LogId>) -> bool {
    would_vote(standing(raft, heard), config.silence(), last) && heard.promise(by, config.heartbeat())
}

/// What a voter knows when it is asked.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// How long no leader was heard; a leader itself: how long no quorum has answered it.
    silent_for: Duration,
    /// Where its log ends.
    last: Option<LogId>,
}

/// Whether it would vote for somebody whose log ends there.
fn would_vote(own: Standing, silence: Duration, theirs: Option<LogId>) -> bool {
    own.silent_for >= silence && theirs >= own.last
}

/// Whether these are a majority of every set of voters that counts.
fn is_quorum(membership: &Membership, granted: &BTreeSet<u64>) -> bool {
    let sets = membership.get_joint_config();
    !sets.is_empty() && sets.iter().all(|set| 2 * set.intersection(granted).count() > set.len())
}

/// How long no quorum has answered this node, as the leader that it is. openraft counts heartbeats alone.
pub(crate) fn unanswered_for(raft: &Raft, heard: &Heard) -> Duration {
    let unanswered_ms = raft.data_metrics().borrow().millis_since_quorum_ack;
    unanswered_ms.map_or(Duration::ZERO, Duration::from_millis).min(heard.unconfirmed_for())
}

/// How this node stands.
fn standing(raft: &Raft, heard: &Heard) -> Standing {
    let leads = raft.server_metrics().borrow().state == ServerState::Leader;
    let silent_for = if leads { unanswered_for(raft, heard) } else { heard.at().elapsed() };
    Standing { silent_for, last: raft.data_metrics().borrow().last_log }
}

pub(crate) struct Elector {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) post: Post,
    pub(crate) heard: Heard,
    pub(crate) config: Config,
}

impl Elector {
    /// Runs until it is aborted, or openraft has stopped.
    pub(crate) async fn run(self) {
        let mut random = self.config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        // Not less than what separates two voters in hearing the same heartbeat: who stands at once is refused for that.
        let jitter_ms = u64::from(self.config.jitter_ms);
        let mut jitter = || Duration::from_millis(random.u64(jitter_ms / 6..=jitter_ms));
        let silence = self.config.silence();
        let mut changes = self.raft.server_metrics();
        let mut stand_at = self.heard.at() + silence + jitter();
        let mut beat_at: Option<Instant> = None;
        loop {
            let now = changes.borrow_and_update().clone();
            let membership = now.membership_config.membership();
            let votes = membership.voter_ids().any(|voter| voter == self.id);
            let next = if now.state == ServerState::Leader {
                let heartbeat = self.config.heartbeat();
                // A round with the voters is one to them.
                let round = self.heard.spares(beat_at, heartbeat);
                if round.is_none() {
                    if self.raft.trigger().heartbeat().await.is_err() {
                        return;
                    }
                    beat_at = Some(Instant::now());
                }
                round.unwrap_or_else(Instant::now) + heartbeat
            } else if !votes {
                Instant::now() + silence
            } else if is_quorum(membership, &BTreeSet::from([self.id])) {
                // Nobody else is to be asked, and nobody else can lead.
                self.stand().await;
                Instant::now() + silence
            } else if Instant::now() < stand_at {
                stand_at
            } else if self.heard.at().elapsed() < silence {
                stand_at = self.heard.at() + silence + jitter();
                stand_at
            } else {
                let own = node_id(self.id);
                if self.heard.promise(own, self.config.request_limit()) && self.may_stand(membership).await {
                    self.stand().await;
                } else {
                    self.heard.break_promise();
                }
                stand_at = Instant::now() + jitter();
                stand_at
            };
            tokio::select! {
                () = sleep_until(next) => {}
                news = changes.changed() => {
                    if news.is_err() {
                        return;
                    }
                    // A change is followed by others; it costs a millisecond to take them together.
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    async fn stand(&self) {
        info!("no leader: {} stands for election", node_id(self.id));
        if let Err(error) = self.raft.trigger().elect().await {
            debug!("can't stand: {error}");
        }
    }

    /// Asks everybody who votes whether they would.
    async fn may_stand(&self, membership: &Membership) -> bool {
        let last = self.raft.data_metrics().borrow().last_log;
        let limit = self.config.request_limit();
        let others = membership.voter_ids().filter(|voter| *voter != self.id).collect::<BTreeSet<_>>();
        let mut asked: FuturesUnordered<_> = others
            .into_iter()
            .filter_map(|voter| Some((voter, membership.get_node(&voter)?)))
            .map(|(voter, member)| async move {
                let answer = self.post.send(node_id(voter), member, Message::PreVote { last }, limit).await;
                matches!(answer, Ok(Answered::PreVote(true))).then_some(voter)
            })
            .collect();
        let mut granted = BTreeSet::from([self.id]);
        let count = async {
            while let Some(answer) = asked.next().await {
                granted.extend(answer);
                if is_quorum(membership, &granted) {
                    return true;
                }
            }
            false
        };
        timeout(limit, count).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    const SILENCE: Duration = Duration::from_millis(600);

    #[tokio::test(start_paused = true)]
    async fn a_round_spares_a_heartbeat_while_rounds_are_confirmed_and_not_for_ever() {
        let (heartbeat, heard) = (Duration::from_millis(200), Heard::now());
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        assert_eq!(heard.spares(None, heartbeat), None, "none went out yet");
        let beat = Some(Instant::now());
        heard.round();
        assert_eq!(heard.spares(beat, heartbeat), None, "nobody has ever said yes");
        heard.confirmed(Instant::now());
        pass(150).await;
        let round = heard.round();
        assert_eq!(heard.spares(beat, heartbeat), Some(round));
        pass(200).await;
        assert_eq!(heard.spares(beat, heartbeat), None, "no round for a heartbeat's time");
        pass(250).await;
        heard.round();
        assert_eq!(heard.spares(beat, heartbeat), None, "asked, and not confirmed for three");
        heard.confirmed(Instant::now());
        pass(390).await;
        let round = heard.round();
        assert_eq!(heard.spares(beat, heartbeat), Some(round));
        pass(10).await;
        assert_eq!(heard.spares(beat, heartbeat), None, "learners have heard nothing for five");
    }

    #[tokio::test(start_paused = true)]
    async fn of_rounds_that_end_out_of_order_the_later_one_counts() {
        let heard = Heard::now();
        let first = heard.round();
        tokio::time::advance(Duration::from_millis(300)).await;
        let second = heard.round();
        heard.confirmed(second);
        heard.confirmed(first);
        assert_eq!(heard.unconfirmed_for(), Duration::ZERO);
    }

    fn at(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    #[test]
    fn whoever_hears_a_leader_or_has_more_of_the_log_lets_nobody_stand() {
        let own = |silent_ms, last| Standing { silent_for: Duration::from_millis(silent_ms), last };
        assert!(would_vote(own(600, Some(at(2, 5))), SILENCE, Some(at(2, 5))));
        assert!(would_vote(own(600, None), SILENCE, None));
        assert!(!would_vote(own(599, Some(at(2, 5))), SILENCE, Some(at(2, 5))));
        assert!(!would_vote(own(600, Some(at(2, 5))), SILENCE, Some(at(2, 4))));
        assert!(!would_vote(own(600, Some(at(2, 5))), SILENCE, Some(at(1, 9))));
        assert!(!would_vote(own(600, Some(at(2, 5))), SILENCE, None));
    }

    #[test]
    fn while_voters_change_a_majority_of_both_sets_is_needed() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        let joint = Membership::new(vec![set(&[1, 2, 3]), set(&[3, 4, 5])], None);
        assert!(is_quorum(&joint, &set(&[2, 3, 4])));
        assert!(!is_quorum(&joint, &set(&[1, 2, 3])));
        assert!(!is_quorum(&Membership::default(), &set(&[1])), "nobody is no quorum");
    }
}
