//! The hardware-in-the-loop harness: builds a lab, deploys a cluster in it, breaks it, and reports what was lost.
//!
//! Purpose: [`run::run`] is `cargo xtask hil`. The parts: what the host needs ([`host`]), what nodes boot ([`image`]), what
//! runs their processors ([`accel`]), the lab itself ([`lab`]), failover tests as data ([`suite`]), carrying them out
//! (`runner`), whether anything that was written is lost ([`judgement`]), and what is left of it ([`events`], [`report`]).
//!
//! Invariants: whatever ends a run, the lab ends with it unless it was to be kept. Nothing is reported as seen that was
//! not.
//!
//! On failure: [`run::RunError`], which knows its exit code.

pub mod accel;
pub mod events;
pub mod host;
pub mod image;
pub mod judgement;
pub mod lab;
pub mod progress;
pub mod report;
pub mod run;
mod runner;
pub mod seeded;
pub mod suite;
pub mod ui;

/// An error with everything that caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Transparent wrappers say the same again.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}
