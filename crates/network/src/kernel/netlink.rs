//! The route netlink socket: observe links, execute operations.
//!
//! Invariants: a request is carried out at most once; one whose answer did not come whole is an error and never sent again by
//! itself. Lists are of a single moment each (not all of them of the same).
//!
//! On failure: [`NetlinkError`]. When the socket died, or a request got no answer in time, the next request opens a new one.
//! Requests that hang in the kernel hold up nobody else ([`super::own_thread`]).

use super::exchange::{self, Answer, RequestError};
use super::message::{self, LinkFacts};
use super::observe;
use super::own_thread::OwnThread;
use super::wire::{self, Message, Raw};
use super::{dcb, tc};
use crate::link::{CurrentLinks, LinkKind, LinkName, is_made_by_us};
use crate::op::Op;
use crate::traffic::Dcb;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

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
    /// The kernel did not take a program.
    #[error("can't put a program on {}", .name.as_str())]
    Program {
        /// On which link.
        name: LinkName,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The kernel tells too little of what was there to make it again.
    #[error("can't {0}: the kernel does not tell enough of it to make it again")]
    NotTold(Box<Op>),
}

/// What is known of links while operations are carried out one after another. The kernel gives a number to one link only, so that one
/// which is out of date names no other link: the kernel refuses it.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<LinkName, LinkFacts>);

impl Known {
    /// From what was just observed.
    pub(super) fn of(links: &CurrentLinks) -> Self {
        let facts = links.links.iter().map(|(name, link)| {
            let is_bridge = matches!(link.kind, LinkKind::Bridge { .. });
            (name.clone(), LinkFacts { index: link.index, is_bridge })
        });
        Self(facts.collect())
    }
}

/// A connection to the kernel's route netlink. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Netlink {
    /// None while there is none in place of one that hung.
    socket: Mutex<Option<OwnThread>>,
    /// NICs, by the kernel's numbers, whose drivers have nothing of data centre bridging: that does not change.
    without_dcb: Mutex<BTreeSet<u32>>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = OwnThread::open().map_err(NetlinkError::Open)?;
        Ok(Self { socket: Mutex::new(Some(socket)), without_dcb: Mutex::default() })
    }

    /// All links as they are now.
    pub async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Observe { what, source };
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self.dump(request, link).await.map_err(failed("links"))?;
        let mut request = LinkMessage::default();
        request.header.interface_family = AddressFamily::Bridge;
        request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
        let request = RouteNetlinkMessage::GetLink(request);
        let vlans = self.dump(request, link).await.map_err(failed("VLANs of bridges"))?;
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetAddress(request);
        let addresses = self.dump(request, address).await.map_err(failed("addresses"))?;
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetRoute(request);
        let routes = self.dump(request, route).await.map_err(failed("routes"))?;
        let mut current = observe::assemble(&links, &vlans, &addresses, &routes);
        self.observe_traffic(&mut current, &observe::names(&links)).await?;
        Ok(current)
    }

    /// Queues of all links, filters of ours, and what NICs have of data centre bridging.
    async fn observe_traffic(
        &self,
        current: &mut CurrentLinks,
        names: &BTreeMap<u32, LinkName>,
    ) -> Result<(), NetlinkError> {
        let failed = |what| move |source| NetlinkError::Observe { what, source };
        let queues = self.dump(tc::list_queues(), raw).await.map_err(failed("queues"))?;
        for name in tc::place_queues(current, names, &queues) {
            let Some(link) = current.links.get_mut(&name) else { continue };
            if is_made_by_us(&name, &link.kind) && matches!(link.kind, LinkKind::Vlan { .. }) {
                let filters = self.dump(tc::list_filters(link.index), raw).await;
                link.traffic.marks = tc::marks(&filters.map_err(failed("filters"))?);
            }
        }
        for (name, link) in &mut current.links {
            if link.kind == LinkKind::Nic {
                link.traffic.dcb = self.dcb(name, link.index).await.map_err(failed("a NIC's DCB"))?;
            }
        }
        Ok(())
    }

    /// What a NIC has of data centre bridging; `None`: nothing, or it is gone meanwhile.
    async fn dcb(&self, name: &LinkName, index: u32) -> Result<Option<Dcb>, RequestError> {
        if lock(&self.without_dcb).contains(&index) {
            return Ok(None);
        }
        match self.ask(wire::request(dcb::get(name), NLM_F_REQUEST | NLM_F_ACK)).await {
            Ok(answer) => Ok(answer.items.into_iter().filter_map(raw).find_map(|raw| dcb::read(&raw))),
            Err(RequestError::Refused(refusal)) => {
                // EOPNOTSUPP: the driver has no such operations, or the kernel has none for anybody.
                if refusal.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    lock(&self.without_dcb).insert(index);
                } else {
                    tracing::debug!("data centre bridging of {name}: {refusal}");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Carries one operation out.
    pub async fn execute(&self, op: &Op) -> Result<(), NetlinkError> {
        self.execute_knowing(op, &mut Known::default()).await
    }

    /// The same for one of several: what is known of links is not asked for again.
    pub(super) async fn execute_knowing(&self, op: &Op, known: &mut Known) -> Result<(), NetlinkError> {
        for name in message::needs(op) {
            if known.0.contains_key(name) {
                continue;
            }
            match self.facts(name).await {
                Ok(found) => known.0.insert(name.clone(), found),
                Err(NetlinkError::NoLink(_)) if op.is_removal() => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        let request = message::request(op, &known.0)?;
        if matches!(op, Op::Delete { .. }) {
            // What stands on it goes with it.
            known.0.clear();
        }
        match self.ask(request).await {
            Err(RequestError::Refused(refusal)) if op.is_removal() && is_gone(&refusal) => Ok(()),
            Err(source) => Err(NetlinkError::Execute { op: Box::new(op.clone()), source }),
            Ok(answer) => match answer.items.into_iter().filter_map(raw).find_map(|raw| dcb::refusal(&raw)) {
                None => Ok(()),
                Some(refusal) => {
                    let source = RequestError::Refused(refusal);
                    Err(NetlinkError::Execute { op: Box::new(op.clone()), source })
                }
            },
        }
    }

    /// Puts a program, by its descriptor and the kernel's number, on a link's way in, in the place of the one that is there.
    pub(super) async fn put_program(
        &self,
        name: &LinkName,
        (descriptor, number): (u32, u32),
    ) -> Result<(), NetlinkError> {
        let index = self.facts(name).await?.index;
        let failed = |what| move |source| NetlinkError::Observe { what, source };
        // Without a place for filters there are none, and the kernel says so.
        let there = match self.dump(tc::list_programs(index), raw).await {
            Err(RequestError::Refused(_)) => None,
            listed => tc::program(&listed.map_err(failed("programs"))?),
        };
        if there == Some(number) {
            return Ok(());
        }
        match self.execute(&Op::AddClassifier { name: name.clone() }).await {
            Err(NetlinkError::Execute { source: RequestError::Refused(refusal), .. })
                if refusal.raw_os_error() == Some(libc::EEXIST) => {}
            made => made?,
        }
        let put = self.ask(message::put_program(index, descriptor)).await;
        put.map(drop).map_err(|source| NetlinkError::Program { name: name.clone(), source })
    }

    async fn facts(&self, name: &LinkName) -> Result<LinkFacts, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(name.as_str().to_owned())];
        let request = wire::request(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST | NLM_F_ACK);
        match self.ask(request).await {
            Ok(found) => found
                .items
                .into_iter()
                .find_map(link)
                .map(|link| facts_of(&link))
                .ok_or_else(|| NetlinkError::NoLink(name.clone())),
            Err(RequestError::Refused(refusal)) if is_gone(&refusal) => {
                Err(NetlinkError::NoLink(name.clone()))
            }
            Err(source) => Err(NetlinkError::Observe { what: "a link by its name", source }),
        }
    }

    /// Asks for a list. Messages of other kinds than `pick` knows are none of it.
    async fn dump<T>(
        &self,
        request: impl Into<Message>,
        pick: impl Fn(Message) -> Option<T>,
    ) -> Result<Vec<T>, RequestError> {
        let request = request.into();
        let ask = || self.ask(wire::request(request.clone(), NLM_F_REQUEST | NLM_F_DUMP));
        Ok(exchange::uninterrupted(ask).await?.into_iter().filter_map(pick).collect())
    }

    async fn ask(&self, message: NetlinkMessage<Message>) -> Result<Answer<Message>, RequestError> {
        let (handle, of) = self.handle()?;
        let answers = handle.request(message, SocketAddr::new(0, 0)).map_err(|_| RequestError::Closed)?;
        let answer = exchange::read(answers).await;
        if matches!(answer, Err(RequestError::Silent)) {
            let hung = self.lock().take_if(|socket| socket.id() == of);
            if let Some(hung) = hung {
                tracing::warn!("the kernel does not answer; its netlink socket is given up");
                hung.abandon();
            }
        }
        answer
    }

    /// The socket's handle and which one it is; a new socket's if its thread has ended or hangs.
    fn handle(&self) -> Result<(ConnectionHandle<Message>, Option<ThreadId>), RequestError> {
        let mut socket = self.lock();
        if socket.as_ref().is_some_and(OwnThread::is_finished) {
            tracing::warn!("the netlink socket died; opening another one");
            *socket = None;
        }
        let socket = match socket.take() {
            Some(old) => socket.insert(old),
            None => socket.insert(OwnThread::open().map_err(RequestError::Reopen)?),
        };
        Ok((socket.handle(), socket.id()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnThread>> {
        lock(&self.socket)
    }
}

/// What is behind these locks is replaced whole: after a panic elsewhere it is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn raw(message: Message) -> Option<Raw> {
    match message {
        Message::Raw(raw) => Some(raw),
        Message::Route(_) => None,
    }
}

fn link(message: Message) -> Option<LinkMessage> {
    match message {
        Message::Route(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    }
}

fn address(message: Message) -> Option<AddressMessage> {
    match message {
        Message::Route(RouteNetlinkMessage::NewAddress(address)) => Some(address),
        _ => None,
    }
}

fn route(message: Message) -> Option<RouteMessage> {
    match message {
        Message::Route(RouteNetlinkMessage::NewRoute(route)) => Some(route),
        _ => None,
    }
}

/// `ENODEV`, `ENOENT`, `EADDRNOTAVAIL`, of routes `ESRCH`: what was to be removed is gone.
fn is_gone(refusal: &io::Error) -> bool {
    let gone = [libc::ENODEV, libc::ENOENT, libc::EADDRNOTAVAIL, libc::ESRCH];
    refusal.raw_os_error().is_some_and(|code| gone.contains(&code))
}

fn facts_of(message: &LinkMessage) -> LinkFacts {
    let is_bridge = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    });
    LinkFacts { index: message.header.index, is_bridge }
}

#[cfg(test)]
mod tests {
    use super::super::own_thread::tests::that_hangs;
    use super::*;
    use std::time::Duration;

    /// On this machine's kernel; listing needs no privileges.
    #[tokio::test]
    async fn a_socket_that_died_is_replaced_and_its_request_is_an_error() {
        let netlink = Netlink::open().unwrap();
        let links = netlink.observe().await.unwrap();
        let (hanging, hold) = that_hangs();
        *netlink.lock() = Some(hanging);
        // The thread ends before it has sent the request.
        let (asked, ()) = tokio::join!(biased; netlink.observe(), async { drop(hold) });
        let Err(NetlinkError::Observe { what: "links", source: RequestError::Closed }) = asked else {
            panic!("{asked:?}")
        };
        while !netlink.lock().as_ref().unwrap().is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let names = |links: &CurrentLinks| links.links.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&netlink.observe().await.unwrap()), names(&links));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_hangs_in_the_kernel_ends_in_time_and_the_next_one_is_served() {
        let (hanging, hold) = that_hangs();
        let netlink = Netlink { socket: Mutex::new(Some(hanging)), without_dcb: Mutex::default() };
        let start = tokio::time::Instant::now();
        let asked = netlink.observe().await;
        let Err(NetlinkError::Observe { source: RequestError::Silent, .. }) = asked else {
            panic!("{asked:?}")
        };
        assert_eq!(start.elapsed().as_secs(), exchange::REQUEST_TIMEOUT.as_secs());
        tokio::time::resume();
        netlink.observe().await.unwrap();
        drop(hold);
    }

    #[tokio::test]
    async fn a_link_that_is_not_there_is_named() {
        let netlink = Netlink::open().unwrap();
        let name: LinkName = "tw-none".parse().unwrap();
        let missing = netlink.execute(&Op::SetUp { name: name.clone() }).await;
        assert!(matches!(missing, Err(NetlinkError::NoLink(missing)) if missing == name));
        netlink.execute(&Op::Delete { name }).await.unwrap();
    }
}
