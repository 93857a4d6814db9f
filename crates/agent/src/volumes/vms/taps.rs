//! The NICs of virtual machines: their taps on this node's compute bridge ([`network::tap`]), and the valve on them ([`network::kernel::Valve`]).
//!
//! Invariants: whoever is started finds its taps there, up and in their VLANs. What has ended has none for long: they go with it, or, when the agent was
//! killed in between, at its next start. Meanwhile they are ports to which nobody answers. What comes from virtual machines passes until this node's lease is over,
//! and no longer, whatever becomes of the agent.
//!
//! On failure: one whose NICs can't be connected is not started. One that runs goes on, and is looked after again at the next look; one whose tap was taken
//! away from under it has lost that NIC until it is started again. A valve that can't be moved on closes.

use super::super::VolumesError;
use ::vm::machine::{Nic, Wire};
use control::{Moment, State};
use model::{MacRange, VmId, VmSpec};
use network::kernel::{Netlink, Valve, ValveError};
use network::tap::Tap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{info, warn};

/// What the NICs of this node's virtual machines share.
#[derive(Debug)]
pub(super) struct Taps {
    range: MacRange,
    /// None until a virtual machine with a NIC is here.
    valve: OnceLock<Valve>,
    /// When the lease ends, as it was last said: milliseconds of `CLOCK_BOOTTIME`.
    until_ms: AtomicU64,
}

impl Taps {
    pub(super) const fn new(range: MacRange) -> Self {
        Self { range, valve: OnceLock::new(), until_ms: AtomicU64::new(0) }
    }

    /// This node has a lease until then. Only a later end than any before is news.
    pub(super) fn open_until(&self, Moment(end_ms): Moment) {
        if self.until_ms.fetch_max(end_ms, Ordering::Relaxed) < end_ms
            && let Some(valve) = self.valve.get()
            && let Err(error) = self.move_on(valve)
        {
            warn!("what virtual machines send will not pass: {}", crate::chain(&error));
        }
    }

    fn move_on(&self, valve: &Valve) -> Result<(), ValveError> {
        valve.open_until(Duration::from_millis(self.until_ms.load(Ordering::Relaxed)))
    }

    fn valve(&self) -> Result<&Valve, ValveError> {
        if let Some(valve) = self.valve.get() {
            return Ok(valve);
        }
        let new = Valve::closed()?;
        let valve = self.valve.get_or_init(|| new);
        // Whatever was said until it could be seen here.
        self.move_on(valve)?;
        Ok(valve)
    }

    /// Has the NICs of one connected. It may be told again.
    pub(super) async fn connect(&self, id: VmId, spec: &VmSpec) -> Result<Vec<Nic>, VolumesError> {
        let nics: Vec<(Tap, Nic)> = wanted(id, spec, self.range).collect();
        let failed = |source| VolumesError::Tap { id, source };
        // A socket for those that have NICs: it has a thread of its own.
        if !nics.is_empty() {
            let valve = self.valve().map_err(|error| failed(error.into()))?;
            let netlink = Netlink::open().map_err(|error| failed(error.into()))?;
            for (tap, _) in &nics {
                network::kernel::connect(&netlink, tap, valve).await.map_err(failed)?;
            }
        }
        Ok(nics.into_iter().map(|(_, nic)| nic).collect())
    }

    /// Sees that what runs is still connected, to the valve of this run of the agent: somebody may have made the bridge anew beneath its taps.
    pub(super) async fn hold(&self, id: VmId, state: &State) {
        let Some(vm) = state.vms.all.get(&id) else { return };
        if let Err(error) = self.connect(id, &vm.spec).await {
            warn!("{id} goes on: {}", crate::chain(&error));
        }
    }
}

/// What each NIC is on both sides.
fn wanted(id: VmId, spec: &VmSpec, range: MacRange) -> impl Iterator<Item = (Tap, Nic)> {
    (0..).zip(&spec.nics).map(move |(at, nic)| {
        let mac = range.of_nic(id, at);
        let tap = Tap::new(id, at, mac, nic.vlan);
        let wire = Wire::Tap(tap.name.to_string());
        (tap, Nic { mac, wire })
    })
}

/// Takes the taps away of whoever does not stay. What can't be taken away now is found again at the next end, or start of the agent.
pub(super) async fn disconnect(stays: impl Fn(VmId) -> bool) {
    let done = match Netlink::open() {
        Ok(netlink) => network::kernel::disconnect(&netlink, stays).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(0) => {}
        Ok(count) => info!("{count} taps of virtual machines that have ended are taken away"),
        Err(error) => warn!("taps of virtual machines that have ended stay: {}", crate::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{VmNic, VmPlacement};

    #[test]
    fn each_nic_has_its_own_tap_and_the_same_address_on_every_node() {
        let nic = |vlan: &str| VmNic { vlan: vlan.parse().unwrap() };
        let spec = VmSpec {
            name: "one".parse().unwrap(),
            memory_bytes: 1,
            cores: 1,
            placement: VmPlacement::Anywhere,
            anti_affinity: None,
            volumes: Vec::new(),
            saves_to: None,
            nics: vec![nic("8"), nic("9")],
        };
        let found: Vec<_> = wanted(VmId(7), &spec, MacRange::of_cluster(0)).collect();
        let words: Vec<String> = found
            .iter()
            .map(|(tap, nic)| format!("{} {} {} {:?}", tap.name, tap.mac, nic.mac, nic.wire))
            .collect();
        assert_eq!(
            words,
            [
                r#"vm7n0 fe:00:00:00:07:00 02:00:00:00:07:00 Tap("vm7n0")"#,
                r#"vm7n1 fe:00:00:00:07:01 02:00:00:00:07:01 Tap("vm7n1")"#,
            ]
        );
    }
}
