//! `twinrack status`: the whole cluster at a glance.
//!
//! On failure: [`ClusterError`]. A cluster that answers and is not well is no failure: it is shown, and the exit code is 1.

pub(crate) mod seen;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::json;
use clap::Args;
use deploy::Member;
use deploy::pool;
use model::NodeName;
use seen::Status;
use std::io;

const EXAMPLES: &str = "\
If no quorum answers, what is shown is what one of those who answer last knew, and that is said. The access file is that of `twinrack volume`.

Examples:
  twinrack status --access access.json
  twinrack status --access access.json --json | jq -r '.troubles[]'

Exit codes: 0 all is well; 1 something is not, or nobody answered; 2 the access file or the command line can't be read.";

/// The whole cluster at a glance.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: &StatusArgs) -> io::Result<Outcome> {
    cluster::run_and_judge(&args.cluster, |members, _| async move {
        let status = ask(&members).await?;
        let outcome = if status.troubles.is_empty() { Outcome::Good } else { Outcome::Violated };
        Ok((if args.cluster.json { json(&status) } else { status.to_string() }, outcome))
    })
}

/// What those who answer say, taken together.
pub(crate) async fn ask(members: &[Member]) -> Result<Status, ClusterError> {
    let asked: Vec<NodeName> = members.iter().map(|member| member.name.clone()).collect();
    Status::of(&asked, &pool::views(members).await).ok_or(ClusterError::NobodyAnswers)
}
