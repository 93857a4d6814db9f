//! `/bin/workload` of a lab's node: writes to a volume as its one argument says, a [`Config`] in JSON; or, after the word `measure`,
//! measures writes as an [`Order`] says, and prints [`Figures`](workload::measure::Figures); or, after the word `probe`, asks a device
//! something as a [`Probe`] says, and prints how long each request took, µs. All of it is JSON.
//!
//! On failure: one line on standard error; exit code 2 when an argument is wrong, 1 when a request or a record failed.

use serde::de::DeserializeOwned;
use std::error::Error;
use std::process::ExitCode;
use workload::measure::{Order, measure};
use workload::probe::{Probe, probe};
use workload::writer::{Config, write};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", order] => parsed(order, |order: &Order| {
            let figures = measure(order)?;
            println!("{}", serde_json::to_string(&figures)?);
            Ok(())
        }),
        ["probe", asked] => parsed(asked, |asked: &Probe| {
            let took_us = probe(asked)?;
            println!("{}", serde_json::json!(took_us));
            Ok(())
        }),
        [config] => parsed(config, |config: &Config| Ok(write(config)?)),
        _ => {
            eprintln!("usage: workload CONFIG | workload measure ORDER | workload probe PROBE (all JSON)");
            ExitCode::from(2)
        }
    }
}

fn parsed<T: DeserializeOwned>(argument: &str, work: impl Fn(&T) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let told = match serde_json::from_str(argument) {
        Ok(told) => told,
        Err(error) => {
            eprintln!("workload: the argument is not what it should be: {error}");
            return ExitCode::from(2);
        }
    };
    match work(&told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("workload: {error}{why}");
            ExitCode::from(1)
        }
    }
}
