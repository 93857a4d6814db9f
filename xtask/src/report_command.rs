//! `cargo xtask hil report` and `cargo xtask hil compare`: look at runs that are over.

use std::path::Path;
use std::process::ExitCode;

/// Draws a run's page again.
pub(crate) fn report(dir: &Path) -> ExitCode {
    match hil::report::redraw(dir) {
        Ok(path) => {
            println!("report: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", hil::chain(&error));
            eprintln!(" help: name a run's folder, such as target/hil/latest");
            ExitCode::from(2)
        }
    }
}
