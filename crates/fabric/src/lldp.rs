//! What a port says about itself.

use crate::topology::{Port, Switch};
use model::VlanId;
use network::lldp::{
    Capabilities, ChassisId, EncodeError, FRAME_OVERHEAD_BYTES, Lldpdu, PortId, VlanName, encode,
};

/// The frame that a port sends again and again.
pub(crate) fn frame(switch: &Switch, port: &Port, interval_ms: u32) -> Result<Vec<u8>, EncodeError> {
    encode(&lldpdu(switch, port, interval_ms), switch.chassis_mac)
}

/// What a port of a switch announces. Public so that a lab can say what its nodes should see.
pub fn lldpdu(switch: &Switch, port: &Port, interval_ms: u32) -> Lldpdu {
    let mut carried: Vec<VlanId> = port.tagged_vlans.iter().copied().chain(port.native_vlan).collect();
    carried.sort_unstable();
    let mtu = port.mtu.unwrap_or(switch.mtu).get();
    Lldpdu {
        system_name: Some(switch.system_name.clone()),
        capabilities: Some(Capabilities { supported: Capabilities::BRIDGE, enabled: Capabilities::BRIDGE }),
        port_vlan: port.native_vlan,
        vlans: carried
            .into_iter()
            .map(|vlan| VlanName { vlan, name: format!("VLAN{:04}", vlan.get()) })
            .collect(),
        max_frame_bytes: Some(mtu + FRAME_OVERHEAD_BYTES),
        ets: port.dcb.map(|dcb| dcb.ets),
        pfc: port.dcb.map(|dcb| dcb.pfc),
        ..Lldpdu::new(
            ChassisId::Mac(switch.chassis_mac),
            PortId::InterfaceName(port.id.as_str().to_owned()),
            ttl_s(interval_ms),
        )
    }
}

/// Four intervals, as 802.1AB's defaults have it (9.2.5.6), rounded up to seconds and at least two.
fn ttl_s(interval_ms: u32) -> u16 {
    let seconds = interval_ms.saturating_mul(4).div_ceil(1000).max(2);
    u16::try_from(seconds).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_live_is_four_intervals() {
        assert_eq!([50, 500, 501, 1000, 30_000].map(ttl_s), [2, 2, 3, 4, 120]);
    }
}
