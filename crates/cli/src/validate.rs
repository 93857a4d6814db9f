//! `twinrack validate` and `twinrack convert`: read a file, report; or write it as TOML.

use crate::{Outcome, ReportFormat, json};
use clap::Args;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use template::{Problem, ReadOptions, Reading, Source, Unreadable, read, render, to_toml};

/// A file, the ARM template beside it, and what is accepted of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct FileArgs {
    /// A twinrack TOML template or an ARM deployment parameters file.
    file: PathBuf,
    /// The ARM template that the parameters file is for: what the file leaves out has the template's default.
    #[arg(long, value_name = "FILE")]
    arm_template: Option<PathBuf>,
    /// Accept violations of this rule knowingly; may be given several times.
    #[arg(long = "override", value_name = "RULE")]
    overrides: Vec<String>,
}

impl FileArgs {
    /// The file itself.
    pub(crate) fn path(&self) -> &Path {
        &self.file
    }
}

/// What is in the file; one that can't be read is reported.
pub(crate) fn read_or_report(args: &FileArgs) -> io::Result<Result<(Source, Reading), Outcome>> {
    let source = match source(args) {
        Ok(source) => source,
        Err(unreadable) => return report_unreadable(None, &unreadable, ReportFormat::Text).map(Err),
    };
    match read(&source, &ReadOptions { overrides: args.overrides.clone() }) {
        Ok(reading) => Ok(Ok((source, reading))),
        Err(unreadable) => report_unreadable(Some(&source), &unreadable, ReportFormat::Text).map(Err),
    }
}

/// Reports a file that is against a rule, to standard error.
pub(crate) fn report_violations(source: &Source, reading: &Reading) -> io::Result<Outcome> {
    let report = render::reading(source, reading, colour(&io::stderr()));
    io::stderr().lock().write_all(report.as_bytes())?;
    Ok(Outcome::Violated)
}

pub(crate) fn run(args: FileArgs, format: ReportFormat) -> io::Result<Outcome> {
    let source = match source(&args) {
        Ok(source) => source,
        Err(unreadable) => return report_unreadable(None, &unreadable, format),
    };
    match read(&source, &ReadOptions { overrides: args.overrides }) {
        Ok(reading) => report(&source, &reading, format),
        Err(unreadable) => report_unreadable(Some(&source), &unreadable, format),
    }
}

/// Writes the file's equivalent in twinrack's TOML to standard output; a file that is against a rule is reported as
/// [`run`] does it, to standard error, and nothing is written.
pub(crate) fn convert(args: &FileArgs) -> io::Result<Outcome> {
    let (source, reading) = match read_or_report(args)? {
        Ok(read) => read,
        Err(outcome) => return Ok(outcome),
    };
    let Some(text) = to_toml(&source, &reading) else { return report_violations(&source, &reading) };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Outcome::Good)
}

/// The file with the ARM template beside it, if one is named.
fn source(args: &FileArgs) -> Result<Source, Unreadable> {
    let source = load(&args.file)?;
    match &args.arm_template {
        Some(template) => Ok(source.beside(load(template)?)),
        None => Ok(source),
    }
}

/// The file's text. No more is read than a template may have, so that a device or an endless pipe does no harm.
fn load(file: &Path) -> Result<Source, Unreadable> {
    let name = file.display().to_string();
    let failed = |why: String| Unreadable { name: name.clone(), problems: vec![problem(why)] };
    let bytes = bounded(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(format!("there is no file `{name}`")),
        io::ErrorKind::IsADirectory => failed(format!("`{name}` is a directory; give the template in it")),
        _ => failed(format!("can't open `{name}`: {error}")),
    })?;
    Source::from_bytes(&name, &bytes)
}

fn bounded(file: &Path) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(Source::SIZE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn problem(message: String) -> Problem {
    Problem { message, help: None, location: None, related: Vec::new() }
}

fn report(source: &Source, reading: &Reading, format: ReportFormat) -> io::Result<Outcome> {
    let text = match format {
        ReportFormat::Text => render::reading(source, reading, colour(&io::stdout())),
        ReportFormat::Json => json::reading(source, reading),
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(if reading.spec.is_some() { Outcome::Good } else { Outcome::Violated })
}

fn report_unreadable(
    source: Option<&Source>,
    unreadable: &Unreadable,
    format: ReportFormat,
) -> io::Result<Outcome> {
    match format {
        ReportFormat::Text => {
            let text = render::unreadable(source, unreadable, colour(&io::stderr()));
            io::stderr().lock().write_all(text.as_bytes())?;
        }
        ReportFormat::Json => {
            io::stdout().lock().write_all(json::unreadable(source, unreadable).as_bytes())?;
        }
    }
    Ok(Outcome::Unreadable)
}

/// Colours are for terminals whose user has not asked for none (<https://no-color.org>).
fn colour(stream: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted
}
