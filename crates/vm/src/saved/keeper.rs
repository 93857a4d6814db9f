//! A process that has the device open on which memory is saved, and whoever tells it what to do: a line for each order, a line for each answer.
//!
//! ```text
//!   agent ── Place ── "wipe", "listen", "take in", … ─► keep ── the device
//!                  ◄─ done, or why not ───────────────        ── a socket of QEMU's
//! ```
//! Invariants: the device is open in that process alone, and never outlives it. Whoever gave the orders being gone, by its end or by dropping its [`Place`], nothing is begun any more, and it
//! ends. What it was told of a write is told on only by an answer: one that is killed for the device has said nothing.
//!
//! On failure: [`SavedError`].

use super::device::Device;
use super::{Header, SavedError, failed};
use model::VmId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setpriority_process;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Its nice value: that of any process, and of QEMU.
const USUAL_PRIORITY: i32 = 0;

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Wipe,
    Header,
    Listen(PathBuf),
    TakeIn,
    Close(Header),
    Sum(u64),
    Give(u64, PathBuf),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Header(Header),
    /// A piece more was taken in.
    Piece,
    Taken(u64, u32),
    Sum(u32),
    Failed {
        what: String,
        path: PathBuf,
        why: String,
    },
    Busy,
    Nothing,
    Damaged,
}

impl From<SavedError> for Answer {
    fn from(error: SavedError) -> Self {
        match error {
            SavedError::Io { what, path, source } => Self::Failed { what, path, why: source.to_string() },
            SavedError::Busy { .. } => Self::Busy,
            SavedError::Nothing { .. } => Self::Nothing,
            SavedError::Damaged { .. } => Self::Damaged,
            SavedError::Ended { .. }
            | SavedError::Other { .. }
            | SavedError::Over { .. }
            | SavedError::BrokenOff => {
                let path = PathBuf::new();
                let what = "do what it was told with".to_owned();
                Self::Failed { what, path, why: "it was told nonsense".to_owned() }
            }
        }
    }
}

/// The process itself: it does with a device what it is told by whoever is at the other end of its standard input, a socket, and answers there, until that ends.
pub fn keep(device: &Path) -> io::Result<()> {
    // Whoever has started it may come before everything else on its machine; it must not.
    setpriority_process(None, USUAL_PRIORITY)?;
    let orders = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let say = |answer: Answer| {
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        (&orders).write_all(&line)
    };
    let mut kept = None;
    let device = match Device::open(device) {
        Ok(device) => device,
        Err(error) => return say(error.into()),
    };
    say(Answer::Done)?;
    for line in io::BufReader::new(&orders).lines() {
        say(obey(&device, &mut kept, serde_json::from_str(&line?)?, say).unwrap_or_else(Answer::from))?;
    }
    Ok(())
}

fn obey(
    device: &Device,
    kept: &mut Option<(PathBuf, UnixListener)>,
    order: Order,
    say: impl Fn(Answer) -> io::Result<()>,
) -> Result<Answer, SavedError> {
    Ok(match order {
        Order::Wipe => device.wipe().map(|()| Answer::Done)?,
        Order::Header => Answer::Header(device.header()?),
        Order::Listen(socket) => {
            // One that was killed while it saved has left it.
            let _ = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).map_err(failed("listen at", &socket))?;
            *kept = Some((socket, listener));
            Answer::Done
        }
        Order::TakeIn => {
            let Some((socket, listener)) = kept.take() else { return Ok(Answer::Nothing) };
            let qemu = accept(&listener).map_err(failed("listen at", &socket))?;
            let (bytes, sum) = device.take_in(Wanted(qemu), || say(Answer::Piece))?;
            Answer::Taken(bytes, sum)
        }
        Order::Close(header) => device.close(header).map(|()| Answer::Done)?,
        Order::Sum(bytes) => Answer::Sum(device.sum(bytes)?),
        Order::Give(bytes, socket) => {
            let mut qemu = UnixStream::connect(&socket).map_err(failed("connect to", &socket))?;
            device.give(bytes, |piece| is_wanted().and_then(|()| qemu.write_all(piece)))?;
            Answer::Done
        }
    })
}

/// What is said, as long as somebody wants it.
struct Wanted<T>(T);

impl<T: Read> Read for Wanted<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        is_wanted()?;
        self.0.read(into)
    }
}

/// QEMU, when it comes; it may never.
fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let stdin = io::stdin();
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::IN), PollFd::new(&stdin, PollFlags::empty())];
        poll(&mut polled, None)?;
        let comes = polled[0].revents().contains(PollFlags::IN);
        is_wanted()?;
        if comes {
            return listener.accept().map(|(qemu, _)| qemu);
        }
    }
}

/// Whoever gives the orders is there.
fn is_wanted() -> io::Result<()> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default()))?;
    let gone = polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
    if gone { Err(io::Error::other("nobody wants it any more")) } else { Ok(()) }
}

/// Where memory is saved: the process that has the device open. It is killed when this is dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Killed when it is dropped, and waited for by the runtime.
    _child: Child,
    orders: BufReader<tokio::net::UnixStream>,
    /// Whether something whole may be there; `None`: what was there before is.
    may_hold: Option<bool>,
}

impl Place {
    /// Starts the process that has this device open: a command that calls [`keep`] with it.
    pub async fn open(path: &Path, mut keeper: Command) -> Result<Self, SavedError> {
        let begin = failed("begin to use", path);
        let (own, its) = UnixStream::pair().map_err(&begin)?;
        keeper.stdin(Stdio::from(OwnedFd::from(its))).stdout(Stdio::null());
        let mut keeper = tokio::process::Command::from(keeper);
        keeper.kill_on_drop(true);
        // Not here: whoever has other work on this thread would wait for the fork.
        let spawned = spawn_blocking(move || keeper.spawn()).await;
        let child = spawned.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(&begin)?;
        own.set_nonblocking(true).map_err(&begin)?;
        let orders = BufReader::new(tokio::net::UnixStream::from_std(own).map_err(&begin)?);
        let mut place = Self { path: path.to_owned(), _child: child, orders, may_hold: None };
        place.done().await?;
        Ok(place)
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something whole may be there by what was done here: it was begun to be closed, and has not been wiped since. `None`: nothing was done that changes that.
    pub const fn may_hold(&self) -> Option<bool> {
        self.may_hold
    }

    /// What is saved there.
    pub async fn header(&mut self) -> Result<Header, SavedError> {
        match self.tell(&Order::Header).await? {
            Answer::Header(header) => Ok(header),
            _ => Err(self.ended()),
        }
    }

    /// Makes what is saved there, if anything is, unusable, for good.
    pub async fn wipe(&mut self) -> Result<(), SavedError> {
        self.do_it(&Order::Wipe).await?;
        self.may_hold = Some(false);
        Ok(())
    }

    /// Wipes what is saved there of a machine, if anything is. Else nothing is written: a block of a volume that was never written to may have to wait for room.
    pub async fn use_up(&mut self, vm: VmId) -> Result<(), SavedError> {
        match self.header().await {
            Ok(header) if header.vm == vm => self.wipe().await,
            Ok(_) | Err(SavedError::Nothing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Listens for what is to be taken in.
    pub(super) async fn listen(&mut self, socket: &Path) -> Result<(), SavedError> {
        self.do_it(&Order::Listen(socket.to_owned())).await
    }

    /// Takes in what comes there: how much, and its sum. `None`: nothing came, or was written, for so long.
    pub(super) async fn take_in(&mut self, stalls: Duration) -> Result<Option<(u64, u32)>, SavedError> {
        let mut heard = timeout(stalls, self.tell(&Order::TakeIn)).await;
        loop {
            match heard {
                Err(_) => return Ok(None),
                Ok(answer) => match answer? {
                    Answer::Piece => heard = timeout(stalls, self.hear()).await,
                    Answer::Taken(bytes, sum) => return Ok(Some((bytes, sum))),
                    _ => return Err(self.ended()),
                },
            }
        }
    }

    /// Says that all is there.
    pub(super) async fn close(&mut self, header: Header) -> Result<(), SavedError> {
        self.may_hold = Some(true);
        self.do_it(&Order::Close(header)).await
    }

    /// The sum of what is there.
    pub(super) async fn sum(&mut self, bytes: u64) -> Result<u32, SavedError> {
        match self.tell(&Order::Sum(bytes)).await? {
            Answer::Sum(sum) => Ok(sum),
            _ => Err(self.ended()),
        }
    }

    /// Sends it to whoever listens there.
    pub(super) async fn give(&mut self, bytes: u64, socket: &Path) -> Result<(), SavedError> {
        self.do_it(&Order::Give(bytes, socket.to_owned())).await
    }

    async fn do_it(&mut self, order: &Order) -> Result<(), SavedError> {
        match self.tell(order).await? {
            Answer::Done => Ok(()),
            _ => Err(self.ended()),
        }
    }

    async fn tell(&mut self, order: &Order) -> Result<Answer, SavedError> {
        let mut line = serde_json::to_vec(order).map_err(|_| self.ended())?;
        line.push(b'\n');
        self.orders.write_all(&line).await.map_err(|_| self.ended())?;
        self.hear().await
    }

    async fn done(&mut self) -> Result<(), SavedError> {
        self.hear().await.map(drop)
    }

    async fn hear(&mut self) -> Result<Answer, SavedError> {
        let mut line = String::new();
        self.orders.read_line(&mut line).await.map_err(|_| self.ended())?;
        let path = || self.path.clone();
        match serde_json::from_str(&line).map_err(|_| self.ended())? {
            Answer::Failed { what, path, why } => {
                Err(SavedError::Io { what, path, source: io::Error::other(why) })
            }
            Answer::Busy => Err(SavedError::Busy { path: path() }),
            Answer::Nothing => Err(SavedError::Nothing { path: path() }),
            Answer::Damaged => Err(SavedError::Damaged { path: path() }),
            answer => Ok(answer),
        }
    }

    fn ended(&self) -> SavedError {
        SavedError::Ended { path: self.path.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// One whose process says so often, every tenth of a second, that a piece was taken in, and then that.
    async fn says(pieces: u32, then: &str) -> Place {
        let mut keeper = Command::new("sh");
        let piece = "sleep 0.1; echo '\"Piece\"' >&0;";
        let says = format!(
            "echo '\"Done\"' >&0; read order; for at in $(seq {pieces}); do {piece} done; {then}; exec sleep 1000"
        );
        keeper.args(["-c", &says]);
        Place::open(Path::new("saved"), keeper).await.unwrap()
    }

    #[tokio::test]
    async fn what_goes_on_is_waited_for_and_what_stalls_is_not() {
        let stalls = Duration::from_millis(700);
        let begun = Instant::now();
        let mut goes_on = says(12, "echo '{\"Taken\":[5,6]}' >&0").await;
        assert_eq!(goes_on.take_in(stalls).await.unwrap(), Some((5, 6)));
        assert!(begun.elapsed() > stalls, "it had longer than one may stall");
        let mut stuck = says(2, "true").await;
        assert_eq!(stuck.take_in(stalls).await.unwrap(), None);
    }
}
