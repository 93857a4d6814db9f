//! `twinrack verify`: whether a cluster is made as a rack aware cluster has to be.
//!
//! On failure: `ClusterError` (the access file). What is wrong with the cluster is no failure: it is shown, and the exit code is 1.

use crate::Outcome;
use crate::cluster::{self, ClusterArgs};
use crate::shown::{VERSION, json};
use clap::Args;
use deploy::verify::{self, Check};
use network::measure::Machines;
use serde::Serialize;
use std::fmt;
use std::io;

const EXAMPLES: &str = "\
To be run after a deployment, and after anything was changed in it: cables, drives, nodes. `twinrack status` says how a cluster is doing; this says whether it is made as it
should be. Nothing is changed. The access file is that of `twinrack volume`.

Examples:
  twinrack verify --access access.json
  twinrack verify --access access.json --json | jq '.checks[] | select(.wrong != [])'

How long round trips take is told, and not judged, where the access file says that the machines are emulated.

Exit codes: 0 every check holds; 1 one does not, or nobody answered; 2 the access file or the command line can't be read.";

/// Check by check, whether a cluster is made as it has to be.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(args: &VerifyArgs) -> io::Result<Outcome> {
    cluster::run_and_judge(&args.cluster, |members, machines| async move {
        let verified = Verified::of(verify::verify(&verify::facts(&members).await), machines);
        let outcome = if verified.holds { Outcome::Good } else { Outcome::Violated };
        Ok((if args.cluster.json { json(&verified) } else { verified.to_string() }, outcome))
    })
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Verified {
    version: u32,
    /// Whether every check does that is judged.
    holds: bool,
    /// What was looked at: how long emulated machines take is told, and not judged.
    machines: Machines,
    checks: Vec<Check>,
}

impl Verified {
    fn of(checks: Vec<Check>, machines: Machines) -> Self {
        let holds = checks.iter().all(|check| check.holds() || !check.is_judged(machines));
        Self { version: VERSION, holds, machines, checks }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let word = match (check.holds(), check.is_judged(self.machines)) {
                (true, _) => "good ",
                (false, true) => "WRONG",
                (false, false) => "told ",
            };
            writeln!(f, "{word}  {:<width$}  {}", check.id, check.found)?;
            if !check.holds() {
                writeln!(f, "       asked: {}", check.asks)?;
            }
            for each in &check.each {
                writeln!(f, "       {each}")?;
            }
            for wrong in &check.wrong {
                writeln!(f, "       - {wrong}")?;
            }
        }
        let all = self.checks.len();
        let (judged, told): (Vec<_>, Vec<_>) = self
            .checks
            .iter()
            .filter(|check| !check.holds())
            .partition(|check| check.is_judged(self.machines));
        match (judged.len(), told.len()) {
            (0, 0) => writeln!(f, "\nall {all} checks hold"),
            (0, told) => writeln!(
                f,
                "\nall {} checks hold that are judged; {told} is about times, which emulated machines do not keep",
                all - told
            ),
            (wrong, _) => writeln!(f, "\n{wrong} of {all} checks do not hold"),
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
            each: Vec::new(),
            wrong: wrong.iter().map(|&text| text.to_owned()).collect(),
        };
        let verified = Verified::of(
            vec![check("nodes", &[]), check("storage-paths", &["a1 hears nobody", "b1 neither"])],
            Machines::Real,
        );
        assert!(!verified.holds);
        insta::assert_snapshot!(verified.to_string());
        let each = vec!["data: rack-a (a1) and rack-b (b1)".to_owned()];
        let layout = Verified::of(vec![Check { each, ..check("layout", &[]) }], Machines::Real).to_string();
        assert!(layout.contains("3 nodes\n       data: rack-a (a1) and rack-b (b1)\n"), "{layout}");
        let all_well = Verified::of(vec![check("nodes", &[])], Machines::Real);
        assert!(all_well.holds && all_well.to_string().ends_with("\nall 1 checks hold\n"));
        let slow = || vec![check("nodes", &[]), check("round-trips", &["a1 to b1: 4000 µs"])];
        assert!(!Verified::of(slow(), Machines::Real).holds);
        let emulated = Verified::of(slow(), Machines::Emulated);
        assert!(emulated.holds, "how long emulated machines take is their host's");
        insta::assert_snapshot!("emulated", emulated.to_string());
    }
}
