//! What a person sees while a deployment goes on, on standard error: on a terminal one line that moves and a line for each thing that was changed; elsewhere a line for each step.

use deploy::recorder::Told;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// How often a spinner turns; below that people take it for stuck.
const TICK: Duration = Duration::from_millis(120);
const STYLE: &str = "{spinner:.cyan} {prefix:<18} {elapsed:>4} {wide_msg}";

pub(crate) struct Progress {
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { started: Instant::now(), bar }
    }

    /// Something is under way.
    pub(crate) fn begins(&self, stage: &str, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(stage.to_owned());
                bar.set_message(what.to_owned());
            }
            None => self.line(&format!("{stage}: {what}")),
        }
    }

    pub(crate) fn told(&self, told: &Told) {
        match told {
            Told::Begun { stage, step } if self.bar.is_some() => self.begins(stage.name(), step),
            Told::Stage(_) | Told::Begun { .. } => {}
            Told::Done { stage, step, ms, did } => match (did, &self.bar) {
                (Some(did), _) => self.line(&format!("{stage}: {did} ({ms} ms)")),
                (None, None) => self.line(&format!("{stage}: {step}: as it shall be ({ms} ms)")),
                (None, Some(_)) => {}
            },
            Told::Note(note) => self.line(note),
        }
    }

    /// A line that stays.
    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("  {line}")),
            None => eprintln!("[{:5.1} s] {line}", self.started.elapsed().as_secs_f64()),
        }
    }

    /// What moves goes; what stays, stays.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_can_be_drawn() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }
}
