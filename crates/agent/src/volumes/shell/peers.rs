//! Who is there on the storage networks, and who is not.
//!
//! Hellos come from agents. A node whose agent is started again says nothing for a second or two, and its kernel serves legs all the same: nothing may be given up for that. So whoever
//! is not heard is asked by an ICMP echo request, which kernels answer by themselves, and is silent when that is not answered either. An agent that is not there again after ten seconds is
//! not being started: then its node is silent, whatever its kernel says.
//!
//! Invariants: silence on one network is a path's, on all of them the peer's. Nobody is silent before an echo was asked for in vain: this agent may have stood still itself, and not read what came.
//! [`Peers::see`] is pure.
//!
//! On failure: an echo that can't be sent is one that is not answered.

use super::{Asked, Handle, Path, Shell, blocking};
use crate::clock;
use control::member::Input;
use control::{Moment, State};
use model::{NodeId, NodeName, Priority};
use network::kernel::{PingOptions, abort_connections, ping};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use storage::target::TCP_PORT;
use tracing::{debug, info, warn};

/// A peer is there while something of it came within this on any storage network, ms; it is silent after the other.
const HEARD_WITHIN_MS: u32 = 600;
const SILENT_AFTER_MS: u32 = 1000;
/// A peer of which nothing came for this long is asked, ms.
const ASK_AFTER_MS: u32 = 400;
/// How long the answer may take.
const ECHO_LIMIT: Duration = Duration::from_millis(300);
/// For how long echoes stand for hellos.
const ECHOES_COUNT: Duration = Duration::from_secs(10);
/// So much at most is told apart: nothing was heard yet.
const NEVER_MS: u32 = u32::MAX;

/// What a look at them found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// To be asked for an echo.
    Ask(Path),
    /// Nothing comes through any longer.
    Dead(Path),
    /// Nothing comes of it on any network.
    Silent(NodeId),
    /// It is there again.
    Heard(NodeId),
}

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    silent: BTreeSet<NodeId>,
    /// Whose agents say nothing on any network.
    unheard: BTreeSet<NodeId>,
    /// Where nothing comes any more.
    quiet: BTreeSet<Path>,
    /// Where no hello came for a while.
    asked: BTreeMap<Path, Echoes>,
    /// Whether one of those that were last looked at is missed on a path.
    misses: bool,
}

/// What was asked for on a path since the last hello.
#[derive(Debug, Clone, Copy)]
struct Echoes {
    since: Moment,
    /// When one was last asked for.
    asked: Moment,
    is_awaited: bool,
    /// When the last one came.
    came: Option<Moment>,
    /// Whether the last one did not.
    failed: bool,
    /// Whether that was known only long after its time.
    was_late: bool,
}

impl Peers {
    /// How long ago a hello came on each path, ms; `None`: never.
    pub(super) fn see(
        &mut self,
        now: Moment,
        heard: impl IntoIterator<Item = (Path, Option<u32>)>,
    ) -> Vec<Seen> {
        let (mut seen, mut listed) = (Vec::new(), BTreeSet::new());
        // Of each peer: the last hello, the last of anything, and whether all was asked for that can be.
        let mut ages: BTreeMap<NodeId, (u32, u32, bool)> = BTreeMap::new();
        for (path, hello_ms) in heard {
            let hello_ms = hello_ms.unwrap_or(NEVER_MS);
            let (last_ms, failed) = self.last(now, path, hello_ms);
            if self.is_to_be_asked(now, path, last_ms) {
                seen.push(Seen::Ask(path));
            }
            if last_ms <= HEARD_WITHIN_MS {
                self.quiet.remove(&path);
            } else if last_ms > SILENT_AFTER_MS && failed && self.quiet.insert(path) && last_ms != NEVER_MS {
                seen.push(Seen::Dead(path));
            }
            listed.insert(path);
            let age = ages.entry(path.0).or_insert((NEVER_MS, NEVER_MS, true));
            *age = (hello_ms.min(age.0), last_ms.min(age.1), age.2 && failed);
        }
        for (id, (hello_ms, last_ms, failed)) in ages {
            if hello_ms > SILENT_AFTER_MS {
                self.unheard.insert(id);
            } else {
                self.unheard.remove(&id);
            }
            if last_ms > SILENT_AFTER_MS && failed && self.silent.insert(id) {
                seen.push(Seen::Silent(id));
            } else if last_ms <= HEARD_WITHIN_MS && self.silent.remove(&id) {
                seen.push(Seen::Heard(id));
            }
        }
        // Of a node that has left, or a network that there is no more, nothing is waited for.
        self.asked.retain(|path, _| listed.contains(path));
        self.quiet.retain(|path| listed.contains(path));
        let misses_all = listed.iter().any(|(id, _)| self.silent.contains(id));
        self.misses = misses_all || !self.asked.is_empty() || !self.quiet.is_empty();
        seen
    }

    /// How long ago anything came, and whether the last echo that was asked for did not.
    fn last(&mut self, now: Moment, path: Path, hello_ms: u32) -> (u32, bool) {
        if hello_ms <= ASK_AFTER_MS {
            self.asked.remove(&path);
        }
        let Some(echoes) = self.asked.get(&path) else { return (hello_ms, false) };
        let counts = now < echoes.since.after(ECHOES_COUNT);
        let ms = |came: Moment| u32::try_from(now.since(came).as_millis()).unwrap_or(NEVER_MS);
        let echo_ms = echoes.came.filter(|_| counts).map_or(NEVER_MS, ms);
        (hello_ms.min(echo_ms), echoes.failed || !counts)
    }

    fn is_to_be_asked(&mut self, now: Moment, path: Path, last_ms: u32) -> bool {
        let new =
            Echoes { since: now, asked: now, is_awaited: false, came: None, failed: false, was_late: false };
        let echoes = match self.asked.get_mut(&path) {
            Some(echoes) => echoes,
            None if last_ms > ASK_AFTER_MS => self.asked.entry(path).or_insert(new),
            None => return false,
        };
        let is_due = last_ms > ASK_AFTER_MS && !std::mem::replace(&mut echoes.is_awaited, true);
        if is_due {
            echoes.asked = now;
        }
        is_due
    }

    /// Whether nobody was missed on any path in the last look, nor asked for an echo.
    pub(super) fn are_all_heard(&self) -> bool {
        !self.misses
    }

    /// Whether nothing comes of its agent on any network.
    pub(super) fn is_unheard(&self, node: NodeId) -> bool {
        self.unheard.contains(&node)
    }

    /// An echo came, or its time is over.
    pub(super) fn echoed(&mut self, now: Moment, path: Path, came: bool) {
        // A hello that came meanwhile says more.
        let Some(echoes) = self.asked.get_mut(&path) else { return };
        echoes.is_awaited = false;
        // One that ends long after its time says that this machine stood still, and may not have read the answer; the next says more.
        let is_late = !came && now >= echoes.asked.after(ECHO_LIMIT * 2);
        echoes.failed = !came && (!is_late || echoes.was_late);
        echoes.was_late = is_late;
        if came {
            echoes.came = Some(now);
        }
    }
}

impl Shell {
    pub(super) fn see_peers(&mut self) {
        let state = Arc::clone(&self.state.borrow());
        let ids: BTreeMap<&NodeName, NodeId> =
            state.nodes.iter().map(|(id, node)| (&node.name, *id)).collect();
        let views = (self.heard)();
        let path_of = |view: &network::diagnose::PathView| {
            let path = (*ids.get(&view.peer)?, u16::from(view.network.get()));
            Some((path, view.heard_ms_ago))
        };
        for seen in self.peers.see(Moment(clock::uptime_ms()), views.iter().filter_map(path_of)) {
            match seen {
                Seen::Ask(path) => self.ask_echo(&state, path),
                Seen::Dead(path) => self.give_up(&state, path),
                Seen::Silent(id) => {
                    info!("{id} is silent");
                    self.step(Input::Silent(id));
                }
                Seen::Heard(id) => self.step(Input::Heard(id)),
            }
        }
    }

    /// Both ends of a path.
    fn ends(&self, state: &State, (id, network): Path) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let (own, peers) = self.place.addresses(state);
        match (own.get(&network)?, peers.get(&id)?.get(&network)?) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => Some((*own, *peer)),
            _ => None,
        }
    }

    fn ask_echo(&self, state: &State, path: Path) {
        let (ends, shell) = (self.ends(state, path), self.own.clone());
        tokio::spawn(async move {
            let came = match ends {
                Some((source, target)) => echo(source, target).await,
                None => false,
            };
            shell.echoed(path, came);
        });
    }

    /// What was sent through a path on which nothing comes is not waited for any longer: it goes through another path, or the gate
    /// keeps it. Without this a dead path is found after [`crate::volumes::place::STALL_MAX`].
    fn give_up(&self, state: &State, path: Path) {
        let Some((_, address)) = self.ends(state, path) else { return };
        let watched = self.arrays.watched();
        tokio::spawn(async move {
            let ended = blocking(move || Ok(abort_connections(address, TCP_PORT)?)).await;
            match ended {
                Ok(0) => {}
                Ok(count) => info!("{address} is silent: {count} connections are given up"),
                Err(error) => warn!("can't give up connections to {address}: {}", crate::chain(&error)),
            }
            for array in watched {
                array.notify_one();
            }
        });
    }
}

impl Handle {
    fn echoed(&self, path: Path, came: bool) {
        // The shell ends with the agent; then nobody needs to know.
        let _ = self.0.send(Asked::Echoed(path, came));
    }
}

/// Whether a peer's kernel answers.
async fn echo(source: Ipv4Addr, target: Ipv4Addr) -> bool {
    let options = PingOptions {
        source,
        target,
        device: None,
        count: 1,
        interval: ECHO_LIMIT,
        payload_bytes: 0,
        dont_fragment: false,
        priority: Priority::HEARTBEAT,
        deadline: ECHO_LIMIT,
    };
    match ping(&options).await {
        Ok(report) => report.received > 0,
        Err(error) => {
            debug!("{}", crate::chain(&error));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const PATHS: [Path; 2] = [(PEER, 1), (PEER, 2)];
    const LIMIT_MS: u64 = 300;

    /// Looks every 100 ms from when the last hellos came until then, in `looks`; what was seen, and when. A kernel answers by the next look.
    fn seen_until(
        until_ms: u64,
        looks: impl Fn(u64) -> bool,
        mut kernel_answers: impl FnMut(u64, Path) -> bool,
    ) -> Vec<(u64, Seen)> {
        let (mut peers, mut all, mut asked) = (Peers::default(), Vec::new(), Vec::new());
        for now_ms in (0..=until_ms).step_by(100).filter(|now_ms| looks(*now_ms)) {
            let now = Moment(now_ms);
            asked.retain(|(path, at_ms)| {
                let came = kernel_answers(*at_ms, *path);
                let is_over = came || now_ms >= at_ms + LIMIT_MS;
                if is_over {
                    peers.echoed(now, *path, came);
                }
                !is_over
            });
            let ago = u32::try_from(now_ms).unwrap();
            for seen in peers.see(now, PATHS.map(|path| (path, Some(ago)))) {
                match seen {
                    Seen::Ask(path) => asked.push((path, now_ms)),
                    seen => all.push((now_ms, seen)),
                }
            }
        }
        all
    }

    #[test]
    fn a_node_that_says_nothing_is_silent_after_a_second_unless_its_kernel_answers() {
        let [first, second] = PATHS;
        let dead = [Seen::Dead(first), Seen::Dead(second), Seen::Silent(PEER)];
        assert_eq!(seen_until(5_000, |_| true, |_, _| false), dead.map(|seen| (1_100, seen)));
        assert_eq!(seen_until(5_000, |_| true, |_, _| true), []);
        // One network is cut: a path, not a peer.
        assert_eq!(seen_until(5_000, |_| true, |_, path| path == first), [(1_100, Seen::Dead(second))]);
        // The agent dies, and the node two seconds later.
        let later = seen_until(5_000, |_| true, |now_ms, _| now_ms < 2_000);
        assert!(later.iter().all(|(at, _)| (2_500..=3_200).contains(at)) && later.len() == 3, "{later:?}");
    }

    #[test]
    fn an_agent_that_does_not_come_back_is_silent_whatever_its_kernel_says() {
        let [first, second] = PATHS;
        let silent = [Seen::Dead(first), Seen::Dead(second), Seen::Silent(PEER)];
        assert_eq!(seen_until(20_000, |_| true, |_, _| true), silent.map(|seen| (10_500, seen)));
    }

    #[test]
    fn nobody_is_silent_for_what_this_agent_has_not_read() {
        // It stands still from the last hello on, for longer than others have.
        assert_eq!(seen_until(5_000, |now_ms| now_ms >= 1_500, |_, _| true), []);
        let dead = seen_until(5_000, |now_ms| now_ms >= 1_500, |_, _| false);
        assert!(dead.len() == 3 && dead.iter().all(|(at, _)| *at == 1_800), "{dead:?}");
    }

    #[test]
    fn an_echo_that_was_under_way_while_this_machine_stood_still_is_asked_for_again() {
        let (mut peers, path) = (Peers::default(), PATHS[0]);
        assert_eq!(peers.see(Moment(500), [(path, Some(500))]), [Seen::Ask(path)]);
        peers.echoed(Moment(1_900), path, false);
        assert_eq!(peers.see(Moment(1_900), [(path, Some(1_900))]), [Seen::Ask(path)]);
        peers.echoed(Moment(2_200), path, false);
        let seen = peers.see(Moment(2_200), [(path, Some(2_200))]);
        assert_eq!(seen, [Seen::Ask(path), Seen::Dead(path), Seen::Silent(PEER)]);
        // Where every echo is late, the second tells.
        let mut slow = Peers::default();
        for at_ms in [500, 1_200] {
            assert_eq!(slow.see(Moment(at_ms.into()), [(path, Some(at_ms))]), [Seen::Ask(path)]);
            slow.echoed(Moment(u64::from(at_ms) + 700), path, false);
        }
        assert!(slow.see(Moment(1_900), [(path, Some(1_900))]).contains(&Seen::Silent(PEER)));
    }

    #[test]
    fn one_echo_at_a_time_is_asked_for_on_a_path_and_hellos_need_none() {
        let mut peers = Peers::default();
        let path = PATHS[0];
        assert_eq!(peers.see(Moment(0), [(path, Some(400))]), []);
        assert_eq!(peers.see(Moment(100), [(path, Some(500))]), [Seen::Ask(path)]);
        assert_eq!(peers.see(Moment(200), [(path, Some(600))]), []);
        peers.echoed(Moment(250), path, true);
        assert_eq!(peers.see(Moment(600), [(path, Some(1_000))]), []);
        assert_eq!(peers.see(Moment(700), [(path, Some(1_100))]), [Seen::Ask(path)]);
        assert!(peers.is_unheard(PEER) && !peers.are_all_heard(), "its agent says nothing");
        assert_eq!(peers.see(Moment(800), [(path, Some(0))]), []);
        assert!(!peers.is_unheard(PEER) && peers.are_all_heard());
        peers.echoed(Moment(900), path, false);
        assert_eq!(peers.see(Moment(1_300), [(path, Some(500))]), [Seen::Ask(path)]);
    }

    #[test]
    fn who_was_never_heard_is_silent_when_it_was_asked_and_is_there_by_a_hello_or_an_echo() {
        let mut peers = Peers::default();
        let path = PATHS[0];
        assert_eq!(peers.see(Moment(2_000), [(path, None)]), [Seen::Ask(path)]);
        peers.echoed(Moment(2_300), path, false);
        // Nothing was sent that could be given up.
        assert_eq!(peers.see(Moment(2_300), [(path, None)]), [Seen::Ask(path), Seen::Silent(PEER)]);
        peers.echoed(Moment(2_400), path, true);
        assert_eq!(peers.see(Moment(2_500), [(path, None)]), [Seen::Heard(PEER)]);
    }
}
