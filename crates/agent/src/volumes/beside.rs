//! Something that is asked on a thread of its own, beside what else has to be waited for.
//!
//! Invariants: whoever waits does so no longer than a bound. What has not come by then is still under way, and can be waited for again: nobody has to
//! ask a second time, so that what hangs does not pile up.
//!
//! On failure: what went wrong there is told to whoever waits for it.

use super::VolumesError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// What was asked.
#[derive(Debug)]
pub(super) struct Beside<T>(Receiver<Result<T, VolumesError>>);

impl<T: Send + 'static> Beside<T> {
    /// Asks.
    pub(super) fn ask(
        ask: impl FnOnce() -> Result<T, VolumesError> + Send + 'static,
    ) -> Result<Self, VolumesError> {
        let (done, answer) = channel();
        // Whoever asked may have given up.
        let asked = move || drop(done.send(ask()));
        thread::Builder::new().name("beside".to_owned()).spawn(asked).map_err(VolumesError::Thread)?;
        Ok(Self(answer))
    }

    /// The answer, if it comes within so long; `None`: it can be waited for again.
    pub(super) fn within(&self, bound: Duration) -> Option<Result<T, VolumesError>> {
        match self.0.recv_timeout(bound) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            // It panicked, or has answered already.
            Err(RecvTimeoutError::Disconnected) => Some(Err(VolumesError::Ended)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn what_takes_its_time_is_not_waited_for_and_is_there_when_it_is_asked_for_again() {
        let (go, goes) = channel();
        let slow = Beside::ask(move || Ok(goes.recv().unwrap())).unwrap();
        assert!(slow.within(Duration::from_millis(10)).is_none());
        go.send(7).unwrap();
        assert_eq!(slow.within(LONG).unwrap().unwrap(), 7);
    }

    #[test]
    fn what_went_wrong_is_told() {
        let refused = || Err::<(), _>(VolumesError::NoClusterId);
        let refused = Beside::ask(refused).unwrap().within(LONG).unwrap();
        assert!(matches!(refused, Err(VolumesError::NoClusterId)));
        let panics = || -> Result<(), VolumesError> { std::panic::resume_unwind(Box::new(())) };
        let panicked = Beside::ask(panics).unwrap().within(LONG).unwrap();
        assert!(matches!(panicked, Err(VolumesError::Ended)));
    }
}
