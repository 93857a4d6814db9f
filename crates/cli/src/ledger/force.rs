//! `twinrack ledger survey` and `force-quorum`: what is shown, and what has to be accepted first. Pure.

use crate::cluster::ClusterError;
use crate::shown::{VERSION, table};
use api::{ForcedQuorum, LogPlace, NodeLedger};
use deploy::ledger::{CantForce, LedgerError, Risks, Standing, Surveyed, risks_of_force};
use model::{LedgerIncarnation, NodeName};
use serde::Serialize;
use std::fmt;

/// What each node has, and with whom it could be gone on.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    version: u32,
    /// Who leads by the word of a quorum: nothing is to be forced.
    leader: Option<String>,
    nodes: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u32>,
    /// The end of its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<LogPlace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<u64>,
    /// Why it can't be gone on with this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// Else what that risks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    risks: Vec<String>,
}

impl Shown {
    pub(super) fn of(surveyed: &Surveyed) -> Self {
        let row = |Standing { name, ledger }: &Standing| {
            let open = match ledger {
                Ok(NodeLedger::Open(open)) => Some(open),
                _ => None,
            };
            let (refused, risks) = match risks_of_force(name, surveyed) {
                Ok(risks) => (None, lines(&risks)),
                Err(why) => (Some(why.to_string()), Vec::new()),
            };
            let incarnation = open.map(|open| open.incarnation.0);
            let (last, committed) = (open.and_then(|open| open.last), open.map(|open| open.committed));
            Row { node: name.to_string(), incarnation, last, committed, refused, risks }
        };
        let leader = surveyed.leader.as_ref().map(ToString::to_string);
        Self { version: VERSION, leader, nodes: surveyed.standings.iter().map(row).collect() }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => writeln!(f, "a quorum answers, and {leader} leads: nothing is to be forced\n")?,
            None => writeln!(f, "no quorum answers\n")?,
        }
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let rows = self.nodes.iter().map(|row| {
            [
                row.node.clone(),
                or_none(row.incarnation.map(|incarnation| incarnation.to_string())),
                or_none(row.last.map(|last| last.term.to_string())),
                or_none(row.last.map(|last| last.index.to_string())),
                or_none(row.committed.map(|committed| committed.to_string())),
                row.refused.clone().unwrap_or_else(|| "it can be gone on with this one".to_owned()),
            ]
        });
        table(f, ["NODE", "INCARNATION", "TERM", "LAST", "COMMITTED", "TO FORCE"], rows)?;
        for row in self.nodes.iter().filter(|row| !row.risks.is_empty()) {
            writeln!(f, "\n`force-quorum {}` risks:", row.node)?;
            row.risks.iter().try_for_each(|risk| writeln!(f, "- {risk}"))?;
        }
        Ok(())
    }
}

/// A risk each.
fn lines(risks: &Risks) -> Vec<String> {
    risks.to_string().lines().map(str::to_owned).collect()
}

/// The risks of going on with this node, if that may be, and the operator has said so.
pub(super) fn accepted(node: &NodeName, surveyed: &Surveyed, yes: bool) -> Result<Risks, ClusterError> {
    let refused = |why: CantForce| LedgerError::CantForce { node: node.clone(), why };
    let risks = risks_of_force(node, surveyed).map_err(refused)?;
    if yes { Ok(risks) } else { Err(ClusterError::NeedsYes(risks.to_string())) }
}

/// A quorum was forced.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    version: u32,
    node: String,
    incarnation: u32,
    presumed: u64,
    risks: Vec<String>,
    /// Whether it was done now, and not by the same command before.
    now: bool,
}

impl Done {
    /// The same command has done it before.
    pub(super) fn before(node: &NodeName, incarnation: LedgerIncarnation) -> Self {
        let (node, incarnation) = (node.to_string(), incarnation.0);
        Self { version: VERSION, node, incarnation, presumed: 0, risks: Vec::new(), now: false }
    }

    pub(super) fn of(node: &NodeName, risks: &Risks, forced: ForcedQuorum) -> Self {
        let ForcedQuorum { incarnation, presumed } = forced;
        let (node, risks) = (node.to_string(), lines(risks));
        Self { version: VERSION, node, incarnation: incarnation.0, presumed, risks, now: true }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, incarnation, presumed, risks, now, .. } = self;
        if !now {
            return writeln!(
                f,
                "{node} leads the ledger's incarnation {incarnation}, which you have forced: nothing was to be done"
            );
        }
        risks.iter().try_for_each(|risk| writeln!(f, "- {risk}"))?;
        writeln!(
            f,
            "{node} decides alone, in the ledger's incarnation {incarnation}; {presumed} entries were taken as committed"
        )?;
        writeln!(f, "bring the others back one by one: `twinrack ledger rejoin`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::OpenLedger;
    use model::NodeId;
    use std::collections::BTreeMap;

    /// Of three who vote, one is left.
    fn left(leader: Option<&str>) -> Surveyed {
        let open = OpenLedger {
            cluster: "c".to_owned(),
            node: NodeId(1),
            incarnation: LedgerIncarnation(1),
            forcing: None,
            term: 4,
            leader: None,
            voters: (1..=3).map(NodeId).collect(),
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            last: Some(LogPlace { term: 3, index: 9 }),
            committed: 7,
            applied: Some(7),
            stopped: None,
        };
        let standing = |name: &str, ledger| Standing { name: name.parse().unwrap(), ledger };
        let standings = vec![
            standing("a1", Ok(NodeLedger::Open(open))),
            standing("b1", Err("no route".to_owned())),
            standing("w", Ok(NodeLedger::None {})),
        ];
        Surveyed { leader: leader.map(|leader| leader.parse().unwrap()), standings, forced: None }
    }

    #[test]
    fn a_survey_says_with_whom_it_can_be_gone_on_and_what_that_risks() {
        let lines = [
            "no quorum answers",
            "",
            "NODE  INCARNATION  TERM  LAST  COMMITTED  TO FORCE",
            "a1    1            3     9     7          it can be gone on with this one",
            "b1    -            -     -     -          its ledger can't be gone on with: no route",
            "w     -            -     -     -          its ledger can't be gone on with: it has none",
            "",
            "`force-quorum a1` risks:",
            "- of 3 voters, one decides alone, with its log up to entry 9 of term 3",
            "- 2 entries of it are not known to be committed: they are taken as if they were",
        ];
        let shown = Shown::of(&left(None)).to_string();
        assert_eq!(shown.lines().take(lines.len()).collect::<Vec<_>>(), lines);
        let shown = Shown::of(&left(Some("b1"))).to_string();
        assert!(shown.starts_with("a quorum answers, and b1 leads") && !shown.contains("risks"), "{shown}");
    }

    #[test]
    fn nothing_is_forced_without_yes_and_nothing_with_it_while_a_quorum_answers() {
        let a1 = "a1".parse().unwrap();
        let error = accepted(&a1, &left(None), false).unwrap_err();
        assert!(
            matches!(&error, ClusterError::NeedsYes(risks) if risks.contains("what only b1 knows is lost"))
        );
        assert_eq!(accepted(&a1, &left(None), true).unwrap().presumed, 2);
        let error = accepted(&a1, &left(Some("b1")), true).unwrap_err();
        let ClusterError::Ledger(error) = error else { panic!("{error}") };
        assert!(matches!(*error, LedgerError::CantForce { why: CantForce::QuorumAnswers { .. }, .. }));
    }
}
