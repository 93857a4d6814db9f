//! What is replicated: control's state, and the invitations of nodes that may join.
//!
//! Invariants: deterministic and total, as control's own state machine is: no clock (a request carries the time of the leader that
//! proposed it), no randomness. A refused request changes nothing.
//!
//! On failure: [`Refused`], which every node gives alike.

use crate::token::{Invitation, StoreId, TokenHash, TokenRefused};
use control::state::Settings;
use control::{ClusterCommand, Command, Event, Rejected, State};
use model::{NodeId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Invitations that are kept; those that have expired are forgotten first. More than the nodes of the largest cluster.
const INVITATIONS_MAX: usize = 32;

/// The replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// What the ledger says.
    pub(crate) state: Arc<State>,
    invitations: BTreeMap<TokenHash, Invitation>,
}

/// What may be asked of it: an entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What control knows.
    Control(Command),
    /// Somebody may join with a token.
    Invite { hash: TokenHash, invitation: Invitation, now_unix_ms: u64 },
    /// Somebody joins with it.
    Redeem { hash: TokenHash, name: NodeName, store: StoreId, now_unix_ms: u64 },
}

/// Why it was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Control's state machine says so.
    #[error(transparent)]
    Command(#[from] Rejected),
    /// A join token is not good.
    #[error(transparent)]
    Token(#[from] TokenRefused),
}

/// What an entry of the log is answered with.
pub(crate) type Answer = Result<Vec<Event>, Refused>;

impl Machine {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Arc::new(state), invitations: BTreeMap::new() }
    }

    /// What a store without a snapshot begins with.
    pub(crate) fn empty() -> Self {
        Self::new(State::new(Settings::default()))
    }

    pub(crate) fn apply(&mut self, request: &Request) -> Answer {
        match request {
            Request::Control(command) => Ok(Arc::make_mut(&mut self.state).apply(command)?),
            Request::Invite { hash, invitation, now_unix_ms } => {
                let open = self.invitations.values().filter(|other| other.expires_unix_ms > *now_unix_ms);
                if open.count() >= INVITATIONS_MAX {
                    return Err(TokenRefused::TooMany(INVITATIONS_MAX).into());
                }
                self.invitations.retain(|_, other| other.expires_unix_ms > *now_unix_ms);
                self.invitations.insert(hash.clone(), invitation.clone());
                Ok(vec![Event::Changed])
            }
            Request::Redeem { hash, name, store, now_unix_ms } => {
                self.redeem(hash, name, store, *now_unix_ms)
            }
        }
    }

    fn redeem(&mut self, hash: &TokenHash, name: &NodeName, store: &StoreId, now_unix_ms: u64) -> Answer {
        let invitation = self.invitations.get_mut(hash).ok_or(TokenRefused::Unknown)?;
        if invitation.name != *name {
            return Err(TokenRefused::OtherNode(invitation.name.clone()).into());
        }
        match &invitation.redeemed {
            Some((by, id)) if by == store => return Ok(vec![Event::NodeAdded(*id)]),
            Some(_) => return Err(TokenRefused::Used.into()),
            None if invitation.expires_unix_ms <= now_unix_ms => return Err(TokenRefused::Expired.into()),
            None => {}
        }
        // The latest of that name: one that lost its ledger may have lost it before.
        let known = self.state.nodes.iter().rev().find(|(_, node)| node.name == *name);
        let command = match known {
            Some((lost, _)) => ClusterCommand::ReplaceNode { lost: *lost },
            None => ClusterCommand::AddNode { name: name.clone(), zone: invitation.zone.clone() },
        };
        let events = Arc::make_mut(&mut self.state).apply(&Command::Cluster(command))?;
        invitation.redeemed = added(&events).map(|id| (store.clone(), id));
        Ok(events)
    }
}

/// The node that a commit gave an id.
pub(crate) fn added(events: &[Event]) -> Option<NodeId> {
    events.iter().find_map(|event| if let Event::NodeAdded(id) = event { Some(*id) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::JoinToken;

    fn redeem(machine: &mut Machine, token: &JoinToken, name: &str, store: &StoreId, now: u64) -> Answer {
        let (hash, name, store) = (token.hash(), name.parse().unwrap(), store.clone());
        let before = machine.clone();
        let answer = machine.apply(&Request::Redeem { hash, name, store, now_unix_ms: now });
        assert!(answer.is_ok() || *machine == before, "a refused request changes nothing");
        answer
    }

    fn invite(machine: &mut Machine, name: &str, expires: u64, now: u64) -> Result<JoinToken, Refused> {
        let token = JoinToken::new().unwrap();
        let (name, zone) = (name.parse().unwrap(), None);
        let invitation = Invitation { name, zone, expires_unix_ms: expires, redeemed: None };
        machine.apply(&Request::Invite { hash: token.hash(), invitation, now_unix_ms: now }).map(|_| token)
    }

    #[test]
    fn a_token_is_for_one_node_one_store_and_a_time() {
        let mut machine = Machine::empty();
        let token = invite(&mut machine, "a", 100, 0).unwrap();
        let (store, other) = (StoreId::new().unwrap(), StoreId::new().unwrap());
        let refused = |answer: Answer| match answer {
            Err(Refused::Token(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(redeem(&mut machine, &token, "b", &store, 1)),
            TokenRefused::OtherNode("a".parse().unwrap())
        );
        assert_eq!(refused(redeem(&mut machine, &token, "a", &store, 100)), TokenRefused::Expired);
        let never = JoinToken::new().unwrap();
        assert_eq!(refused(redeem(&mut machine, &never, "a", &store, 1)), TokenRefused::Unknown);
        let joined = Ok(vec![Event::NodeAdded(NodeId(1))]);
        assert_eq!(redeem(&mut machine, &token, "a", &store, 1), joined);
        assert_eq!(redeem(&mut machine, &token, "a", &store, 200), joined, "its answer was lost");
        assert_eq!(refused(redeem(&mut machine, &token, "a", &other, 2)), TokenRefused::Used);
    }

    #[test]
    fn who_comes_again_under_its_name_has_lost_its_ledger_and_gets_the_next_id() {
        let mut machine = Machine::empty();
        for expected in 1..4 {
            let token = invite(&mut machine, "a", 100, 0).unwrap();
            let store = StoreId::new().unwrap();
            let joined = redeem(&mut machine, &token, "a", &store, 1).unwrap();
            assert_eq!(added(&joined), Some(NodeId(expected)));
        }
    }

    #[test]
    fn invitations_are_bounded_and_expired_ones_make_room() {
        let mut machine = Machine::empty();
        for _ in 0..INVITATIONS_MAX {
            invite(&mut machine, "a", 100, 0).unwrap();
        }
        assert_eq!(invite(&mut machine, "a", 100, 99), Err(TokenRefused::TooMany(INVITATIONS_MAX).into()));
        invite(&mut machine, "a", 200, 100).unwrap();
        assert_eq!(machine.invitations.len(), 1);
    }
}
