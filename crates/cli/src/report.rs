//! `twinrack report`: the whole state of a cluster as one HTML page.
//!
//! On failure: [`ClusterError`]; the page is written as a whole or not at all. A cluster that is not well is no failure to report it: the exit code is 0 if the page is there.

mod page;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::{VERSION, json};
use crate::status::seen::Status;
use clap::Args;
use deploy::verify;
use page::Report;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
One file without scripts or outside references, to be looked at, kept or sent: racks, nodes, volumes and where their copies are, drives, virtual machines, who votes, every check of
`twinrack verify`, and what is not well. Nothing of it is secret: names, sizes and serial numbers.

Examples:
  twinrack report --access access.json
  twinrack report --access access.json --out /var/www/cluster.html

Exit codes: 0 the page is written; 1 nobody answered; 2 the access file or the command line can't be read, or the page can't be written.";

/// The whole state as one page.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "twinrack-report.html")]
    out: PathBuf,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    version: u32,
    page: String,
    bytes: usize,
    troubles: usize,
    checks_wrong: usize,
}

pub(crate) fn run(args: &ReportArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move {
        // Asked once: what is shown and what is checked are of one moment.
        let facts = verify::facts(&members).await;
        let status = Status::of(&facts.asked, &facts.views).ok_or(ClusterError::NobodyAnswers)?;
        let checks = verify::verify(&facts);
        let ledger = deploy::pool::newest(&facts.views).map(|view| &view.state);
        let report = Report { status: &status, checks: &checks, ledger, at: jiff::Timestamp::now() };
        let page = report.page();
        write_whole(&args.out, page.as_bytes())
            .map_err(|source| ClusterError::Write { path: args.out.clone(), source })?;
        let written = Written {
            version: VERSION,
            page: args.out.display().to_string(),
            bytes: page.len(),
            troubles: status.troubles.len(),
            checks_wrong: checks.iter().filter(|check| !check.holds()).count(),
        };
        Ok(if args.cluster.json { json(&written) } else { in_words(&written) })
    })
}

fn in_words(written: &Written) -> String {
    let Written { page, troubles, checks_wrong, .. } = written;
    format!("{page} is written; {troubles} things are not well, {checks_wrong} checks do not hold\n")
}

/// Beside, and renamed: whoever reads it while it is written again sees the old one.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written =
        File::create(&beside).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    let written = written.and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // What is left of it is of no use; that it can't be removed changes nothing.
        fs::remove_file(&beside).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        fs::create_dir(folder.path().join("taken")).unwrap();
        fs::write(folder.path().join("taken/file"), "").unwrap();
        assert!(write_whole(&folder.path().join("taken"), b"three").is_err());
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
