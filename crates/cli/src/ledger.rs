//! `twinrack ledger`: how each node's ledger is, bringing a node back that has lost its own, and going on when the majority is gone.
//!
//! On failure: [`ClusterError`].

mod force;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::{VERSION, json, table};
use api::NodeLedger;
use clap::{Args, Subcommand};
use deploy::Member;
use deploy::ledger::{self, Standing};
use deploy::pool;
use model::NodeName;
use serde::Serialize;
use std::fmt;
use std::io;
use std::net::SocketAddr;

const EXAMPLES: &str = "\
The ledger is what the cluster knows, on every node and the witness. A node whose own is damaged, or that has lost what it promised beside it,
takes no part and says so in `show`. The other nodes have all of it: `rejoin` has the node keep the damaged file aside and join again, under a
new id. Volumes stay in use meanwhile, and the node's copies are brought up to date afterwards.

A node whose ledger has stopped, as its disk is full, is not lost: make room, and it goes on by itself.

When the majority of those who vote is gone for good, nothing is decided any more. `survey` says what each survivor has, and what going on with
the best of them risks; `force-quorum` goes on with it. Take the power from all that do not answer first: they may believe that they work.

The access file is that of `twinrack volume`.

Examples:
  twinrack ledger --access access.json show
  twinrack ledger --access access.json rejoin node-b1
  twinrack ledger --access access.json survey
  twinrack ledger --access access.json force-quorum node-a1 --by anna --yes

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// The ledger: how each node's is, and bringing a node back.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Who leads and votes, and how each node's ledger is: how far it is, or why it is closed. Asks each agent, also when no quorum answers.
    Show,
    /// Have a node join again whose ledger is lost, and wait until it has caught up and votes. One that works is let alone. Given again, it goes on
    /// where it was.
    Rejoin {
        /// Which.
        node: NodeName,
        /// Where other nodes reach its agent on the management network, if the ledger does not know any more.
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
    },
    /// What each node has of the ledger, and what going on with one of them would risk. Changes nothing.
    Survey,
    /// Go on with what one survivor has of the ledger, when the majority is gone for good. Refused while a quorum answers, while so many voters have
    /// their ledger open that they are one as soon as they reach each other, and if another is known to have more. Prints what it risks, and names who
    /// is in the ledger and not in the access file; does it only with --yes. Given again, it finds that it was done.
    ForceQuorum {
        /// With which.
        node: NodeName,
        /// Who takes the risk: the ledger keeps it.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// I have read what it risks.
        #[arg(long)]
        yes: bool,
    },
}

/// How everybody's ledger is.
#[derive(Debug, Serialize)]
struct Shown {
    version: u32,
    /// Who leads by the word of a quorum.
    leader: Option<String>,
    nodes: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    node: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<u64>,
    votes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Row {
    fn of(Standing { name, ledger }: &Standing) -> Self {
        let name = name.to_string();
        let none = Self {
            node: name,
            state: "none",
            id: None,
            incarnation: None,
            term: None,
            applied: None,
            votes: false,
            why: None,
        };
        match ledger {
            Err(why) => Self { state: "silent", why: Some(why.clone()), ..none },
            Ok(NodeLedger::None {}) => none,
            Ok(NodeLedger::Closed { why, is_lost }) => {
                Self { state: if *is_lost { "lost" } else { "closed" }, why: Some(why.clone()), ..none }
            }
            Ok(NodeLedger::Open(open)) => Self {
                state: if open.stopped.is_some() { "stopped" } else { "open" },
                id: Some(open.node.to_string()),
                incarnation: Some(open.incarnation.0),
                term: Some(open.term),
                applied: open.applied,
                votes: open.stopped.is_none() && open.voters.contains(&open.node),
                why: open.stopped.clone(),
                ..none
            },
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => writeln!(f, "{leader} leads, by the word of a quorum\n")?,
            None => writeln!(f, "nobody leads by the word of a quorum: nothing is decided\n")?,
        }
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let rows = self.nodes.iter().map(|row| {
            [
                row.node.clone(),
                row.state.to_owned(),
                row.id.clone().unwrap_or_else(|| "-".to_owned()),
                number(row.incarnation.map(u64::from)),
                number(row.term),
                number(row.applied),
                if row.votes { "yes" } else { "no" }.to_owned(),
                row.why.clone().unwrap_or_default(),
            ]
        });
        table(f, ["NODE", "LEDGER", "ID", "INCARNATION", "TERM", "APPLIED", "VOTES", "WHY"], rows)
    }
}

/// What came of a command.
#[derive(Debug, Serialize)]
struct Done {
    version: u32,
    node: String,
    id: String,
    votes: bool,
    steps: Vec<String>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        let Self { node, id, .. } = self;
        match (self.steps.is_empty(), self.votes) {
            (true, true) => {
                writeln!(f, "{node} follows the ledger as {id}, and votes: nothing was to be done")
            }
            (false, true) => writeln!(f, "{node} has caught up as {id}, and votes"),
            (_, false) => writeln!(
                f,
                "{node} follows the ledger as {id}; it votes as soon as the number of nodes that work is odd"
            ),
        }
    }
}

pub(crate) fn run(args: &LedgerArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &LedgerArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    match &args.task {
        Task::Show => {
            let standings = ledger::standings(members).await;
            let views = pool::views(members).await;
            let leads = views.iter().find(|(_, view)| view.confirmed).map(|(name, _)| name.to_string());
            let nodes = standings.iter().map(Row::of).collect();
            let shown = Shown { version: VERSION, leader: leads, nodes };
            Ok(if args.cluster.json { json(&shown) } else { shown.to_string() })
        }
        Task::Rejoin { node, address } => {
            let rejoined = ledger::rejoin(members, node, *address, bound).await?;
            let (id, votes, steps) = (rejoined.node.to_string(), rejoined.votes, rejoined.done);
            let done = Done { version: VERSION, node: node.to_string(), id, votes, steps };
            Ok(if args.cluster.json { json(&done) } else { done.to_string() })
        }
        Task::Survey => {
            let shown = force::Shown::of(&ledger::survey(members).await);
            Ok(if args.cluster.json { json(&shown) } else { shown.to_string() })
        }
        Task::ForceQuorum { node, by, yes } => {
            let surveyed = ledger::survey(members).await;
            if let Some(incarnation) = ledger::has_forced(node, by, &surveyed) {
                let done = force::Done::before(node, incarnation);
                return Ok(if args.cluster.json { json(&done) } else { done.to_string() });
            }
            let risks = force::accepted(node, &surveyed, *yes)?;
            let forced = ledger::force_quorum(members, node, (&risks, by)).await?;
            let done = force::Done::of(node, &risks, forced);
            Ok(if args.cluster.json { json(&done) } else { done.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_lacks_is_shown_with_its_reason() {
        let standing = |name: &str, ledger| Standing { name: name.parse().unwrap(), ledger };
        let (why, is_lost) = ("the ledger is damaged".to_owned(), true);
        let nodes = [
            standing("a1", Ok(NodeLedger::Closed { why, is_lost })),
            standing("b1", Ok(NodeLedger::Closed { why: "no room".to_owned(), is_lost: false })),
            standing("c1", Ok(NodeLedger::None {})),
            standing("w", Err("it does not answer".to_owned())),
        ];
        let nodes = nodes.iter().map(Row::of).collect();
        let shown = Shown { version: VERSION, leader: None, nodes };
        let lines = [
            "nobody leads by the word of a quorum: nothing is decided",
            "",
            "NODE  LEDGER  ID  INCARNATION  TERM  APPLIED  VOTES  WHY",
            "a1    lost    -   -            -     -        no     the ledger is damaged",
            "b1    closed  -   -            -     -        no     no room",
            "c1    none    -   -            -     -        no",
            "w     silent  -   -            -     -        no     it does not answer",
        ];
        assert_eq!(shown.to_string().lines().collect::<Vec<_>>(), lines);
    }
}
