//! `/bin/workload` of a lab's node: writes to a volume as its one argument says, a [`Config`] in JSON; or after the word `probe`
//! asks a device something as a [`Probe`] says, and prints how long each request took, µs, in JSON.
//!
//! On failure: one line on standard error; exit code 2 when an argument is wrong, 1 when a request or a record failed.

use std::error::Error;
use std::process::ExitCode;
use workload::probe::{Probe, probe};
use workload::writer::{Config, write};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [config] => carry_out(config, |config: Config| write(&config)),
        ["probe", asked] => carry_out(asked, |asked: Probe| {
            let took_us = probe(&asked)?;
            println!("{}", serde_json::json!(took_us));
            Ok::<_, workload::probe::ProbeError>(())
        }),
        _ => {
            eprintln!("usage: workload CONFIG | workload probe PROBE (both JSON)");
            ExitCode::from(2)
        }
    }
}

fn carry_out<T, E>(argument: &str, work: impl FnOnce(T) -> Result<(), E>) -> ExitCode
where
    T: serde::de::DeserializeOwned,
    E: Error,
{
    let told = match serde_json::from_str(argument) {
        Ok(told) => told,
        Err(error) => {
            eprintln!("workload: {error}");
            return ExitCode::from(2);
        }
    };
    match work(told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("workload: {error}{why}");
            ExitCode::from(1)
        }
    }
}
