//! What a person sees while a run goes on: a line per thing that is under way, on standard error.
//!
//! On a terminal the lines are redrawn in place; elsewhere each change is a line of its own, with its time, so that a
//! CI log reads as a story. Standard output is left to the result.

use crate::progress::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a spinner turns; below that people take it for stuck.
const TICK: Duration = Duration::from_millis(120);

/// The screen of a run.
#[derive(Debug, Clone)]
pub struct Ui {
    started: Instant,
    bars: Option<MultiProgress>,
}

/// A line on the screen for something under way. It goes when dropped.
#[derive(Debug)]
pub struct Line {
    started: Instant,
    name: String,
    bar: Option<ProgressBar>,
}

impl Ui {
    /// The screen for this process: bars on a terminal, plain lines elsewhere.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { started: Instant::now(), bars: terminal.then(MultiProgress::new) }
    }

    /// A new line for something under way.
    pub fn line(&self, name: &str) -> Line {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            // The template is constant: it can't fail to parse.
            if let Ok(style) =
                ProgressStyle::with_template("{spinner:.cyan} {prefix:<14} {elapsed:>4} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        Line { started: self.started, name: name.to_owned(), bar }
    }

    /// Says something that stays on the screen.
    pub fn say(&self, message: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{message}")),
            None => eprintln!("{} {message}", stamp(self.started)),
        }
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Line {
    fn step(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(message.to_owned()),
            None => eprintln!("{} {}: {message}", stamp(self.started), self.name),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn stamp(started: Instant) -> String {
    let elapsed = started.elapsed();
    format!("[{:>3}.{} s]", elapsed.as_secs(), elapsed.subsec_millis() / 100)
}
