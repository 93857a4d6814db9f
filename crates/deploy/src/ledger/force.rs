//! Forced quorum as an operator does it: what each survivor has, what going on with one of them risks, and going on.
//!
//! Purpose: [`survey`] asks every agent; [`risks_of_force`] decides from the answers, without a word to anybody; [`force_quorum`] goes on.
//!
//! Invariants: nothing is forced while a quorum answers, nor while so many voters have their ledger open that they are one as soon as they reach each
//! other, nor with a survivor of whom another is known to have more. What is forced is the log whose end was surveyed: the agent refuses another end, and
//! looks for a quorum once more itself.
//!
//! On failure: [`LedgerError`]; nothing has changed, or the answer was lost and another survey says which incarnation the node is of.

use super::{LedgerError, Standing, standings};
use crate::Member;
use crate::pool::views;
use api::{ForceRequest, ForcedQuorum, LogPlace, NodeLedger, OpenLedger};
use control::State;
use control::state::Overridden;
use model::{LedgerIncarnation, NodeName};
use std::collections::BTreeMap;
use std::fmt;

/// What all agents say, taken together.
#[derive(Debug)]
pub struct Surveyed {
    /// Who leads by the word of a quorum: nothing is to be forced then.
    pub leader: Option<NodeName>,
    /// How everybody's ledger is.
    pub standings: Vec<Standing>,
    /// The forcing that the leader's ledger began with, and who ordered it.
    pub forced: Option<(LedgerIncarnation, String)>,
}

/// What going on with one survivor risks, and what it is told when it is told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risks {
    /// The incarnation that ends.
    pub incarnation: LedgerIncarnation,
    /// The end of the survivor's log.
    pub last: LogPlace,
    /// Entries of it that are not known to be committed, and are taken as such.
    pub presumed: u64,
    /// How many vote, as far as the survivor knows.
    pub voters: usize,
    /// Those whose log could not be looked at, and why: what only they know is lost.
    pub unseen: Vec<(NodeName, String)>,
    /// Those of the ledger whom nobody has asked, as the access file does not name them, and whether they vote.
    pub unasked: Vec<(NodeName, bool)>,
}

impl Risks {
    /// What the ledger has of it for ever, beside who asked.
    fn loses(&self) -> String {
        let unseen = self.unseen.iter().map(|(name, _)| name);
        let unseen = unseen.chain(self.unasked.iter().map(|(name, _)| name));
        let unseen: Vec<String> = unseen.map(ToString::to_string).collect();
        let last = self.last;
        let kept = format!("what is not in the log up to entry {} of term {}", last.index, last.term);
        if unseen.is_empty() { kept } else { format!("{kept}; not looked at: {}", unseen.join(", ")) }
    }
}

/// One line for each risk.
impl fmt::Display for Risks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { last, presumed, voters, unseen, unasked, .. } = self;
        writeln!(
            f,
            "of {voters} voters, one decides alone, with its log up to entry {} of term {}",
            last.index, last.term
        )?;
        if *presumed > 0 {
            writeln!(
                f,
                "{presumed} entries of it are not known to be committed: they are taken as if they were"
            )?;
        }
        for (name, why) in unseen {
            writeln!(f, "what only {name} knows is lost, also if it was acknowledged ({why})")?;
            writeln!(
                f,
                "{name} may believe that it works: it must have no power, and join again when it has"
            )?;
        }
        for (name, votes) in unasked {
            let votes = if *votes { "votes and " } else { "" };
            writeln!(
                f,
                "{name} {votes}is not in the access file: nobody has asked it. What only it knows is lost, and it may work; name it there and ask again"
            )?;
        }
        writeln!(f, "every volume goes offline, and none of its copies is taken for proven")?;
        writeln!(f, "all other nodes give up what they have of the ledger, and join again")
    }
}

/// Why no quorum is forced. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantForce {
    /// There is one.
    #[error("a quorum answers, and {leader} leads")]
    QuorumAnswers {
        /// Who leads.
        leader: NodeName,
    },
    /// There would be one if they reached each other.
    #[error("{} of {voters} voters have their ledger open: {}", open.len(), list(open))]
    MajorityLives {
        /// They.
        open: Vec<NodeName>,
        /// How many vote.
        voters: usize,
    },
    /// The survivor's ledger is not open, or its disk takes no writes.
    #[error("its ledger can't be gone on with: {why}")]
    NotOpen {
        /// Why.
        why: String,
    },
    /// Another has more of the log.
    #[error("{other} has more: its log ends at entry {} of term {}", last.index, last.term)]
    OtherHasMore {
        /// Who.
        other: NodeName,
        /// The end of its log.
        last: LogPlace,
    },
    /// A quorum was forced before, elsewhere.
    #[error("{other} is of another ledger, with incarnation {}: a quorum was forced there", incarnation.0)]
    IsOver {
        /// Who.
        other: NodeName,
        /// Of which.
        incarnation: LedgerIncarnation,
    },
    /// The agents are not those of one cluster.
    #[error("{other} has the ledger of another cluster")]
    OtherCluster {
        /// Who.
        other: NodeName,
    },
}

impl CantForce {
    /// What to do about it.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::QuorumAnswers { .. } => {
                "nothing is to be forced; a node whose ledger is lost joins again: `twinrack ledger rejoin`"
            }
            Self::MajorityLives { .. } => {
                "they decide as soon as they reach each other: see to the network between them, or to their disks"
            }
            Self::NotOpen { .. } => "`twinrack ledger survey` says with whom it can be gone on",
            Self::OtherHasMore { .. } => "go on with that one",
            Self::IsOver { .. } => "this node joins that one again: `twinrack ledger rejoin`",
            Self::OtherCluster { .. } => "see that the access file names the agents of one cluster",
        }
    }
}

fn list(names: &[NodeName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whose ledger is open and can be read, where its log ends, and what else it says.
fn open(Standing { name, ledger }: &Standing) -> Result<(LogPlace, &OpenLedger), (NodeName, String)> {
    let not = |why: &str| Err((name.clone(), why.to_owned()));
    match ledger {
        Ok(NodeLedger::Open(OpenLedger { stopped: Some(why), .. })) => not(&format!("it has stopped: {why}")),
        Ok(NodeLedger::Open(open)) => match open.last {
            Some(last) => Ok((last, open)),
            None => not("its log can't be read"),
        },
        Ok(NodeLedger::None {}) => not("it has none"),
        Ok(NodeLedger::Closed { why, .. }) | Err(why) => not(why),
    }
}

/// Decides whether it may be gone on with what this node has, and what that risks.
pub fn risks_of_force(name: &NodeName, surveyed: &Surveyed) -> Result<Risks, CantForce> {
    if let Some(leader) = &surveyed.leader {
        return Err(CantForce::QuorumAnswers { leader: leader.clone() });
    }
    let own = surveyed.standings.iter().find(|standing| standing.name == *name);
    let own = own.ok_or_else(|| CantForce::NotOpen { why: "nobody has asked it".to_owned() })?;
    let (last, own) = open(own).map_err(|(_, why)| CantForce::NotOpen { why })?;
    let (mut voting, mut unseen) = (Vec::new(), Vec::new());
    for standing in &surveyed.standings {
        let other = || standing.name.clone();
        // One that has stopped says whose it is, too.
        if let Ok(NodeLedger::Open(open)) = &standing.ledger {
            if open.cluster != own.cluster {
                return Err(CantForce::OtherCluster { other: other() });
            }
            let is_apart = open.incarnation == own.incarnation && open.forcing != own.forcing;
            if open.incarnation > own.incarnation || is_apart {
                return Err(CantForce::IsOver { other: other(), incarnation: open.incarnation });
            }
            if open.incarnation < own.incarnation {
                continue;
            }
            if own.voters.contains(&open.node) {
                voting.push(other());
            }
        }
        match open(standing) {
            Ok((end, _)) if end > last => return Err(CantForce::OtherHasMore { other: other(), last: end }),
            Ok(_) => {}
            Err(why) => unseen.push(why),
        }
    }
    let voters = own.voters.len();
    // One vote of one is a quorum too, whatever keeps it from answering.
    if voting.len() > voters / 2 {
        return Err(CantForce::MajorityLives { open: voting, voters });
    }
    let presumed = last.index.saturating_sub(own.committed);
    let unasked = unasked(own, &surveyed.standings);
    Ok(Risks { incarnation: own.incarnation, last, presumed, voters, unseen, unasked })
}

/// The survivor's fellow nodes that are none of those who were asked. Of one that has several ids the last counts: it votes if any of them does.
fn unasked(own: &OpenLedger, standings: &[Standing]) -> Vec<(NodeName, bool)> {
    let mut found = BTreeMap::new();
    for (id, name) in &own.names {
        if standings.iter().all(|standing| standing.name != *name) {
            *found.entry(name.clone()).or_insert(false) |= own.voters.contains(id);
        }
    }
    found.into_iter().collect()
}

/// Whether what is asked for has been done: the node leads a ledger that began with a quorum which the same one has forced. Which incarnation it is.
pub fn has_forced(name: &NodeName, by: &str, surveyed: &Surveyed) -> Option<LedgerIncarnation> {
    let leads = surveyed.leader.as_ref() == Some(name);
    surveyed.forced.as_ref().filter(|(_, who)| leads && who == by).map(|(incarnation, _)| *incarnation)
}

/// Asks every agent what it has of the ledger, and whether a quorum answers. Changes nothing.
pub async fn survey(members: &[Member]) -> Surveyed {
    let views = views(members).await;
    // Of two ledgers that were forced apart from each other, the later.
    let confirmed = views.into_iter().filter(|(_, view)| view.confirmed);
    let leader = confirmed.max_by_key(|(_, view)| view.state.incarnation);
    let forced = leader.as_ref().and_then(|(_, view)| forced_by(&view.state));
    Surveyed { leader: leader.map(|(name, _)| name), standings: standings(members).await, forced }
}

/// The forcing that a ledger began with, and who ordered it.
fn forced_by(state: &State) -> Option<(LedgerIncarnation, String)> {
    let present = Overridden::Quorum(state.incarnation);
    let found = state.overrides.iter().rev().find(|entry| entry.what == present)?;
    Some((state.incarnation, found.by.clone()))
}

/// Goes on with what a node has, as `by` was told by [`risks_of_force`].
pub async fn force_quorum(
    members: &[Member],
    name: &NodeName,
    (risks, by): (&Risks, &str),
) -> Result<ForcedQuorum, LedgerError> {
    let member = members.iter().find(|member| member.name == *name);
    let member = member.ok_or_else(|| LedgerError::NoAgent(name.clone()))?;
    let (incarnation, last) = (risks.incarnation, risks.last);
    let request = ForceRequest { incarnation, last, by: by.to_owned(), loses: risks.loses() };
    Ok(member.client.force_quorum(&request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::NodeId;
    use std::collections::BTreeSet;

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Five vote. The log of this one ends here, of which one entry is not known to be committed.
    fn open(node: u32, (term, index): (u64, u64)) -> OpenLedger {
        OpenLedger {
            cluster: "c".to_owned(),
            node: NodeId(node),
            incarnation: LedgerIncarnation(1),
            forcing: None,
            term,
            leader: None,
            voters: (1..=5).map(NodeId).collect(),
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            last: Some(LogPlace { term, index }),
            committed: index - 1,
            applied: Some(index - 1),
            stopped: None,
        }
    }

    fn surveyed(standings: Vec<(&str, Result<NodeLedger, &str>)>) -> Surveyed {
        let standing = |(who, ledger): (&str, Result<_, &str>)| Standing {
            name: name(who),
            ledger: ledger.map_err(ToOwned::to_owned),
        };
        Surveyed { leader: None, standings: standings.into_iter().map(standing).collect(), forced: None }
    }

    /// a1 and a2 are left, with these.
    fn two(a1: OpenLedger, a2: OpenLedger) -> Surveyed {
        surveyed(vec![
            ("a1", Ok(NodeLedger::Open(a1))),
            ("a2", Ok(NodeLedger::Open(a2))),
            ("b1", Err("no route")),
            ("b2", Err("no route")),
            ("w", Ok(NodeLedger::Closed { why: "damaged".to_owned(), is_lost: true })),
        ])
    }

    #[test]
    fn the_one_that_has_most_goes_on_and_what_is_not_seen_is_named() {
        let left = two(open(1, (3, 9)), open(2, (2, 11)));
        let risks = risks_of_force(&name("a1"), &left).unwrap();
        assert_eq!((risks.last, risks.presumed, risks.voters), (LogPlace { term: 3, index: 9 }, 1, 5));
        assert_eq!(risks.unseen.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b1", "b2", "w"]);
        assert_eq!(risks.loses(), "what is not in the log up to entry 9 of term 3; not looked at: b1, b2, w");
        let text = risks.to_string();
        for told in ["1 entries", "what only b1 knows", "no route", "must have no power", "goes offline"] {
            assert!(text.contains(told), "{told}: {text}");
        }
        let last = LogPlace { term: 3, index: 9 };
        let more = CantForce::OtherHasMore { other: name("a1"), last };
        assert_eq!(risks_of_force(&name("a2"), &left), Err(more));
    }

    #[test]
    fn who_is_not_in_the_access_file_is_named_with_its_vote() {
        let known = [(1, "a1"), (2, "a2"), (4, "b2"), (6, "c1"), (7, "c1")];
        let names = known.map(|(id, known)| (NodeId(id), name(known))).into();
        let mut left = two(OpenLedger { names, ..open(1, (3, 9)) }, open(2, (3, 9)));
        let risks = risks_of_force(&name("a1"), &left).unwrap();
        assert_eq!(risks.unasked, [(name("c1"), false)]);
        left.standings.retain(|standing| standing.name != name("b2"));
        let risks = risks_of_force(&name("a1"), &left).unwrap();
        assert_eq!(risks.unasked, [(name("b2"), true), (name("c1"), false)]);
        assert!(risks.loses().ends_with("not looked at: b1, w, b2, c1"), "{}", risks.loses());
        let text = risks.to_string();
        assert!(text.contains("b2 votes and is not in the access file"), "{text}");
    }

    #[test]
    fn the_same_command_again_finds_it_done_and_anothers_does_not() {
        let mut left = two(open(1, (3, 9)), open(2, (3, 9)));
        let incarnation = LedgerIncarnation(7);
        (left.leader, left.forced) = (Some(name("a1")), Some((incarnation, "anna".to_owned())));
        assert_eq!(has_forced(&name("a1"), "anna", &left), Some(incarnation));
        assert_eq!(has_forced(&name("a1"), "bob", &left), None);
        assert_eq!(has_forced(&name("a2"), "anna", &left), None);
    }

    #[test]
    fn nothing_is_forced_while_there_is_a_quorum_or_could_be_one() {
        let mut left = two(open(1, (3, 9)), open(2, (3, 9)));
        left.leader = Some(name("a2"));
        let answers = CantForce::QuorumAnswers { leader: name("a2") };
        assert_eq!(risks_of_force(&name("a1"), &left), Err(answers));
        left.leader = None;
        // A third is there whose disk is full: it may have what nobody else has, and comes back by itself.
        let full = OpenLedger { stopped: Some("no room".to_owned()), last: None, ..open(3, (3, 9)) };
        left.standings[2].ledger = Ok(NodeLedger::Open(full));
        let lives = CantForce::MajorityLives { open: vec![name("a1"), name("a2"), name("b1")], voters: 5 };
        assert_eq!(risks_of_force(&name("a1"), &left), Err(lives));
        // One that follows and has no vote decides nothing.
        left.standings[2].ledger = Ok(NodeLedger::Open(open(6, (3, 9))));
        assert!(risks_of_force(&name("a1"), &left).is_ok());
        let alone = OpenLedger { voters: BTreeSet::from([NodeId(1)]), ..open(1, (3, 9)) };
        let alone = surveyed(vec![("a1", Ok(NodeLedger::Open(alone)))]);
        assert!(matches!(risks_of_force(&name("a1"), &alone), Err(CantForce::MajorityLives { .. })));
    }

    #[test]
    fn it_is_not_gone_on_with_what_is_closed_stopped_over_or_another_clusters() {
        let left = two(open(1, (3, 9)), open(2, (3, 9)));
        for closed in ["b1", "w", "c1"] {
            let refused = risks_of_force(&name(closed), &left);
            assert!(matches!(refused, Err(CantForce::NotOpen { .. })), "{closed}: {refused:?}");
        }
        let full = OpenLedger { stopped: Some("no room".to_owned()), ..open(1, (3, 9)) };
        let refused = risks_of_force(&name("a1"), &two(full, open(2, (3, 9))));
        assert_eq!(refused, Err(CantForce::NotOpen { why: "it has stopped: no room".to_owned() }));
        let incarnation = LedgerIncarnation(2);
        let later = OpenLedger { incarnation, ..open(2, (1, 1)) };
        let refused = risks_of_force(&name("a1"), &two(open(1, (3, 9)), later.clone()));
        assert_eq!(refused, Err(CantForce::IsOver { other: name("a2"), incarnation }));
        // Another forcing is another ledger, also if both have drawn the same number.
        let forced =
            |forcing: &str, node| OpenLedger { forcing: Some(forcing.to_owned()), ..open(node, (3, 9)) };
        let apart = two(forced("0a", 1), forced("0b", 2));
        let refused = risks_of_force(&name("a1"), &apart);
        assert!(matches!(refused, Err(CantForce::IsOver { .. })), "{refused:?}");
        // Nor does one that is over have anything to say.
        assert!(risks_of_force(&name("a2"), &two(open(1, (3, 9)), later)).is_ok());
        let other = OpenLedger { cluster: "d".to_owned(), ..open(2, (1, 1)) };
        let refused = risks_of_force(&name("a1"), &two(open(1, (3, 9)), other));
        assert_eq!(refused, Err(CantForce::OtherCluster { other: name("a2") }));
    }
}
