//! The sockets of NICs, and the switchboard's outlet to them and to captures.

use super::sockets::BoundSocket;
use crate::frame::Frame;
use crate::pcap::{Capture, CaptureReport};
use crate::switchboard::{Delivery, LinkIndex, NicIndex, Outlet};
use crate::wire::{Inbox, Outbox};
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;
use std::time::Duration;

/// A NIC's way in.
#[derive(Debug)]
pub(super) struct NicSocket {
    listener: BoundSocket,
    connection: Option<Connection>,
    /// Whether it is in the list of those that may have something to read.
    pub(super) ready: bool,
    pub(super) refused_connections: u64,
    pub(super) protocol_errors: u64,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    inbox: Inbox,
    /// Whether the kernel was asked to tell when there is room to write.
    waits_for_room: bool,
}

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that was there is read; an event will tell of more.
    MoreLater,
    /// There may be more.
    MoreNow,
    /// The other side is gone, or doesn't speak QEMU's framing.
    Closed,
}

impl NicSocket {
    pub(super) fn new(listener: BoundSocket) -> Self {
        Self { listener, connection: None, ready: false, refused_connections: 0, protocol_errors: 0 }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn accept(&self) -> Option<UnixStream> {
        self.listener.accept()
    }

    /// Whether the other side of the present connection is gone, which its event may not have told yet.
    pub(super) fn is_hung_up(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            let mut fds = [PollFd::new(&connection.stream, PollFlags::RDHUP)];
            let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
            polled.is_ok() && fds.iter().any(|fd| fd.revents().intersects(gone))
        })
    }

    /// Takes a connection, unless there is one already: two QEMUs at one NIC would be a mistake of the lab.
    pub(super) fn connect(&mut self, mut stream: UnixStream, registry: &Registry, token: Token) -> bool {
        if self.connection.is_some() || registry.register(&mut stream, token, Interest::READABLE).is_err() {
            self.refused_connections += 1;
            return false;
        }
        self.connection = Some(Connection { stream, inbox: Inbox::new(), waits_for_room: false });
        true
    }

    pub(super) fn disconnect(&mut self, registry: &Registry) {
        if let Some(mut connection) = self.connection.take() {
            // Closing takes it out of the event queue as well.
            let _ = registry.deregister(&mut connection.stream);
        }
    }

    /// Reads once and hands over all whole frames.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8])) -> Progress {
        let Some(Connection { stream, inbox, .. }) = &mut self.connection else { return Progress::MoreLater };
        let space = inbox.space();
        let room = space.len();
        let bytes = match stream.read(space) {
            Ok(0) => return Progress::Closed,
            Ok(bytes) => bytes,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Progress::MoreLater,
                    io::ErrorKind::Interrupted => Progress::MoreNow,
                    _ => Progress::Closed,
                };
            }
        };
        inbox.filled(bytes);
        loop {
            match inbox.next_frame() {
                Ok(Some(frame)) => take(frame),
                Ok(None) => break,
                Err(_) => {
                    self.protocol_errors += 1;
                    return Progress::Closed;
                }
            }
        }
        // A short read empties a stream socket: epoll(7), question 9.
        if bytes == room { Progress::MoreNow } else { Progress::MoreLater }
    }
}

/// Where the switchboard's frames go.
#[derive(Debug)]
pub(super) struct Io {
    outboxes: Vec<Option<Outbox>>,
    dirty: Vec<usize>,
    captures: BTreeMap<LinkIndex, Capture<BufWriter<File>>>,
    /// Time since 1970 in this turn.
    pub(super) since_epoch: Duration,
}

impl Outlet for Io {
    fn deliver(&mut self, nic: NicIndex, frame: &Frame<'_>) -> Delivery {
        let Some(Some(outbox)) = self.outboxes.get_mut(nic.0) else { return Delivery::NoSocket };
        let was_empty = outbox.is_empty();
        if !outbox.push(frame) {
            return Delivery::Full;
        }
        if was_empty {
            self.dirty.push(nic.0);
        }
        Delivery::Taken
    }

    fn capture(&mut self, link: LinkIndex, frame: &Frame<'_>) {
        if let Some(capture) = self.captures.get_mut(&link) {
            capture.write(frame, self.since_epoch);
        }
    }
}

impl Io {
    pub(super) fn new(nics: usize) -> Self {
        Self {
            outboxes: std::iter::repeat_with(|| None).take(nics).collect(),
            dirty: Vec::new(),
            captures: BTreeMap::new(),
            since_epoch: Duration::ZERO,
        }
    }

    pub(super) fn connect(&mut self, nic: usize) {
        self.outboxes[nic] = Some(Outbox::default());
    }

    pub(super) fn disconnect(&mut self, nic: usize) {
        self.outboxes[nic] = None;
    }

    /// Notes that a NIC's outbox should be written.
    pub(super) fn mark_dirty(&mut self, nic: usize) {
        self.dirty.push(nic);
    }

    pub(super) fn take_dirty(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.dirty)
    }

    /// Writes what waits for a NIC, as far as it takes it, and asks for an event when it didn't take all.
    pub(super) fn flush(
        &mut self,
        nic: usize,
        socket: &mut NicSocket,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let (Some(Some(outbox)), Some(connection)) = (self.outboxes.get_mut(nic), &mut socket.connection)
        else {
            return Ok(());
        };
        let blocked = !outbox.flush(&mut connection.stream)?;
        if blocked != connection.waits_for_room {
            let interest = if blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            registry.reregister(&mut connection.stream, token, interest)?;
            connection.waits_for_room = blocked;
        }
        Ok(())
    }

    pub(super) fn is_captured(&self, link: LinkIndex) -> bool {
        self.captures.contains_key(&link)
    }

    pub(super) fn start_capture(&mut self, link: LinkIndex, path: &Path, max_bytes: u64) -> io::Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let mut capture = Capture::start(file, max_bytes)?;
        capture.flush();
        self.captures.insert(link, capture);
        Ok(())
    }

    pub(super) fn stop_capture(&mut self, link: LinkIndex) -> Option<CaptureReport> {
        self.captures.remove(&link).map(Capture::finish)
    }

    pub(super) fn flush_captures(&mut self) {
        self.captures.values_mut().for_each(Capture::flush);
    }

    pub(super) fn finish_captures(&mut self) {
        self.flush_captures();
        self.captures.clear();
    }
}
