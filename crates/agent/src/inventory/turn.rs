//! One read of the inventory at a time: it blocks a thread, with a drive that hangs for as long as the kernel lets it, and
//! threads that hang must not pile up because clients ask again.
//!
//! On failure: [`Busy`]; the reader's turn comes when the read before has ended, whether or not its client still waits.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

/// For the reads before this one. A read takes milliseconds, so many clients' turns come within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    #[error("an inventory that was asked for earlier has not been read after {} s", PATIENCE.as_secs())]
    Busy,
    #[error("reading the inventory ended badly")]
    Bug(#[from] JoinError),
}

/// Whose turn it is to read.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turn {
    /// Reads when those before have ended.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TurnError> {
        let turn = timeout(PATIENCE, Arc::clone(&self.0).acquire_owned());
        // Nobody closes the semaphore.
        let Ok(Ok(turn)) = turn.await else { return Err(TurnError::Busy) };
        let read = spawn_blocking(move || {
            let read = read();
            // Here, and not when the client goes: the thread is taken until now.
            drop(turn);
            read
        });
        Ok(read.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn reads_that_hang_take_one_thread_and_others_hear_of_it() {
        let turn = Arc::new(Turn::default());
        let (go_on, hangs) = mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let reader = Arc::clone(&turn);
        let first = tokio::spawn(async move {
            let read = move || (started.send(()), hangs.recv());
            reader.read(read).await.map(drop)
        });
        has_started.await.unwrap();
        // Its client goes; its thread does not.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let reader = Arc::clone(&turn);
        let second =
            tokio::spawn(async move { reader.read(|| unreachable!("the first one still reads")).await });
        tokio::task::yield_now().await;
        tokio::time::advance(PATIENCE).await;
        assert!(matches!(second.await.unwrap(), Err::<(), _>(TurnError::Busy)));
        let third = turn.read(|| 3);
        go_on.send(()).unwrap();
        assert_eq!(third.await.unwrap(), 3);
    }
}
