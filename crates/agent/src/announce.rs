//! Says where the node is whenever its team has gone over to another port, or a cable leads to another switch or port than
//! before, so that switches send its frames there. (A cable may be moved so fast that nobody sees a carrier go.)
//!
//! Invariants: an announcement is sent at once and then again, because a port whose carrier has just come back takes frames
//! only when the kernel has looked at it (`linkwatch`, `net/core/link_watch.c`: once a second). What comes meanwhile is merged:
//! one turn follows, however often a port flapped. Nothing ends this but the runtime.
//!
//! On failure: said in the log; the node's own traffic tells the switches sooner or later. When the kernel's messages end, the
//! socket is opened anew after 1, 2, 4 … 60 s, and every bond counts as gone over; cables that were moved are told all the while.

use crate::chain;
use model::MacAddress;
use network::announce::{announcement, over_team};
use network::kernel::{Netlink, NetlinkError, TeamWatch, broadcast};
use network::{CurrentLinks, LinkKind, LinkName};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

/// How long after a change-over it is said where the node is, one after the other.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(1200)];
/// Between tries to open the socket: at first, and at most.
const REOPEN: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// What is to be announced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// A bond has another active port.
    Team(String),
    /// Any bond may have.
    AllTeams,
    /// The cable of the adapter with this permanent MAC address leads elsewhere.
    Cable(MacAddress),
}

/// What waits to be announced: each thing once, so bounded by the bonds and adapters that a node has.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    about: Mutex<BTreeSet<About>>,
    more: Notify,
}

impl Pending {
    /// The cable of this adapter leads elsewhere than before.
    pub(crate) fn moved(&self, adapter: MacAddress) {
        self.add(About::Cable(adapter));
    }

    fn add(&self, about: About) {
        // A set is changed whole: after a panic elsewhere it is still good.
        self.about.lock().unwrap_or_else(PoisonError::into_inner).insert(about);
        self.more.notify_one();
    }

    /// Waits until there is something, and takes all of it.
    async fn take(&self) -> BTreeSet<About> {
        loop {
            self.more.notified().await;
            let taken = std::mem::take(&mut *self.about.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
        }
    }
}

/// Starts to watch the teams, and does as long as the runtime lives; announces what becomes `pending`.
pub(crate) fn start(pending: Arc<Pending>) -> Result<(), NetlinkError> {
    tokio::spawn(watch(TeamWatch::open()?, Arc::clone(&pending)));
    tokio::spawn(async move {
        loop {
            let about = pending.take().await;
            // What happens during this is told again by the next turn.
            for pause in PAUSES {
                sleep(pause).await;
                say(&about).await;
            }
        }
    });
    Ok(())
}

async fn watch(mut teams: TeamWatch, pending: Arc<Pending>) {
    loop {
        while let Some(changed) = teams.next().await {
            match &changed {
                Some(team) => info!("{team} has gone over to another port"),
                None => info!("messages of the kernel were lost: any team may have gone over"),
            }
            pending.add(changed.map_or(About::AllTeams, About::Team));
        }
        warn!("nobody watches the teams: the kernel's messages have ended");
        teams = reopened().await;
        pending.add(About::AllTeams);
    }
}

async fn reopened() -> TeamWatch {
    let [mut pause, longest] = REOPEN;
    loop {
        sleep(pause).await;
        pause = longest.min(pause.saturating_mul(2));
        match TeamWatch::open() {
            Ok(teams) => return teams,
            Err(error) => warn!("can't watch the teams: {}", chain(&error)),
        }
    }
}

async fn say(about: &BTreeSet<About>) {
    // A connection of its own: change-overs are rare, and nothing must wait behind an apply.
    let links = match Netlink::open() {
        Ok(netlink) => netlink.observe().await,
        Err(error) => Err(error),
    };
    let links = match links {
        Ok(links) => links,
        Err(error) => return warn!("can't see the links to announce: {}", chain(&error)),
    };
    for name in meant(about, &links) {
        for over in over_team(&links, &name) {
            if let Err(error) = broadcast(over.index, &announcement(over.mac, over.address)) {
                warn!("can't announce {}: {error}", over.address);
            }
        }
    }
}

/// The links whose addresses are announced: bonds, and NICs that are in none.
fn meant(about: &BTreeSet<About>, links: &CurrentLinks) -> BTreeSet<LinkName> {
    let is_bond =
        |name: &LinkName| links.get(name).is_some_and(|link| matches!(link.kind, LinkKind::Bond { .. }));
    let of = |about: &About| -> Vec<LinkName> {
        match about {
            About::Team(name) => name.parse().into_iter().collect(),
            About::AllTeams => links.links.keys().filter(|name| is_bond(name)).cloned().collect(),
            About::Cable(mac) => {
                let nic = links.nic_by_mac(*mac);
                let bond =
                    nic.and_then(|nic| links.get(nic)?.master.as_ref()).filter(|master| is_bond(master));
                bond.or(nic).cloned().into_iter().collect()
            }
        }
    };
    about.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use network::{CurrentLink, Op, simulate};
    use tokio::time::timeout;

    fn name(text: &str) -> LinkName {
        text.parse().unwrap()
    }

    fn mac(last: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, last])
    }

    /// Two NICs, one of them in a team.
    fn links() -> CurrentLinks {
        let mut links = CurrentLinks::default();
        for at in 0..2 {
            let mut nic: CurrentLink = serde_json::from_value(serde_json::json!({
                "index": at + 1, "kind": "nic", "mac": null, "permanent_mac": null, "up": false, "carrier": null,
                "mtu_bytes": 1500, "master": null, "addresses": [], "bridge_vlans": {}, "ipv6_link_local": null,
            }))
            .unwrap();
            nic.permanent_mac = Some(mac(at));
            links.links.insert(name(&format!("eth{at}")), nic);
        }
        let mode = network::BondMode::ActiveBackup;
        let team = Op::CreateBond { name: LinkName::team(), mode, miimon_ms: 100 };
        for op in [team, Op::Join { name: name("eth0"), master: LinkName::team() }] {
            simulate::apply(&mut links, &op).unwrap();
        }
        links
    }

    #[test]
    fn a_cable_of_the_team_means_the_team_and_any_other_its_own_nic() {
        let meant = |about: &[About]| -> Vec<String> {
            meant(&about.iter().cloned().collect(), &links()).iter().map(LinkName::to_string).collect()
        };
        assert_eq!(meant(&[About::Cable(mac(0))]), ["tw-team"]);
        assert_eq!(meant(&[About::Cable(mac(1))]), ["eth1"]);
        assert_eq!(meant(&[About::Cable(mac(9))]), [""; 0]);
        assert_eq!(meant(&[About::AllTeams, About::Team("bond9".to_owned())]), ["bond9", "tw-team"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_often_waits_once() {
        let pending = Pending::default();
        for _ in 0..1000 {
            pending.moved(mac(1));
            pending.add(About::Team("tw-team".to_owned()));
        }
        let all = BTreeSet::from([About::Team("tw-team".to_owned()), About::Cable(mac(1))]);
        assert_eq!(pending.take().await, all);
        assert!(timeout(Duration::from_hours(1), pending.take()).await.is_err(), "nothing more waits");
        pending.moved(mac(2));
        assert_eq!(
            pending.take().await,
            BTreeSet::from([About::Cable(mac(2))]),
            "and what comes later is told"
        );
    }
}
