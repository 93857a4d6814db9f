//! How long work says what it is doing.

/// Somebody who is told what is under way.
pub trait Progress: Sync {
    /// The work has come to this.
    fn step(&self, message: &str);
}

/// Nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _message: &str) {}
}
