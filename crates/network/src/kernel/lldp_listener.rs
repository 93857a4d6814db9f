//! Hears LLDP frames on NICs.
//!
//! One packet socket per NIC, bound to the NIC itself: the kernel hands it the frame before a bond or bridge above sees it,
//! also on a port that the bond keeps in reserve. The socket's membership makes the NIC take the group address
//! 01:80:c2:00:00:0e. A NIC must be administratively up to hear anything; sockets outlive a NIC's going down and up.
//!
//! Invariants: at most [`QUEUE`] frames wait; more are dropped, since switches repeat themselves every few seconds.
//!
//! On failure: a NIC that is gone ends its socket; the others go on. All sockets end when the listener is dropped.

use super::packet;
use crate::lldp;
use socket2::Socket;
use std::io;
use std::net::UdpSocket as StdUdpSocket;
use std::time::Instant;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How many frames wait for somebody to read them.
const QUEUE: usize = 64;

/// The largest frame that is read. LLDP frames are at most 1500 bytes and their header; what is longer is none.
const FRAME_BYTES_MAX: usize = 1518;

/// Why a NIC can't be listened to.
#[derive(Debug, thiserror::Error)]
#[error("can't listen to LLDP on link {index}")]
pub struct ListenError {
    /// The kernel's number of the NIC.
    pub index: u32,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A frame that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardFrame {
    /// The kernel's number of the NIC.
    pub index: u32,
    /// The frame from its destination address on, as `lldp::decode` takes it.
    pub frame: Vec<u8>,
    /// When.
    pub at: Instant,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct LldpListener {
    frames: mpsc::Receiver<HeardFrame>,
    sender: mpsc::Sender<HeardFrame>,
    tasks: JoinSet<()>,
}

impl LldpListener {
    /// Listens to these NICs, by the kernel's numbers.
    pub fn open(indices: impl IntoIterator<Item = u32>) -> Result<Self, ListenError> {
        let (sender, frames) = mpsc::channel(QUEUE);
        let mut listener = Self { frames, sender, tasks: JoinSet::new() };
        for index in indices {
            listener.add(index)?;
        }
        Ok(listener)
    }

    /// Listens to one more NIC.
    pub fn add(&mut self, index: u32) -> Result<(), ListenError> {
        let failed = |source| ListenError { index, source };
        // tokio's name for a socket that gives one datagram a call; that it is no UDP makes no difference to `recv`.
        let socket = StdUdpSocket::from(socket(index).map_err(failed)?);
        let socket = UdpSocket::from_std(socket).map_err(failed)?;
        self.tasks.spawn(hear(index, socket, self.sender.clone()));
        Ok(())
    }

    /// The next frame.
    pub async fn next(&mut self) -> Option<HeardFrame> {
        self.frames.recv().await
    }
}

async fn hear(index: u32, socket: UdpSocket, sender: mpsc::Sender<HeardFrame>) {
    let mut buffer = [0; FRAME_BYTES_MAX];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let frame = buffer[..length].to_vec();
                if let Err(mpsc::error::TrySendError::Closed(_)) =
                    sender.try_send(HeardFrame { index, frame, at: Instant::now() })
                {
                    return;
                }
            }
            // Said once when the NIC goes down; the socket stays bound and hears it again when it is up.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                tracing::warn!(index, %error, "hears no LLDP any more");
                return;
            }
        }
    }
}

fn socket(index: u32) -> io::Result<Socket> {
    let socket = packet::socket()?;
    packet::join(&socket, index, lldp::DESTINATION)?;
    packet::bind(&socket, index, lldp::ETHERTYPE)?;
    Ok(socket)
}
