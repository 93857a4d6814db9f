//! Rules about intents, adapters, VLANs, MTU and quality of service.

super::rules! { NET_RULES, Template:
    INTENT_TRAFFIC "net.intent-traffic" {
        title: "an intent carries traffic, each kind once",
        why: "an intent without traffic says nothing of its NICs",
        says: &["… carries nothing", "… lists a kind of traffic twice"],
        help: "list what the intent carries",
    }
    INTENT_ADAPTERS "net.intent-adapters" {
        title: "an intent has adapters",
        why: "traffic needs a NIC",
        says: &["… has no adapters"],
        help: "list the intent's adapters",
    }
    ADAPTER_ONCE "net.adapter-once" {
        title: "an intent names an adapter once",
        why: "a NIC that is named twice counts once, and a second one is missing",
        says: &["… names adapter `…` twice"],
        help: "name the adapter once",
    }
    ADAPTER_ONE_INTENT "net.adapter-one-intent" {
        title: "an adapter belongs to one intent",
        why: "an intent says what its NICs are for: a team, or storage",
        says: &["adapter `…` is in two intents"],
        help: "take the adapter out of one of the intents",
    }
    MANAGEMENT_COMPUTE_INTENT "net.management-compute-intent" {
        title: "exactly one intent carries management and compute",
        why: "both run on one team under one bridge",
        says: &["no intent carries …", "… carries … too", "… carries compute and … management"],
        help: "give management and compute to one intent, the same one",
    }
    ONE_STORAGE_INTENT "net.one-storage-intent" {
        title: "exactly one intent carries storage",
        why: "storage's NICs are set up alike: MTU, priorities, RDMA",
        says: &["no intent carries storage", "… carries storage too"],
        help: "give storage to one intent",
    }
    STORAGE_INTENT_DEDICATED "net.storage-intent-dedicated" {
        title: "the storage intent carries storage alone",
        why: "storage frames that share a team with others share its faults: there are no two paths any more",
        says: &["… carries storage together with others: …"],
        help: "give storage an intent of its own, with adapters of its own",
        on_override: Override::ById { costs: "both storage networks then run on the shared team, and their path diversity is lost" },
    }
    TWO_STORAGE_NETWORKS "net.two-storage-networks" {
        title: "there are exactly two storage networks",
        why: "losing a NIC, a TOR or a storage VLAN must not cost a copy",
        says: &["there are no storage networks", "there is only one storage network", "there are … storage networks"],
        help: "give two storage networks",
    }
    STORAGE_ADAPTERS_DISTINCT "net.storage-adapters-distinct" {
        title: "the storage networks are on different adapters",
        why: "one NIC would be both paths",
        says: &["… is on adapter `…` as well"],
        help: "give each storage network its own adapter",
    }
    STORAGE_ADAPTER_IN_INTENT "net.storage-adapter-in-intent" {
        title: "a storage network's adapter belongs to the storage intent",
        why: "the intent says how the NIC is set up",
        says: &["… is on adapter `…`, which is not in the storage intent"],
        help: "use an adapter of the storage intent",
    }
    STORAGE_VLANS_DISTINCT "net.storage-vlans-distinct" {
        title: "the storage networks have different VLANs",
        why: "in one VLAN a mistake on one path reaches the other",
        says: &["… has VLAN … as well"],
        help: "give each storage network its own VLAN; 711 and 712 are usual",
    }
    STORAGE_VLAN_SEPARATE "net.storage-vlan-separate" {
        title: "storage VLANs differ from management and compute VLANs",
        why: "storage frames never reach the spine, and management's and compute's do",
        says: &["… has VLAN …, which carries …"],
        help: "use another VLAN",
    }
    VLAN_RANGE "net.vlan-range" {
        title: "a VLAN is 1 to 4094",
        why: "IEEE 802.1Q reserves 0 and 4095",
        says: &["`…` is no VLAN id"],
        help: "use a VLAN from 1 to 4094",
    }
    COMPUTE_VLAN_ONCE "net.compute-vlan-once" {
        title: "a compute VLAN is listed once",
        why: "what is listed twice was meant to be another",
        says: &["VLAN … is listed twice"],
        help: "list the VLAN once",
    }
    MTU_RANGE "net.mtu-range" {
        title: "an MTU is 1280 to 9216 bytes",
        why: "IPv6 asks for 1280, and no switch of a rack takes more than 9216",
        says: &["`…` is no MTU", "`…` is no jumbo packet size"],
        help: "use 1500, or 9000 for jumbo frames (ARM: `jumboPacket` 9014)",
    }
    MTU_WITHOUT_HEADER "net.mtu-without-header" {
        title: "an MTU does not count the Ethernet header",
        why: "Windows counts it: its jumbo packet of 9014 is an MTU of 9000",
        says: &["an MTU of … bytes is what Windows calls a jumbo packet of …"],
        help: "write 9000 for jumbo frames",
        severity: Severity::Warning,
    }
    STORAGE_SWITCHED "net.storage-switched" {
        title: "storage is cabled through switches",
        why: "the four wirings all have TORs; cables from node to node tell nothing of racks",
        says: &["storage would be cabled without switches", "the networking type is `…`"],
        help: "cable it as one of the wirings A to D: `storageConnectivitySwitchless` false, `networkingType` `switchedMultiServerDeployment`",
    }
    NETWORKING_PATTERN "net.networking-pattern" {
        title: "an ARM file's networking pattern agrees with its intents",
        why: "the file says it twice; what the intents say is built",
        says: &["the networking pattern is `…`, and the intents are not like that"],
        help: "correct one of them; the intents are what is built",
        severity: Severity::Warning,
    }
    QOS_PRIORITIES "net.qos-priorities" {
        title: "storage and heartbeats have different priorities, 1 to 7",
        why: "0 is the rest's; a heartbeat behind storage's frames comes late, and the cluster takes its node for dead",
        says: &["`…` is no priority", "… would have priority 0, that of the rest", "storage and heartbeats would both have priority …"],
        help: "use 3 for storage and 7 for heartbeats",
    }
    QOS_BANDWIDTH "net.qos-bandwidth" {
        title: "storage gets 50 to 97 percent of the bandwidth",
        why: "a write waits for the other rack; heartbeats need up to 2 percent, and the rest is left 1",
        says: &["`…` is no percentage", "storage would get … percent of the bandwidth"],
        help: "give storage 50 to 97 percent",
    }
}
