//! One drive: its machine's connection, its cache, its file.
//!
//! ```text
//!   no power ──connect, agree──► on ──requests──► on
//!      ▲                          │ the connection ends
//!      └── a part of what was not flushed goes to the file
//! ```
//! Requests are carried out in the order in which they came, at most so many waiting; a fault decides when, and whether. What waited when
//! the power went was under way: writes among it are sorted out as what was not flushed.

use super::{DriveConfig, RunError, Shared, State, system};
use crate::cache::{Cache, Content, Extent, PAGE_BYTES};
use crate::fault::{Range, Turn};
use crate::nbd::{self, AfterOption, Errno, Kind, OPTION_BYTES, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much is held at most that is not flushed: 4 MiB, so that eight drives hold 32.
const HELD_PAGES_MAX: usize = (4 << 20) / PAGE_BYTES;
/// Requests that wait at most; QEMU sends no more than 16 at once.
const WAITING_MAX: usize = 32;
/// How much is read from a machine at once.
const CHUNK_BYTES: usize = 1 << 18;
/// How long a machine may take to say what it wants when it connects.
const AGREE_BOUND: Duration = Duration::from_secs(10);

pub(super) struct Drive {
    listener: UnixListener,
    woken: UnixStream,
    shared: Arc<Shared>,
    path: PathBuf,
    file: File,
    size_bytes: u64,
    cache: Cache,
}

/// A machine that is connected.
struct Machine {
    stream: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    waiting: VecDeque<(Instant, Request)>,
    chunk: Vec<u8>,
}

/// What a request comes to: an answer with these bytes.
type Outcome = Result<Vec<u8>, Errno>;

impl Drive {
    pub(super) fn open(
        config: &DriveConfig,
        shared: Arc<Shared>,
        woken: UnixStream,
    ) -> Result<Self, RunError> {
        let failed = |source| RunError::File { doing: "open", path: config.file.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&config.file).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        let listener = UnixListener::bind(&config.socket);
        let listener = listener.map_err(system("listen at a drive's socket"))?;
        let cache = Cache::new(HELD_PAGES_MAX, config.seed);
        Ok(Self { listener, woken, shared, path: config.file.clone(), file, size_bytes, cache })
    }

    /// Serves one machine after another; ends only when something fails.
    pub(super) fn serve(mut self) -> Result<(), RunError> {
        loop {
            self.wait_for_connection()?;
            let (stream, _) = self.listener.accept().map_err(system("take a machine's connection"))?;
            if let Ok(true) = agree(&stream, self.size_bytes) {
                self.shared.lock().seen.has_power = true;
                let mut machine = Machine::new(stream).map_err(system("prepare a machine's connection"))?;
                self.serve_machine(&mut machine)?;
                let under_way = std::mem::take(&mut machine.waiting);
                self.lose_power(under_way.into_iter().map(|(_, request)| request))?;
                let mut state = self.shared.lock();
                (state.seen.has_power, state.seen.waiting) = (false, 0);
            }
        }
    }

    fn wait_for_connection(&mut self) -> Result<(), RunError> {
        loop {
            let mut fds =
                [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
            wait(&mut fds, None)?;
            let (is_there, is_told) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if is_told {
                self.take_orders()?;
            }
            if is_there {
                return Ok(());
            }
        }
    }

    /// Serves a machine until its connection ends.
    fn serve_machine(&mut self, machine: &mut Machine) -> Result<(), RunError> {
        loop {
            let Ok(wanted) = machine.take_in() else { return Ok(()) };
            if !wanted {
                return Ok(());
            }
            let next = self.carry_out_due(machine)?;
            let Ok(()) = machine.send() else { return Ok(()) };
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, machine.waiting.len() < WAITING_MAX);
            interest.set(PollFlags::OUT, !machine.to_send.is_empty());
            let mut fds = [PollFd::new(&machine.stream, interest), PollFd::new(&self.woken, PollFlags::IN)];
            wait(&mut fds, next)?;
            let (on_stream, is_told) = (fds[0].revents(), !fds[1].revents().is_empty());
            if is_told {
                self.take_orders()?;
            }
            let has_ended = on_stream.intersects(PollFlags::HUP | PollFlags::ERR);
            let is_readable = on_stream.contains(PollFlags::IN);
            // What it sent before its end was under way then.
            if (is_readable || has_ended) && !machine.receive().unwrap_or(false) {
                machine.take_in().ok();
                return Ok(());
            }
        }
    }

    /// Carries out what is due, in order. How long until the next is; none: nothing is by itself.
    fn carry_out_due(&mut self, machine: &mut Machine) -> Result<Option<Duration>, RunError> {
        let fault = self.shared.lock().seen.fault;
        let mut next = None;
        while let Some((came, request)) = machine.waiting.front() {
            let at = Range { offset_bytes: request.offset_bytes, len_bytes: request.len_bytes.into() };
            let is_failing = match fault.turn(request.kind, at, came.elapsed()) {
                Turn::Go => false,
                Turn::Fail => true,
                Turn::Hold => break,
                Turn::Wait(left) => {
                    next = Some(left);
                    break;
                }
            };
            let Some((_, request)) = machine.waiting.pop_front() else { break };
            let outcome = if is_failing {
                Err(Errno::Io)
            } else {
                match request.check(self.size_bytes) {
                    Ok(()) => Ok(self.carry_out(&request)?),
                    Err(errno) => Err(errno),
                }
            };
            self.count(&request, &outcome);
            machine.answer(request.cookie, outcome);
        }
        let mut state = self.shared.lock();
        state.seen.waiting = machine.waiting.len() as u64;
        state.seen.unflushed_bytes = self.cache.held_bytes();
        Ok(next)
    }

    fn count(&self, request: &Request, outcome: &Outcome) {
        let seen = &mut self.shared.lock().seen;
        match (outcome, request.kind) {
            (Err(_), _) => seen.failed += 1,
            (Ok(_), Kind::Read) => seen.reads += 1,
            (Ok(_), Kind::Write | Kind::Zero) => {
                seen.writes += 1;
                seen.written_bytes += u64::from(request.len_bytes);
                seen.writes_through += u64::from(request.fua);
            }
            (Ok(_), Kind::Flush) => seen.flushes += 1,
            (Ok(_), Kind::Disconnect | Kind::Unknown) => {}
        }
    }

    /// Carries out a request of which this drive has everything; gives what was read.
    fn carry_out(&mut self, request: &Request) -> Result<Vec<u8>, RunError> {
        let (at, len) = (request.offset_bytes, u64::from(request.len_bytes));
        let extents = match request.kind {
            Kind::Read => {
                let mut bytes = vec![0; request.len_bytes as usize];
                let read = self.file.read_exact_at(&mut bytes, at);
                read.map_err(|source| self.failed("read", source))?;
                self.cache.overlay(at, &mut bytes);
                return Ok(bytes);
            }
            Kind::Write if request.fua => {
                self.cache.forget(at, len);
                let written = self.file.write_all_at(&request.data, at);
                written.map_err(|source| self.failed("write", source))?;
                Vec::new()
            }
            Kind::Zero if request.fua => {
                self.cache.forget(at, len);
                vec![Extent { offset_bytes: at, content: Content::Zeros(len) }]
            }
            Kind::Write => self.cache.write(at, &request.data),
            Kind::Zero => self.cache.zero(at, len),
            Kind::Flush => self.cache.flush(),
            Kind::Disconnect | Kind::Unknown => Vec::new(),
        };
        self.put(extents)?;
        Ok(Vec::new())
    }

    /// Puts something into the file. The host's page cache outlives everything that a lab can lose.
    fn put(&self, extents: Vec<Extent>) -> Result<(), RunError> {
        for Extent { offset_bytes, content } in extents {
            let put = match content {
                Content::Data(bytes) => self.file.write_all_at(&bytes, offset_bytes),
                Content::Zeros(len_bytes) => {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&self.file, hole, offset_bytes, len_bytes).map_err(io::Error::from)
                }
            };
            put.map_err(|source| self.failed("write", source))?;
        }
        Ok(())
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> RunError {
        RunError::File { doing, path: self.path.clone(), source }
    }

    /// Takes in what was ordered since.
    fn take_orders(&mut self) -> Result<(), RunError> {
        // One read suffices: what is left wakes again.
        drop((&self.woken).read(&mut [0; 64]));
        let is_to_lose_power = self.shared.lock().lose_power;
        if is_to_lose_power {
            self.lose_power(std::iter::empty())?;
            self.shared.lock().lose_power = false;
            self.shared.obeyed.notify_all();
        }
        Ok(())
    }

    /// Sorts out what was not flushed, and what was under way.
    fn lose_power(&mut self, under_way: impl Iterator<Item = Request>) -> Result<(), RunError> {
        for request in under_way.filter(|request| request.check(self.size_bytes).is_ok()) {
            let extents = match request.kind {
                Kind::Write => self.cache.write(request.offset_bytes, &request.data),
                Kind::Zero => self.cache.zero(request.offset_bytes, request.len_bytes.into()),
                _ => continue,
            };
            self.put(extents)?;
        }
        let loss = self.cache.lose_power();
        self.put(loss.survived)?;
        let State { seen, .. } = &mut *self.shared.lock();
        seen.power_losses += 1;
        seen.lost_sectors += loss.lost_sectors;
        seen.unflushed_bytes = 0;
        Ok(())
    }
}

impl Machine {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (received, to_send, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
        Ok(Self { stream, received, to_send, waiting, chunk: vec![0; CHUNK_BYTES] })
    }

    /// Reads what is there; false: there comes no more.
    fn receive(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.chunk) {
            Ok(0) => Ok(false),
            Ok(len) => {
                self.received.extend_from_slice(&self.chunk[..len]);
                Ok(true)
            }
            Err(error) if is_passing(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Makes requests of what was received; false: it says good-bye.
    fn take_in(&mut self) -> Result<bool, nbd::NotNbd> {
        let mut begin = 0;
        while self.waiting.len() < WAITING_MAX
            && let Some((request, len)) = nbd::request(&self.received[begin..])?
        {
            begin += len;
            if request.kind == Kind::Disconnect {
                return Ok(false);
            }
            self.waiting.push_back((Instant::now(), request));
        }
        self.received.drain(..begin);
        Ok(true)
    }

    fn answer(&mut self, cookie: u64, outcome: Outcome) {
        self.to_send.extend(nbd::reply(cookie, outcome.as_ref().err().copied()));
        self.to_send.extend(outcome.unwrap_or_default());
    }

    /// Sends what it takes.
    fn send(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            match self.stream.write(&self.to_send) {
                Ok(len) => drop(self.to_send.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Agrees with a machine on what is spoken; whether it wants to go on.
fn agree(mut stream: &UnixStream, size_bytes: u64) -> io::Result<bool> {
    stream.set_read_timeout(Some(AGREE_BOUND))?;
    stream.set_write_timeout(Some(AGREE_BOUND))?;
    stream.write_all(&nbd::greeting())?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut head = [0; OPTION_BYTES];
        stream.read_exact(&mut head)?;
        let (option, len) = nbd::option_head(&head).map_err(io::Error::other)?;
        stream.read_exact(&mut vec![0; len as usize])?;
        match nbd::answer_option(option, size_bytes).map_err(io::Error::other)? {
            AfterOption::More(answer) => stream.write_all(&answer)?,
            AfterOption::Requests(answer) => return stream.write_all(&answer).map(|()| true),
            AfterOption::End(answer) => return stream.write_all(&answer).map(|()| false),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wait(fds: &mut [PollFd<'_>], bound: Option<Duration>) -> Result<(), RunError> {
    let bound = bound.map(|bound| Timespec {
        tv_sec: bound.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: bound.subsec_nanos().into(),
    });
    match poll(fds, bound.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(system("wait for requests")(errno.into())),
    }
}
