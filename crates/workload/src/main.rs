//! `/bin/workload` of a lab's node: writes to a volume as its one argument says, a [`Config`] in JSON.
//!
//! On failure: one line on standard error; exit code 2 when the argument is wrong, 1 when a write or a record failed.

use std::process::ExitCode;
use workload::writer::{Config, write};

fn main() -> ExitCode {
    let Some(argument) = std::env::args().nth(1) else {
        eprintln!("usage: workload CONFIG (JSON)");
        return ExitCode::from(2);
    };
    let config: Config = match serde_json::from_str(&argument) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("workload: {error}");
            return ExitCode::from(2);
        }
    };
    match write(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("workload: {error}{why}");
            ExitCode::from(1)
        }
    }
}
