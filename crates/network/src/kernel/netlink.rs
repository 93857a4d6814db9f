//! The route netlink socket: observe links, execute operations.

use super::message::{self, LinkFacts};
use super::observe;
use crate::link::{CurrentLinks, LinkName};
use crate::op::Op;
use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the kernel may take for one request. It answers at once, unless a driver's ioctl hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a netlink operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket can't be had.
    #[error("can't open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel did not list something.
    #[error("can't list {what}")]
    Observe {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The link isn't there.
    #[error("there is no link {0}")]
    NoLink(LinkName),
    /// The kernel did not carry out an operation.
    #[error("can't {op}")]
    Execute {
        /// Which.
        op: Box<Op>,
        /// Why.
        #[source]
        source: RequestError,
    },
}

/// Why the kernel did not do what a request asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It refused.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
    /// It did not answer in time.
    #[error("the kernel did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
    /// The socket's task is gone.
    #[error("the netlink socket is closed")]
    Closed,
}

/// A connection to the kernel's route netlink. Its task ends when this is dropped.
#[derive(Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All links as they are now.
    pub async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Observe { what, source };
        let links = collect(self.handle.link().get().execute()).await.map_err(failed("links"))?;
        let vlans = self
            .handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::Brvlan])
            .execute();
        let vlans = collect(vlans).await.map_err(failed("VLANs of bridges"))?;
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let addresses = collect(request.execute()).await.map_err(failed("addresses"))?;
        Ok(observe::assemble(&links, &vlans, &addresses))
    }

    /// Carries one operation out.
    pub async fn execute(&self, op: &Op) -> Result<(), NetlinkError> {
        let mut facts = BTreeMap::new();
        for name in message::needs(op) {
            match self.facts(name).await {
                Ok(found) => facts.insert(name.clone(), found),
                Err(NetlinkError::NoLink(_)) if op.is_removal() => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        match self.send(message::request(op, &facts)?).await {
            Err(RequestError::Refused(refusal)) if op.is_removal() && is_gone(&refusal) => Ok(()),
            Err(source) => Err(NetlinkError::Execute { op: Box::new(op.clone()), source }),
            Ok(()) => Ok(()),
        }
    }

    async fn facts(&self, name: &LinkName) -> Result<LinkFacts, NetlinkError> {
        let found = collect(self.handle.link().get().match_name(name.as_str()).execute()).await;
        match found {
            Ok(links) => links.first().map(facts_of).ok_or_else(|| NetlinkError::NoLink(name.clone())),
            Err(RequestError::Refused(refusal)) if is_gone(&refusal) => {
                Err(NetlinkError::NoLink(name.clone()))
            }
            Err(source) => Err(NetlinkError::Observe { what: "a link by its name", source }),
        }
    }

    async fn send(&self, message: NetlinkMessage<RouteNetlinkMessage>) -> Result<(), RequestError> {
        let mut answers = self.handle.clone().request(message).map_err(|_| RequestError::Closed)?;
        let answered = async {
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(RequestError::Refused(error.to_io()));
                }
            }
            Ok(())
        };
        timeout(REQUEST_TIMEOUT, answered).await.map_err(|_| RequestError::Silent)?
    }
}

/// `ENODEV`, `ENOENT`, `EADDRNOTAVAIL`: what was to be removed is gone.
fn is_gone(refusal: &io::Error) -> bool {
    let gone = [libc::ENODEV, libc::ENOENT, libc::EADDRNOTAVAIL];
    refusal.raw_os_error().is_some_and(|code| gone.contains(&code))
}

fn facts_of(message: &LinkMessage) -> LinkFacts {
    let is_bridge = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    });
    LinkFacts { index: message.header.index, is_bridge }
}

async fn collect<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, RequestError> {
    let mut stream = std::pin::pin!(stream);
    let all = async {
        let mut items = Vec::new();
        while let Some(item) = stream.next().await {
            items.push(item.map_err(|error| match error {
                rtnetlink::Error::NetlinkError(message) => RequestError::Refused(message.to_io()),
                other => RequestError::Refused(io::Error::other(other)),
            })?);
        }
        Ok(items)
    };
    timeout(REQUEST_TIMEOUT, all).await.map_err(|_| RequestError::Silent)?
}
