//! What talks to the Linux kernel: netlink, LLDP frames, echo requests, hellos. It decides nothing.
//!
//! Purpose: [`Netlink`] observes links and executes operations; [`apply`] brings a plan to the kernel and verifies it, or takes
//! it back; [`Monitor`] tells what changes, whoever did it; [`LldpListener`], [`ping`], [`Hellos`], [`Receivers`] and [`send`] are sockets; [`TeamWatch`]
//! and [`broadcast`] are for change-overs; [`abort_connections`] ends what a silent peer still holds up; [`connect`] and [`disconnect`] are for taps of virtual machines, on which a [`Valve`] is. All need a tokio runtime. To change links needs `CAP_NET_ADMIN`, to hear LLDP,
//! to broadcast and to ping needs `CAP_NET_RAW`, hellos of priority 7 need either (socket(7), `SO_PRIORITY`); to observe and
//! to monitor needs nothing.
//!
//! Invariants: what is decided comes from the pure modules (`diff`, `plan`, `probe`). Every request to the kernel and every ping has a
//! bound; what listens ([`Monitor`], [`LldpListener`], [`Hellos`]) does so until it is dropped. Queues have a bound, and what
//! finds them full is dropped, as each module says; only the netlink library's own queue, from its socket's task to ours, has none. A request that hangs in the kernel
//! hangs on a thread of its own ([`own_thread`]).
//!
//! On failure: a typed error per operation. Nothing is tried again by itself, except an interrupted list. Tasks end when their
//! handle is dropped.

mod abort;
mod announce;
mod apply;
mod arrival;
mod attribute;
mod dcb;
mod exchange;
mod hello;
mod lldp_listener;
mod message;
mod monitor;
mod netlink;
mod observe;
mod own_thread;
mod packet;
mod ping;
mod tap;
mod tc;
mod throughput;
mod valve;
mod wire;

pub use abort::{AbortError, abort_connections};
pub use announce::{TeamWatch, broadcast};
pub use apply::{ApplyError, ApplyOutcome, ApplyReport, apply, restore};
pub use exchange::RequestError;
pub use hello::{HelloConfig, HelloError, HelloPeer, Hellos};
pub use lldp_listener::{HeardFrame, ListenError, LldpListener};
pub use monitor::{Change, ChangeKind, Monitor, Told};
pub use netlink::{Netlink, NetlinkError};
pub use ping::{HEADERS_BYTES, PingError, PingOptions, PingReport, ping};
pub use tap::{TapError, connect, disconnect};
pub use throughput::{Expected, Opened, Receivers, SendOptions, SendReport, ThroughputError, send};
pub use valve::{Valve, ValveError};
