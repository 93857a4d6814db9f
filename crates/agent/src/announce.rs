//! Says where the node is whenever its team has gone over to another port, or a cable leads to another switch or port than
//! before, so that switches send its frames there. (A cable may be moved so fast that nobody sees a carrier go.)
//!
//! Invariants: an announcement is sent at once and then again, because a port whose carrier has just come back takes frames
//! only when the kernel has looked at it (`linkwatch`, `net/core/link_watch.c`: once a second).
//!
//! On failure: said in the log; the node's own traffic tells the switches sooner or later.

use network::LinkName;
use network::announce::{announcement, over_team};
use network::kernel::{Netlink, NetlinkError, TeamWatch, broadcast};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

/// How long after a change-over it is said where the node is, one after the other.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(1200)];

/// Starts to watch the teams, and does as long as the runtime lives. `moved` tells of cables that lead elsewhere.
pub(crate) fn start(moved: Arc<Notify>) -> Result<(), NetlinkError> {
    let mut teams = TeamWatch::open()?;
    tokio::spawn(async move {
        loop {
            let team = tokio::select! {
                team = teams.next() => match team {
                    Some(team) => {
                        info!("{team} has gone over to another port");
                        team
                    }
                    None => break,
                },
                () = moved.notified() => {
                    info!("a cable leads elsewhere than before");
                    LinkName::team().to_string()
                }
            };
            // What happens during this is told again by the next turn.
            for pause in PAUSES {
                sleep(pause).await;
                say(&team).await;
            }
        }
        warn!("nobody watches the teams any more: the kernel's messages have ended");
    });
    Ok(())
}

async fn say(team: &str) {
    // A connection of its own: change-overs are rare, and nothing must wait behind an apply.
    let links = match Netlink::open() {
        Ok(netlink) => netlink.observe().await,
        Err(error) => Err(error),
    };
    let (links, team) = match (links, team.parse::<LinkName>()) {
        (Ok(links), Ok(team)) => (links, team),
        (Err(error), _) => return warn!("can't see the links over {team}: {}", crate::chain(&error)),
        (_, Err(error)) => return warn!("{error}"),
    };
    for over in over_team(&links, &team) {
        if let Err(error) = broadcast(over.index, &announcement(over.mac, over.address)) {
            warn!("can't announce {}: {error}", over.address);
        }
    }
}
