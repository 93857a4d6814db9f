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
        Err(error) => unreadable(&error),
    }
}

/// Says what changed between two runs; 1 if something held before and does not any more.
pub(crate) fn compare(before: &Path, after: &Path, json: bool) -> ExitCode {
    let runs = hil::report::read(before).and_then(|before| Ok((before, hil::report::read(after)?)));
    let compared = match &runs {
        Ok((before, after)) => hil::report::compare(before, after),
        Err(error) => return unreadable(error),
    };
    let text = if json {
        serde_json::to_string_pretty(&compared).map(|json| json + "\n").unwrap_or_default()
    } else {
        compared.text()
    };
    print!("{text}");
    ExitCode::from(u8::from(compared.worse))
}

fn unreadable(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {}", hil::chain(error));
    eprintln!(" help: name a run's folder, such as target/hil/latest");
    ExitCode::from(2)
}
