//! `twinrack pool`: how the pool looks after its copies.
//!
//! On failure: [`ClusterError`].

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::{VERSION, json};
use clap::{Args, Subcommand};
use control::State;
use control::state::RebuildRate;
use deploy::Member;
use deploy::pool;
use serde::Serialize;
use std::fmt;
use std::io;

const EXAMPLES: &str = "\
A copy that was away, or is made anew, is brought up to date while its volume is used. The rates are of each such copy; they hold at once, also for what is
under way. The access file is that of `twinrack volume`.

Examples:
  twinrack pool --access access.json show
  twinrack pool --access access.json set --rebuild-mib-s 100
  twinrack pool --access access.json set --rebuild-mib-s 400 --rebuild-at-least-mib-s 100

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// Settings of the pool: show, set.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PoolArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// How fast copies are brought up to date, and how many at a time.
    Show,
    /// Change it. What is not named stays as it is.
    Set {
        /// How fast a copy is brought up to date at most.
        #[arg(long, value_name = "MIB/S")]
        rebuild_mib_s: u32,
        /// And at least, whatever users write meanwhile; without it as before, but no more than the other.
        #[arg(long, value_name = "MIB/S")]
        rebuild_at_least_mib_s: Option<u32>,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    version: u32,
    rebuild_at_least_mib_s: u32,
    rebuild_mib_s: u32,
    rebuilds_per_node: u8,
}

impl Shown {
    fn of(state: &State) -> Self {
        let settings = state.settings;
        let RebuildRate { min_mib_s, max_mib_s } = settings.rebuild;
        let rebuilds_per_node = settings.rebuilds_per_node_max;
        Self {
            version: VERSION,
            rebuild_at_least_mib_s: min_mib_s,
            rebuild_mib_s: max_mib_s,
            rebuilds_per_node,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rebuild_at_least_mib_s, rebuild_mib_s, rebuilds_per_node, .. } = self;
        writeln!(
            f,
            "copies are brought up to date at {rebuild_at_least_mib_s} to {rebuild_mib_s} MiB/s each,"
        )?;
        writeln!(f, "{rebuilds_per_node} at a time on the drives of a node")
    }
}

/// What is wanted, from what there is.
fn wanted(present: RebuildRate, at_most: u32, at_least: Option<u32>) -> RebuildRate {
    RebuildRate { min_mib_s: at_least.unwrap_or(present.min_mib_s.min(at_most)), max_mib_s: at_most }
}

pub(crate) fn run(args: &PoolArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &PoolArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    let (_, mut state) = pool::confirmed(members, bound).await?;
    if let Task::Set { rebuild_mib_s, rebuild_at_least_mib_s } = &args.task {
        let rate = wanted(state.settings.rebuild, *rebuild_mib_s, *rebuild_at_least_mib_s);
        if rate != state.settings.rebuild {
            pool::set_rebuild_rate(members, rate, bound).await?;
            state.settings.rebuild = rate;
        }
    }
    let shown = Shown::of(&state);
    Ok(if args.cluster.json { json(&shown) } else { shown.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays_unless_it_would_be_more_than_what_is() {
        let rate = |min_mib_s, max_mib_s| RebuildRate { min_mib_s, max_mib_s };
        assert_eq!(wanted(rate(32, 256), 100, None), rate(32, 100));
        assert_eq!(wanted(rate(32, 256), 8, None), rate(8, 8));
        assert_eq!(wanted(rate(32, 256), 400, Some(100)), rate(100, 400));
        assert!(!wanted(rate(32, 256), 4, Some(5)).is_sound(), "the ledger refuses it");
    }
}
