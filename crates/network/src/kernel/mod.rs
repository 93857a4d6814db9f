//! What talks to the Linux kernel: netlink, LLDP frames, echo requests, hellos. It decides nothing.
//!
//! Purpose: [`Netlink`] observes links and executes operations; [`apply`] brings a plan to the kernel and verifies it, or takes
//! it back; [`LldpListener`], [`ping`] and [`Hellos`] are sockets; [`TeamWatch`] and [`broadcast`] are for change-overs. All need a tokio runtime and `CAP_NET_ADMIN`; the raw
//! sockets need `CAP_NET_RAW`.
//!
//! Invariants: what is decided comes from the pure modules (`diff`, `plan`, `probe`). Every wait has a bound.
//!
//! On failure: a typed error per operation; tasks end when their handle is dropped.

mod announce;
mod apply;
mod hello;
mod lldp_listener;
mod message;
mod monitor;
mod netlink;
mod observe;
mod ping;

pub use announce::{TeamWatch, broadcast};
pub use apply::{ApplyError, ApplyOutcome, ApplyReport, apply, restore};
pub use hello::{HelloConfig, HelloError, HelloPeer, Hellos};
pub use lldp_listener::{HeardFrame, ListenError, LldpListener};
pub use monitor::{AFTERMATH, Change, ChangeKind, Monitor};
pub use netlink::{Netlink, NetlinkError, RequestError};
pub use ping::{HEADERS_BYTES, PingError, PingOptions, PingReport, ping};
