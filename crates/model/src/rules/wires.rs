//! Rules about cables: what the switches say of themselves and their ports (LLDP).

super::rules! { WIRES_RULES, Wires:
    LLDP_NO_NEIGHBOUR "lldp.no-neighbour" {
        title: "every NIC hears a switch",
        why: "a NIC that hears none is not cabled, or nobody can tell where to",
        says: &["… hears no switch", "… hears no switch; the last one … ms ago"],
        help: "check the cable, that the switch sends LLDP on that port, and that the NIC's firmware does not swallow it",
    }
    LLDP_OTHER_ZONES_SWITCH "lldp.other-zones-switch" {
        title: "a NIC is on a switch of its own zone",
        why: "a node that depends on the other rack's switch falls with that rack",
        says: &["… of zone … has a cable to zone …: …; that is where zone … has …"],
        help: "move the cable to the switch that the other nodes of its zone use",
    }
    LLDP_NODE_IN_OTHER_ZONE "lldp.node-in-other-zone" {
        title: "a node is in the zone whose switches it is cabled to",
        why: "a zone is a rack: copies in two zones that stand in one rack die together",
        says: &["… is in zone …, but all its cables go to switches of zone …: …"],
        help: "put the node into that zone in the template, or move its cables to its own rack",
    }
    LLDP_SHARED_SWITCH "lldp.shared-switch" {
        title: "no switch serves both zones",
        why: "with it both racks are down",
        says: &["switch … is used by both zones: …"],
        help: "each zone needs switches of its own: move one side's cables, or correct the zones; or say wiring D, if every node is meant to have cables to both racks",
    }
    LLDP_ODD_SWITCH "lldp.odd-switch" {
        title: "an adapter is on the same switch in all nodes of a zone",
        why: "a switch's loss must cost every node the same path",
        says: &["…, but most of the nodes like …"],
        help: "move the cable to the switch of the others",
    }
    LLDP_SPLIT_ZONE "lldp.split-zone" {
        title: "an adapter is on one switch in all nodes of a zone, and not on several by halves",
        why: "a switch's loss must cost every node the same path; here nobody can tell which one is wrong",
        says: &["the nodes of … have … on different switches: …"],
        help: "cable the adapter of all these nodes to the same switch",
    }
    LLDP_STORAGE_ON_ONE_SWITCH "lldp.storage-on-one-switch" {
        title: "the storage networks of a node are on different switches, unless the wiring is C",
        why: "one switch would be both paths",
        says: &["both storage networks of … depend on one switch: …; …"],
        help: "cable one of them to the rack's other switch",
    }
    LLDP_VLAN_MISSING "lldp.vlan-missing" {
        title: "a port carries the VLANs that its NIC needs",
        why: "frames of a VLAN that the port does not carry are dropped",
        says: &["… needs VLAN … for …; the port carries …"],
        help: "add the VLAN to the port",
    }
    LLDP_VLANS_UNKNOWN "lldp.vlans-unknown" {
        title: "a switch says which VLANs its ports carry",
        why: "what isn't told is not checked before the links are made",
        says: &["…: the switch does not say which VLANs the port carries"],
        help: "switch on the VLAN Name TLVs of LLDP (IEEE 802.1Q, annex D) on that port",
        severity: Severity::Note,
    }
    LLDP_FRAME_TOO_BIG "lldp.frame-too-big" {
        title: "a port takes frames as large as its NIC's: MTU + 18",
        why: "larger ones are dropped without a word",
        says: &["…: MTU … needs frames of … bytes, the port takes …"],
        help: "raise the port's frame size, or lower the intent's MTU",
    }
    LLDP_PFC_OFF "lldp.pfc-off" {
        title: "a storage port pauses storage's priority",
        why: "it loses frames instead when it is full, and RDMA over Ethernet loses its connections with them",
        says: &["…: the port does not pause priority …, which is storage's"],
        help: "switch on priority flow control for storage's priority on the port",
        milder: Some("a warning unless the intent asks for RoCE"),
    }
    LLDP_PFC_ON_OTHERS "lldp.pfc-on-others" {
        title: "a storage port pauses no other priority than storage's",
        why: "one paused flow holds all others of its priority up",
        says: &["…: the port pauses priority …, which are not storage's"],
        help: "switch off priority flow control for these on the port",
        severity: Severity::Warning,
    }
    LLDP_PFC_UNKNOWN "lldp.pfc-unknown" {
        title: "a switch says what a storage port pauses",
        why: "what isn't told is not checked",
        says: &["…: the switch does not say what it pauses (PFC)"],
        help: "switch on the DCBX TLVs of LLDP (IEEE 802.1Q, annex D) on that port, or look at its settings by hand",
        severity: Severity::Note,
    }
    LLDP_ETS_SHARE_TOO_SMALL "lldp.ets-share-too-small" {
        title: "on a storage port storage and heartbeats have the shares that were asked for",
        why: "under load the switch gives what it is set to, whatever the node does",
        says: &["…: priority … has … percent of the port, and is to have …"],
        help: "give that priority's traffic class its share of the port",
        severity: Severity::Warning,
    }
    LLDP_ETS_CLASS_SHARED "lldp.ets-class-shared" {
        title: "on a storage port storage and heartbeats have traffic classes of their own",
        why: "who is in the same class takes of its share",
        says: &["…: priority … shares traffic class … with priority …"],
        help: "give that priority a traffic class of its own on the port",
        severity: Severity::Warning,
    }
    LLDP_ETS_UNKNOWN "lldp.ets-unknown" {
        title: "a switch says how it shares a storage port",
        why: "what isn't told is not checked",
        says: &["…: the switch does not say how it shares the port (ETS)"],
        help: "switch on the DCBX TLVs of LLDP (IEEE 802.1Q, annex D) on that port, or look at its settings by hand",
        severity: Severity::Note,
    }
    LLDP_OTHER_WIRING "lldp.other-wiring" {
        title: "the cables are the wiring that the template says",
        why: "each wiring survives other losses, and the operator counts on the one he asked for",
        says: &["the template says wiring …, the cables are wiring …"],
        help: "say the wiring of the cables in the template, or change the cables",
    }
}
