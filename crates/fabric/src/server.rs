//! The event loop around the switchboard: one thread, all sockets.
//!
//! One turn: wait; read at most one inbox from every NIC that has something, and let the switchboard move the frames into
//! the outboxes of other NICs; serve control clients; write each outbox that got something with one call. NICs that
//! may have more to read are taken up again in the next turn, so that none of them starves the others.
//!
//! Invariants: no call blocks but the wait itself, and writing to a capture's file. A NIC has at most one connection.
//!
//! On failure: an error on a connection closes that connection. Only what makes the whole fabric useless, a socket that
//! can't be bound or a wait that fails, is returned. Sockets are removed whenever the fabric ends.

mod clients;
mod nics;
mod sockets;
mod timer;

pub use sockets::{SocketError, socket_path};

use crate::control::CONTROL_SOCKET;
use crate::switchboard::{NicIndex, Switchboard};
use crate::topology::Topology;
use crate::validate::TopologyError;
use clients::Clients;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nics::{Io, NicSocket};
use serde::{Deserialize, Serialize};
use sockets::BoundSocket;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use timer::Timer;

/// What a fabric is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The switches, NICs and cables.
    pub topology: Topology,
    /// Where the sockets go: `<nic>.sock` for every NIC and `fabric.ctl`. Made if it isn't there.
    pub socket_dir: PathBuf,
    /// End when standard input, a pipe held by the parent, is closed: the fabric never outlives the lab.
    pub exit_on_stdin_eof: bool,
}

/// Why a fabric didn't start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The topology can't work.
    #[error("the topology can't work")]
    Topology(#[from] TopologyError),
    /// A socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel's event queue failed.
    #[error("can't {doing}")]
    Poll {
        /// What failed.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard input can't be watched: it is a file or a terminal's leftover, not the parent's pipe.
    #[error("can't watch standard input for its end: it must be a pipe or a socket")]
    Stdin(#[source] io::Error),
}

const WAKER: Token = Token(0);
const STDIN: Token = Token(1);
const SIGNALS: Token = Token(2);
const CONTROL: Token = Token(3);
const TIMER: Token = Token(4);
/// Tokens from here are control clients'.
const CLIENTS: usize = 16;
/// Tokens from here are NICs': even ones listen, odd ones are connections.
const NICS: usize = 1024;
const EVENTS_PER_TURN: usize = 256;
/// How often captures are handed to the file system.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a fabric until SIGTERM, SIGINT or, if so configured, the end of standard input.
pub fn run(config: &Config) -> Result<(), RunError> {
    let mut fabric = Fabric::bind(&config.topology, &config.socket_dir)?;
    fabric.stop_on_signals()?;
    if config.exit_on_stdin_eof {
        fabric.stop_on_stdin_eof()?;
    }
    fabric.serve()
}

/// A fabric whose sockets are bound.
#[derive(Debug)]
pub struct Fabric {
    poll: Poll,
    timer: Timer,
    waker: Arc<Waker>,
    signals: Option<mio::net::UnixStream>,
    board: Switchboard,
    nics: Vec<NicSocket>,
    io: Io,
    clients: Clients,
    /// NICs that may have something to read.
    ready: Vec<usize>,
    stopping: bool,
    started: Instant,
    /// Time since 1970 at `started`, for captures: it then runs on as the steady clock does.
    started_since_epoch: Duration,
}

/// Ends a fabric from another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Waker>);

impl Stopper {
    /// Asks it to end; it does at its next turn.
    pub fn stop(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl Fabric {
    /// Checks the topology and binds all sockets, the control socket last.
    pub fn bind(topology: &Topology, socket_dir: &Path) -> Result<Self, RunError> {
        let board = Switchboard::new(topology)?;
        let poll = Poll::new().map_err(failed("make an event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("make an event queue"))?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(failed("make a timer"))?;
        sockets::make_dir(socket_dir)?;
        let mut nics = Vec::with_capacity(topology.nics.len());
        for (index, nic) in topology.nics.iter().enumerate() {
            let mut bound = BoundSocket::bind(socket_path(socket_dir, nic)?)?;
            bound
                .register(poll.registry(), Token(NICS + 2 * index))
                .map_err(failed("watch a NIC's socket"))?;
            nics.push(NicSocket::new(bound));
        }
        let mut bound = BoundSocket::bind(sockets::checked(socket_dir.join(CONTROL_SOCKET))?)?;
        bound.register(poll.registry(), CONTROL).map_err(failed("watch the control socket"))?;
        Ok(Self {
            poll,
            timer,
            waker: Arc::new(waker),
            signals: None,
            board,
            io: Io::new(nics.len()),
            nics,
            clients: Clients::new(bound),
            ready: Vec::new(),
            stopping: false,
            started: Instant::now(),
            started_since_epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        })
    }

    /// What ends [`Self::serve`] from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.waker))
    }

    /// Makes SIGTERM and SIGINT end the fabric in order.
    pub fn stop_on_signals(&mut self) -> Result<(), RunError> {
        let watch = || -> io::Result<mio::net::UnixStream> {
            let (read, write) = UnixStream::pair()?;
            for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
                signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            }
            read.set_nonblocking(true)?;
            let mut read = mio::net::UnixStream::from_std(read);
            self.poll.registry().register(&mut read, SIGNALS, Interest::READABLE)?;
            Ok(read)
        };
        self.signals = Some(watch().map_err(failed("watch for signals"))?);
        Ok(())
    }

    /// Makes the end of standard input end the fabric. Nothing is read from it.
    pub fn stop_on_stdin_eof(&self) -> Result<(), RunError> {
        let stdin = io::stdin().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&stdin), STDIN, Interest::READABLE)
            .map_err(RunError::Stdin)
    }

    /// Works until it is told to stop.
    pub fn serve(mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let (mut due, mut flush_due) = (Duration::ZERO, Duration::ZERO);
        while !self.stopping {
            let busy = !self.ready.is_empty() || self.clients.are_busy();
            let wait = if busy { Duration::ZERO } else { due.saturating_sub(self.started.elapsed()) };
            if !busy {
                self.timer.wake_at(due, wait).map_err(failed("set the timer"))?;
            }
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(failed("wait for events")(error));
                }
                _ => {}
            }
            let now = self.started.elapsed();
            self.io.since_epoch = self.started_since_epoch + now;
            for event in &events {
                self.note(event);
            }
            self.board.advance(now, &mut self.io);
            self.read_nics(now);
            self.serve_clients(now);
            due = self.board.tick(now, &mut self.io);
            if now >= flush_due {
                flush_due = now + FLUSH_INTERVAL;
                self.io.flush_captures();
            }
            self.flush_nics();
        }
        self.io.finish_captures();
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        match event.token() {
            WAKER => self.stopping = true,
            STDIN => self.stopping |= event.is_read_closed() || event.is_error(),
            SIGNALS => {
                self.stopping |= self.signals.as_mut().is_some_and(|pipe| pipe.read(&mut [0; 8]).is_ok());
            }
            CONTROL => self.clients.accept(self.poll.registry()),
            Token(client @ CLIENTS..NICS) => self.clients.note(client - CLIENTS),
            Token(nic @ NICS..) => {
                let index = (nic - NICS) / 2;
                if (nic - NICS).is_multiple_of(2) {
                    self.accept(index);
                } else {
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.mark_ready(index);
                    }
                    if event.is_writable() {
                        self.io.mark_dirty(index);
                    }
                }
            }
            Token(_) => {}
        }
    }

    fn mark_ready(&mut self, nic: usize) {
        if let Some(socket) = self.nics.get_mut(nic)
            && !socket.ready
        {
            socket.ready = true;
            self.ready.push(nic);
        }
    }

    /// Takes new connections to a NIC.
    fn accept(&mut self, nic: usize) {
        let token = Token(NICS + 2 * nic + 1);
        while let Some(stream) = self.nics.get(nic).and_then(NicSocket::accept) {
            if self.nics[nic].is_hung_up() {
                self.disconnect(nic);
            }
            if self.nics[nic].connect(stream, self.poll.registry(), token) {
                self.io.connect(nic);
                self.board.nic_connected(NicIndex(nic), &mut self.io);
            }
        }
    }

    fn disconnect(&mut self, nic: usize) {
        self.nics[nic].disconnect(self.poll.registry());
        self.io.disconnect(nic);
        self.board.nic_disconnected(NicIndex(nic));
    }

    fn read_nics(&mut self, now: Duration) {
        for nic in std::mem::take(&mut self.ready) {
            self.nics[nic].ready = false;
            let (board, io) = (&mut self.board, &mut self.io);
            let read = self.nics[nic].read(|frame| board.ingress(NicIndex(nic), frame, now, io));
            match read {
                nics::Progress::MoreLater => {}
                nics::Progress::MoreNow => self.mark_ready(nic),
                nics::Progress::Closed => self.disconnect(nic),
            }
        }
    }

    fn flush_nics(&mut self) {
        for nic in self.io.take_dirty() {
            if self
                .io
                .flush(nic, &mut self.nics[nic], self.poll.registry(), Token(NICS + 2 * nic + 1))
                .is_err()
            {
                self.disconnect(nic);
            }
        }
    }
}

/// Names what failed.
fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Poll { doing, source }
}
