//! `twinrack verify`: whether a cluster is made as a rack aware cluster has to be.
//!
//! On failure: `ClusterError` (the access file). What is wrong with the cluster is no failure: it is shown, and the exit code is 1.

use crate::Outcome;
use crate::cluster::{self, ClusterArgs};
use crate::shown::{VERSION, json};
use clap::Args;
use deploy::verify::{self, Check};
use serde::Serialize;
use std::fmt;
use std::io;

const EXAMPLES: &str = "\
To be run after a deployment, and after anything was changed in it: cables, drives, nodes. `twinrack status` says how a cluster is doing; this says whether it is made as it
should be. Nothing is changed. The access file is that of `twinrack volume`.

Examples:
  twinrack verify --access access.json
  twinrack verify --access access.json --json | jq '.checks[] | select(.wrong != [])'

Exit codes: 0 every check holds; 1 one does not, or nobody answered; 2 the access file or the command line can't be read.";

/// Check by check, whether a cluster is made as it has to be.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: &VerifyArgs) -> io::Result<Outcome> {
    cluster::run_and_judge(&args.cluster, |members| async move {
        let verified = Verified::of(verify::verify(&verify::facts(&members).await));
        let outcome = if verified.holds { Outcome::Good } else { Outcome::Violated };
        Ok((if args.cluster.json { json(&verified) } else { verified.to_string() }, outcome))
    })
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Verified {
    version: u32,
    /// Whether every check does.
    holds: bool,
    checks: Vec<Check>,
}

impl Verified {
    fn of(checks: Vec<Check>) -> Self {
        Self { version: VERSION, holds: checks.iter().all(Check::holds), checks }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let word = if check.holds() { "good " } else { "WRONG" };
            writeln!(f, "{word}  {:<width$}  {}", check.id, check.found)?;
            if !check.holds() {
                writeln!(f, "       asked: {}", check.asks)?;
            }
            for wrong in &check.wrong {
                writeln!(f, "       - {wrong}")?;
            }
        }
        let wrong = self.checks.iter().filter(|check| !check.holds()).count();
        match wrong {
            0 => writeln!(f, "\nall {} checks hold", self.checks.len()),
            _ => writeln!(f, "\n{wrong} of {} checks do not hold", self.checks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_under_its_check() {
        let check = |id, wrong: &[&str]| Check {
            id,
            asks: "it is so",
            found: "3 nodes".to_owned(),
            wrong: wrong.iter().map(|&text| text.to_owned()).collect(),
        };
        let verified = Verified::of(vec![
            check("nodes", &[]),
            check("storage-paths", &["a1 hears nobody", "b1 neither"]),
        ]);
        assert!(!verified.holds);
        insta::assert_snapshot!(verified.to_string());
        let all_well = Verified::of(vec![check("nodes", &[])]);
        assert!(all_well.holds && all_well.to_string().ends_with("\nall 1 checks hold\n"));
    }
}
